"""The contact sheet: one thumbnail for each series that a run has added, as PNG in Markdown.

Decided here: which instance stands for a series, and how many series are shown. Not decided here:
which pixels may be shown at all (`dicom_assets.dicom.thumbnails`).
"""

import base64
from zipfile import BadZipFile

import dagster as dg
import pandas as pd

from dicom_assets.dicom.own_zip import open_organised
from dicom_assets.dicom.thumbnails import Tile, contact_sheet, thumbnail
from dicom_assets.lakehouse.paths import is_far
from dicom_assets.steps.run import Run

MAX_TILES = 200  # some milliseconds and kilobytes each, and Dagster keeps them in its database


def contact_sheet_png(run: Run, *, since: int | None) -> tuple[bytes | None, int]:
    """Draws the sheet of the date's series with rows added after a version of the metastore.

    Returns:
        PNG bytes, or None when there is no such series; and how many there are.
    """
    columns = ["seriesInstanceUid", "sourceSystem", "modality", "instanceNumber", "filePath"]
    until = run.engine.version(run.metastore)
    rows = run.engine.table_of_new(
        run.metastore, columns, since=since, until=until, ingest_date=run.ingest_date
    ).to_pandas()
    rows["number"] = pd.to_numeric(rows["instanceNumber"], errors="coerce")
    series = [
        group.sort_values(["number", "filePath"])
        for _, group in rows.groupby(["sourceSystem", "seriesInstanceUid"], sort=False)
    ]
    series.sort(key=lambda group: (str(group["modality"].iloc[0]), group["filePath"].min()))
    tiles = [_tile(run, group) for group in series[:MAX_TILES]]
    return (contact_sheet(tiles) if tiles else None), len(series)


def contact_sheet_markdown(run: Run, *, since: int) -> dg.MarkdownMetadataValue:
    """Returns the sheet as Markdown with the PNG inside; without news, that of the whole date."""
    kind = "new series"
    png, count = contact_sheet_png(run, since=since)
    if png is None:
        kind = "series of this date, none of them new"
        png, count = contact_sheet_png(run, since=None)
    if png is None:
        return dg.MetadataValue.md("no series")
    shown = f"{count} {kind}" + (f", {MAX_TILES} shown" if count > MAX_TILES else "")
    data = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![contact sheet](data:image/png;base64,{data})\n\n{shown}")


def _tile(run: Run, group: pd.DataFrame) -> Tile:
    """Draws the middle instance of a series."""
    address = group["filePath"].iloc[len(group) // 2]
    if is_far(address):
        return Tile("other", None, "its pixels are not fetched", len(group))
    middle = run.engine.layout.absolute(address)
    try:
        with open_organised(middle) as stream:
            return thumbnail(stream, instances=len(group))
    except (OSError, BadZipFile):
        return Tile("other", None, "the file cannot be read", len(group))

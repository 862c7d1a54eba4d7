"""The contact sheet: one thumbnail for each series that a run has added, as PNG in Markdown.

Decided here: which instance stands for a series, and how many series are shown. Not decided here:
which pixels may be shown at all (`dicom_assets.dicom.thumbnails`).
"""

import base64
from datetime import datetime

import dagster as dg
import pandas as pd

from dicom_assets.dicom.archives import ArchiveError, open_organised
from dicom_assets.dicom.thumbnails import Tile, contact_sheet, thumbnail
from dicom_assets.steps import catalog
from dicom_assets.steps.run import Run

MAX_TILES = 48


def contact_sheet_png(run: Run, *, since: datetime) -> tuple[bytes | None, int]:
    """Draws the sheet of the series with rows added since an instant.

    Returns:
        PNG bytes, or None when no series is new; and how many series are new.
    """
    columns = ["seriesInstanceUid", "sourceSystem", "modality", "instanceNumber", "filePath"]
    columns.append("ingestedAt")
    rows = run.engine.read(
        catalog.metastore(run.settings.promoted),
        columns,
        ingest_date=run.ingest_date,
    ).to_pandas()
    rows = rows[rows["ingestedAt"] >= since]
    rows["number"] = pd.to_numeric(rows["instanceNumber"], errors="coerce")
    series = [
        group.sort_values(["number", "filePath"])
        for _, group in rows.groupby(["sourceSystem", "seriesInstanceUid"], sort=False)
    ]
    series.sort(key=lambda group: (str(group["modality"].iloc[0]), group["filePath"].min()))
    tiles = [_tile(run, group) for group in series[:MAX_TILES]]
    return (contact_sheet(tiles) if tiles else None), len(series)


def contact_sheet_markdown(run: Run, *, since: datetime) -> dg.MarkdownMetadataValue:
    """Returns the sheet as Markdown with the PNG inside."""
    png, count = contact_sheet_png(run, since=since)
    if png is None:
        return dg.MetadataValue.md("no new series")
    shown = f"{count} new series" + (f", {MAX_TILES} shown" if count > MAX_TILES else "")
    data = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![contact sheet](data:image/png;base64,{data})\n\n{shown}")


def _tile(run: Run, group: pd.DataFrame) -> Tile:
    """Draws the middle instance of a series."""
    middle = run.engine.layout.absolute(group["filePath"].iloc[len(group) // 2])
    try:
        with open_organised(middle) as stream:
            return thumbnail(stream, instances=len(group))
    except (OSError, ArchiveError):
        return Tile("other", None, "the file cannot be read", len(group))

"""The contact sheet: one thumbnail for each series that a run has added, as PNG in Markdown.

Decided here: which instance stands for a series, and how many series are shown. Not decided here:
which pixels may be shown at all (`dicom_assets.dicom.thumbnails`).
"""

import base64
from datetime import datetime

import pandas as pd
import pyarrow.compute as pc

from dicom_assets.dicom.archives import ArchiveError, open_organised
from dicom_assets.dicom.thumbnails import Tile, contact_sheet, placeholder, thumbnail
from dicom_assets.steps import catalog
from dicom_assets.steps.reconcile import Day

MAX_TILES = 48


def contact_sheet_png(day: Day, *, since: datetime) -> tuple[bytes | None, int]:
    """Draws the sheet of the series with rows added since an instant.

    Returns:
        PNG bytes, or None when no series is new; and how many series are new.
    """
    columns = ["seriesInstanceUid", "sourceSystem", "modality", "instanceNumber", "filePath"]
    rows = day.engine.read(
        catalog.metastore(day.settings.promoted),
        columns,
        ingest_date=day.ingest_date,
        where=pc.field("ingestedAt") >= since,
    ).to_pandas()
    rows["number"] = pd.to_numeric(rows["instanceNumber"], errors="coerce")
    series = [
        group.sort_values(["number", "filePath"])
        for _, group in rows.groupby(["sourceSystem", "seriesInstanceUid"], sort=False)
    ]
    series.sort(key=lambda group: (str(group["modality"].iloc[0]), group["filePath"].min()))
    tiles = [_tile(day, group, number) for number, group in enumerate(series[:MAX_TILES], start=1)]
    return (contact_sheet(tiles) if tiles else None), len(series)


def contact_sheet_markdown(day: Day, *, since: datetime) -> str:
    """Returns the sheet as Markdown with the PNG inside."""
    png, count = contact_sheet_png(day, since=since)
    if png is None:
        return "no new series"
    shown = f"{count} new series" + (f", {MAX_TILES} shown" if count > MAX_TILES else "")
    return f"![contact sheet](data:image/png;base64,{base64.b64encode(png).decode()})\n\n{shown}"


def _tile(day: Day, group: pd.DataFrame, number: int) -> Tile:
    """Draws the middle instance of a series, under modality, running number and count."""
    middle = group.iloc[len(group) // 2]
    modality = str(middle["modality"] or "OT")
    try:
        with open_organised(day.engine.layout.absolute(middle["filePath"])) as stream:
            return thumbnail(stream, modality=modality, number=number, count=len(group))
    except (OSError, ArchiveError):
        return placeholder("file not there", modality=modality, number=number, count=len(group))

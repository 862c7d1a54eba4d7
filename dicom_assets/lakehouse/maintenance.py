"""Upkeep of a table: small files are joined, files that are no longer of it removed.

Decided here: what is done, in which order, and what is told of it. Content stays as it is, and rows
become neither new nor changed: joined files say so in the log, and a reader that needs a version
whose files are gone takes its whole partition as new (`LocalEngine.read_new`). Not decided here:
when (`dicom_assets.defs.maintenance`, `dicom-assets maintain`) and how long removed files are kept
(`dicom_assets.settings`).
"""

from dataclasses import dataclass
from pathlib import Path

from deltalake import DeltaTable

from dicom_assets.lakehouse.compaction import compact
from dicom_assets.lakehouse.mend import make_durable
from dicom_assets.lakehouse.tables import Table


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What was done to one table.

    Attributes:
        table: Its full name.
        files_before: Data files of its newest version.
        files_after: The same, now.
        files_removed: Files that were no longer of it, removed from disk.
        bytes_freed: Their bytes.
    """

    table: str
    files_before: int
    files_after: int
    files_removed: int
    bytes_freed: int


def maintain(delta: DeltaTable, table: Table, *, folder: Path, keep_hours: int) -> Upkeep:
    """Joins small files, writes a checkpoint, cleans the log, removes old files from disk.

    Args:
        delta: The table, opened at the newest version.
        table: What it is.
        folder: Where it lies.
        keep_hours: Files that have been no longer of the table for so long are removed.
    """
    before = len(delta.file_uris())
    compact(delta, table)
    delta.create_checkpoint()
    make_durable(folder, delta.version())  # before anything goes that they replace
    delta.cleanup_metadata()
    # listed first, since their sizes cannot be told afterwards; all, also those of killed writers
    listed = delta.vacuum(keep_hours, enforce_retention_duration=False, full=True)
    # the log still names files that an earlier vacuum removed
    old = [folder / file for file in listed if (folder / file).exists()]
    freed = sum(file.stat().st_size for file in old)
    if old:
        delta.vacuum(keep_hours, dry_run=False, enforce_retention_duration=False, full=True)
    return Upkeep(table.full_name, before, len(delta.file_uris()), len(old), freed)

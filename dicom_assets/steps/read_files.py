"""What one worker does with organised files: read, compress, make rows.

Decided here: what happens to a file on disk when it is read (ZIP of its own beside it, original
gone; or Failed), and that each byte is read once. It imports little, since every worker process
does. Not decided here: which files are read, and when their rows are committed (`extract`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import pyarrow as pa

from dicom_assets.dicom import Header, HeaderError, read_header
from dicom_assets.dicom.columns import metadata_column, metadata_string
from dicom_assets.dicom.own_zip import CHUNK, Digest, digest, open_organised, write_zip
from dicom_assets.dicom.part10 import NATIVE
from dicom_assets.lakehouse import schemas
from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import Layout, dicom_name, one_name
from dicom_assets.lakehouse.move import move
from dicom_assets.lakehouse.pool import over_threads
from dicom_assets.lakehouse.promoted import PromotedTag
from dicom_assets.lakehouse.reasons import MEANINGS, Reason, Step

STEP: Final = "extract"
_OBJECTS_AT_ONCE = 8
_DAMAGED = "the ZIP that the file lies in is damaged"
_MISSING = "the file lies neither in Process nor in Failed any more"
_GONE = "the stored file is not there any more"
_CHANGED = "the stored file is not what was taken in: its SHA-256 is another one"


@dataclass(frozen=True, slots=True)
class Task:
    """Files that one worker reads in one go.

    Attributes:
        root: Lakehouse root.
        ingest_date: The partition.
        files: `process_files` rows.
        tags: Promoted tags.
        level: Deflate level of the files' own ZIPs; 0 leaves files as they are.
        max_header_bytes: Longest header.
    """

    root: Path
    ingest_date: date
    files: pa.RecordBatch
    tags: tuple[PromotedTag, ...]
    level: int
    max_header_bytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """A file that was read, and what its metastore row says besides its header.

    Attributes:
        row: What it was taken in as, with `organisedAt`: the instant it was taken in, so that a run
            that is killed and run again makes the same row.
        header: Its header.
        path: Where it lies, as tables say it.
        size: Bytes of the DICOM file.
        sha256: Of those; None where not all of them were read.
        version: Of an object of External.
    """

    row: dict[str, Any]
    header: Header
    path: str
    size: int
    sha256: str | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a task.

    Attributes:
        rows: Metastore rows.
        replaced: Files that have their ZIP now; to be removed once that is durable.
        failures: The files that are none.
        slow: Files that the careful header reader had to read.
        size: Bytes of the DICOM files that have rows.
    """

    rows: pa.RecordBatch
    replaced: list[Path]
    failures: list[Failure]
    slow: int
    size: int


def read_files(task: Task) -> Done:
    """Reads headers, compresses, moves what is bad to Failed: the work of one worker."""
    good: list[Read] = []
    replaced: list[Path] = []
    failures: list[Failure] = []
    slow = 0
    layout, rows = Layout(task.root), task.files.to_pylist()

    def read(row: dict) -> tuple[Read | Failure, bool]:
        """Returns what came of a file, and whether it took the careful reader."""
        day = task.ingest_date
        try:
            header, content, path = _read(row, layout, task, replaced)
            address = layout.relative(path)
            return Read(row, header, address, content.size, content.sha256), header.slow
        except HeaderError as error:  # the careful reader is who says that a header is bad
            return _fail(row, layout, day, error.reason, error.message), True
        except BadZipFile:
            return _fail(row, layout, day, Reason.UNREADABLE, _DAMAGED), False
        except FileNotFoundError:
            return _fail(row, layout, day, Reason.UNREADABLE, _MISSING), False

    # of objects several at once: each is mostly waited for
    workers = _OBJECTS_AT_ONCE if isinstance(task.root, FarPath) else 1
    for found, was_slow in over_threads(read, rows, workers=workers, count=len(rows)):
        slow += was_slow
        if isinstance(found, Read):
            good.append(found)
        else:
            failures.append(found)
    size = sum(each.size for each in good)
    return Done(metastore_rows(good, task.tags), replaced, failures, slow, size)


def read_and_replace(task: Task) -> Done:
    """Does the same, and removes what has its ZIP: who runs on another machine than who commits.

    Only there is it known to be durable.
    """
    done = read_files(task)
    sync({file.parent for file in done.replaced} | failed_folders(done, Layout(task.root)))
    for file in done.replaced:
        file.unlink()
    return replace(done, replaced=[])


def failed_folders(done: Done, layout: Layout) -> set[Path]:
    """Returns the folders to which bad files were moved."""
    return {layout.absolute(each.failed_path).parent for each in done.failures if each.failed_path}


def _read(
    row: dict, layout: Layout, task: Task, replaced: list[Path]
) -> tuple[Header, Digest, Path]:
    """Returns header, digest and where the file lies now; tells of one that a ZIP replaces."""
    path = layout.absolute(row["filePath"])
    zipped = path.with_name(one_name(path.name))
    failed = _failed_path(row, layout, task.ingest_date)
    lies = next((each for each in (path, zipped, failed) if each.exists()), path)
    is_zipped = lies.suffix == ".zip"
    with open_organised(lies) as file:
        # read once: for header, hash, checksum and ZIP
        is_small = not is_zipped and row["fileSize"] <= CHUNK
        source = BytesIO(file.read()) if is_small else file
        header = read_header(source, tags=task.tags, most=task.max_header_bytes)
        if is_zipped and row["contentHash"]:  # it came out of an archive so
            return header, Digest(row["fileSize"], row["contentHash"]), lies
        source.seek(0)
        if is_zipped or not task.level:
            return header, digest(source), lies
        content = write_zip(
            source,
            zipped,
            member=dicom_name(path.name),
            level=task.level,
            is_compressed=header.transfer_syntax_uid not in NATIVE,
        )
    replaced.append(path)
    return header, content, zipped


def _failed_path(row: dict, layout: Layout, ingest_date: date) -> Path:
    return layout.failed_folder(row["sourceSystem"], ingest_date) / Path(row["filePath"]).name


def _fail(row: dict, layout: Layout, ingest_date: date, reason: Reason, message: str) -> Failure:
    """Moves a bad file to Failed, unless an earlier try already did."""
    path = layout.absolute(row["filePath"])
    failed = _failed_path(row, layout, ingest_date)
    if path.exists():
        move(path, failed)
    return Failure(
        STEP,
        reason,
        message or MEANINGS[reason],
        row["sourceSystem"],
        row["sourcePath"],
        layout.relative(failed) if failed.exists() else None,
    )


def metastore_rows(good: Sequence[Read], tags: Sequence[PromotedTag]) -> pa.RecordBatch:
    """Makes metastore rows of what was read."""
    schema = schemas.dicomimagingmetastore(tags)
    headers = [each.header for each in good]
    columns: dict[str, object] = {
        tag.column: [header.promoted[tag.column] for header in headers] for tag in tags
    }
    columns |= {
        name: [each.row[name] for each in good]
        for name in ("ingestDate", "sourceSystem", "sourcePath", "sourceModifiedAt")
    }
    columns |= {
        "metadata": metadata_column(headers),
        "metadata_string": [metadata_string(header) for header in headers],
        "filePath": [each.path for each in good],
        "fileSize": [each.size for each in good],
        "contentHash": [each.sha256 for each in good],
        "version": [each.version for each in good],
        "transferSyntaxUid": [header.transfer_syntax_uid for header in headers],
        "decodeNotes": [list(header.decode_notes) or None for header in headers],
        "ingestedAt": [each.row["organisedAt"] for each in good],
    }
    arrays = [
        values if isinstance(values := columns[f.name], pa.Array) else pa.array(values, f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def read_again(task: Task, *, step: Step) -> tuple[pa.RecordBatch, list[Failure]]:
    """Reads stored files where they lie, and changes none of them.

    Args:
        task: Metastore rows of the files, with `organisedAt`: the instant of the rows to be made.
        step: Whose failures those are.

    Returns:
        Metastore rows, and failures: of files that are gone, damaged, or not what was taken in.
    """
    good: list[Read] = []
    failures: list[Failure] = []
    layout = Layout(task.root)
    for row in task.files.to_pylist():
        path = layout.absolute(row["filePath"])
        reason, message = Reason.UNREADABLE, _DAMAGED
        try:
            with open_organised(path) as file:
                content = digest(file)  # first: what is damaged has no header to speak of
                if row["contentHash"] in (None, content.sha256):
                    file.seek(0)
                    header = read_header(file, tags=task.tags, most=task.max_header_bytes)
                    address = layout.relative(path)
                    good.append(Read(row, header, address, content.size, content.sha256))
                    continue
            message = _CHANGED
        except HeaderError as error:
            reason, message = error.reason, error.message or MEANINGS[error.reason]
        except BadZipFile:
            pass
        except FileNotFoundError:
            message = _GONE
        system, kept = row["sourceSystem"], row["filePath"] if path.exists() else None
        failures.append(Failure(step, reason, message, system, row["sourcePath"], kept))
    return metastore_rows(good, task.tags), failures

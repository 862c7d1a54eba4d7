"""A table after a crash: what a killed writer or a power cut has left is taken away.

Decided here: what is not of the table. Files under temporary names (delta-rs appends `#<n>`) go.
So does the newest commit when it, or a file that it adds, is not whole, and it is not noted that it
was made durable: the power failed before that, and nothing that depends on it has been done yet, so
it will be made again. What was durable and is damaged nevertheless was lost later, and is left to
be found (`verify`): others have acted on it, and its version must not be given away again. A
checkpoint that is not whole goes; the log says the same. Called while nobody writes.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.far import FarPath

_LOG = logging.getLogger(__name__)
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*parquet")
_LAST_CHECKPOINT = "_last_checkpoint"
_DURABLE = "_durable"
"""Holds the newest version that was made durable; other readers of a log pass over it."""


def make_durable(folder: Path, version: int) -> None:
    """Makes a table durable, and notes up to which commit that was done.

    In an object store it is durable already.

    Args:
        folder: Where the table lies.
        version: Its newest version.
    """
    if isinstance(folder, FarPath):
        return
    sync([folder])
    # need not be durable itself: without it fewer commits are known to be
    (folder / "_delta_log" / _DURABLE).write_text(f"{version}")


def mend(folder: Path) -> None:
    """Takes away what is not of a table; costs little where nothing is.

    Args:
        folder: Where the table lies, or may come to lie.
    """
    log = folder / "_delta_log"
    if not log.is_dir():
        return
    names = _without_temporaries(log)
    commits = sorted(name for name in names if _COMMIT.fullmatch(name))
    durable = _newest_durable(log, [int(name[:20]) for name in commits])
    while commits and int(commits[-1][:20]) > durable and not _is_whole(folder, log / commits[-1]):
        _LOG.warning("a commit that a power cut tore apart is taken back; it will be made again")
        torn = commits.pop()
        for name in (n for n in names if _CHECKPOINT.fullmatch(n) and n[:20] == torn[:20]):
            (log / name).unlink()
        (log / torn).unlink()
    _check_checkpoint(log)
    _clear_partitions(folder, (log / commits[-1]).stat().st_mtime_ns if commits else 0)


def _newest_durable(log: Path, versions: list[int]) -> int:
    """Returns the newest version that was made durable, or -1.

    Where none is noted it is the last but one: each is made durable before the next is written.
    """
    try:
        noted = int((log / _DURABLE).read_text())
    except (FileNotFoundError, ValueError):
        noted = None
    if noted in versions:
        return noted
    return versions[-2] if len(versions) > 1 else -1


def _without_temporaries(folder: Path) -> list[str]:
    """Removes the temporary files of a folder; returns the names of the others."""
    kept = []
    for name in os.listdir(folder):
        if "#" in name:
            (folder / name).unlink()
        else:
            kept.append(name)
    return kept


def _clear_partitions(folder: Path, since_ns: int) -> None:
    """Removes temporary files where something has been written since the last commit."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".tmp"):
                os.unlink(entry.path)
            elif entry.is_dir() and entry.stat().st_mtime_ns >= since_ns:
                _without_temporaries(Path(entry.path))


def _is_whole(folder: Path, commit: Path) -> bool:
    """Says whether a commit can be read and all files that it adds are there in full."""
    actions: list[dict[str, Any]] = []
    try:
        actions = [json.loads(line) for line in commit.read_bytes().splitlines()]
        files = [each[kind] for each in actions for kind in ("add", "cdc") if kind in each]
        return bool(actions) and all(
            (folder / unquote(file["path"])).stat().st_size == file["size"] for file in files
        )
    except (ValueError, TypeError, KeyError, FileNotFoundError):
        return False


def _check_checkpoint(log: Path) -> None:
    """Removes the newest checkpoint if it is cut short, and what points to none."""
    newest = max((n for n in os.listdir(log) if _CHECKPOINT.fullmatch(n)), default=None)
    if newest and not _ends_as_parquet(log / newest):
        (log / newest).unlink()
        newest = None
    pointer = log / _LAST_CHECKPOINT
    try:
        version = json.loads(pointer.read_bytes())["version"]
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError):
        version = None
    if newest is None or version is None or f"{version:020}" > newest[:20]:
        pointer.unlink()


def _ends_as_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < 12:
            return False
        file.seek(-4, os.SEEK_END)
        return file.read() == b"PAR1"

"""A table after a crash: what a killed writer or a power cut has left is taken away.

Decided here: what is not of the table. Files under temporary names (delta-rs appends `#<n>`) go.
So does the newest commit when it, or a file that it adds, is not whole: the power failed before it
was made durable, and nothing that depends on it has been done yet (`durable`), so it will be made
again. A checkpoint that is not whole goes; the log says the same. Called while nobody writes.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_LOG = logging.getLogger(__name__)
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*parquet")
_LAST_CHECKPOINT = "_last_checkpoint"


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
    while commits and not _is_whole(folder, log / commits[-1]):
        _LOG.warning("a commit that a power cut tore apart is taken back; it will be made again")
        torn = commits.pop()
        for name in (n for n in names if _CHECKPOINT.fullmatch(n) and n[:20] == torn[:20]):
            (log / name).unlink()
        (log / torn).unlink()
    _check_checkpoint(log)
    _clear_partitions(folder, (log / commits[-1]).stat().st_mtime_ns if commits else 0)


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

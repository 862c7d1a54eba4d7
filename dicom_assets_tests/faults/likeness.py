"""All of a lakehouse that must be alike after any disturbance: files, rows, and nothing else.

Decided here: what may differ. Instants at which something was done (those after 2024: what the
deliveries say is older), the prefixes of names made of them, ids of tables and versions in names;
data files of Delta tables that no version names, and Delta's log itself. All else is compared by
content, a file or row that is there twice counts twice.
"""

import hashlib
import os
import re
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

_RECENT = datetime(2024, 6, 1, tzinfo=UTC)
_PREFIX = re.compile(r"\b1[6-9]\d{11}_")
_NDJSON = re.compile(r"_(ImagingStudy)_[0-9a-f]{8}_v\d+-\d+\.ndjson")
_INSTANT = re.compile(r"20(?:2[4-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
_LOG = re.compile(r"\d{20}\.(json|checkpoint\.parquet)|_last_checkpoint|_durable")
_DATA = re.compile(r"part-[\w.-]+\.parquet|cdc-[\w.-]+\.parquet")


def likeness(root: Path) -> dict[str, Counter[str]]:
    """Returns place → what is there, each as often as it is."""
    found: dict[str, Counter[str]] = {"temporaries": Counter(), "folders": Counter()}
    tables = {path.parent for path in root.glob("*/Tables/*/_delta_log")}
    for path in _below(root):
        inside = path.relative_to(root)
        if ".dagster" in inside.parts:
            continue
        table = root.joinpath(*inside.parts[:3])  # <layer>/Tables/<name>
        table = table if table in tables else None
        if path != table and _is_temporary(path, table):
            found["temporaries"][str(inside)] += 1
        if path.is_dir() and table in (None, path):
            found["folders"][_plain(str(inside))] += 1
        if table or path.is_dir():
            continue
        place = found.setdefault(_plain(str(inside.parent)), Counter())
        place[f"{_plain(path.name)} {_content(path)}"] += 1
    for table in sorted(tables):
        rows = DeltaTable(str(table)).to_pyarrow_table().to_pylist()
        found[str(table.relative_to(root))] = Counter(repr(_plain_value(row)) for row in rows)
    return found


def differences(one: dict[str, Counter[str]], other: dict[str, Counter[str]]) -> list[str]:
    """Returns what only one of two likenesses has."""
    return [
        f"{side} {place}: {what} x{number}"
        for place in sorted({*one, *other})
        for side, a, b in (("only here", one, other), ("missing", other, one))
        for what, number in (a.get(place, Counter()) - b.get(place, Counter())).items()
    ]


def _below(root: Path) -> list[Path]:
    """Lists everything; folders on another file system, to which links lead, too."""
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        found += [Path(folder, name) for name in (*folders, *files)]
    return sorted(found)


def _content(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".ndjson":
        content = "\n".join(sorted(map(_plain, content.decode().splitlines()))).encode()
    elif path.name.endswith(".dcm.zip"):  # of which the member's name has a prefix, too
        with zipfile.ZipFile(path) as archive:
            members = [
                (_plain(info.filename), info.compress_type, info.compress_size, archive.read(info))
                for info in archive.infolist()
            ]
        content = repr(members).encode()
    return hashlib.sha256(content).hexdigest()


def _is_temporary(path: Path, table: Path | None) -> bool:
    name = path.name
    if table is None:
        return name.startswith(".") or name.endswith(".tmp")
    if path.is_dir():
        return name not in ("_delta_log", "_places") and "=" not in name and name != "_change_data"
    if path.parent.name == "_delta_log":
        return not _LOG.fullmatch(name)
    if path.parent.name == "_places":
        return not name.endswith(".arrow")
    return not _DATA.fullmatch(name)


def _plain(text: str) -> str:
    return _INSTANT.sub("T", _NDJSON.sub(r"_\1.ndjson", _PREFIX.sub("T_", text)))


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, datetime):
        return "T" if value.replace(tzinfo=UTC) >= _RECENT else value
    if isinstance(value, dict):
        return {key: _plain_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(each) for each in value]
    return value

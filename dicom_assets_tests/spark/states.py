"""What two lakehouses must have in common, and files to drop.

Decided here: what of a table counts. Not decided here: which lakehouses are compared
(`spark.test_…`).
"""

import re
import shutil
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog

_OF_THIS_RUN = re.compile(r"\d{13}_|_[0-9a-f]{8}_v[0-9-]+")
_HEADERS = ("metadata", "metadata_string")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|\+00:00)?|datetime\.datetime\(.*?\)")


def state(root: Path) -> dict[str, Any]:
    """Every table: rows but for instants of the run, columns, partitions, properties, protocol."""
    engine, found = LocalEngine(Layout(root)), {}
    for table in catalog.tables():
        delta = engine.open(table)
        if delta is None:
            continue
        names = [name for name in table.schema.names if not name.endswith(("At", "Updated"))]
        rows = sorted(map(_lasting, engine.read(table, names).to_pylist()))
        about = delta.metadata()
        protocol = delta.protocol()
        found[table.full_name] = (
            rows,
            delta.schema().to_json(),
            about.partition_columns,
            about.configuration,
            (protocol.min_reader_version, protocol.min_writer_version),
            (protocol.reader_features, protocol.writer_features),
        )
    return found


def _lasting(row: dict[str, Any]) -> str:
    """Returns what another run would say, too."""
    headers = [row.pop(name) for name in _HEADERS if name in row]  # long, and the same in any run
    return _OF_THIS_RUN.sub("", _INSTANT.sub(_unless_just_now, repr(row))) + repr(headers)


def _unless_just_now(found: re.Match[str]) -> str:
    year, month, day, *_ = map(int, re.findall(r"\d+", found[0]))
    age = datetime.now(UTC).date() - date(year, month, day)
    return "" if abs(age) <= timedelta(days=1) else found[0]


def drop(house: Any, files: Iterable[Path], root: Path) -> None:
    for path in files:
        target = house.drop / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

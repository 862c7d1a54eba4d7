"""What two lakehouses must have in common, and files to drop.

Decided here: what of a table counts. Not decided here: which lakehouses are compared
(`spark.test_…`).
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog

_OF_THIS_RUN = re.compile(
    r"\d{13}_|\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)?|_[0-9a-f]{8}_v[0-9-]+|datetime\.datetime\(.*?\)"
)


def state(root: Path) -> dict[str, Any]:
    """Every table: rows but for instants, columns, partitioning, properties and protocol."""
    engine, found = LocalEngine(Layout(root)), {}
    for table in catalog.tables():
        delta = engine.open(table)
        if delta is None:
            continue
        names = [name for name in table.schema.names if not name.endswith(("At", "Updated"))]
        rows = sorted(_OF_THIS_RUN.sub("", repr(r)) for r in engine.read(table, names).to_pylist())
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


def drop(house: Any, files: Iterable[Path], root: Path) -> None:
    for path in files:
        target = house.drop / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

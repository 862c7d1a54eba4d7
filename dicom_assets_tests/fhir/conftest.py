"""Metastore rows to convert: made by hand, or from pydicom's own test files."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from dicom_assets.fhir.imaging_study import ConversionOptions, Study, convert_studies
from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS
from dicom_assets.lakehouse.schemas import RAW_FHIR, dicomimagingmetastore

NOW = datetime(2024, 5, 17, 12, 0, tzinfo=UTC)
FHIR_EXAMPLES = Path(__file__).parents[3] / "shared/data/fhir"

Row = dict[str, Any]


def _row(metadata: Row | None = None, **columns: Any) -> Row:
    """Returns a metastore row of one CT instance, with what is given instead."""
    row: Row = {
        "ingestDate": NOW.date(),
        "sourceSystem": "default",
        "studyInstanceUid": "1.2.840.1",
        "seriesInstanceUid": "1.2.840.1.1",
        "sopInstanceUid": "1.2.840.1.1.1",
        "sopClassUid": "1.2.840.10008.5.1.4.1.1.2",
        "modality": "CT",
        "patientId": "P1",
        "metadata_string": json.dumps(metadata or {}),
        "filePath": "bronze/Files/Process/Imaging/DICOM/2024/05/17/1_a.dcm.zip",
        "ingestedAt": NOW,
    }
    return row | columns


def _table(rows: Iterable[Row]) -> pa.Table:
    schema = dicomimagingmetastore()
    return pa.Table.from_pylist(
        list(rows), schema=pa.schema([schema.field(name) for name in COLUMNS])
    )


def _instances(rows: Iterable[Row]) -> pa.Table:
    batches = [project(batch) for batch in _table(rows).to_batches()]
    return pa.Table.from_batches(batches, schema=INSTANCES)


def _column(dataset: pydicom.Dataset, tag: str) -> str | None:
    element = dataset.get(int(tag, 16))
    if element is None or element.value in (None, ""):
        return None
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join(str(value).partition("=")[0] for value in values).strip() or None


def _real_rows() -> Iterator[Row]:
    root = Path(str(pydicom.__file__)).parent / "data/test_files"
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(path, stop_before_pixels=True)
                metadata = dataset.to_json_dict(suppress_invalid_tags=True)
                columns = {tag.column: _column(dataset, tag.tag) for tag in PROMOTED_TAGS}
        except (InvalidDicomError, OSError, AttributeError, NotImplementedError):
            continue
        uids = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
        if all(columns[uid] for uid in uids):
            place = f"External/{path.relative_to(root).as_posix()}"
            yield _row(metadata, **columns, filePath=place)


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def row() -> Callable[..., Row]:
    return _row


@pytest.fixture(scope="session")
def table() -> Callable[[Iterable[Row]], pa.Table]:
    return _table


@pytest.fixture(scope="session")
def real_rows() -> list[Row]:
    """One row per DICOM file that pydicom ships."""
    return list(_real_rows())


@pytest.fixture(scope="session")
def convert() -> Callable[..., list[Study | Failure]]:
    """Rows → studies and failures."""

    def run(rows: Iterable[Row], **options: str | None) -> list[Study | Failure]:
        return list(convert_studies(_instances(rows), options=ConversionOptions(**options)))

    return run


@pytest.fixture(scope="session")
def resource(convert: Callable[..., list[Study | Failure]]) -> Callable[..., Row]:
    """Rows of one study → its ImagingStudy."""

    def run(*rows: Row, **options: Any) -> Row:
        (study,) = convert(rows, **options)
        assert isinstance(study, Study)
        return orjson.loads(study.line)

    return run


@pytest.fixture(scope="session")
def bronze() -> Callable[..., pa.Table]:
    """Resources, in the order of their arrival → raw FHIR rows."""

    def run(*resources: Row | str, source_system: str = "default") -> pa.Table:
        rows = []
        for number, each in enumerate(resources, start=1):
            parsed = orjson.loads(each) if isinstance(each, str) else each
            updated = parsed.get("meta", {}).get("lastUpdated")
            rows.append(
                {
                    "ingestDate": NOW.date(),
                    "sourceSystem": source_system,
                    "id": parsed.get("id"),
                    "lastUpdated": datetime.fromisoformat(updated) if updated else None,
                    "resource": each if isinstance(each, str) else orjson.dumps(each).decode(),
                    "filePath": "drop/a.ndjson",
                    "lineNumber": number,
                    "ingestedAt": NOW,
                }
            )
        return pa.Table.from_pylist(rows, schema=RAW_FHIR)

    return run


@pytest.fixture(scope="session")
def examples() -> Callable[[str], list[Row]]:
    """Resources of HL7's and Synthea's examples, by file pattern."""

    def run(pattern: str) -> list[Row]:
        if not FHIR_EXAMPLES.is_dir():
            pytest.skip("the FHIR examples of shared/data/fhir are not there")
        found = []
        for path in sorted(FHIR_EXAMPLES.glob(pattern)):
            text = path.read_bytes()
            lines = text.splitlines() if path.suffix == ".ndjson" else [text]
            found += [orjson.loads(line) for line in lines if line.strip()]
        assert found, pattern
        return found

    return run

"""Silver rows to map, made the way the pipeline makes them."""

import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from dicom_assets.fhir.flatten import Sourced, flatten
from dicom_assets.fhir.imaging_study import ConversionOptions, Study, convert_studies
from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS
from dicom_assets.lakehouse.schemas import dicomimagingmetastore

NOW = datetime(2024, 5, 17, 12, 0, tzinfo=UTC)

Row = dict[str, Any]


def _row(**columns: Any) -> Row:
    """Returns a metastore row of one CT instance, with what is given instead."""
    row: Row = {
        "sourceSystem": "default",
        "studyInstanceUid": "1.2.840.1",
        "seriesInstanceUid": "1.2.840.1.1",
        "sopInstanceUid": "1.2.840.1.1.1",
        "sopClassUid": "1.2.840.10008.5.1.4.1.1.2",
        "modality": "CT",
        "patientId": "P1",
        "metadata_string": "{}",
        "filePath": "External/PACS/a/1.dcm",
        "ingestedAt": NOW,
    }
    return row | columns


def _silver(resources: Iterable[Row], source_system: str = "default") -> pa.Table:
    sourced = [Sourced(r, source_system, "a.ndjson", NOW, NOW) for r in resources]
    return flatten("ImagingStudy", sourced)


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def row() -> Callable[..., Row]:
    return _row


@pytest.fixture(scope="session")
def silver_of() -> Callable[..., pa.Table]:
    """FHIR resources → silver rows."""
    return _silver


@pytest.fixture(scope="session")
def silver() -> Callable[..., pa.Table]:
    """Metastore rows → silver rows."""

    def run(*rows: Row) -> pa.Table:
        schema = dicomimagingmetastore()
        columns = pa.schema([schema.field(name).with_nullable(True) for name in COLUMNS])
        table = pa.Table.from_pylist(list(rows), schema=columns)
        batches = [project(batch) for batch in table.to_batches()]
        instances = pa.Table.from_batches(batches, schema=INSTANCES)
        options = ConversionOptions(site_timezone="Europe/Zurich")
        tables = []
        for study in convert_studies(instances, options=options):
            assert isinstance(study, Study)
            tables.append(_silver([orjson.loads(study.line)], study.source_system))
        return pa.concat_tables(tables) if tables else _silver([], "default")

    return run


@pytest.fixture(scope="session")
def real_rows() -> list[Row]:
    """One row per DICOM file that pydicom ships, with its promoted columns."""
    root = Path(str(pydicom.__file__)).parent / "data/test_files"
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(path, stop_before_pixels=True)
                columns = {tag.column: str(dataset.get(tag.keyword, "")) for tag in PROMOTED_TAGS}
        except (InvalidDicomError, OSError, AttributeError, NotImplementedError):
            continue
        uids = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
        if all(columns[uid] for uid in uids):
            stated = {name: value.strip() or None for name, value in columns.items()}
            found.append(_row(**stated, filePath=path.as_posix()))
    return found

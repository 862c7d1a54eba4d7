"""Measures FHIR: metastore rows to ImagingStudy, NDJSON, silver and OMOP rows, and fhir.resources.

Makes metastore rows whose headers have 260 elements (some 15 KB of DICOM JSON), in two shapes: one
study of 2,000 instances, and as many studies of one instance. Told is the CPU time of each stage
per 1,000 instances, ours beside what is plainest: the whole header by orjson, and a model of
fhir.resources built, validated and written as JSON, or read from it. Last, what one instance costs
that arrives late for the large study. All in one process, without reading or writing a table.

    python -m benchmarks.fhir_speed [--quick] [--rounds 5]
"""

import argparse
import gc
import io
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from benchmarks.results import OURS, Results, Row
from dicom_assets.fhir.flatten import resource_columns, silver_schema
from dicom_assets.fhir.imaging_study import ConversionOptions, Study, convert_studies
from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.fhir.ndjson import Line, read_lines
from dicom_assets.fhir.silver import upserts
from dicom_assets.lakehouse.schemas import PERSON, RAW_FHIR, dicomimagingmetastore
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.image_occurrence import image_occurrences
from dicom_assets.omop.person import METASTORE_COLUMNS, persons, unknown_persons
from dicom_assets.omop.procedure_occurrence import procedure_occurrences
from dicom_assets.omop.studies import STUDY_COLUMNS
from dicom_assets.omop.vocabulary import Vocabulary

PART, UNIT = "fhir", "ms CPU / 1,000"
COUNT = 2000
KIND = "ImagingStudy"
NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
OPTIONS = ConversionOptions(
    site_timezone="Europe/Zurich", dicomweb_base_address="https://pacs.example.org/dicomweb"
)
INSTANCES_PER_SERIES = 100
LINES_AT_A_TIME = 500  # as the step flatten takes them

Json = dict[str, Any]


def header(study: int, number: int) -> str:
    """Returns the DICOM JSON of a CT slice: 260 elements, as scanners write them."""
    elements: Json = {
        "00081032": {"vr": "SQ", "Value": [_code("24627-2", "LN", "CT Chest")]},
        "00081050": {"vr": "PN", "Value": [{"Alphabetic": "House^Gregory"}]},
        "00081070": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00200013": {"vr": "IS", "Value": [number]},
        "00200032": {"vr": "DS", "Value": [-125.0, -120.5, number * 1.25]},
        "00400275": {"vr": "SQ", "Value": [{"00401002": {"vr": "LO", "Value": ["cough"]}}]},
    }
    for n in range(253):
        if n % 3 == 0:
            elements[f"{0x00181000 + n:08X}"] = {"vr": "DS", "Value": [n * 0.5, 1.25, -2.75]}
        elif n % 3 == 1:
            text = f"private text {n} of the scanner"
            elements[f"{0x00291000 + n:08X}"] = {"vr": "LO", "Value": [text]}
        else:
            uid = f"1.2.840.113619.{n}.{study}"
            elements[f"{0x00431000 + n:08X}"] = {"vr": "UI", "Value": [uid]}
    references = [{"00081155": {"vr": "UI", "Value": [f"1.2.3.{n}"]}} for n in range(12)]
    elements["00081140"] = {"vr": "SQ", "Value": references}
    return orjson.dumps(elements, option=orjson.OPT_SORT_KEYS).decode()


def _code(value: str, scheme: str, meaning: str) -> Json:
    return {
        "00080100": {"vr": "SH", "Value": [value]},
        "00080102": {"vr": "SH", "Value": [scheme]},
        "00080104": {"vr": "LO", "Value": [meaning]},
    }


def metastore_rows(count: int, *, one_study: bool) -> list[Json]:
    """Returns rows in no order: one study of so many instances, or so many studies of one."""
    rows = []
    for n in range(count):
        study, series = (0, n // INSTANCES_PER_SERIES) if one_study else (n, 0)
        uid = f"1.2.840.113619.2.55.{study}"
        rows.append(
            {
                "sourceSystem": "default",
                "studyInstanceUid": uid,
                "seriesInstanceUid": f"{uid}.{series}",
                "sopInstanceUid": f"{uid}.{series}.{n}",
                "sopClassUid": "1.2.840.10008.5.1.4.1.1.2",
                "modality": "CT",
                "patientId": f"P{study}",
                "patientSex": "F",
                "patientBirthDate": "19600101",
                "accessionNumber": f"A{study}",
                "referringPhysicianName": "Ref^Erring",
                "studyDate": "20260314",
                "studyTime": "093000.123",
                "timezoneOffsetFromUtc": "+0100",
                "studyDescription": "CT chest",
                "seriesNumber": str(series),
                "seriesDescription": f"axial {series}",
                "seriesDate": "20260314",
                "seriesTime": "0930",
                "bodyPartExamined": "CHEST",
                "instanceNumber": str(n % INSTANCES_PER_SERIES + 1),
                "metadata_string": header(study, n),
                "filePath": f"bronze/Files/Process/Imaging/DICOM/2026/03/14/{n}_a.dcm.zip",
                "sourcePath": f"drop/{n}.dcm",
                "contentHash": f"{n:064x}",
                "ingestedAt": NOW + timedelta(milliseconds=n),
                "sourceModifiedAt": NOW - timedelta(days=1),
            }
        )
    random.Random(7).shuffle(rows)  # noqa: S311
    return rows


def _table(rows: list[Json], names: tuple[str, ...]) -> pa.Table:
    schema = dicomimagingmetastore()
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in names]))


class Shape:
    """The stages of one shape, each from what the one before has made."""

    def __init__(self, count: int, *, one_study: bool) -> None:
        """Makes rows, and runs each stage once."""
        rows = metastore_rows(count, one_study=one_study)
        self.count = count
        self.metastore = _table(rows, COLUMNS)
        self.patients = _table(rows, METASTORE_COLUMNS)
        self.instances = self.project()
        self.converted = self.convert()
        self.ndjson = b"".join(study.line + b"\n" for study in self.converted)
        self.resources = [orjson.loads(study.line) for study in self.converted]
        self.bronze = self.ingest()
        self.silver = self.flatten().select(list(STUDY_COLUMNS))

    def project(self) -> pa.Table:
        """Takes out of each header what the conversion needs."""
        batches = self.metastore.to_batches(max_chunksize=1024)
        return pa.Table.from_batches([project(batch) for batch in batches], schema=INSTANCES)

    def parse(self) -> None:
        """Parses each header whole."""
        for text in self.metastore["metadata_string"].to_pylist():
            orjson.loads(text)

    def convert(self) -> list[Study]:
        """Makes checked lines."""
        studies = convert_studies(self.instances, options=OPTIONS)
        return [study for study in studies if isinstance(study, Study)]

    def model_writes(self) -> None:
        """Builds, validates and writes the same studies through fhir.resources."""
        from fhir.resources.R4B.imagingstudy import ImagingStudy

        for resource in self.resources:
            ImagingStudy.model_validate(resource).model_dump_json()

    def ingest(self) -> pa.Table:
        """Makes bronze rows of the lines."""
        lines = read_lines(io.BytesIO(self.ndjson), resource_type=KIND)
        rows = [_bronze_row(line) for line in lines if isinstance(line, Line)]
        return pa.Table.from_pylist(rows, schema=RAW_FHIR)

    def flatten(self) -> pa.Table:
        """Makes checked silver rows."""
        nothing = silver_schema(KIND).empty_table().select(resource_columns(KIND))
        starts = range(0, self.bronze.num_rows, LINES_AT_A_TIME)
        parts = [self.bronze.slice(start, LINES_AT_A_TIME) for start in starts]
        return pa.concat_tables([upserts(KIND, part, nothing, now=NOW)[0] for part in parts])

    def model_reads(self) -> None:
        """Reads and validates the same lines through fhir.resources."""
        from fhir.resources.R4B.imagingstudy import ImagingStudy

        for line in self.ndjson.splitlines():
            ImagingStudy.model_validate_json(line)

    def gold(self) -> None:
        """Makes the rows of image_occurrence, procedure_occurrence and person."""
        walks = Crosswalks()
        image_occurrences(
            self.silver,
            vocabulary=Vocabulary.default(),
            crosswalks=walks,
            dicomweb_base_address=None,
            now=NOW,
        )
        procedure_occurrences(self.silver, crosswalks=walks, now=NOW)
        none = PERSON.empty_table()
        persons(self.patients, self.silver, known=lambda _: none, crosswalks=walks, now=NOW)
        unknown_persons(self.silver)


def _bronze_row(line: Line) -> Json:
    return {
        "ingestDate": NOW.date(),
        "sourceSystem": "default",
        "id": line.id,
        "lastUpdated": line.last_updated,
        "resource": line.text,
        "filePath": "a.ndjson",
        "lineNumber": line.number,
        "ingestedAt": NOW,
    }


STAGES: dict[str, tuple[Callable[[Shape], object], Callable[[Shape], object] | None]] = {
    "header to its needed elements : orjson, whole": (Shape.project, Shape.parse),
    "rows to checked NDJSON : model, validated, as JSON": (Shape.convert, Shape.model_writes),
    "NDJSON to bronze rows": (Shape.ingest, None),
    "bronze to checked silver rows : JSON to model": (Shape.flatten, Shape.model_reads),
    "silver to OMOP rows": (Shape.gold, None),
}


class Late:
    """One instance more for a study that silver holds."""

    def __init__(self, large: Shape) -> None:
        """Puts the large study into silver and makes the line of the late instance."""
        row = metastore_rows(1, one_study=True)[0]
        row |= {"sopInstanceUid": "1.2.3", "ingestedAt": NOW + timedelta(days=1)}
        late = Shape.__new__(Shape)
        late.metastore = _table([row], COLUMNS)
        late.instances = late.project()
        late.ndjson = b"".join(study.line for study in late.convert())
        self._line = late.ingest()
        self._held = large.flatten().select(resource_columns(KIND))

    def merge(self) -> None:
        """Makes the study's silver row anew."""
        rows, *_ = upserts(KIND, self._line, self._held, now=NOW)
        if rows.num_rows != 1:
            raise SystemExit("the late instance changed nothing")


def _milliseconds(run: Callable[[], object]) -> float:
    gc.collect()
    begin = time.process_time()
    run()
    return (time.process_time() - begin) * 1000


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Runs each stage once on both shapes, ours and the other way in turn."""
    count = 200 if quick else COUNT
    shapes = {
        f"one study of {count:,}": _shape(count, one_study=True),
        f"{count:,} studies of one": _shape(count, one_study=False),
    }
    rows = []
    for title, shape in shapes.items():
        total = 0.0
        for name, (ours, other) in STAGES.items():
            for contestant, run in ((OURS, ours), ("the other way", other)):
                if run is not None:
                    spent = _milliseconds(lambda run=run, shape=shape: run(shape)) * 1000 / count
                    total += spent if contestant == OURS else 0
                    rows.append(Row(PART, f"{title}: {name}", contestant, spent, UNIT))
        rows.append(Row(PART, f"{title}: all stages", OURS, total, UNIT))
    late = Late(next(iter(shapes.values())))
    case = "one instance more for the study that silver holds"
    return [*rows, Row(PART, case, OURS, _milliseconds(late.merge), "ms CPU")]


@cache
def _shape(count: int, *, one_study: bool) -> Shape:
    return Shape(count, one_study=one_study)


def main() -> None:
    """Runs some rounds and prints tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few instances")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = Results()
    for _ in range(arguments.rounds):
        results.add(measure(Path(), quick=arguments.quick))
    print(results.table(PART))


if __name__ == "__main__":
    main()

"""Verify and repair: reports, their links and their notes agree, or what does not is named."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from dicom_assets.lakehouse.engine import Table
from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Kind
from dicom_assets_tests.conftest import House
from dicom_assets_tests.steps.test_verify import (
    FIRST,
    SECOND,
    WHEN_MADE,
    double,
    drop,
    found,
    lose,
    repaired,
)

BRONZE = catalog.bronze_fhir("DiagnosticReport")
SILVER = catalog.silver_fhir("DiagnosticReport")
NOTE = catalog.NOTE


def report(own_id: str, study: str) -> str:
    return json.dumps(
        {
            "resourceType": "DiagnosticReport",
            "id": own_id,
            "status": "final",
            "code": {"text": "CT"},
            "conclusion": f"Conclusion of {own_id}.",
            "imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": study}}],
        }
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Two studies; a report that came before its study and again with it, and seven more."""
    house = House(tmp_path_factory.mktemp("sound") / "lakehouse", workers=1)
    reports = house.run.engine.layout.fhir_drop_folder
    reports.mkdir(parents=True)
    drop(house, 1, 1)
    lines = [report("r1", "1.2.2"), *(report(f"r{number}", "1.2.1") for number in range(2, 7))]
    (reports / "a.ndjson").write_text("".join(f"{line}\n" for line in lines))
    house.chain(FIRST)
    reports.mkdir(exist_ok=True)
    drop(house, 2, 1)
    lines = [report("r1", "1.2.2"), report("r7", "1.2.2"), report("r8", "1.2.9")]
    (reports / "b.ndjson").write_text("".join(f"{line}\n" for line in lines))
    (reports / "c.json").write_text("{no JSON")
    house.chain(SECOND)
    return house


@pytest.fixture
def broken(sound: House, tmp_path: Path) -> House:
    """A copy, to be broken."""
    root = tmp_path / "lakehouse"
    shutil.copytree(sound.settings.lakehouse, root)
    return House(root, workers=1)


def rows(house: House, table: Table) -> list[str]:
    """Rows of a table, but for when they were made, and in which month they first stood."""
    volatile = {*WHEN_MADE, "ingestedAt", "ingestMonth"}
    every = ({k: v for k, v in row.items() if k not in volatile} for row in house.rows(table))
    return sorted(map(str, every))


def files(house: House, day: str = "2026/01/30") -> Path:
    (path,) = house.files(f"bronze/Files/Process/Clinical/FHIR NDJSON/{day}/DiagnosticReport")
    return path


def test_what_was_refused_and_came_in_when_silver_was_made_anew_agrees(tmp_path):
    root = tmp_path / "lakehouse"
    house = House(root, workers=1, fhir_validation="strict")
    reports = house.run.engine.layout.fhir_drop_folder
    reports.mkdir(parents=True)
    drop(house, 1, 1)
    (reports / "a.json").write_text(report("r1", "1.2.1").replace('"final"', "5"))
    house.chain(FIRST)
    assert house.rows(SILVER) == []
    lenient = House(root, workers=1)
    shutil.rmtree(root / "silver/Tables/DiagnosticReport")
    lenient.chain(FIRST)
    assert [row["idOrig"] for row in lenient.rows(SILVER)] == ["r1"]
    assert len(lenient.rows(NOTE)) == 1
    assert found(lenient) == {}
    lose(lenient, NOTE)
    assert found(lenient) == {Kind.NOTE: 1}


def test_sound_reports_agree_and_repair_leaves_every_file_as_it_is(broken):
    before = broken.everything()
    assert repaired(broken) == ({}, {})
    assert [found(broken, day=day) for day in (FIRST, SECOND)] == [{}, {}]
    assert broken.everything() == before


def unlink(house: House, own_id: str) -> None:
    """Breaks silver: a report points to no study."""
    engine, columns = house.run.engine, [n for n in SILVER.schema.names if n != SILVER.partition]
    held = engine.read(SILVER, columns, where={"idOrig": [own_id]})
    place = held.schema.get_field_index("imagingStudyIds")
    field = held.schema.field(place)
    held = held.set_column(place, field, pa.array([[None]], field.type))
    engine.upsert(SILVER, held, progress=None, ingest_date=FIRST)


def note_of(house: House, own_id: str) -> dict[str, str]:
    """What is said by the note of a report alone: of which report it is."""
    (row,) = (row for row in house.rows(SILVER) if row["idOrig"] == own_id)
    return {"sourceRecordId": row["id"]}


def layers(house: House) -> list[list[str]]:
    return [rows(house, table) for table in (BRONZE, SILVER, NOTE)]


def test_a_row_of_a_fhir_file_that_is_there_twice_is_named_and_stays(broken):
    double(broken, catalog.FHIR_FILES, sourcePath="a.ndjson")
    assert found(broken) == found(broken, day=FIRST) == {Kind.DUPLICATE: 1}
    assert found(broken, day=SECOND) == {}
    assert repaired(broken) == ({Kind.DUPLICATE: 1}, {Kind.DUPLICATE: 1})
    assert len(broken.rows(catalog.FHIR_FILES)) == 3


def test_reports_and_notes_that_are_missing_there_twice_or_unlinked_are_made_again(broken):
    before = layers(broken)
    lose(broken, NOTE, **note_of(broken, "r4"))
    double(broken, NOTE, **note_of(broken, "r5"))
    unlink(broken, "r6")
    double(broken, SILVER, idOrig="r3")
    lose(broken, SILVER, idOrig="r2")
    kinds, rest = repaired(broken)
    assert kinds == {
        Kind.NOTE: 1,
        Kind.DUPLICATE: 2,
        Kind.LINK: 1,
        Kind.RESOURCE_NOT_IN_SILVER: 1,
        Kind.GOLD_WITHOUT_SILVER: 1,
    }
    assert rest == {}
    assert layers(broken) == before
    lose(broken, SILVER)
    lose(broken, NOTE)
    assert repaired(broken) == ({Kind.RESOURCE_NOT_IN_SILVER: 9}, {})
    assert layers(broken) == before


def test_reports_without_rows_are_ingested_again_and_lost_files_written_anew(broken):
    before = layers(broken)
    files(broken).unlink()
    lose(broken, BRONZE, id="r7")
    kinds, rest = repaired(broken)
    assert kinds == {
        Kind.ROW_WITHOUT_LINE: 1,
        Kind.FILE_MISSING: 1,
        Kind.LINE_WITHOUT_ROW: 1,
        Kind.SILVER_WITHOUT_BRONZE: 1,
        Kind.GOLD_WITHOUT_SILVER: 1,
    }
    assert rest == {}
    assert layers(broken) == before


def test_a_note_and_a_report_of_which_no_line_is_are_named_and_the_note_goes(broken):
    lose(broken, BRONZE, id="r6")
    files(broken).write_text("".join(files(broken).read_text().splitlines(keepends=True)[:-1]))
    before, after = repaired(broken)
    assert before == {Kind.SILVER_WITHOUT_BRONZE: 1, Kind.GOLD_WITHOUT_SILVER: 1}
    assert after == {Kind.SILVER_WITHOUT_BRONZE: 1}


def test_a_failed_line_without_a_row_is_recorded_and_a_file_that_failed_somehow_dropped(broken):
    bad = files(broken)
    bad.write_text(f"{bad.read_text()}{{no JSON\n")
    failures = catalog.INGESTION_FAILURES
    lose(broken, BRONZE, ingestDate=FIRST)
    broken.chain(FIRST)
    before = [row | {"failedAt": None, "runId": None} for row in broken.rows(failures)]
    lose(broken, failures, ingestDate=FIRST)
    layout = broken.run.engine.layout
    path = layout.fhir_failed_folder("default", SECOND, "Unknown") / "1_x.ndjson"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{no JSON")
    assert repaired(broken) == ({Kind.FAILED_WITHOUT_ROW: 2}, {})
    assert [row | {"failedAt": None, "runId": None} for row in broken.rows(failures)] == before
    assert not path.exists()
    assert (layout.fhir_drop_folder / path.name).read_text() == "{no JSON"

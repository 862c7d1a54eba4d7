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
    all_of,
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
    """Two studies; a report that came before its study and again with it, two more in a file."""
    house = House(tmp_path_factory.mktemp("sound") / "lakehouse", workers=1)
    reports = house.run.engine.layout.fhir_drop_folder
    reports.mkdir(parents=True)
    drop(house, 1, 1)
    (reports / "a.ndjson").write_text(f"{report('r1', '1.2.2')}\n{report('r2', '1.2.1')}\n")
    house.chain(FIRST)
    reports.mkdir(exist_ok=True)
    drop(house, 2, 1)
    (reports / "b.json").write_text(report("r1", "1.2.2") + report("r3", "1.2.9") + "{no JSON")
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
    lose(NOTE, lambda _: True)(lenient)
    assert found(lenient) == {Kind.NOTE: 1}


def test_sound_reports_agree_and_repair_leaves_every_file_as_it_is(broken):
    before = broken.everything()
    assert repaired(broken) == ({}, {})
    assert [found(broken, day=day) for day in (FIRST, SECOND)] == [{}, {}]
    assert broken.everything() == before


def unlink(house: House) -> None:
    """Breaks silver: a report points to no study."""
    engine, columns = house.run.engine, [n for n in SILVER.schema.names if n != SILVER.partition]
    held = engine.read(SILVER, columns, where={"idOrig": ["r2"]})
    place = held.schema.get_field_index("imagingStudyIds")
    field = held.schema.field(place)
    held = held.set_column(place, field, pa.array([[None]], field.type))
    engine.upsert(SILVER, held, progress=None, ingest_date=FIRST)


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (lose(SILVER, lambda row: row["idOrig"] == "r2"), {Kind.RESOURCE_NOT_IN_SILVER}),
        (double(SILVER), {Kind.DUPLICATE}),
        (lose(NOTE, lambda row: True), {Kind.NOTE}),
        (double(NOTE), {Kind.DUPLICATE}),
        (unlink, {Kind.LINK}),
        (lose(BRONZE, lambda row: row["id"] == "r2"), {Kind.LINE_WITHOUT_ROW}),
        (lambda house: files(house).unlink(), {Kind.ROW_WITHOUT_LINE, Kind.FILE_MISSING}),
        (
            all_of(lose(SILVER, lambda row: True), lose(NOTE, lambda row: True)),
            {Kind.RESOURCE_NOT_IN_SILVER},
        ),
    ],
)
def test_what_is_missing_there_twice_or_unlinked_is_named_and_made_again(
    broken, sound, damage, kinds
):
    damage(broken)
    before, after = repaired(broken)
    assert set(before) >= kinds
    assert set(before) <= kinds | {Kind.SILVER_WITHOUT_BRONZE, Kind.GOLD_WITHOUT_SILVER}
    assert after == {}
    for table in (BRONZE, SILVER, NOTE):
        assert rows(broken, table) == rows(sound, table)


def test_a_note_and_a_report_of_which_no_line_is_are_named_and_the_note_goes(broken):
    lose(BRONZE, lambda row: row["id"] == "r2")(broken)
    files(broken).write_text(report("r1", "1.2.2"))
    before, after = repaired(broken)
    assert before == {Kind.SILVER_WITHOUT_BRONZE: 1, Kind.GOLD_WITHOUT_SILVER: 1}
    assert after == {Kind.SILVER_WITHOUT_BRONZE: 1}


def test_a_failed_line_without_a_failure_row_is_recorded_again(broken):
    bad = files(broken)
    bad.write_text(f"{bad.read_text()}{{no JSON\n")
    failures = catalog.INGESTION_FAILURES
    repaired(broken)
    lose(BRONZE, lambda row: row["ingestDate"] == FIRST)(broken)
    repaired(broken)
    before = [row | {"failedAt": None, "runId": None} for row in broken.rows(failures)]
    lose(failures, lambda row: row["ingestDate"] == FIRST)(broken)
    assert repaired(broken) == ({Kind.FAILED_WITHOUT_ROW: 1}, {})
    assert [row | {"failedAt": None, "runId": None} for row in broken.rows(failures)] == before


def test_a_failed_file_of_which_nobody_knows_why_is_dropped_again(broken):
    layout = broken.run.engine.layout
    path = layout.fhir_failed_folder("default", SECOND, "Unknown") / "1_x.ndjson"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{no JSON")
    assert repaired(broken) == ({Kind.FAILED_WITHOUT_ROW: 1}, {})
    assert not path.exists()
    assert (layout.fhir_drop_folder / path.name).read_text() == "{no JSON"

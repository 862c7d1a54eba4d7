"""Verify and repair: each way in which a lakehouse can be wrong is named, and mended if it can be.

A sound lakehouse of two dates is broken in ways that do not meet: each in a study of its own.
"""

import shutil
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hostile import SPECIALS, drop_specials

from dicom_assets.defs.checks import RULES
from dicom_assets.fhir.flatten import silver_id
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.layout import one_name
from dicom_assets.lakehouse.operations import operation
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.person import person_id
from dicom_assets.steps import ask, catalog
from dicom_assets.steps.findings import Kind
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.repair import verify_and_repair
from dicom_assets.steps.retry import retry
from dicom_assets.steps.verify import verify
from dicom_assets_tests.conftest import House, dicom

FIRST, SECOND = date(2026, 1, 30), date(2026, 3, 14)
WHEN_MADE = {"createdAt", "modifiedAt", "sourceModifiedAt", "sourceFilePath"}
METASTORE = catalog.metastore()
SILVER = catalog.silver_imaging_study()
BRONZE = catalog.BRONZE_IMAGING_STUDY
SERIES, PERSON, PROCEDURE = (
    catalog.IMAGE_OCCURRENCE,
    catalog.PERSON,
    catalog.PROCEDURE_OCCURRENCE,
)

Counts = dict[Kind, int]


def drop(house: House, study: int, part: int, **elements: Any) -> None:
    uid = f"1.2.{study}"
    own = {"SeriesInstanceUID": f"{uid}.{part}", "SOPInstanceUID": f"{uid}.{part}.1"}
    values = {"StudyInstanceUID": uid, "PatientID": f"P{study}", **own, **elements}
    dicom(house.drop / f"{study}.{part}.dcm", **values)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Six studies, the first one in parts of two dates, the third longer, and one failed file."""
    house = House(tmp_path_factory.mktemp("sound") / "lakehouse", workers=1)
    for study in (1, 2, 4, 5, 6):
        drop(house, study, 1)
    house.chain(FIRST)
    drop(house, 1, 2)
    drop(house, 3, 1, PatientComments="x" * 99)
    (house.drop / "readme.txt").write_text("no image")
    house.chain(SECOND)
    return house


@pytest.fixture
def broken(sound: House, tmp_path: Path) -> House:
    """A copy, to be broken."""
    root = tmp_path / "lakehouse"
    shutil.copytree(sound.settings.lakehouse, root)
    return House(root, workers=1)


def found(house: House, **choices: Any) -> Counts:
    return dict(verify(house.settings, **choices).counts)


def repaired(house: House, **choices: Any) -> tuple[Counts, Counts]:
    """What was found before and after the repair; the latter is what is found from now on."""
    before, after = verify_and_repair(house.settings, **choices)
    return dict(before.counts), dict(after.counts)


def layers(house: House) -> dict[str, list[str]]:
    """Table → rows, but for when and from which line they were made."""
    return {
        table.full_name: sorted(
            str({name: value for name, value in row.items() if name not in WHEN_MADE})
            for row in house.rows(table)
        )
        for table in (METASTORE, SILVER, PERSON, PROCEDURE, SERIES)
    }


def meets(row: dict[str, Any], where: dict[str, Any]) -> bool:
    return all(row[name] == value for name, value in where.items())


def current_files(house: House) -> list[str]:
    return sorted(str({**row, "wholeAt": None}) for row in house.rows(catalog.CURRENT_FILES))


def lose(house: House, table: Table, **where: Any) -> None:
    """Breaks a table: some of its rows are gone, or all."""
    delta = DeltaTable(str(house.run.engine.layout.table(table.layer, table.name)))
    rows = delta.to_pyarrow_table()
    kept = [not meets(row, where) for row in rows.to_pylist()]
    assert not all(kept)
    write_deltalake(delta, rows.filter(pa.array(kept)), mode="overwrite")


def double(house: House, table: Table, **where: Any) -> None:
    """Breaks a table: one of its rows is there twice."""
    append(house, table, [next(row for row in house.rows(table) if meets(row, where))])


def append(house: House, table: Table, rows: list[dict[str, Any]]) -> None:
    """Breaks a table: it has more rows."""
    delta = DeltaTable(str(house.run.engine.layout.table(table.layer, table.name)))
    schema = delta.to_pyarrow_table().schema
    write_deltalake(delta, pa.Table.from_pylist(rows, schema=schema), mode="append")


def change(house: House, table: Table, where: dict[str, Any], **to: Any) -> None:
    """Breaks a table: columns of some rows say something else."""
    rows = [row | to for row in house.rows(table) if meets(row, where)]
    assert rows
    changed = pa.Table.from_pylist(rows, schema=table.upserted)
    house.run.engine.upsert(table, changed, progress=None, ingest_date=FIRST)


def of_study(number: int) -> str:
    """What gold rows of a study say they are made of."""
    return silver_id("default", "ImagingStudy", f"1.2.{number}")


def give_to_the_first_patient(house: House, study: str) -> None:
    """Breaks silver: a study is another's."""
    (subject,) = (row["subject"] for row in house.rows(SILVER) if row["idOrig"] == study)
    identifier = subject["identifier"] | {"value": "P1"}
    change(house, SILVER, {"idOrig": study}, subject=subject | {"identifier": identifier})


def zips(house: House) -> list[Path]:
    return house.files("bronze/Files/Process/Imaging")


def ndjson(house: House) -> Path:
    return house.files("bronze/Files/Process/Clinical")[-1]


def failed_file(house: House) -> Path:
    return house.files("bronze/Files/Failed")[0]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def put(house: House, inside: str) -> Path:
    path = house.settings.lakehouse / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_a_sound_lakehouse_agrees_and_repair_leaves_every_file_as_it_is(broken):
    before = broken.everything()
    assert found(broken) == found(broken, day=SECOND) == {}
    assert repaired(broken, hashes=True) == ({}, {})
    assert broken.everything() == before


def test_silver_rows_that_are_missing_outdated_there_twice_or_anothers_are_made_again(broken):
    before, lines = layers(broken), broken.rows(BRONZE)
    give_to_the_first_patient(broken, "1.2.3")
    double(broken, SILVER, idOrig="1.2.2")
    lose(broken, SILVER, idOrig="1.2.4")
    earlier = DeltaTable(str(broken.settings.lakehouse / "silver/Tables/ImagingStudy"), version=1)
    rows = [row for row in earlier.to_pyarrow_table().to_pylist() if row["idOrig"] == "1.2.1"]
    assert len(rows) == 1  # as the first date left it
    lose(broken, SILVER, idOrig="1.2.1")
    append(broken, SILVER, rows)
    kinds, rest = repaired(broken)
    assert kinds == {
        Kind.OTHER_PATIENT: 1,
        Kind.GOLD_DIFFERS: 2,
        Kind.DUPLICATE: 1,
        Kind.STUDY_NOT_IN_SILVER: 1,
        Kind.INSTANCE_NOT_IN_SILVER: 1,
        Kind.GOLD_WITHOUT_SILVER: 1,
    }
    assert rest == {}
    assert layers(broken) == before
    assert broken.rows(BRONZE) == lines, "the lines that there are say all"


def test_gold_rows_that_are_missing_or_there_twice_are_made_again_and_rows_of_nothing_go(broken):
    before = layers(broken), current_files(broken)
    lose(broken, PROCEDURE, sourceRecordId=of_study(1))
    lose(broken, SERIES, image_series_uid="1.2.2.1")
    lose(broken, PERSON, person_source_value="P3")
    double(broken, SERIES, image_series_uid="1.2.4.1")
    double(broken, PERSON, person_source_value="P5")
    (row,) = (row for row in broken.rows(SERIES) if row["image_series_uid"] == "1.2.6.1")
    append(broken, SERIES, [row | {"image_occurrence_id": 7}])
    uids = {"instance": "sopInstanceUid", "series": "seriesInstanceUid"}
    by_level = {row["level"]: row for row in broken.rows(catalog.CURRENT_FILES)}
    rows = [
        row | {"id": number, uids.get(level, "studyInstanceUid"): "9.9"}
        for number, (level, row) in enumerate(by_level.items())
    ]
    append(broken, catalog.CURRENT_FILES, rows)
    kinds, rest = repaired(broken)
    assert kinds == {
        Kind.NOT_IN_GOLD: 2,
        Kind.DANGLING: 4,
        Kind.DUPLICATE: 2,
        Kind.GOLD_WITHOUT_SILVER: 1,
        Kind.SILVER_WITHOUT_BRONZE: 3,
    }
    assert rest == {}
    assert (layers(broken), current_files(broken)) == before


def test_gold_rows_that_say_otherwise_than_what_they_are_made_of_are_made_again(broken):
    before = layers(broken)
    other = person_id("default", "P1", "", Crosswalks())
    change(broken, SERIES, {"image_series_uid": "1.2.2.1"}, person_id=other)
    change(broken, SERIES, {"image_series_uid": "1.2.3.1"}, modality_source_value="3.1")
    change(broken, PROCEDURE, {"sourceRecordId": of_study(4)}, procedure_date=SECOND)
    change(broken, PERSON, {"person_source_value": "P5"}, person_source_value="P1")
    assert repaired(broken) == ({Kind.GOLD_DIFFERS: 4}, {})
    assert layers(broken) == before


def test_what_neither_silver_nor_bronze_know_is_converted_again(broken):
    before = layers(broken)
    ndjson(broken).unlink()
    lose(broken, BRONZE, ingestDate=SECOND)
    lose(broken, SILVER, idOrig="1.2.3")
    kinds, rest = repaired(broken)
    assert kinds == {Kind.INSTANCE_NOT_IN_SILVER: 1, Kind.GOLD_WITHOUT_SILVER: 2}
    assert rest == {}
    assert layers(broken) == before


def test_rows_that_tables_of_bronze_lost_and_a_lost_file_of_lines_are_made_again(broken):
    def organised() -> set[tuple[date, str]]:
        rows = broken.rows(catalog.PROCESS_FILES)
        return {(row["ingestDate"], one_name(row["filePath"])) for row in rows}

    before = layers(broken), organised(), ndjson(broken).read_bytes()
    ndjson(broken).unlink()
    lose(broken, BRONZE, id="1.2.2")
    lose(broken, METASTORE, sopInstanceUid="1.2.4.1.1")
    lose(broken, catalog.PROCESS_FILES, sourcePath="3.1.dcm")
    kinds, rest = repaired(broken)
    assert kinds == {
        Kind.ROW_WITHOUT_LINE: 1,
        Kind.LINE_WITHOUT_ROW: 1,
        Kind.SILVER_WITHOUT_BRONZE: 1,
        Kind.NOT_READ: 1,
        Kind.INSTANCE_UNKNOWN: 1,
        Kind.ROW_NOT_ORGANISED: 1,
    }
    assert rest == {}
    assert (layers(broken), organised(), ndjson(broken).read_bytes()) == before


def test_files_that_lost_all_their_rows_or_are_strange_in_process_are_taken_as_any_other(broken):
    for table in (METASTORE, catalog.PROCESS_FILES):
        lose(broken, table, sourcePath="2.1.dcm")
    folder = zips(broken)[0].parent
    dicom(folder / "mine.dcm", SOPInstanceUID="9.9.9", StudyInstanceUID="9.9", PatientID="P9")
    (folder / "notes.txt").write_text("no image")
    kinds, rest = repaired(broken)
    assert kinds == {Kind.FILE_WITHOUT_ROW: 3, Kind.INSTANCE_UNKNOWN: 1}
    assert rest == {}
    instances = [row["sopInstanceUid"] for row in broken.metastore()]
    assert len(instances) == 8
    assert {"1.2.2.1.1", "9.9.9"} <= set(instances)
    assert "9.9" in {row["image_study_uid"] for row in broken.rows(SERIES)}
    assert "notes.txt" in [path.name for path in broken.files("bronze/Files/Failed")]
    assert {row["reasonCode"] for row in broken.rows(catalog.INGESTION_FAILURES)} == {"not_dicom"}


def test_a_failed_file_without_a_row_is_not_dropped_behind_a_link(broken, tmp_path, caplog):
    path = failed_file(broken)
    folder = (
        broken.run.engine.layout.failed_root
        / "PACS1"
        / path.parent.relative_to(broken.run.engine.layout.failed_root)
    )
    folder.mkdir(parents=True)
    path.rename(folder / "1_Doe.txt")
    (tmp_path / "outside").mkdir()
    (broken.drop / "PACS1").symlink_to(tmp_path / "outside")
    before, after = repaired(broken)
    assert before[Kind.FAILED_WITHOUT_ROW] == after[Kind.FAILED_WITHOUT_ROW] == 1
    assert list((tmp_path / "outside").iterdir()) == []
    assert "a link or a file lies where a folder has to be" in caplog.text
    assert "Doe" not in caplog.text


def test_a_failed_file_without_a_row_replaces_none_of_the_drop_folder(broken):
    path = failed_file(broken)
    path.rename(path.with_name("1_other.txt"))
    (broken.drop / "1_other.txt").write_text("theirs")
    assert Kind.FAILED_WITHOUT_ROW not in repaired(broken)[1]
    assert (broken.drop / "1_other.txt").read_text() == "theirs"
    assert (broken.drop / "1_other~1.txt").read_text() == "no image"


def test_missing_files_stay_findings_and_a_failed_one_without_a_row_is_dropped_again(broken):
    first = next(path for path in zips(broken) if "2.1" in path.name)
    content = first.read_bytes()
    first.unlink()
    path = failed_file(broken)
    path.rename(path.with_name("1_other.txt"))
    rest = {Kind.FILE_MISSING: 1, Kind.FAILED_MISSING: 1}
    before, after = verify_and_repair(broken.settings)
    assert before.counts == rest | {Kind.FAILED_WITHOUT_ROW: 1}
    assert after.counts == rest
    (finding,) = after.of(Kind.FILE_MISSING)
    assert finding.what.endswith(first.name)
    assert not finding.note
    assert (broken.drop / "1_other.txt").read_text() == "no image"
    (broken.drop / "again.zip").write_bytes(content)
    broken.chain(SECOND)
    assert broken.failures()["1_other.txt"] == "not_dicom"
    before, after = verify_and_repair(broken.settings)
    assert before.counts == after.counts == rest
    (finding,) = after.of(Kind.FILE_MISSING)
    assert "the same content lies at bronze/Files/Process" in finding.note


def test_links_pipes_and_sockets_that_failed_agree_and_are_told_when_they_or_their_rows_are_gone(
    broken, tmp_path
):
    layout = broken.run.engine.layout
    (tmp_path / "secret.dcm").write_text("secret")
    for folder in (broken.drop, broken.drop / "CT", layout.fhir_drop_folder):
        folder.mkdir(parents=True, exist_ok=True)
        drop_specials(folder, tmp_path)
    broken.chain(SECOND)
    assert found(broken) == found(broken, hashes=True) == found(broken, day=SECOND) == {}
    day = Day(broken.on(SECOND))
    assert [rule.name for rule in RULES if rule.blocking and not rule.evaluate(day)[0]] == []
    failed = [
        layout.absolute(row["failedPath"])
        for row in broken.rows(catalog.INGESTION_FAILURES)
        if row["reasonCode"] == "not_a_file"
    ]
    assert len(failed) == 3 * len(SPECIALS)
    for path in failed:
        path.rename(path.with_name(f"1_{path.name}"))
    wrong = dict.fromkeys((Kind.ORPHAN, Kind.FAILED_MISSING), len(failed))
    assert repaired(broken) == (wrong, wrong)
    for path in failed:
        path.with_name(f"1_{path.name}").unlink()
    assert found(broken) == {Kind.FAILED_MISSING: len(failed)}
    assert (tmp_path / "secret.dcm").read_text() == "secret"


def test_a_flipped_bit_in_data_and_a_line_that_says_something_else_are_found_by_hashes_and_stay(
    broken,
):
    path, lines = zips(broken)[0], ndjson(broken)
    flip(path, path.stat().st_size // 2)
    altered = lines.read_bytes().replace(b'"available"', b'"cancelled"', 1)
    assert altered != lines.read_bytes()
    lines.write_bytes(altered)
    damaged = path.read_bytes()
    assert found(broken) == {}
    assert repaired(broken, hashes=True) == ({Kind.CONTENT: 2}, {Kind.CONTENT: 2})
    assert (path.read_bytes(), lines.read_bytes()) == (damaged, altered)


def test_flipped_bits_around_data_and_another_file_of_a_name_are_named_without_reading_them(broken):
    checksum, directory, other, *_, longer = zips(broken)
    flip(checksum, 14)
    flip(directory, -30)
    shutil.copyfile(longer, other)
    findings = verify(broken.settings)
    assert findings.counts == {Kind.CONTENT: 3}
    notes = {broken.settings.lakehouse / each.what: each.note for each in findings.of(Kind.CONTENT)}
    assert notes.keys() == {checksum, directory, other}
    assert [path for path, note in notes.items() if note == "another size"] == [other]


def test_leftovers_and_plain_files_that_their_zips_hold_go_and_all_else_is_named_and_stays(broken):
    process = "bronze/Files/Process/Imaging/DICOM"
    rows = broken.rows(METASTORE)
    plain = [broken.settings.lakehouse / row["filePath"].removesuffix(".zip") for row in rows[:2]]
    with zipfile.ZipFile(f"{plain[0]}.zip") as archive:
        plain[0].write_bytes(archive.read(archive.namelist()[0]))
    plain[1].write_bytes(b"something else")
    gone = [
        put(broken, f"{process}/2026/03/14/.1_x.dcm.zip.tmp"),
        put(broken, f"{process}/.organise/staging/0"),
        put(broken, "bronze/Files/Process/Clinical/FHIR NDJSON/2026/03/14/ImagingStudy/.1.tmp"),
        put(broken, "silver/Tables/ImagingStudy/_places/1.tmp"),
        plain[0],
    ]
    stay = [
        put(broken, f"{process}/notes.txt"),
        put(broken, f"{process}/2026/03/14/mine/x.dcm"),
        plain[1],
    ]
    line = ndjson(broken).read_bytes().splitlines(keepends=True)[0]
    ndjson(broken).write_bytes(line)
    for table in (METASTORE, BRONZE, catalog.PROCESS_FILES):
        double(broken, table)
    named = {Kind.ORPHAN: 2, Kind.ROW_WITHOUT_LINE: 1, Kind.DUPLICATE: 3}
    kinds = named | {Kind.LEFTOVER: 4, Kind.TWIN: 2}
    assert repaired(broken) == (kinds, named | {Kind.TWIN: 1})
    assert ndjson(broken).read_bytes() == line
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)


@pytest.mark.parametrize("age", [0, -1], ids=["the oldest", "the newest"])
def test_a_data_file_that_is_missing_or_cut_is_named_and_nothing_is_done(broken, age):
    table = broken.settings.lakehouse / "bronze/Tables/process_files"
    files = sorted(DeltaTable(str(table)).file_uris(), key=lambda file: Path(file).stat().st_mtime)
    Path(files[age]).write_bytes(Path(files[age]).read_bytes()[:-1])
    before = broken.everything()
    assert repaired(broken)[1] == {Kind.DATA_FILE: 1}
    assert broken.everything() == before


def test_one_date_is_compared_alone(broken):
    zips(broken)[0].unlink()
    lose(broken, SILVER, idOrig="1.2.3")
    assert found(broken, day=FIRST) == {Kind.FILE_MISSING: 1}
    assert repaired(broken, day=SECOND) == ({Kind.STUDY_NOT_IN_SILVER: 1}, {})
    assert found(broken) == {Kind.FILE_MISSING: 1}


def test_what_is_sent_again_moved_between_series_or_failed_agrees(broken):
    drop(broken, 1, 1, SeriesInstanceUID="1.2.1.9", PatientComments="other content")
    drop(broken, 2, 1)
    (broken.drop / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0UL")
    dicom(broken.drop / "bad.dcm", SOPInstanceUID="1.2.3.1.7", SeriesInstanceUID="no id")
    broken.chain(SECOND)
    assert found(broken) == found(broken, day=SECOND) == found(broken, day=FIRST) == {}


def ask_for(house: House, kind: str, own_id: str, **uids: str) -> None:
    said = operation(operation=kind, requestedBy="me", reason="wrong", id=own_id, **uids)
    ask.ask(house.run.engine, said, source_system="default")


def test_what_was_moved_deleted_restored_read_again_retried_or_given_to_another_agrees(broken):
    drop(broken, 2, 1, StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.7.1")
    ask_for(broken, "delete", "1", studyInstanceUid="1.2.1")
    ask_for(broken, "reread", "2", studyInstanceUid="1.2.3")
    ask_for(broken, "change_patient", "3", patientId="P5", newPatientId="P6")
    retry(broken.run.engine, broken.settings)
    third = date(2026, 4, 1)
    broken.chain(third)
    assert found(broken) == {}
    others = {"1.2.3", "1.2.4", "1.2.5", "1.2.6", "1.2.7"}
    assert {row["idOrig"] for row in broken.rows(SILVER)} == others
    assert [found(broken, day=day) for day in (FIRST, SECOND, third)] == [{}] * 3
    ask_for(broken, "restore", "4", seriesInstanceUid="1.2.1.2")
    broken.chain(third)
    assert found(broken) == {}
    assert {row["idOrig"] for row in broken.rows(SILVER)} == others | {"1.2.1"}
    give_to_the_first_patient(broken, "1.2.5")
    assert found(broken)[Kind.OTHER_PATIENT] == 1, "once a patient was changed as before"


def test_which_file_speaks_is_settled_again_from_the_metastore_for_what_is_deleted_too(broken):
    for study in range(2, 7):
        drop(broken, study, 2)
    broken.chain(SECOND)
    for study in (1, 2, 3):
        ask_for(broken, "delete", f"{study}", studyInstanceUid=f"1.2.{study}")
    broken.chain(SECOND)
    before = current_files(broken)
    rows = [
        *({"level": "instance", "sopInstanceUid": f"1.2.{study}.2.1"} for study in (1, 4)),
        *({"level": "series", "seriesInstanceUid": f"1.2.{study}.2"} for study in (2, 5)),
        *({"level": "study", "studyInstanceUid": f"1.2.{study}"} for study in (3, 6)),
    ]
    for act in (lose, double):
        for row in rows:
            act(broken, catalog.CURRENT_FILES, **row)
        assert repaired(broken) == ({Kind.NOT_CURRENT: 6}, {})
        assert current_files(broken) == before


def conflicts(house: House) -> list[str]:
    return sorted(map(str, house.rows(catalog.CONFLICTS)))


def test_conflicts_that_are_lost_or_there_twice_are_met_again_and_those_in_nothing_go(broken):
    for study, series in ((2, "1.2.1.1"), (4, "1.2.5.1")):
        drop(broken, study, 1, PatientID="P9", PatientComments="other content")
        drop(broken, 3, study, SeriesInstanceUID=series)
    broken.chain(SECOND)
    assert found(broken) == {}
    before = conflicts(broken)
    lose(broken, catalog.CONFLICTS, level="instance", sopInstanceUid="1.2.2.1.1")
    lose(broken, catalog.CONFLICTS, level="series", seriesInstanceUid="1.2.1.1")
    lose(broken, catalog.CONFLICTS, level="study", studyInstanceUid="1.2.2")
    rows = broken.rows(catalog.CONFLICTS)
    assert sorted(row["level"] for row in rows) == ["instance", "series", "study"]
    in_nothing = [
        row | {"id": row["id"] + number, "olderValue": value}
        for row in rows
        for number, value in ((1, "P7"), (2, "P8"))
    ]
    append(broken, catalog.CONFLICTS, rows + in_nothing)
    assert repaired(broken) == ({Kind.CONFLICT: 3 + 3 + 6}, {})
    assert conflicts(broken) == before


def test_operations_and_their_files_belong_together(broken):
    for number, uid in enumerate(("1.2.1", "1.2.2", "1.2.3")):
        ask_for(broken, "reread", f"{number}", studyInstanceUid=uid)
    unnamed = b'{"operation": "reread", "requestedBy": "me", "reason": "x", "sopInstanceUid": "1"}'
    for name in ("a", "again"):
        (broken.drop / f"Operations/{name}.json").write_bytes(unnamed)
    broken.chain(SECOND)
    assert found(broken) == found(broken, day=SECOND) == {}
    next(
        path for path in broken.files("bronze/Files/Process/Operations") if "_0" in path.name
    ).unlink()
    lose(broken, catalog.OPERATIONS, operationId="1")
    double(broken, catalog.OPERATIONS, operationId="2")
    wrong = {Kind.OPERATION: 2, Kind.DUPLICATE: 1}
    assert repaired(broken) == (wrong, wrong)
    assert found(broken, day=FIRST) == {}


def test_gold_of_before_a_crosswalk_was_set_is_found_and_made_again(broken, tmp_path):
    visits = tmp_path / "visits.csv"
    visits.write_text("source_system,study_uid,visit_occurrence_id\ndefault,1.2.1,17\n")
    house = House(broken.settings.lakehouse, workers=1, visit_crosswalk=visits)
    assert repaired(house) == ({Kind.GOLD_DIFFERS: 3}, {}), "two series and their procedure"
    visited = {row["image_study_uid"]: row["visit_occurrence_id"] for row in house.rows(SERIES)}
    assert visited == {"1.2.1": 17} | {f"1.2.{study}": None for study in range(2, 7)}

"""Verify and repair: each way in which a lakehouse can be wrong is named, and mended if it can be.

A sound lakehouse of two dates is broken in one way at a time.
"""

import shutil
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.layout import one_name
from dicom_assets.lakehouse.operations import operation
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.person import person_id
from dicom_assets.steps import ask, catalog
from dicom_assets.steps.findings import Kind
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
    """Three studies, the first one in parts of two dates, and a file that failed."""
    house = House(tmp_path_factory.mktemp("sound") / "lakehouse", workers=1)
    drop(house, 1, 1)
    drop(house, 2, 1)
    house.chain(FIRST)
    drop(house, 1, 2)
    drop(house, 3, 1)
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


def lose(table: Table, is_lost: Callable[[dict[str, Any]], bool]) -> Callable[[House], None]:
    """Breaks a table: some of its rows are gone."""

    def act(house: House) -> None:
        delta = DeltaTable(str(house.run.engine.layout.table(table.layer, table.name)))
        rows = delta.to_pyarrow_table()
        kept = [not is_lost(row) for row in rows.to_pylist()]
        assert not all(kept)
        write_deltalake(delta, rows.filter(pa.array(kept)), mode="overwrite")

    return act


def double(
    table: Table, is_doubled: Callable[[dict[str, Any]], bool] = lambda _: True
) -> Callable[[House], None]:
    """Breaks a table: one of its rows is there twice."""

    def act(house: House) -> None:
        row = next(row for row in house.rows(table) if is_doubled(row))
        append(table, [row])(house)

    return act


def append(table: Table, rows: list[dict[str, Any]]) -> Callable[[House], None]:
    """Breaks a table: it has more rows."""

    def act(house: House) -> None:
        delta = DeltaTable(str(house.run.engine.layout.table(table.layer, table.name)))
        schema = delta.to_pyarrow_table().schema
        write_deltalake(delta, pa.Table.from_pylist(rows, schema=schema), mode="append")

    return act


def change(table: Table, **to: Callable[[dict[str, Any]], Any]) -> Callable[[House], None]:
    """Breaks a table: columns say something else."""

    def act(house: House) -> None:
        rows = [row | {name: of(row) for name, of in to.items()} for row in house.rows(table)]
        changed = pa.Table.from_pylist(rows, schema=table.upserted)
        house.run.engine.upsert(table, changed, progress=None, ingest_date=FIRST)

    return act


def all_of(*acts: Callable[[House], None]) -> Callable[[House], None]:
    def act(house: House) -> None:
        for each in acts:
            each(house)

    return act


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


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (lose(SILVER, lambda row: row["idOrig"] == "1.2.1"), {Kind.STUDY_NOT_IN_SILVER: 1}),
        (
            lose(PROCEDURE, lambda row: row["sourceRecordId"] is not None),
            {Kind.NOT_IN_GOLD: 3, Kind.DANGLING: 4},
        ),
        (
            all_of(
                lose(SERIES, lambda row: row["image_series_uid"] == "1.2.1.1"),
                lose(PERSON, lambda row: row["person_source_value"] == "P2"),
            ),
            {Kind.NOT_IN_GOLD: 1, Kind.DANGLING: 2},
        ),
        (all_of(double(SILVER), double(SERIES), double(PERSON)), {Kind.DUPLICATE: 3}),
    ],
)
def test_silver_and_gold_rows_that_are_missing_or_there_twice_are_made_again(broken, damage, kinds):
    before = layers(broken)
    damage(broken)
    assert repaired(broken) == (kinds, {})
    assert layers(broken) == before


def test_an_instance_that_silver_lost_is_merged_again_from_its_line(broken):
    before = layers(broken)
    address = str(broken.settings.lakehouse / "silver/Tables/ImagingStudy")
    delta, earlier = DeltaTable(address), DeltaTable(address, version=1)
    assert earlier.to_pyarrow_table().num_rows == 2  # as the first date left them
    rows = delta.to_pyarrow_table()
    third = rows.filter(pa.array([name == "1.2.3" for name in rows["idOrig"].to_pylist()]))
    both = pa.concat_tables([earlier.to_pyarrow_table(), third])
    write_deltalake(delta, both, mode="overwrite")
    kinds, rest = repaired(broken)
    assert kinds == {Kind.INSTANCE_NOT_IN_SILVER: 1, Kind.GOLD_WITHOUT_SILVER: 1}
    assert rest == {}
    assert layers(broken) == before


def test_what_neither_silver_nor_bronze_know_is_converted_again(broken):
    before = layers(broken)
    ndjson(broken).unlink()
    lose(BRONZE, lambda row: row["ingestDate"] == SECOND)(broken)
    lose(SILVER, lambda row: row["idOrig"] == "1.2.3")(broken)
    kinds, rest = repaired(broken)
    assert kinds == {Kind.INSTANCE_NOT_IN_SILVER: 1, Kind.GOLD_WITHOUT_SILVER: 2}
    assert rest == {}
    assert layers(broken) == before


def test_a_silver_row_without_a_bronze_row_is_named(broken):
    lose(BRONZE, lambda row: row["id"] == "1.2.2")(broken)
    kinds, rest = repaired(broken)
    assert kinds == {Kind.SILVER_WITHOUT_BRONZE: 1, Kind.LINE_WITHOUT_ROW: 1}
    assert rest == {}


def test_a_gold_row_that_belongs_to_no_silver_row_goes(broken):
    before = layers(broken)
    table = str(broken.run.engine.layout.table("gold", "Image_Occurrence"))
    row = DeltaTable(table).to_pyarrow_table().slice(0, 1)
    place = row.schema.get_field_index("image_occurrence_id")
    write_deltalake(
        table, row.set_column(place, row.schema.field(place), pa.array([7])), mode="append"
    )
    assert repaired(broken) == ({Kind.GOLD_WITHOUT_SILVER: 1}, {})
    assert layers(broken) == before


def test_a_lost_metastore_row_is_read_again_from_its_file(broken):
    before = layers(broken)
    lose(METASTORE, lambda row: row["sopInstanceUid"] == "1.2.3.1.1")(broken)
    kinds, rest = repaired(broken)
    assert kinds == {Kind.NOT_READ: 1, Kind.INSTANCE_UNKNOWN: 1}
    assert rest == {}
    assert layers(broken) == before


def test_a_lost_process_files_row_is_made_again_from_the_metastore(broken):
    before = layers(broken), broken.rows(catalog.PROCESS_FILES)
    lose(catalog.PROCESS_FILES, lambda row: row["sourcePath"] == "2.1.dcm")(broken)
    assert repaired(broken) == ({Kind.ROW_NOT_ORGANISED: 1}, {})
    assert layers(broken) == before[0]
    names = {(row["ingestDate"], one_name(row["filePath"])) for row in before[1]}
    now = broken.rows(catalog.PROCESS_FILES)
    assert {(row["ingestDate"], one_name(row["filePath"])) for row in now} == names


def test_a_file_that_lost_all_its_rows_is_registered_and_read(broken):
    for table in (METASTORE, catalog.PROCESS_FILES):
        lose(table, lambda row: row["sourcePath"] == "2.1.dcm")(broken)
    kinds, rest = repaired(broken)
    assert kinds == {Kind.FILE_WITHOUT_ROW: 1, Kind.INSTANCE_UNKNOWN: 1}
    assert rest == {}
    assert len(broken.metastore()) == 4


def test_strange_files_in_process_are_taken_as_any_other(broken):
    folder = zips(broken)[0].parent
    dicom(folder / "mine.dcm", SOPInstanceUID="9.9.9", StudyInstanceUID="9.9", PatientID="P9")
    (folder / "notes.txt").write_text("no image")
    assert repaired(broken) == ({Kind.FILE_WITHOUT_ROW: 2}, {})
    assert "9.9.9" in {row["sopInstanceUid"] for row in broken.metastore()}
    assert "9.9" in {row["image_study_uid"] for row in broken.rows(SERIES)}
    assert "notes.txt" in [path.name for path in broken.files("bronze/Files/Failed")]
    assert {row["reasonCode"] for row in broken.rows(catalog.INGESTION_FAILURES)} == {"not_dicom"}


def test_a_missing_file_stays_a_finding_that_says_where_the_same_content_lies(broken):
    first = next(path for path in zips(broken) if "2.1" in path.name)
    content = first.read_bytes()
    first.unlink()
    (finding,) = verify(broken.settings).of(Kind.FILE_MISSING)
    assert finding.what.endswith(first.name)
    assert not finding.note
    again = broken.drop / "again.zip"
    again.write_bytes(content)
    broken.chain(SECOND)
    assert repaired(broken) == ({Kind.FILE_MISSING: 1}, {Kind.FILE_MISSING: 1})
    (finding,) = verify(broken.settings).of(Kind.FILE_MISSING)
    assert "the same content lies at bronze/Files/Process" in finding.note


def test_a_flipped_bit_in_the_data_is_found_by_hashes_and_never_touched(broken):
    path = zips(broken)[0]
    flip(path, path.stat().st_size // 2)
    damaged = path.read_bytes()
    assert found(broken) == {}
    assert repaired(broken, hashes=True) == ({Kind.CONTENT: 1}, {Kind.CONTENT: 1})
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("at", [14, -30])  # the checksum; the directory
def test_a_flipped_bit_around_the_data_is_found_without_reading_them(broken, at):
    flip(zips(broken)[0], at)
    assert found(broken) == {Kind.CONTENT: 1}


def test_another_file_under_the_same_name_is_found_by_its_size_or_hash(broken, sound):
    dicom(broken.drop / "longer.dcm", PatientComments="x" * 99, SOPInstanceUID="8.1")
    broken.chain(SECOND)
    one, other = zips(broken)[0], zips(broken)[-1]
    shutil.copyfile(other, one)
    (finding,) = verify(broken.settings).of(Kind.CONTENT)
    assert finding.note == "another size"


def test_files_in_failed_and_failure_rows_belong_together(broken):
    path = failed_file(broken)
    path.rename(path.with_name("1_other.txt"))
    before, after = repaired(broken)
    assert before == {Kind.FAILED_WITHOUT_ROW: 1, Kind.FAILED_MISSING: 1}
    assert after == {Kind.FAILED_MISSING: 1}
    assert (broken.drop / "1_other.txt").read_text() == "no image"
    broken.chain(SECOND)
    assert broken.failures()["1_other.txt"] == "not_dicom"
    assert found(broken) == {Kind.FAILED_MISSING: 1}


def test_leftovers_go_and_orphans_stay(broken):
    process = "bronze/Files/Process/Imaging/DICOM"
    gone = [
        put(broken, f"{process}/2026/03/14/.1_x.dcm.zip.tmp"),
        put(broken, f"{process}/.organise/staging/0"),
        put(broken, "bronze/Files/Process/Clinical/FHIR NDJSON/2026/03/14/ImagingStudy/.1.tmp"),
        put(broken, "silver/Tables/ImagingStudy/_places/1.tmp"),
    ]
    stay = [put(broken, f"{process}/notes.txt"), put(broken, f"{process}/2026/03/14/mine/x.dcm")]
    kinds = {Kind.LEFTOVER: 4, Kind.ORPHAN: 2}
    assert repaired(broken) == (kinds, {Kind.ORPHAN: 2})
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)


def test_a_plain_file_beside_its_zip_goes_only_when_the_zip_holds_it(broken):
    rows = broken.rows(METASTORE)
    plain = [broken.settings.lakehouse / row["filePath"].removesuffix(".zip") for row in rows[:2]]
    with zipfile.ZipFile(f"{plain[0]}.zip") as archive:
        plain[0].write_bytes(archive.read(archive.namelist()[0]))
    plain[1].write_bytes(b"something else")
    assert repaired(broken) == ({Kind.TWIN: 2}, {Kind.TWIN: 1})
    assert [path.exists() for path in plain] == [False, True]


def test_lines_without_rows_are_ingested_again_and_lost_files_written_anew(broken):
    before = layers(broken)
    content = ndjson(broken).read_bytes()
    lose(BRONZE, lambda row: row["ingestDate"] == SECOND and row["lineNumber"] == 2)(broken)
    kinds, rest = repaired(broken)
    assert kinds == {Kind.LINE_WITHOUT_ROW: 1, Kind.SILVER_WITHOUT_BRONZE: 1}
    assert rest == {}
    ndjson(broken).unlink()
    assert repaired(broken) == ({Kind.ROW_WITHOUT_LINE: 1}, {})
    assert ndjson(broken).read_bytes() == content
    assert layers(broken) == before


def test_a_line_taken_out_of_its_file_is_named(broken):
    ndjson(broken).write_bytes(ndjson(broken).read_bytes().splitlines(keepends=True)[0])
    assert repaired(broken) == ({Kind.ROW_WITHOUT_LINE: 1}, {Kind.ROW_WITHOUT_LINE: 1})


def test_a_line_that_says_something_else_by_now_is_found_by_hashes_and_never_touched(broken):
    altered = ndjson(broken).read_bytes().replace(b'"available"', b'"cancelled"', 1)
    assert altered != ndjson(broken).read_bytes()
    ndjson(broken).write_bytes(altered)
    assert found(broken) == {}
    assert repaired(broken, hashes=True) == ({Kind.CONTENT: 1}, {Kind.CONTENT: 1})
    assert ndjson(broken).read_bytes() == altered


def test_bronze_rows_that_are_there_twice_are_named(broken):
    all_of(*map(double, (METASTORE, BRONZE, catalog.PROCESS_FILES)))(broken)
    assert found(broken) == {Kind.DUPLICATE: 3}


def test_a_data_file_that_is_missing_or_cut_is_named_and_nothing_is_done(broken):
    table = broken.settings.lakehouse / "bronze/Tables/process_files"
    # what the newest commit adds is taken for torn by a power cut, and made again
    files = sorted(DeltaTable(str(table)).file_uris(), key=lambda file: Path(file).stat().st_mtime)
    Path(files[0]).write_bytes(Path(files[0]).read_bytes()[:-1])
    before = broken.everything()
    assert repaired(broken)[1] == {Kind.DATA_FILE: 1}
    assert broken.everything() == before


def test_one_date_is_compared_alone(broken):
    zips(broken)[0].unlink()
    lose(SILVER, lambda row: row["idOrig"] == "1.2.3")(broken)
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


def test_what_was_moved_deleted_restored_read_again_or_retried_agrees(broken):
    def ask_for(kind: str, **uids: str) -> None:
        said = operation(operation=kind, requestedBy="me", reason="wrong", id=kind, **uids)
        ask.ask(broken.run.engine, said, source_system="default")

    drop(broken, 2, 1, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")
    ask_for("delete", studyInstanceUid="1.2.1")
    ask_for("reread", studyInstanceUid="1.2.3")
    retry(broken.run.engine, broken.settings)
    third = date(2026, 4, 1)
    broken.chain(third)
    assert found(broken) == {}
    assert {row["idOrig"] for row in broken.rows(SILVER)} == {"1.2.3", "1.2.4"}
    assert [found(broken, day=day) for day in (FIRST, SECOND, third)] == [{}] * 3
    ask_for("restore", seriesInstanceUid="1.2.1.2")
    broken.chain(third)
    assert found(broken) == {}
    assert {row["idOrig"] for row in broken.rows(SILVER)} == {"1.2.1", "1.2.3", "1.2.4"}


def current_files(house: House) -> list[str]:
    return sorted(str({**row, "wholeAt": None}) for row in house.rows(catalog.CURRENT_FILES))


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("act", [lose, double])
@pytest.mark.parametrize(
    "which",
    [
        lambda row: row["sopInstanceUid"] == "1.2.1.2.1",
        lambda row: row["level"] == "series" and row["seriesInstanceUid"] == "1.2.1.2",
        lambda row: row["level"] == "study" and row["studyInstanceUid"] == "1.2.1",
    ],
    ids=["an instance", "a series", "a study"],
)
def test_which_file_speaks_is_settled_again_from_the_metastore(broken, deleted, act, which):
    if deleted:
        said = operation(
            operation="delete", requestedBy="me", reason="wrong", id="1", studyInstanceUid="1.2.1"
        )
        ask.ask(broken.run.engine, said, source_system="default")
        broken.chain(SECOND)

    before = current_files(broken)
    act(catalog.CURRENT_FILES, which)(broken)
    assert repaired(broken) == ({Kind.NOT_CURRENT: 1}, {})
    assert current_files(broken) == before


def test_rows_of_what_nothing_states_go_from_current_files(broken):
    before = current_files(broken), layers(broken)
    uids = {"instance": "sopInstanceUid", "series": "seriesInstanceUid"}
    by_level = {row["level"]: row for row in broken.rows(catalog.CURRENT_FILES)}
    rows = [
        row | {"id": number, uids.get(level, "studyInstanceUid"): "9.9"}
        for number, (level, row) in enumerate(by_level.items())
    ]
    append(catalog.CURRENT_FILES, rows)(broken)
    assert repaired(broken) == ({Kind.SILVER_WITHOUT_BRONZE: 3}, {})
    assert (current_files(broken), layers(broken)) == before


@pytest.mark.parametrize("act", [lose, double])
@pytest.mark.parametrize("level", ["instance", "series", "study"])
def test_conflicts_that_are_lost_or_there_twice_are_met_again(broken, act, level):
    drop(broken, 2, 1, PatientID="P9", PatientComments="other content")
    drop(broken, 3, 2, SeriesInstanceUID="1.2.1.1")
    broken.chain(SECOND)
    before = conflicts(broken)
    assert found(broken) == {}
    act(catalog.CONFLICTS, lambda row: row["level"] == level)(broken)
    assert repaired(broken) == ({Kind.CONFLICT: 1}, {})
    assert conflicts(broken) == before


def test_a_conflict_in_what_no_file_states_goes(broken):
    drop(broken, 2, 1, PatientID="P9", PatientComments="other content")
    broken.chain(SECOND)
    before = conflicts(broken)
    rows = [
        row | {"id": number, "olderValue": value}
        for row in broken.rows(catalog.CONFLICTS)
        for number, value in ((row["id"] + 1, "P7"), (row["id"] + 2, "P8"))
    ]
    append(catalog.CONFLICTS, rows)(broken)
    assert repaired(broken) == ({Kind.CONFLICT: 4}, {})
    assert conflicts(broken) == before


def conflicts(house: House) -> list[str]:
    return sorted(map(str, house.rows(catalog.CONFLICTS)))


def test_operations_and_their_files_belong_together(broken):
    for number, uid in enumerate(("1.2.1", "1.2.2", "1.2.3")):
        said = operation(
            operation="reread", requestedBy="me", reason="x", id=f"{number}", studyInstanceUid=uid
        )
        ask.ask(broken.run.engine, said, source_system="default")
    unnamed = b'{"operation": "reread", "requestedBy": "me", "reason": "x", "sopInstanceUid": "1"}'
    for name in ("a", "again"):
        (broken.drop / f"Operations/{name}.json").write_bytes(unnamed)
    broken.chain(SECOND)
    assert found(broken) == found(broken, day=SECOND) == {}
    next(
        path for path in broken.files("bronze/Files/Process/Operations") if "_0" in path.name
    ).unlink()
    lose(catalog.OPERATIONS, lambda row: row["operationId"] == "1")(broken)
    double(catalog.OPERATIONS, lambda row: row["operationId"] == "2")(broken)
    wrong = {Kind.OPERATION: 2, Kind.DUPLICATE: 1}
    assert repaired(broken) == (wrong, wrong)
    assert found(broken, day=FIRST) == {}


def other_subject(row: dict[str, Any]) -> dict[str, Any]:
    if row["idOrig"] != "1.2.2":
        return row["subject"]
    return row["subject"] | {"identifier": row["subject"]["identifier"] | {"value": "P1"}}


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (change(SILVER, subject=other_subject), {Kind.OTHER_PATIENT: 1, Kind.GOLD_DIFFERS: 2}),
        (
            change(SERIES, person_id=lambda _: person_id("default", "P1", "", Crosswalks())),
            {Kind.GOLD_DIFFERS: 2},
        ),
        (
            change(SERIES, modality_source_value=lambda row: row["image_series_uid"][-3:]),
            {Kind.GOLD_DIFFERS: 4},
        ),
        (change(PROCEDURE, procedure_date=lambda _: SECOND), {Kind.GOLD_DIFFERS: 3}),
        (change(PERSON, person_source_value=lambda _: "P1"), {Kind.GOLD_DIFFERS: 2}),
    ],
    ids=["silver", "gold", "what", "when", "who"],
)
def test_a_row_that_says_otherwise_than_what_it_is_made_of_is_made_again(broken, damage, kinds):
    before = layers(broken)
    damage(broken)
    assert repaired(broken) == (kinds, {})
    assert layers(broken) == before


def test_gold_of_before_a_crosswalk_was_set_is_found_and_made_again(broken, tmp_path):
    visits = tmp_path / "visits.csv"
    visits.write_text("source_system,study_uid,visit_occurrence_id\ndefault,1.2.1,17\n")
    house = House(broken.settings.lakehouse, workers=1, visit_crosswalk=visits)
    assert found(house) == {Kind.GOLD_DIFFERS: 3}, "two series and their procedure"
    assert repaired(house) == ({Kind.GOLD_DIFFERS: 3}, {})
    visited = {row["image_study_uid"]: row["visit_occurrence_id"] for row in house.rows(SERIES)}
    assert visited == {"1.2.1": 17, "1.2.2": None, "1.2.3": None}


def test_patients_that_were_changed_agree_and_one_that_was_not_is_found(broken):
    said = operation(
        operation="change_patient",
        requestedBy="me",
        reason="wrong",
        id="1",
        patientId="P2",
        newPatientId="P3",
    )
    ask.ask(broken.run.engine, said, source_system="default")
    broken.chain(SECOND)
    assert found(broken) == {}
    change(SILVER, subject=other_subject)(broken)
    assert found(broken)[Kind.OTHER_PATIENT] == 1

"""Failed files dropped again: each lies in Failed or in the drop folder, never in both."""

import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from dicom_assets.cli import main
from dicom_assets.defs.checks import RULES
from dicom_assets.lakehouse import placing
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog
from dicom_assets.steps import retry as steps
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.retry import Retried, retry, with_state
from dicom_assets.steps.status import failed
from dicom_assets_tests.conftest import another_file_system, interrupting

FAILED = "bronze/Files/Failed"
INGEST = "bronze/Files/Ingest"


def again(house, **which) -> Retried:
    return retry(house.run.engine, house.settings, **which)


def dropped(house) -> list[str]:
    return [path.relative_to(house.drop).as_posix() for path in house.files(INGEST)]


def states(house) -> dict[str, str]:
    rows = with_state(house.run.engine.layout, failed(house.run.engine))
    return dict(zip(rows["sourcePath"], rows["state"], strict=True))


def broken(house, day: int = 0) -> set[str]:
    found = Day(house.on(house.run.ingest_date + timedelta(days=day)))
    return {rule.name for rule in RULES if rule.blocking and not rule.evaluate(found)[0]}


def test_a_file_that_was_mended_in_failed_is_taken_by_the_next_run(make_house, write_dicom):
    house = make_house(source_systems=("PACS1",))
    write_dicom(house.drop / "PACS1/a/bad.dcm", StudyInstanceUID=None)
    write_dicom(house.drop / "PACS1/a/good.dcm")
    (house.drop / "notes.txt").write_text("no")
    house.chain()
    assert set(states(house).values()) == {"open"}
    (mended,) = house.files(f"{FAILED}/Imaging/DICOM/PACS1")
    write_dicom(mended)
    assert again(house) == Retried(files=2)
    assert dropped(house) == ["PACS1/a/bad.dcm", "notes.txt"]
    assert set(states(house).values()) == {"retried"}
    assert house.files(FAILED) == []
    assert again(house) == Retried(), "once"
    house.chain(house.run.ingest_date + timedelta(days=1))
    (row,) = (r for r in house.metastore() if r["sourcePath"] == "PACS1/a/bad.dcm")
    assert row["sourceSystem"] == "PACS1"
    assert len(house.rows(catalog.INGESTION_FAILURES)) == 3, "notes.txt has failed again"
    assert [broken(house, day) for day in (0, 1)] == [set(), set()]


def test_only_what_is_asked_for_is_dropped_again(house, write_dicom):
    write_dicom(house.drop / "bad.dcm", StudyInstanceUID=None)
    (house.drop / "notes.txt").write_text("no")
    house.chain()
    day = house.run.ingest_date
    assert again(house, ingest_date=day + timedelta(days=1)) == Retried()
    assert again(house, reason="not_dicom", step="extract") == Retried()
    assert again(house, reason="not_dicom", ingest_date=day) == Retried(files=1)
    assert dropped(house) == ["notes.txt"]
    assert again(house, step="extract") == Retried(files=1)
    assert dropped(house) == ["bad.dcm", "notes.txt"]


def test_no_file_of_the_drop_folder_is_overwritten(house):
    for text in ("first", "second"):
        (house.drop / "notes.txt").write_text(text)
        house.chain()
    (house.drop / "notes.txt").write_text("third")
    assert again(house).files == 2
    assert dropped(house) == ["notes.txt", "notes~1.txt", "notes~2.txt"]
    assert {path.read_text() for path in house.files(INGEST)} == {"first", "second", "third"}


def test_an_archive_comes_back_as_it_came_and_a_member_under_its_own_address(
    house, write_dicom, tmp_path
):
    write_dicom(tmp_path / "bad.dcm", StudyInstanceUID=None)
    with zipfile.ZipFile(house.drop / "member.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/notes.txt", "hello")
        archive.write(tmp_path / "bad.dcm", "y/bad.dcm")
    (house.drop / "d").mkdir()
    with zipfile.ZipFile(house.drop / "d/unsafe.zip", "w") as archive:
        archive.writestr("../../../../evil.dcm", "hello")
        archive.writestr("also/../../bad.dcm", "hello")
    unsafe = (house.drop / "d/unsafe.zip").read_bytes()
    house.chain()
    assert len(house.failures()) == 4
    assert again(house) == Retried(files=3)
    assert dropped(house) == [
        "d/unsafe.zip",
        "member.zip!/x/notes.txt",
        "member.zip!/y/bad.dcm",
    ]
    assert (house.drop / "d/unsafe.zip").read_bytes() == unsafe
    assert house.files(FAILED) == []
    assert broken(house) == set()


@pytest.mark.parametrize("source", ["../../x", "a/../x", "/etc/x", "..", "a//x", "\\..\\x", "a/\0"])
def test_no_name_leads_out_of_the_drop_folder(tmp_path, source):
    layout = Layout(tmp_path)
    target = layout.dropped_as(source)
    inside = target.relative_to(layout.drop_folder)
    assert inside.parts
    assert ".." not in inside.parts
    assert "\0" not in str(inside)


def test_failed_fhir_lines_become_a_file_of_today(house):
    day = house.run.ingest_date
    folder = house.run.engine.layout.fhir_folder("default", day, "ImagingStudy")
    folder.mkdir(parents=True)
    (folder / "x.ndjson").write_text("{nonsense\n[1]\n")
    house.chain()
    (kept,) = house.files(f"{FAILED}/Clinical")
    good = {"resourceType": "ImagingStudy", "id": "1", "status": "available", "subject": {}}
    kept.write_bytes(orjson.dumps(good) + b"\n")
    assert again(house) == Retried(lines=1)
    assert again(house) == Retried()
    (new,) = (path for path in house.files("bronze/Files/Process") if "retried" in path.name)
    year, month, date, kind = new.relative_to(house.run.engine.layout.fhir_root).parts[:4]
    assert kind == "ImagingStudy"
    house.chain(day.replace(year=int(year), month=int(month), day=int(date)))
    assert [row["id"] for row in house.rows(catalog.BRONZE_IMAGING_STUDY)] == ["1"]
    assert broken(house) == set()


def test_a_failure_without_a_file_of_its_own_stands(house, write_dicom):
    write_dicom(house.drop / "gone.dcm")
    write_dicom(
        house.drop / "odd.dcm", SeriesInstanceUID="1_2"
    )  # fails in convert, lies in Process
    house.chain(until="organise")
    next(path for path in house.files("bronze/Files/Process") if "gone" in path.name).unlink()
    house.chain()
    assert len(house.failures()) == 2
    stored = house.files("bronze/Files/Process/Imaging")
    assert again(house) == Retried(without_file=2)
    assert house.files("bronze/Files/Process/Imaging") == stored
    assert set(states(house).values()) == {"open"}


def test_a_file_that_somebody_has_taken_out_of_failed_is_told_from_a_retried_one(house):
    (house.drop / "notes.txt").write_text("no")
    house.chain()
    house.files(FAILED)[0].unlink()
    assert states(house) == {"notes.txt": "file gone"}
    assert again(house) == Retried(without_file=1)


@pytest.mark.parametrize("done", range(4))
def test_killed_at_any_point_a_file_lies_in_one_place_and_the_next_retry_goes_on(
    house, monkeypatch, done: int
):
    for number in range(3):
        (house.drop / f"{number}.txt").write_text(f"{number}")
    house.chain()
    interrupted = interrupting(done)
    with monkeypatch.context() as patch:
        patch.setattr(placing, "give_name", interrupted(placing.give_name))
        patch.setattr(steps, "_record", interrupted(steps._record))
        with pytest.raises(KeyboardInterrupt):
            again(house)
    texts = [path.read_text() for path in (*house.files(FAILED), *house.files(INGEST))]
    assert sorted(texts) == ["0", "1", "2"]
    again(house)
    assert dropped(house) == ["0.txt", "1.txt", "2.txt"]
    assert set(states(house).values()) == {"retried"}


@pytest.fixture
def outside(tmp_path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


def test_no_file_is_dropped_again_behind_a_link_that_somebody_put_there_meanwhile(house, outside):
    for name in ("sub/authorized_keys", "sub/deep/er.txt", "other.txt"):
        (house.drop / name).parent.mkdir(parents=True, exist_ok=True)
        (house.drop / name).write_text(name)
    house.chain(until="organise")
    (house.drop / "sub").symlink_to(outside)
    done = again(house)
    assert (done.files, [*done.stuck.values()]) == (1, [2])
    assert list(outside.iterdir()) == []
    assert dropped(house) == ["other.txt"]
    assert states(house) == {
        "sub/authorized_keys": "open",
        "sub/deep/er.txt": "open",
        "other.txt": "retried",
    }
    (house.drop / "sub").unlink()
    assert again(house) == Retried(files=2), "once the link is gone"
    assert dropped(house) == ["other.txt", "sub/authorized_keys", "sub/deep/er.txt"]


def test_what_could_not_be_dropped_again_and_is_taken_away_is_gone_not_retried(house, outside):
    (house.drop / "sub").mkdir()
    (house.drop / "sub/notes.txt").write_text("no")
    house.chain(until="organise")
    (house.drop / "sub").symlink_to(outside)
    assert again(house).stuck.total() == 1
    house.files(FAILED)[0].unlink()
    assert states(house) == {"sub/notes.txt": "file gone"}


def test_failed_fhir_lines_are_not_put_behind_a_link_in_process(house, outside):
    layout, day = house.run.engine.layout, house.run.ingest_date
    folder = layout.fhir_folder("PACS1", day, "ImagingStudy")
    folder.mkdir(parents=True)
    (folder / "x.ndjson").write_text("{nonsense\n")
    house.chain()
    shutil.rmtree(layout.fhir_root / "PACS1")
    (layout.fhir_root / "PACS1").symlink_to(outside)
    done = again(house)
    assert (done.lines, done.stuck.total()) == (0, 1)
    assert list(outside.iterdir()) == []
    assert len(house.files(f"{FAILED}/Clinical")) == 1


def test_what_was_dropped_just_now_is_not_overwritten(house, monkeypatch):
    (house.drop / "notes.txt").write_text("old")
    house.chain(until="organise")
    (house.drop / "notes.txt").write_text("new")
    lexists = os.path.lexists

    def not_yet(path) -> bool:
        return house.drop not in Path(path).parents and lexists(path)

    monkeypatch.setattr(os.path, "lexists", not_yet)
    assert again(house).files == 1
    assert {path.read_text() for path in house.files(INGEST)} == {"old", "new"}


@pytest.fixture
def told(house) -> Callable[[], Result]:
    """Retries on the command line."""
    root = str(house.settings.lakehouse)
    return lambda: CliRunner().invoke(main, ["failures", "retry", "--lakehouse", root])


def test_a_file_where_a_folder_was_holds_up_no_other_and_no_name_is_told(house, told):
    for name in ("Doe_Jane/x.txt", "Doe_Jane/y.txt", "Zoe.txt"):
        (house.drop / name).parent.mkdir(exist_ok=True)
        (house.drop / name).write_text("no")
    house.chain(until="organise")
    (house.drop / "Doe_Jane").write_text("a file")
    done = told()
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert done.output.splitlines()[:2] == [
        "1 files dropped again, 0 files of FHIR lines",
        "2 files cannot be dropped again, and stay in Failed: a link or a file lies where a folder"
        " has to be; take it away",
    ]
    assert "oe" not in done.output
    assert dropped(house) == ["Doe_Jane", "Zoe.txt"]
    assert states(house)["Doe_Jane/x.txt"] == "open"


def test_a_pipe_holds_up_no_other_where_the_drop_folder_is_on_another_file_system(
    house, told, tmp_path
):
    os.mkfifo(house.drop / "Doe_Jane")
    (house.drop / "a").mkdir()
    (house.drop / "a/notes.txt").write_text("no")
    house.chain(until="organise")
    shutil.rmtree(house.drop)
    with tempfile.TemporaryDirectory(dir=another_file_system(tmp_path)) as there:
        house.drop.symlink_to(there)
        done = told()
        assert isinstance(done.exception, SystemExit)
        assert "1 files dropped again" in done.output
        assert "1 files cannot be dropped again, and stay in Failed: a link, a pipe" in done.output
        assert "oe" not in done.output
        assert (house.drop / "a/notes.txt").read_text() == "no"
        assert states(house) == {"Doe_Jane": "open", "a/notes.txt": "retried"}


def test_a_storage_that_fails_ends_it_in_words_that_name_no_file(house, told, monkeypatch):
    (house.drop / "Doe_Jane.txt").write_text("no")
    house.chain(until="organise")

    def is_full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "Doe_Jane.txt")

    monkeypatch.setattr(placing, "give_name", is_full)
    done = told()
    assert done.exit_code == 1
    assert done.output.startswith("Error: the storage failed: No space left on device. First free")
    assert "Doe" not in done.output
    assert states(house) == {"Doe_Jane.txt": "open"}


def test_the_lakehouse_may_have_been_made_before_failures_could_be_retried(house, tmp_path):
    (house.drop / "notes.txt").write_text("no")
    house.chain()
    table = house.run.engine.open(catalog.INGESTION_FAILURES)
    assert table is not None
    import pyarrow as pa
    from deltalake import write_deltalake

    rows = pa.table(table.to_pyarrow_table()).drop_columns(["retriedAt"])
    folder = house.run.engine.layout.table("bronze", "ingestion_failures")
    shutil.rmtree(folder)
    write_deltalake(
        str(folder),
        rows,
        partition_by=["ingestDate"],
        configuration={"delta.enableChangeDataFeed": "true"},
    )
    assert states(house) == {"notes.txt": "open"}
    assert again(house) == Retried(files=1)
    assert states(house) == {"notes.txt": "retried"}
    house.chain()
    assert len(house.rows(catalog.INGESTION_FAILURES)) == 2


def test_what_is_retried_out_of_an_archive_makes_no_namespace_and_no_operation(
    make_house, write_dicom
):
    house = make_house(source_systems=("*",))
    write_dicom(house.drop / "bad.dcm", StudyInstanceUID=None)
    (house.drop / "bad.dcm").rename(bad := house.settings.lakehouse / "bad.dcm")
    with zipfile.ZipFile(house.drop / "m.zip", "w") as archive:
        archive.write(bad, "y/bad.dcm")
        archive.writestr("Operations/x.json", orjson.dumps({"operation": "delete"}))
    house.chain()
    (failed,) = (path for path in house.files(FAILED) if path.name.endswith("bad.dcm"))
    write_dicom(failed)
    again(house)
    assert dropped(house) == ["m.zip!/Operations/x.json", "m.zip!/y/bad.dcm"]
    house.chain()
    assert {row["sourceSystem"] for row in house.metastore()} == {"default"}
    assert house.rows(catalog.OPERATIONS) == []
    assert {row["reasonCode"] for row in house.rows(catalog.INGESTION_FAILURES)} == {
        "no_study_uid",
        "not_dicom",
    }

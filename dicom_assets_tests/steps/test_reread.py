"""Reading stored files again: new rows beside the old ones, once."""

import json
from datetime import timedelta

import pytest

from dicom_assets.defs.checks import RULES
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets.steps.promote import fill
from dicom_assets.steps.reconcile import Day
from dicom_assets_tests.conftest import interrupting

PROCESS = "bronze/Files/Process/Imaging"


def ask(house, **uids: str) -> None:
    said = {"operation": "reread", "requestedBy": "me", "reason": "decoded wrongly", **uids}
    path = house.drop / "Operations/x.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said))


def broken(run) -> set[str]:
    day = Day(run)
    return {rule.name for rule in RULES if rule.blocking and not rule.evaluate(day)[0]}


def newest_first(house) -> list[dict]:
    return sorted(house.metastore(), key=lambda row: row["ingestedAt"], reverse=True)


@pytest.mark.parametrize(
    ("later", "compress"),
    [(0, True), (1, False)],
    ids=["on the same date", "on a later date, not compressed"],
)
def test_the_newest_row_has_what_is_read_now_and_the_file_is_as_it_was(
    make_house, write_dicom, later, compress
):
    house = make_house(compress=compress)
    write_dicom(house.drop / "a/x.dcm", SOPInstanceUID="1.2.9", KVP="120")
    write_dicom(house.drop / "a/y.dcm", SOPInstanceUID="1.2.10", KVP="80")
    house.chain()
    stored = {path: path.read_bytes() for path in house.files(PROCESS)}
    house = make_house(compress=compress, promoted_tags={"KVP": "kvp"})
    day = house.run.ingest_date + timedelta(days=later)
    ask(house, sopInstanceUid="1.2.9")
    for _ in range(2):
        house.chain(day)
    new, *old = newest_first(house)
    assert (len(old), new["kvp"], {row["kvp"] for row in old}) == (2, "120", {None})
    (operation,) = house.rows(catalog.OPERATIONS)
    assert new["ingestedAt"] == operation["takenAt"]
    assert new["ingestDate"] == day
    (first,) = (row for row in old if row["sopInstanceUid"] == "1.2.9")
    same = ("filePath", "sourcePath", "contentHash", "fileSize", "metadata_string")
    assert {name: new[name] for name in same} == {name: first[name] for name in same}
    assert {path: path.read_bytes() for path in house.files(PROCESS)} == stored
    for each in (house.run, house.on(day)):
        assert broken(each) == set()
        assert Day(each).resent() == {"resent": 0, "conflicting": 0}
    (study,) = house.rows(catalog.silver_imaging_study())
    assert study["numberOfInstances"] == 2
    fill(house.run.engine, house.settings)
    assert newest_first(house)[0]["kvp"] == "120"
    assert {row["kvp"] for row in house.metastore()} >= {"80.0"}


def test_a_file_that_operations_name_is_read_once_and_what_comes_with_them_or_later_is_not(
    house, write_dicom
):
    for number in range(3):
        write_dicom(house.drop / f"{number}.dcm", SeriesInstanceUID=f"1.2.{number % 2}")
    ask(house, studyInstanceUid="1.2.3.4")
    house.chain()
    before = house.everything()
    house.chain()
    assert house.everything() == before, "one that names nothing is done with"
    assert len(house.metastore()) == 3
    ask(house, studyInstanceUid="1.2.3.4", seriesInstanceUid="1.2.0")
    (house.drop / "Operations/x.json").rename(house.drop / "Operations/a.json")
    ask(house, studyInstanceUid="1.2.3.4")
    write_dicom(house.drop / "later.dcm", SeriesInstanceUID="1.2.0")
    house.chain()
    paths = [row["filePath"] for row in house.metastore()]
    assert (len(paths), len(set(paths))) == (7, 4)
    assert broken(house.run) == set()


def test_a_file_that_cannot_be_read_any_more_fails_and_its_old_row_stands(house, write_dicom):
    for name in ("gone", "damaged", "good"):
        write_dicom(house.drop / name)
    house.chain()
    for path in house.files(PROCESS):
        if "gone" in path.name:
            path.unlink()
        elif "damaged" in path.name:
            content = path.read_bytes()
            path.write_bytes(content[:-120] + bytes([content[-120] ^ 255]) + content[-119:])
    ask(house, studyInstanceUid="1.2.3.4")
    for _ in range(2):
        house.chain()
    failures = house.rows(catalog.INGESTION_FAILURES)
    assert {(row["sourcePath"], row["step"], row["reasonCode"]) for row in failures} == {
        ("gone", "reread", "unreadable"),
        ("damaged", "reread", "unreadable"),
    }
    assert len(failures) == 2
    assert sorted(row["sourcePath"] for row in house.metastore()) == [
        "damaged",
        "gone",
        "good",
        "good",
    ]
    assert broken(house.run) == {"files_match_rows", "one_zip_per_row"}, "one is gone"


def test_killed_after_any_commit_each_file_is_read_again_once(house, write_dicom, monkeypatch):
    monkeypatch.setattr("dicom_assets.steps.reread._FILES_PER_COMMIT", 2)
    for number in range(5):
        write_dicom(house.drop / f"{number}.dcm")
    house.chain()
    house.files(PROCESS)[4].unlink()
    ask(house, studyInstanceUid="1.2.3.4")
    organise(house.run)
    states = []
    for nth in range(4):
        with monkeypatch.context() as patch:
            interrupted = interrupting(min(nth, 1))  # each run but the first gets a commit further
            patch.setattr(LocalEngine, "append", interrupted(LocalEngine.append))
            with pytest.raises(KeyboardInterrupt):
                house.chain(until="extract")
        states.append((len(house.metastore()), len(house.failures())))
    assert states == [(5, 0), (7, 0), (9, 0), (9, 1)]
    for _ in range(2):
        house.chain()
    paths = sorted(row["sourcePath"] for row in house.metastore())
    assert paths == [
        "0.dcm",
        "0.dcm",
        "1.dcm",
        "1.dcm",
        "2.dcm",
        "2.dcm",
        "3.dcm",
        "3.dcm",
        "4.dcm",
    ]
    assert house.failures() == {"4.dcm": "unreadable"}

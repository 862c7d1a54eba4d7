"""Bad files stop no good one: each is a row or has its reason, and the one beside it is in gold."""

import os
import stat
from pathlib import Path

import pytest
from hostile import CASES, IMAGE, NAMES, ROW, SAME_NAME, drop_names, element, file_of, uids

from dicom_assets.lakehouse.layout import printable
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.steps import catalog


@pytest.fixture(scope="module")
def ended(tmp_path_factory, house_class):
    """Every case at once, each beside a good file, after the whole chain."""
    house = house_class(tmp_path_factory.mktemp("hostile") / "lakehouse", max_file_bytes=1 << 24)
    for number, (name, case) in enumerate(CASES.items()):
        folder = house.drop / name
        folder.mkdir()
        case.drop(folder)
        study, series, sop = (b"1.9.%d%s" % (number, end) for end in (b"", b".1", b".1.1"))
        good = uids(sop=sop, study=study, series=series)
        (folder / "good beside.dcm").write_bytes(file_of(good))
    house.chain()
    return house


@pytest.fixture(scope="module")
def outcomes(ended) -> dict[str, str]:
    """Address → reason code, or ROW."""
    rows = {row["sourcePath"]: ROW for row in ended.metastore()}
    by_path = {row["filePath"]: row["sourcePath"] for row in ended.metastore()}
    failures = ended.rows(catalog.INGESTION_FAILURES)
    later = {
        by_path.get(row["sourcePath"], row["sourcePath"]): row["reasonCode"] for row in failures
    }
    return rows | later


@pytest.mark.parametrize("name", CASES)
def test_each_is_a_row_or_has_its_reason(outcomes, name):
    found = {
        address.removeprefix(f"{name}/"): outcome
        for address, outcome in outcomes.items()
        if address.startswith(f"{name}/") and not address.endswith("/good beside.dcm")
    }
    assert found == CASES[name].expect


def test_the_good_file_beside_each_is_in_gold(ended):
    series = {row["image_series_uid"] for row in ended.rows(catalog.IMAGE_OCCURRENCE)}
    assert {f"1.9.{number}.1" for number in range(len(CASES))} <= series


def test_members_of_one_name_are_rows_each_with_a_file_of_its_own(ended):
    address = "two members of one name/bad.zip!/a.dcm"
    rows = [row for row in ended.metastore() if row["sourcePath"] == address]
    assert sorted(row["sopInstanceUid"].encode() for row in rows) == [*SAME_NAME]
    assert len({row["filePath"] for row in rows}) == len(SAME_NAME)


def test_nothing_is_left_and_what_failed_is_kept(ended):
    root = ended.settings.lakehouse
    assert ended.files("bronze/Files/Ingest") == []
    assert not list(root.rglob("*.tmp")) and not list(root.rglob(".organise"))
    for row in ended.rows(catalog.INGESTION_FAILURES):
        assert os.path.lexists(root / row["failedPath"])


def test_what_links_lead_to_is_neither_read_nor_moved(ended):
    outside = ended.settings.lakehouse.parent / "outside"
    assert (outside / "secret.dcm").read_bytes() == IMAGE
    assert not any("secret" in row["sourcePath"] for row in ended.metastore())
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in _entries_of(ended, "Failed")}
    assert {stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK} <= kinds
    assert {path.lstat().st_mode & stat.S_IFREG for path in _entries_of(ended, "Process")}


def _entries_of(house, area: str) -> list[Path]:
    return [path for path in (house.settings.lakehouse / "bronze/Files" / area).rglob("*_*")]


def test_running_again_changes_nothing(ended):
    before = ended.everything()
    ended.chain()
    assert ended.everything() == before


def test_a_file_cut_at_any_byte_is_a_row_or_has_a_reason(house):
    whole = file_of(
        element(0x00080005, "CS", b"ISO_IR 192") + uids() + element(0x0020000F, "UL", b"")
    )
    for end in range(len(whole) + 1):
        (house.drop / f"{end:03}").write_bytes(whole[:end])
    house.chain()
    failures = house.failures()
    assert len(house.metastore()) + len(failures) == len(whole) + 1
    assert set(failures.values()) <= {"not_dicom", "truncated", "no_study_uid", "no_series_uid"}
    assert len(house.rows(catalog.IMAGE_OCCURRENCE)) == 1


def test_names_of_any_bytes_are_taken_and_lead_nowhere(house):
    drop_names(house.drop)
    house.chain()
    assert house.failures() == {}
    addresses = {row["sourcePath"] for row in house.metastore()}
    assert addresses == {printable(os.fsdecode(name)) for name in NAMES}
    assert {path.parent for path in house.files("bronze/Files/Process/Imaging")} == {
        house.run.engine.layout.process_folder("default", house.run.ingest_date)
    }


def test_every_reason_is_met_by_some_test():
    """Those that no dropped file here has are named by the tests of what gives them."""
    met = {outcome for case in CASES.values() for outcome in case.expect.values()}
    elsewhere = {
        "archive_bomb": "steps/test_hostile_bounds.py",
        "wrong_resource_type": "steps/test_chain.py",
        "gzip_damaged": "steps/test_organise_fhir.py",
        "not_fetched": "steps/test_external.py",
        "not_retrieved": "steps/test_pull.py",
        "shortcut_unusable": "steps/test_external.py",
        "invalid_operation": "steps/test_operations.py",
    }
    here = Path(__file__).parents[1]
    for reason, test in elsewhere.items():
        assert f'"{reason}"' in (here / test).read_text()
    assert {str(reason) for reason in Reason} == met - {ROW} | elsewhere.keys()

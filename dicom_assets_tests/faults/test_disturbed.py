"""What else may go wrong with a run, and that running it again makes it good."""

import errno
import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pytest

from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog
from dicom_assets_tests.conftest import House
from dicom_assets_tests.faults.drops import drop
from dicom_assets_tests.faults.likeness import differences, likeness
from dicom_assets_tests.faults.nursery import Ended, Fault
from dicom_assets_tests.faults.power import Volatile
from dicom_assets_tests.faults.scene import DAYS, Scene

DROP, FAILED = "bronze/Files/Ingest/Imaging/DICOM", "bronze/Files/Failed/Imaging/DICOM"


@pytest.fixture(scope="module")
def scene(nursery, tmp_path_factory) -> Scene:
    return Scene(nursery, tmp_path_factory.mktemp("scene"), DAYS[0])


@pytest.fixture(scope="module")
def next_day(nursery, tmp_path_factory) -> Scene:
    return Scene(nursery, tmp_path_factory.mktemp("next"), DAYS[1])


def in_a_row(scene: Scene, faults: Sequence[Fault]) -> list[Ended]:
    """Lets each run go on from where the one before ended; a new one begins once one is through."""
    root, ends = None, []
    for fault in faults:
        root = root or scene.fresh(f"in a row {next(scene.numbers)}")
        ends.append(scene.run(root, fault))
        if not ends[-1].status:
            assert scene.run_again(root) == [], fault
            root = None
    assert root is None or scene.run_again(root) == []
    return ends


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_storage_that_fails_ends_the_run_with_words_that_name_no_file(scene, code):
    acts = scene.acts()[20 if code == errno.EIO else 50 :: 80]
    lasting = [bool(number % 2) for number in range(len(acts))]
    faults = [
        Fault(code, act=nth, lasts=lasts) for (_, nth), lasts in zip(acts, lasting, strict=True)
    ]
    ends = in_a_row(scene, faults)
    failed = [lasts for ended, lasts in zip(ends, lasting, strict=True) if ended.status]
    assert min(failed.count(True), failed.count(False)) >= 2
    for ended in ends:
        assert "Doe" not in ended.error
        if ended.status:
            assert f"StorageError: the storage failed: {os.strerror(code)}. First" in ended.error
            assert "then run the date again" in ended.error


def test_folders_of_ours_that_may_not_be_written_end_the_run_and_take_nothing(scene):
    below = ("/staging", "/Process/Imaging/DICOM/2026", "/Failed/")
    denied = [Fault(errno.EACCES, kinds=["mkdir"], below=[each]) for each in below]
    for ended in in_a_row(scene, denied):
        assert "give this process the right to read and write" in ended.error


def mounted(*arguments: str) -> None:
    """Mounts, or skips the test where that is not allowed."""
    if subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")


MEMBER = re.compile(r"/\.organise/staging/\d+/\d+$")
"""Where a member of a dropped ZIP is written to before it has its place."""
FREE_KIB = (12, 40, 200)
"""Room in a full disk: a page goes for each small file, so the first is enough for some members of
a ZIP, not for all."""


def test_a_disk_that_is_really_full_ends_runs_and_more_space_lets_them_go_on(scene):
    root = scene.folder / "full"
    root.mkdir()
    mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root))
    try:
        drop(root, scene.day, scene.folder / "drops")
        ballast, ends = root / "ballast", []
        for free_kib in FREE_KIB:
            ballast.unlink(missing_ok=True)
            free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
            ballast.write_bytes(bytes(free - free_kib * 1024))
            ends.append(scene.run(root))
            assert "the storage failed: No space left on device" in ends[-1].error
        first = ends[0].acts
        *before, last = [act.path for act in first if act.kind == "write"]
        assert (first[-1].kind, first[-1].path) == ("write", last)
        assert MEMBER.search(last), "the disk got full while a member was written"
        assert [path for path in before if MEMBER.search(path)], "others had been"
        ballast.unlink()
        assert scene.run_again(root) == []
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_file_system_that_is_mounted_read_only_ends_the_run_and_nothing_is_lost(scene):
    root = scene.fresh("read only")
    mounted("--bind", str(root), str(root))
    try:
        mounted("-o", "remount,ro,bind", str(root))
        ended = scene.run(root)
        assert "the storage failed: Read-only file system" in ended.error
        mounted("-o", "remount,rw,bind", str(root))
        assert scene.run_again(root) == []
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_second_writer_who_commits_first_ends_the_run_and_the_next_goes_on(next_day):
    commits = [nth for act, nth in next_day.acts() if act.kind == "link"]
    ends = in_a_row(next_day, [Fault("conflict", act=nth) for nth in commits[:: len(commits) // 3]])
    assert len([ended for ended in ends if ended.status]) >= 3


def test_commits_to_gold_that_power_cuts_tear_are_mended_by_the_next_runs(scene):
    acts = scene.acts()
    commits = [n for n, (act, _) in enumerate(acts) if act.kind == "link" and "/gold/" in act.to]
    assert len(commits) > 3
    after = [Fault("kill", act=acts[n + 1][1]) for n in commits]
    assert scene.killed_again_and_again(after, power="data") == (len(after), [])


def test_two_runs_of_one_partition_at_once_are_as_one(scene, caplog):
    root = scene.fresh("twice")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(scene.run, root)
        while not (Layout(root).organise_folder.exists() or other.done()):
            time.sleep(0.001)  # until it is at work
        House(root, workers=1).chain(date.fromisoformat(scene.day))
        assert other.result().status == 0
    assert "waiting for it" in caplog.text, "they met"
    assert differences(likeness(root), scene.undisturbed[1]) == []


def test_kills_while_files_come_from_and_go_to_other_file_systems_lose_none(nursery, tmp_path):
    scene = Scene(nursery, tmp_path, DAYS[0], elsewhere=[DROP, FAILED])
    assert scene.undisturbed[0].status == 0
    there = tmp_path / "undisturbed" / DROP
    assert there.stat().st_dev != tmp_path.stat().st_dev
    acts = scene.undisturbed[0].acts
    inside = [n for n, act in enumerate(acts) if "/DICOM/" in act.path and act.kind != "mkdir"]
    points = [Fault("kill", at=at) for at in inside[::11]]
    for row, power in enumerate(("data", None)):
        killed, different = scene.killed_again_and_again(points[row::2], power=power)
        assert different == []
        assert killed > 2
    scene.remove(tmp_path / "undisturbed")


def test_killed_worker_processes_and_what_they_were_doing_are_made_good(scene):
    root = scene.fresh("killed workers")
    for do in ("kill", "main", "half"):
        fault = Fault(do, at=2, kinds=["write"], below=[".dcm.zip.tmp"])
        ended = scene.run(root, fault, processes=True, choices={"workers": 2})
        assert ended.killed if do == "main" else "BrokenProcessPool" in ended.error
    assert scene.run_again(root, workers=2) == []


def test_a_killed_run_is_finished_by_that_of_another_date_for_its_own(scene):
    acts = scene.undisturbed[0].acts
    images, reports = (
        [n for n, act in enumerate(acts) if f"/Ingest/{kind}/" in act.path]
        for kind in ("Imaging", "Clinical")
    )
    early = scene.fresh("another date, images")
    assert scene.run(early, Fault("kill", at=images[1])).killed
    assert scene.run(early, day=DAYS[1]).status == 0
    # no report had been taken for the date
    places = ("Imaging/DICOM", "Tables/process_files", "Tables/dicomimagingmetastore")
    found = [each for each in scene.run_again(early) if any(place in each for place in places)]
    assert found == []
    late = scene.fresh("another date, reports")
    assert scene.run(late, Fault("kill", at=reports[1])).killed
    end = Fault("kill", act=scene.acts()[reports[-1] + 8][1])
    assert scene.run(late, end, day=DAYS[1]).killed, "while it finishes the other's"
    assert scene.run(late, day=DAYS[1]).status == 0
    assert scene.run_again(late) == []


def test_with_the_clock_set_back_before_a_run_and_within_it_what_came_later_is_still_later(
    next_day,
):
    month = 30 * 86400.0
    root = next_day.fresh("set back")
    ended = next_day.run(root, clock=[-month - 3600.0 * n for n in range(60)])
    assert ended.status == 0
    assert differences(likeness(root), next_day.undisturbed[1]) == []
    house = House(root)
    for table, column in (
        (catalog.PROCESS_FILES, "organisedAt"),
        (catalog.BRONZE_IMAGING_STUDY, "ingestedAt"),
    ):
        rows = house.rows(table)
        by_day = {
            day: [row[column] for row in rows if f"{row['ingestDate']}" == day] for day in DAYS
        }
        assert max(by_day[DAYS[0]]) < min(by_day[DAYS[1]])


def test_a_run_over_midnight_is_all_of_its_date(next_day):
    now = datetime.now(UTC)
    midnight = 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
    root = next_day.fresh("over midnight")
    ended = next_day.run(root, clock=[*[midnight - 1.0] * 10, midnight + 1.0])
    assert ended.status == 0
    assert differences(likeness(root), next_day.undisturbed[1]) == []


def test_upkeep_that_is_killed_or_loses_power_loses_no_row(next_day):
    content = next_day.undisturbed[1]
    upkeep = {"maintain": True, "choices": {"keep_removed_files_days": 0}}
    root, other, late = (next_day.folder / f"upkeep {number}" for number in range(3))
    for copy in (root, other, late):
        shutil.copytree(next_day.folder / "undisturbed", copy)
    acts = next_day.run(other, **upkeep).acts
    assert {act.kind for act in acts} >= {"link", "unlink", "syncfs"}
    killed = 0
    # what was done before is not done again, so the end is reached by a run of its own
    for where, at in [*((root, len(acts) * part // 8) for part in range(5)), (late, len(acts) - 2)]:
        ended = next_day.run(where, Fault("kill", at=at), **upkeep)
        killed += ended.killed
        if ended.killed:
            Volatile.after(ended.acts[:-1]).lose_data()
    assert killed >= 5
    for where in (root, late):
        assert next_day.run(where, **upkeep).status == 0
        assert differences(likeness(where), content) == []


def test_a_journal_that_the_disk_has_lost_stops_the_run_and_says_where_to_look(scene):
    root = scene.fresh("journal")
    journal = next(
        n
        for n, act in enumerate(scene.undisturbed[0].acts)
        if act.kind == "rename" and act.path.endswith("journal.json.tmp")
    )
    assert scene.run(root, Fault("kill", at=journal + 2)).killed
    note = Layout(root).organise_folder / "journal.json"
    before = sorted(path for path in root.rglob("*") if path.is_file())
    for left in (100, 0):  # cut short, and empty
        os.truncate(note, left)
        ended = scene.run(root)
        assert "the journal of an interrupted run is damaged" in ended.error
        assert "Doe" not in ended.error
        assert sorted(path for path in root.rglob("*") if path.is_file()) == before
    shutil.move(note.parent, scene.folder / "aside")  # as it says
    assert scene.run_again(root) == []


def test_acts_that_depend_on_others_come_after_these_are_durable(scene, next_day):
    """Data and names before the commit that tells of them; commits before anything is removed."""
    for each in (scene, next_day):
        volatile = Volatile()
        removed = committed = 0
        for act in each.undisturbed[0].acts:
            files = [
                path
                for path in itertools.chain(volatile.data, *(n[1:] for n in volatile.names))
                if path and not path.endswith("/_durable")  # without it less is known, nothing else
            ]
            if act.kind == "link":
                committed += 1
                inside = [p for p in files if "/Files/" in p]
                assert inside == [], f"{act} tells of files that are not durable"
            # temporaries and emptied folders are of no account, what lay in Ingest or Process is
            if act.kind == "unlink" and "/staging/" not in act.path and "#" not in act.path:
                removed += 1
                if "/Ingest/" in act.path:  # what is to come of it lies there
                    files = [p for p in files if "/.organise/" in p]
                assert files == [], f"{act} removes what is needed until these are durable"
            volatile.see(act)
        assert removed >= 5
        assert committed >= 9

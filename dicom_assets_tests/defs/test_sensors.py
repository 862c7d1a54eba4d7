from pathlib import Path

from dicom_assets.defs.sensors import AGAIN_SECONDS, arrival
from dicom_assets.lakehouse.drop_folder import Dropped

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


def entry(name: str, *, age: float) -> Dropped:
    """A regular file that last changed so many seconds before NOW."""
    changed = NOW - int(age * SECOND)
    return Dropped(Path("/drop") / name, 1, changed, changed, True)


def decide(*entries: Dropped, cursor: str | None = None, after: float = 0) -> tuple[int, str]:
    now_ns = NOW + int(after * SECOND)
    return arrival(entries, cursor=cursor, now_ns=now_ns, settle_seconds=2)


def test_an_empty_folder_is_no_arrival():
    assert decide()[0] == 0


def test_a_file_still_being_written_is_left_alone():
    count, cursor = decide(entry("a.dcm", age=0.5))
    assert count == 0
    assert decide(entry("a.dcm", age=0.5), cursor=cursor, after=2)[0] == 1


def test_thousands_of_files_are_one_arrival():
    count, cursor = decide(*(entry(f"{n}.dcm", age=5) for n in range(5000)))
    assert count == 5000
    assert len(cursor) < 500


def test_what_was_reported_is_not_reported_again():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("a.dcm", age=5), cursor=cursor, after=5)[0] == 0


def test_a_further_file_is_a_further_arrival():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("a.dcm", age=5), entry("b.dcm", age=3), cursor=cursor, after=1)[0] == 2


def test_an_old_folder_moved_in_as_a_whole_is_an_arrival():
    _, cursor = decide(entry("a.dcm", age=5))
    old = entry("study/b.dcm", age=90_000)
    assert decide(entry("a.dcm", age=5), old, cursor=cursor, after=1)[0] == 2


def test_files_left_lying_are_reported_again_after_ten_minutes():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("a.dcm", age=5), cursor=cursor, after=AGAIN_SECONDS - 1)[0] == 0
    assert decide(entry("a.dcm", age=5), cursor=cursor, after=AGAIN_SECONDS)[0] == 1


def test_a_clock_set_back_leaves_nothing_behind():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("b.dcm", age=3700), cursor=cursor, after=-3600)[0] == 1


def test_the_cursor_names_no_folder():
    _, cursor = decide(entry("Doe Jane/a.dcm", age=5))
    assert "Doe" not in cursor

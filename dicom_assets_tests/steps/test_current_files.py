"""Which file speaks: the same whatever the order in which files and runs come."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dicom_assets.steps.current_files import ATTRIBUTES, Settling, arrival, keys_of

START = datetime(2026, 3, 14, tzinfo=UTC)
FILES = st.lists(
    st.fixed_dictionaries(
        {
            "sourceSystem": st.sampled_from(["pacs", "vna"]),
            "studyInstanceUid": st.sampled_from(["1.1", "1.2"]),
            "seriesInstanceUid": st.sampled_from(["2.1", "2.2"]),
            "sopInstanceUid": st.sampled_from(["3.1", "3.2", "3.3"]),
            "patientId": st.sampled_from([None, "P1", "P2", "P1 "]),
            "contentHash": st.sampled_from([None, "a", "b"]),
            "arrived": st.integers(0, 5),
            "modified": st.none() | st.integers(0, 2),
        }
    ),
    max_size=12,
)


def as_file(number: int, said: dict) -> dict:
    """A metastore row; each has a path of its own."""
    others = dict.fromkeys([*(name for name in ATTRIBUTES if name != "patientId"), "version"])
    modified = said["modified"]
    return {
        **others,
        **said,
        "ingestDate": date(2026, 3, 14) + timedelta(days=said["arrived"]),
        "filePath": f"{number:02}.dcm",
        "ingestedAt": START + timedelta(days=said["arrived"]),
        "sourceModifiedAt": None if modified is None else START + timedelta(hours=modified),
    }


def settled(*runs: list[dict]) -> list[dict]:
    """What is known after several runs, each of which starts from what the last one wrote."""
    known: dict[int, dict] = {}
    for files in runs:
        settling = Settling(known.values())
        settling.take([dict(file) for file in files])
        known |= {row["id"]: row for row in settling.changed}
    return sorted(known.values(), key=lambda row: row["id"])


def without_whole(rows: list[dict]) -> list[dict]:
    return [{**row, "wholeAt": None} for row in rows]


@given(said=FILES, data=st.data())
def test_the_order_of_files_in_a_run_changes_nothing(said, data):
    files = [as_file(*each) for each in enumerate(said)]
    shuffled = data.draw(st.permutations(files))
    assert settled(files) == settled(shuffled)


@given(said=FILES, data=st.data())
def test_runs_in_any_order_agree_on_which_files_speak(said, data):
    files = [as_file(*each) for each in enumerate(said)]
    runs = [[f for f in files if f["arrived"] == day] for day in range(6)]
    shuffled = data.draw(st.permutations(runs))
    assert without_whole(settled(*runs)) == without_whole(settled(*shuffled))


@given(said=FILES)
def test_the_newest_file_speaks_and_files_taken_again_change_nothing(said):
    files = [as_file(*each) for each in enumerate(said)]
    rows = {row["id"]: row for row in settled(files)}  # in the order of keys
    newest: dict[int, dict] = {}
    for file in sorted(files, key=arrival):
        newest |= dict.fromkeys(keys_of(file), file)
    assert {key: row["filePath"] for key, row in rows.items()} == {
        key: file["filePath"] for key, file in newest.items()
    }
    again = without_whole(settled(files, files))
    assert again == without_whole(list(rows.values()))


@given(said=FILES)
def test_an_instance_knows_every_study_it_stood_in(said):
    files = [as_file(*each) for each in enumerate(said)]
    for row in settled(files):
        if row["level"] == "instance":
            stood = {
                file["studyInstanceUid"]
                for file in files
                if (file["sourceSystem"], file["sopInstanceUid"])
                == (row["sourceSystem"], row["sopInstanceUid"])
            }
            assert stood == {row["studyInstanceUid"], *row["otherStudies"]}

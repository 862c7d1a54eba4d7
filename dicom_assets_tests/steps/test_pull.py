"""What is new in a DICOM service is retrieved: from a real Orthanc, by each kind of feed."""

import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from dicom_assets.cli import main
from dicom_assets.dicomweb import feeds
from dicom_assets.dicomweb.client import Client
from dicom_assets.dicomweb.connection import ServiceError
from dicom_assets.dicomweb.part10 import dataset_hash
from dicom_assets.dicomweb.service import Service
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets.steps.pull import has_news, pull, retry
from dicom_assets.steps.run import Run
from dicom_assets.steps.store import store
from dicom_assets_tests.conftest import House, dicom, interrupting
from dicom_assets_tests.dicomweb.front import Front
from dicom_assets_tests.orthanc import PASSWORD, USER, Orthanc
from dicom_assets_tests.serving import free_port

STUDY, SERIES = "1.2.3.4", "1.2.3.4.1"
JANUARY = date(2026, 1, 1)  # so that fewer months are asked about


@pytest.fixture
def empty(orthanc: Orthanc) -> Orthanc:
    """The Orthanc, holding nothing; its changes are counted on from where they were."""
    with orthanc.rest() as client:
        for study in client.get("/studies").json():
            client.delete(f"/studies/{study}").raise_for_status()
    return orthanc


@pytest.fixture
def put(empty: Orthanc, tmp_path: Path) -> Callable[..., tuple[str, str, str]]:
    """Stores a small instance, and returns its UIDs."""

    def stored(number: int, **elements: Any) -> tuple[str, str, str]:
        path = tmp_path / "to be stored.dcm"
        sop = f"{SERIES}.{number}"
        dicom(path, SOPInstanceUID=sop, **elements)
        with Client.of("orthanc", empty.service) as client:
            assert client.store([(path, path.stat().st_size)]).stored == {sop}
        return STUDY, elements.get("SeriesInstanceUID", SERIES), sop

    return stored


@pytest.fixture
def pacs(make_house: Callable[..., House]) -> Callable[[Service], House]:
    return lambda service: make_house(dicom_services={"pacs": service})


def azure(front: Front) -> Service:
    return Service(address=f"{front.address}/v2")


def pulled(house: House) -> dict[str, int]:
    """Each pulled file's path below the service's folder, and its modification time."""
    root = house.run.engine.layout.external_root / "pacs"
    files = {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    left = [p.name for p in root.parents[1].iterdir() if p.name.startswith(".pull")]
    assert left == [], "no half file is left"
    return files


def test_the_sample_is_pulled_as_it_is_stored_and_only_once(empty, sample, pacs):
    house = pacs(empty.with_changes)
    with Client.of("orthanc", empty.service) as client:
        store(client, [sample], house.settings)
    assert has_news(house.run, "pacs", asked_before=0)
    report = pull(house.run, "pacs")
    assert (report.rows, report.counts["failures"], report.counts["more"]) == (96, 0, 0)
    assert not has_news(house.run, "pacs", asked_before=0)
    hashes = set()
    for path in (house.run.engine.layout.external_root / "pacs").rglob("*.dcm"):
        header, digest = dataset_hash([path.read_bytes()]) or (None, "")
        assert header and path.stem == header.sop_instance_uid
        hashes.add(digest)
    loose = [p.read_bytes() for p in sample.rglob("*") if p.is_file()]
    sent = {found[1] for content in loose if (found := dataset_hash([content]))}
    assert len(hashes) == 96
    assert sent <= hashes
    before = house.everything()
    assert pull(house.run, "pacs").rows == 0
    assert house.everything() == before


def test_into_an_object_store_it_is_pulled_once(put, front, moto, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    front.changes = []
    place = moto.place("pulled-into")
    services = {"pacs": azure(front)}
    house = House(f"{place.address}/lake", storage=place.storage, dicom_services=services)
    for number in (1, 2):
        front.tell("create", put(number))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "record", interrupting(0)(Run.record))
        pull(house.run, "pacs")
    folder = f"lake/bronze/Files/External/Imaging/DICOM/pacs/{STUDY}/{SERIES}"
    pulled_keys = {f"{folder}/{SERIES}.{number}.dcm" for number in (1, 2)}
    assert place.keys() == pulled_keys
    assert pull(house.run, "pacs").rows == 0, "they are there as those changes brought them"
    house.chain(until="extract")
    assert {row["sopInstanceUid"] for row in house.metastore()} == {f"{SERIES}.1", f"{SERIES}.2"}


@pytest.fixture(params=["changes", "dates", "changefeed"])
def any_feed(request, empty: Orthanc, front: Front) -> Iterator[tuple[Service, Front | None]]:
    if request.param == "changes":
        yield empty.with_changes, None
    else:
        front.changes = [] if request.param == "changefeed" else None
        yield azure(front), front


def test_later_instances_are_pulled_later_whatever_the_feed(any_feed, put, pacs, monkeypatch):
    service, front = any_feed
    monkeypatch.setattr(feeds, "_FIRST_MONTH", JANUARY)
    house = pacs(service)
    recent = f"{feeds.datetime.now(feeds.UTC):%Y%m%d}"

    def new(*numbers: int) -> None:
        for number in numbers:
            uids = put(number, StudyDate=recent)
            if front and front.changes is not None:
                front.tell("create", uids)

    new(1, 2, 3)
    assert pull(house.run, "pacs").rows == 3
    new(4)
    assert pull(house.run, "pacs").rows == 1
    assert pull(house.run, "pacs").rows == 0
    assert sorted(pulled(house)) == [f"{STUDY}/{SERIES}/{SERIES}.{n}.dcm" for n in (1, 2, 3, 4)]


def test_killed_at_any_point_it_ends_like_an_undisturbed_one(empty, put, pacs, monkeypatch):
    monkeypatch.setattr(feeds, "_PAGE", 3)  # several stretches
    for number in range(5):
        put(number)
    house = pacs(empty.with_changes)
    pull(house.run, "pacs")
    undisturbed = pulled(house)
    assert len(undisturbed) == 5
    for done in (0, 2, 4, 6, 9):
        shutil.rmtree(house.settings.lakehouse)
        house = pacs(empty.with_changes)
        interrupted = interrupting(done)
        with monkeypatch.context() as patch:
            for name in ("replace", "mkdir"):
                patch.setattr(Path, name, interrupted(getattr(Path, name)))
            patch.setattr(LocalEngine, "append", interrupted(LocalEngine.append))
            with pytest.raises(KeyboardInterrupt):
                pull(house.run, "pacs")
        pull(house.run, "pacs")
        assert pulled(house) == undisturbed, f"{done}: also when each of them changed"
        assert pull(house.run, "pacs").rows == 0


def test_what_a_killed_run_has_retrieved_is_not_retrieved_again(put, front, pacs, monkeypatch):
    front.changes = []
    for number in range(4):
        front.tell("create", put(number))
    house = pacs(azure(front))
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "append", interrupting(0)(LocalEngine.append))
        with pytest.raises(KeyboardInterrupt):
            pull(house.run, "pacs")
    front.seen.clear()
    assert pull(house.run, "pacs").rows == 0
    assert [path for path in front.seen if "/studies" in path] == []
    assert not has_news(house.run, "pacs", asked_before=0)


def test_a_replaced_instance_is_a_changed_file(put, front, pacs):
    front.changes = []
    front.tell("create", put(1))
    house = pacs(azure(front))
    pull(house.run, "pacs")
    before = pulled(house)
    front.tell("update", (STUDY, SERIES, f"{SERIES}.1"))
    assert pull(house.run, "pacs").rows == 1
    assert pulled(house).keys() == before.keys()
    assert pulled(house) != before


def test_a_deletion_is_asked_for_once_and_the_file_stays(put, front, pacs, monkeypatch):
    front.changes = []
    for number in (1, 2):
        front.tell("create", put(number))
    house = pacs(azure(front))
    pull(house.run, "pacs")
    front.tell("delete", (STUDY, SERIES, f"{SERIES}.1"))
    front.tell("delete", (STUDY, SERIES, "1.2.3.99"))
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "append", interrupting(0)(LocalEngine.append))
        with pytest.raises(KeyboardInterrupt):
            pull(house.run, "pacs")
    organise(house.run)  # the operation has been dropped; its cursor has not been committed
    assert pull(house.run, "pacs").counts["deleted"] == 1
    assert organise(house.run).counts["operations_known"] == 1
    (row,) = house.rows(catalog.OPERATIONS)
    assert (row["operation"], row["sourceSystem"], row["requestedBy"]) == ("delete", "pacs", "pacs")
    assert (row["studyInstanceUid"], row["sopInstanceUid"]) == (STUDY, f"{SERIES}.1")
    assert len(pulled(house)) == 2
    front.tell("create", (STUDY, SERIES, f"{SERIES}.1"))
    before = pulled(house)
    assert pull(house.run, "pacs").rows == 1, "it came back"
    assert pulled(house) != before
    front.tell("delete", (STUDY, SERIES, f"{SERIES}.1"))
    pull(house.run, "pacs")
    organise(house.run)
    assert len(house.rows(catalog.OPERATIONS)) == 2, "and went again"


def test_a_deletion_is_not_dropped_behind_a_link_and_is_asked_for_once_that_is_gone(
    put, front, pacs, tmp_path
):
    front.changes = []
    front.tell("create", put(1))
    house = pacs(azure(front))
    pull(house.run, "pacs")
    front.tell("delete", (STUDY, SERIES, f"{SERIES}.1"))
    (tmp_path / "outside").mkdir()
    operations = house.run.engine.layout.operations_drop("pacs")
    operations.parent.mkdir(parents=True)
    operations.symlink_to(tmp_path / "outside")
    with pytest.raises(PlainError, match=r"no operation can be put into .*: a link or a file lies"):
        pull(house.run, "pacs")
    assert list((tmp_path / "outside").iterdir()) == []
    operations.unlink()
    assert pull(house.run, "pacs").counts["deleted"] == 1
    organise(house.run)
    assert len(house.rows(catalog.OPERATIONS)) == 1


def test_what_comes_and_goes_in_one_stretch_is_not_retrieved(put, front, pacs):
    front.changes = []
    uids = put(1)
    front.tell("create", uids)
    front.tell("delete", uids, sequence=470)  # sequence numbers have gaps
    house = pacs(azure(front))
    report = pull(house.run, "pacs")
    assert (report.rows, report.counts["deleted"]) == (0, 0)
    front.tell("create", put(2), sequence=1003)
    assert pull(house.run, "pacs").rows == 1


def test_what_is_gone_meanwhile_is_counted(front, pacs, empty):
    front.changes = []
    front.tell("create", (STUDY, SERIES, "1.2.3.404"))
    report = pull(pacs(azure(front)).run, "pacs")
    assert (report.rows, report.counts["gone"], report.counts["failures"]) == (0, 1, 0)


@pytest.mark.parametrize("by_changes", [True, False])
def test_what_the_service_has_and_says_it_has_not_is_a_failure(put, empty, pacs, by_changes):
    """What two patients share the UIDs of, for one, Orthanc's DICOMweb does not find."""
    if by_changes:
        put(1, PatientID="P1")
        put(1, PatientID="P2")
        service = empty.with_changes
    else:
        put(1)
        service = empty.service
    house = pacs(service)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeds, "_FIRST_MONTH", JANUARY)
        if not by_changes:
            patch.setattr(Client, "try_series", lambda *_: None)
            patch.setattr(Client, "retrieve", is_not_there)
        report = pull(house.run, "pacs")
    assert (report.rows, report.counts["gone"], report.counts["failures"]) == (0, 0, 1)
    (row,) = house.rows(catalog.INGESTION_FAILURES)
    assert (row["reasonCode"], row["sourceSystem"]) == ("not_retrieved", "pacs")
    assert retry(house.run, "pacs").rows == (0 if by_changes else 1)


def test_where_the_service_does_not_say_whether_it_has_it_the_others_are_kept(
    put, empty, pacs, monkeypatch
):
    first, _ = put(1), put(2)
    house, original = pacs(empty.service), Client.retrieve
    monkeypatch.setattr(feeds, "_FIRST_MONTH", JANUARY)
    monkeypatch.setattr(Client, "try_series", lambda *_: None)

    def retrieve(client: Client, instance: Any, take: Any) -> None:
        if instance.sop == first[2]:
            is_not_there()
        original(client, instance, take)

    def refused(*_: Any) -> None:
        raise ServiceError("pacs: a search is answered with 403", 403)

    monkeypatch.setattr(Client, "retrieve", retrieve)
    monkeypatch.setattr(feeds.DateFeed, "holds", refused)
    report = pull(house.run, "pacs")
    assert (report.rows, report.counts["gone"], report.counts["failures"]) == (1, 0, 1)
    assert len(pulled(house)) == 1


def is_not_there(*_: Any) -> None:
    raise ServiceError("pacs: an instance is answered with 404", 404)


def test_what_is_not_handed_out_is_a_failure_and_can_be_tried_again(put, front, pacs):
    front.changes = []
    for number in (1, 2, 3):
        front.tell("create", put(number))
    house = pacs(azure(front))
    front.refuses = (f"{SERIES}.2",)
    assert pull(house.run, "pacs").counts["failures"] == 1
    (row,) = house.rows(catalog.INGESTION_FAILURES)
    assert (row["step"], row["reasonCode"], row["sourceSystem"]) == (
        "pull",
        "not_retrieved",
        "pacs",
    )
    assert "answers 406" in row["message"]
    assert SERIES not in row["message"]
    assert row["failedPath"] is None
    assert len(pulled(house)) == 2
    assert pull(house.run, "pacs").counts["failures"] == 0, "the others go on"
    front.tell("update", (STUDY, SERIES, f"{SERIES}.2"))
    assert pull(house.run, "pacs").counts["failures"] == 1
    assert len(house.rows(catalog.INGESTION_FAILURES)) == 1, "it is the same one"
    assert retry(house.run, "pacs").rows == 0
    front.refuses = ()
    assert retry(house.run, "pacs").rows == 1
    front.seen.clear()
    assert retry(house.run, "pacs").rows == 0
    assert front.seen == []
    assert (house.settings.lakehouse / row["sourcePath"]).exists()


def test_another_instance_than_was_asked_for_is_a_failure(pacs, tmp_path, monkeypatch):
    dicom(tmp_path / "other.dcm", SOPInstanceUID=f"{SERIES}.9")
    change = feeds.Change(feeds.Instance(STUDY, SERIES, f"{SERIES}.1"))

    class OneChange:
        kind, seconds_between = "one", 0

        def pages(self, position: int) -> Iterator[feeds.Page]:
            yield feeds.Page([change], 1, more=False)

    def retrieve(self: Client, instance: Any, take: Callable[[Iterator[bytes]], None]) -> None:
        take(iter([(tmp_path / "other.dcm").read_bytes()]))

    monkeypatch.setattr("dicom_assets.steps.pull.feed_of", lambda _: OneChange())
    monkeypatch.setattr(Client, "retrieve", retrieve)
    house = pacs(Service(address="http://pacs.example"))
    report = pull(house.run, "pacs")
    assert (report.rows, report.counts["failures"], pulled(house)) == (0, 1, {})
    (row,) = house.rows(catalog.INGESTION_FAILURES)
    assert (row["reasonCode"], SERIES in row["message"]) == ("not_retrieved", False)
    assert "another instance" in row["message"]


def test_a_name_that_is_no_uid_leads_nowhere(front, pacs, empty):
    front.changes = []
    for _ in range(2):
        front.tell("create", ("../../..", SERIES, "1.2.3"))
    front.tell("create", (STUDY, SERIES, "1.2.3.dcm"))
    house = pacs(azure(front))
    assert pull(house.run, "pacs").counts["failures"] == 2
    assert len(set(house.failures())) == 2
    assert retry(house.run, "pacs").counts["failures"] == 0
    assert not [path for path in front.seen if "studies" in path]


def test_a_series_that_is_new_is_retrieved_in_one_request(put, front, pacs, monkeypatch):
    monkeypatch.setattr(feeds, "_FIRST_MONTH", JANUARY)
    for number in range(4):
        put(number)
    put(7, SeriesInstanceUID="1.2.3.4.2")
    house = pacs(Service(address=front.address))
    assert pull(house.run, "pacs").rows == 5
    retrieved = [path for path in front.seen if "/series/" in path]
    assert sorted(path.count("/instances/") for path in retrieved) == [0, 1]


def test_a_series_that_breaks_off_is_gone_on_with_one_by_one(put, front, pacs, monkeypatch):
    monkeypatch.setattr(feeds, "_FIRST_MONTH", JANUARY)
    front.refuses = (f"/series/{SERIES}",)
    for number in range(4):
        put(number)
    assert pull(pacs(Service(address=front.address)).run, "pacs").rows == 4


def test_a_run_ends_in_time_and_the_next_goes_on(empty, put, pacs, monkeypatch):
    monkeypatch.setattr(feeds, "_PAGE", 2)
    for number in range(4):
        put(number)
    house = pacs(empty.with_changes)
    report = pull(house.run, "pacs", seconds=0)
    assert report.counts["more"] == 1
    assert report.rows < 4
    assert has_news(house.run, "pacs", asked_before=0)
    pull(house.run, "pacs")
    assert len(pulled(house)) == 4


def test_a_feed_that_begins_anew_is_told_not_taken_for_an_old_one(put, front, pacs):
    front.changes = []
    front.tell("create", put(1), sequence=500)
    house = pacs(azure(front))
    pull(house.run, "pacs")
    front.changes = []
    front.tell("create", put(1))
    with pytest.raises(PlainError, match="was read up to 500 and ends at 1"):
        pull(house.run, "pacs")


def test_a_service_out_of_reach_is_told_and_nothing_is_forgotten(pacs, monkeypatch):
    monkeypatch.setattr("dicom_assets.dicomweb.connection.ATTEMPTS", 1)
    house = pacs(Service(address=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(ServiceError, match=r"the DICOM service pacs, .*cannot be reached"):
        pull(house.run, "pacs")
    assert house.rows(catalog.INGESTION_FAILURES) == []


def test_the_command_line_pulls_and_shows_what_it_did(empty, put, tmp_path, monkeypatch):
    put(1)
    for name, value in (("ADDRESS", empty.service.address), ("ORTHANC_ADDRESS", empty.address)):
        monkeypatch.setenv(f"DICOM_ASSETS_DICOM_SERVICES__PACS__{name}", value)
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__PACS__USER", USER)
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__PACS__PASSWORD", PASSWORD)

    def call(*arguments: str) -> tuple[int, list[str]]:
        run = CliRunner().invoke(main, ["pull", *arguments, "--lakehouse", str(tmp_path / "lake")])
        return run.exit_code, run.output.split()

    code, said = call()
    assert (code, said[said.index("pacs") + 1]) == (0, "1")
    code, said = call("pacs", "--failed")
    assert (code, said[said.index("pacs") + 1]) == (0, "0")
    code, said = call("vna")
    assert (code, "pacs" in said) == (1, True)


def test_no_request_asks_orthanc_to_compress(put, front, pacs):
    """Ten times as slow, and the default of every client."""
    with httpx.Client() as usual:
        assert "gzip" in usual.headers["Accept-Encoding"]
    with Client.of("pacs", Service(address=front.address)) as client:
        assert client.connection._client.headers["Accept-Encoding"] == "identity"

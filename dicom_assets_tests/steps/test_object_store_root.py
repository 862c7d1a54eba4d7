"""A lakehouse wholly in an object store: the chain, what is asked of it, and killed runs."""

import json
import os
import pickle
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.ae import ApplicationEntity as AE

from dicom_assets.defs.sensors import watch
from dicom_assets.dicom import archives
from dicom_assets.lakehouse import far as far_paths
from dicom_assets.lakehouse import lease
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.journal import Journal
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.manifest import NAME as MANIFEST
from dicom_assets.lakehouse.operations import operation
from dicom_assets.settings import SettingsError, load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.ask import ask
from dicom_assets.steps.findings import Kind
from dicom_assets.steps.listen import listening
from dicom_assets.steps.maintain import maintain
from dicom_assets.steps.repair import verify_and_repair
from dicom_assets.steps.retry import retry
from dicom_assets.steps.status import by_date
from dicom_assets.steps.verify import verify
from dicom_assets_tests.conftest import DAY, House
from dicom_assets_tests.faults import drops
from dicom_assets_tests.faults.far import fetched, in_front_of, run
from dicom_assets_tests.faults.likeness import differences, likeness
from dicom_assets_tests.object_stores import Place

INGEST = "lake/bronze/Files/Ingest"
NEXT_DAY = date(2026, 3, 15)


@dataclass
class Far:
    """A container or bucket of a test's own, and what settings say of it."""

    place: Place
    section: dict[str, str]

    @property
    def choices(self) -> dict[str, Any]:
        root = f"{self.place.address}/lake"
        return {"lakehouse": root, "storage": {self.place.address: self.section}}

    @property
    def root(self) -> FarPath:
        return FarPath(self.choices["lakehouse"]).connect(self.section)

    def house(self, **more: Any) -> House:
        choices = self.choices | more
        return House(choices.pop("lakehouse"), **choices)

    def drop(self, folder: Path) -> None:
        """Uploads what lies in a folder as in Ingest."""
        for path in sorted(folder.glob("*/**/*")):
            if path.is_file():
                self.place.put(f"{INGEST}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def drop_here_and_there(self, folder: Path, local: Path) -> None:
        """Does the same, and drops it in a local lakehouse, with the times of the objects."""
        self.drop(folder)
        ingest = local / "bronze/Files/Ingest"
        shutil.copytree(folder, ingest, dirs_exist_ok=True)
        for path, status in (self.root / INGEST.removeprefix("lake/")).below():
            same = ingest / path.relative_to(self.root).relative_to("bronze/Files/Ingest")
            os.utime(same, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def keys(self, *, begin: str = "", end: str = "") -> list[str]:
        every = sorted(self.place.keys())
        return [key for key in every if key.startswith(begin) and key.endswith(end)]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's scratch folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def on_s3(moto) -> Far:
    place = moto.place(f"test-{uuid.uuid4().hex}")
    return Far(place, place.section)


@pytest.fixture
def on_azure(azurite) -> Far:
    return Far(azurite.place(f"test-{uuid.uuid4().hex}"), azurite.for_tables())


def test_the_sample_gives_96_instances_9_studies_24_series(on_azure, sample, scratch):
    far = on_azure
    far.drop(sample)
    house = far.house()
    house.chain()
    counts = [
        len(house.metastore()),
        len(house.rows(catalog.silver_imaging_study())),
        len(house.rows(catalog.IMAGE_OCCURRENCE)),
        len(house.rows(catalog.NOTE)),
    ]
    assert counts == [96, 9, 24, 6]
    assert house.failures() == {}
    assert far.keys(begin=INGEST) == []
    kept = far.keys(begin="lake/bronze/Files/Process/Imaging")
    assert len(kept) == 96 and all(key.endswith(".dcm.zip") for key in kept)
    (status,) = by_date(house.run.engine, house.settings, days=9)
    assert (status.counts["in Process"], status.counts["gold series"]) == (96, 24)
    assert not list(verify(house.settings).counts.elements())
    before = far.place.keys()
    shutil.rmtree(scratch)  # as on another machine
    scratch.mkdir()
    house.chain()
    assert far.place.keys() == before
    left = [path.name for path in scratch.rglob("*") if path.is_file()]
    assert set(left) <= {"id"}, "files of patients stay on this machine"


def delivery(folder: Path) -> Path:
    """What the chain is killed with: a little of each kind."""
    images = folder / "Imaging/DICOM"
    drops.file(images / "a/Doe 1.dcm", 1)
    drops.file(images / "Doe 2.dcm", 2, SeriesInstanceUID="1.2.3.4.2")
    drops.file(images / "Doe no series.dcm", 3, SeriesInstanceUID=None)
    (images / "Doe notes.txt").write_text("no DICOM")
    (images / MANIFEST).write_text('{"expected": {"process_files": 4}}')
    other = {"StudyInstanceUID": "1.2.3.5", "SeriesInstanceUID": "1.2.3.5.1"}
    good = {"Doe 6.dcm": drops.of(6), "Doe notes.txt": b"no DICOM", "7": drops.of(7, **other)}
    drops.packed(images / "Doe good.zip", good)
    drops.packed(images / "Doe damaged.zip", {"9": drops.of(9), "Doe spoilt.dcm": drops.of(10)})
    drops.spoil(images / "Doe damaged.zip", "Doe spoilt.dcm")
    drops.first_fhir(folder / "Clinical/FHIR NDJSON")
    return folder


def test_killed_at_requests_again_and_again_it_is_like_a_local_one(moto, tmp_path):
    drop = delivery(tmp_path / "drop")
    local = House(tmp_path / "local", workers=1)
    with in_front_of(moto.endpoint) as front:
        place = moto.place(f"test-{uuid.uuid4().hex}")
        far = Far(place, place.section | {"aws_endpoint": front.endpoint})
        choices = far.choices | {"settle_seconds": 0, "workers": 1}
        machines = []
        for name in ("one", "another"):  # each second run is on the other machine
            machines.append({"TMPDIR": str(tmp_path / name)})
            (tmp_path / name).mkdir()
        far.drop_here_and_there(drop, local.settings.lakehouse)
        local.chain(DAY)
        statuses = []
        for at in (3, 14, 30, None):
            status = run(
                front,
                choices,
                days=[f"{DAY}"],
                environment=machines[len(statuses) // 2 % 2],
                kill_at=at,
                is_before=len(statuses) % 2 == 0,
            )
            statuses.append(status)
        assert statuses == [-9] * 3 + [0]
    one = likeness(fetched(place.store, "lake", tmp_path / "fetched"))
    other = likeness(tmp_path / "local")
    for each in (one, other):
        del each["folders"]  # there are none in a store
    assert differences(one, other) == []


def test_what_failed_is_dropped_again_and_what_is_wrong_is_corrected(on_s3, tmp_path, write_dicom):
    for number in (1, 2, 3):
        uid = {"SOPInstanceUID": f"1.2.9.{number}"}
        write_dicom(tmp_path / f"drop/Imaging/DICOM/{number}.dcm", **uid)
    (tmp_path / "drop/Imaging/DICOM/Doe notes.txt").write_text("no DICOM")
    on_s3.drop(tmp_path / "drop")
    house = on_s3.house()
    house.chain()
    assert house.failures() == {"Doe notes.txt": "not_dicom"}
    assert retry(house.run.engine, house.settings).files == 1
    assert on_s3.keys(begin=INGEST) == [f"{INGEST}/Imaging/DICOM/Doe notes.txt"]
    asked = operation(operation="delete", sopInstanceUid="1.2.9.2", requestedBy="x", reason="y")
    ask(house.run.engine, asked, source_system="default")
    house.chain(NEXT_DAY)
    (study,) = house.rows(catalog.silver_imaging_study())
    assert study["numberOfInstances"] == 2
    done = maintain(house.run.engine, house.settings)
    assert {each.table for each in done} >= {"bronze.dicomimagingmetastore", "gold.person"}
    (lost,), (damaged,) = on_s3.keys(end="_1.dcm.zip"), on_s3.keys(end="_3.dcm.zip")
    on_s3.place.delete(lost)
    on_s3.place.put(damaged, b"PK\3\4 damaged")
    on_s3.place.put("lake/bronze/Files/Process/Imaging/DICOM/nobody's", b"x")
    found, remains = verify_and_repair(house.settings, hashes=True)
    kinds = {kind: number for kind, number in found.counts.items() if number}
    assert kinds == {Kind.FILE_MISSING: 1, Kind.CONTENT: 1, Kind.ORPHAN: 1}
    assert remains.counts[Kind.FILE_MISSING] == 1


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 1.0)
    monkeypatch.setattr(lease, "_RENEWED_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_LOOKS_SECONDS", 0.05)


def seconds(act: Callable[[], Any]) -> float:
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def take(root: FarPath) -> None:
    with locked(root):
        pass


def test_a_root_may_be_the_whole_bucket_and_nothing_stays_on_this_machine(on_s3, tmp_path, scratch):
    drops.packed(tmp_path / "Doe.zip", {"a/1.dcm": drops.of(1), "2.dcm": drops.of(2)})
    packed = (tmp_path / "Doe.zip").read_bytes()
    on_s3.place.put("bronze/Files/Ingest/Imaging/DICOM/Doe.zip", packed)
    house = on_s3.house(lakehouse=on_s3.place.address)
    for _ in range(2):
        house.chain(until="extract")
        assert len(house.metastore()) == 2
    assert {path.name for path in scratch.rglob("*") if path.is_file()} == {"id"}


def test_of_archives_that_are_bombs_no_copy_stays_on_this_machine(
    on_s3, tmp_path, scratch, monkeypatch
):
    monkeypatch.setattr(archives, "FREE_EXPANSION", 1 << 20)
    drops.packed(tmp_path / "in.zip", {"x": bytes(1 << 20)})
    drops.packed(tmp_path / "bomb.zip", {"in.zip": (tmp_path / "in.zip").read_bytes()})
    house = on_s3.house()
    for name in ("Doe 1.zip", "Doe 2.zip", "Doe 3.zip.txt"):
        packed = (tmp_path / "bomb.zip").read_bytes()
        on_s3.place.put(f"{INGEST}/Imaging/DICOM/{name}", packed)
    original, left = Journal.carry_out, list[Path]()

    def carry_out(self: Journal, *args: Any, **kwargs: Any) -> Any:
        left.extend(self.staging.iterdir())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Journal, "carry_out", carry_out)
    house.chain(until="organise")
    assert set(house.failures().values()) == {"archive_bomb"}
    assert len(house.failures()) == 3
    assert left == []


def test_what_a_killed_run_of_this_machine_held_is_taken_at_once(on_s3, quick_lease):
    left = lease._Lease(on_s3.root)
    left.take()
    assert seconds(lambda: take(on_s3.root)) < 0.9


def test_what_another_machine_holds_is_taken_once_it_does_not_change_any_more(
    on_s3, quick_lease, monkeypatch, tmp_path
):
    left = lease._Lease(on_s3.root)
    left.take()
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # another machine
    assert seconds(lambda: take(on_s3.root)) > 0.9


def test_a_lease_that_is_held_is_waited_for(on_s3, quick_lease, monkeypatch, tmp_path):
    done = threading.Event()
    begun = threading.Event()

    def hold() -> None:
        with lease.leased(on_s3.root):
            begun.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait(10)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    threading.Timer(2.0, done.set).start()  # longer than it takes to expire
    assert seconds(lambda: take(on_s3.root)) > 1.8
    holder.join()


def test_who_has_lost_the_lease_says_so(on_s3, quick_lease):
    with pytest.raises(PlainError, match="was lost"), lease.leased(on_s3.root):
        on_s3.place.put(f"lake/{lease.NAME}", b"{}")  # somebody else's
        time.sleep(0.5)
        with pytest.raises(PlainError, match="was lost"):
            (on_s3.root / "late").write_bytes(b"")
    on_s3.place.delete(f"lake/{lease.NAME}")
    take(on_s3.root)
    (on_s3.root / "late").write_bytes(b"")


def test_a_path_of_a_store_is_none_of_this_machine(on_s3):
    path = on_s3.root / "a" / "b.dcm"
    assert str(path) == f"{on_s3.place.address}/lake/a/b.dcm"
    with pytest.raises(TypeError, match="object store"):
        os.stat(path)
    assert pickle.loads(pickle.dumps(path)) == path  # noqa: S301


def test_an_object_too_large_for_the_store_to_copy_is_copied_through_this_machine(
    on_s3, monkeypatch
):
    monkeypatch.setattr(far_paths, "_COPIED_BY_STORE", 10)
    (on_s3.root / "a").write_bytes(b"much more than that")
    (on_s3.root / "a").replace(on_s3.root / "b")
    assert (on_s3.root / "b").read_bytes() == b"much more than that"
    assert not (on_s3.root / "a").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://user:key@bucket/lake", "must not hold a key"),
        ("https://store.example/lake", "begins with abfss://|begins with az://"),
        ("s3://", "must name a container or bucket"),
    ],
)
def test_an_address_that_is_none_is_told(address, said):
    with pytest.raises(SettingsError, match=said):
        load_settings(lakehouse=address)


def test_what_is_received_lies_in_the_drop_folder_and_the_sensor_sees_it(on_s3, tmp_path):
    drop = on_s3.root / "bronze/Files/Ingest/Imaging/DICOM"
    instance = drops.file(tmp_path / "sent.dcm", 1)
    with listening(drop, within=drop, beside=tmp_path, aet="TEST", host="127.0.0.1", port=0) as (
        _,
        server,
    ):
        sender = AE()
        sender.add_requested_context(instance.SOPClassUID)
        association = sender.associate("127.0.0.1", server.server_address[1])
        assert association.send_c_store(tmp_path / "sent.dcm").Status == 0
        association.release()
    (key,) = on_s3.keys(begin=INGEST)
    assert f"/{instance.SOPInstanceUID}_" in key
    count, cursor = watch([drop], cursor=None, settle_seconds=0)
    assert count == 1
    assert watch([drop], cursor=cursor, settle_seconds=0)[0] == 0


def test_a_shortcut_of_a_lakehouse_on_a_store_leads_to_another_place(on_s3, moto, tmp_path):
    other = moto.place(f"test-{uuid.uuid4().hex}")
    other.put("x/1.dcm", drops.of(1))
    external = "lake/bronze/Files/External/Imaging/DICOM/PACS1"
    link = {"address": other.address, "prefix": "x"}
    on_s3.place.put(f"{external}/images.json", json.dumps(link).encode())
    on_s3.place.put(f"{external}/here/2.dcm", drops.of(2))
    house = on_s3.house(storage={**on_s3.choices["storage"], **other.storage})
    house.chain(until="extract")
    assert {row["filePath"] for row in house.metastore()} == {
        f"{other.address}/x/1.dcm",
        f"{external.removeprefix('lake/')}/here/2.dcm",
    }
    house.chain(until="extract")
    assert len(house.metastore()) == 2

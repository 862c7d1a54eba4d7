"""What tests share: a fresh lakehouse, DICOM files to drop, and the chain without Dagster."""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_assets.lakehouse.garbage import collect_seldom, keep_what_is_loaded
from dicom_assets.settings import Settings, load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.run import Run
from dicom_assets_tests.dicomweb.front import Front, in_front_of
from dicom_assets_tests.orthanc import IS_INSTALLED, Orthanc, running

collect_seldom()

SHARED_DICOM = Path(__file__).parents[2] / "shared/data/dicom"
DAY = date(2026, 3, 14)
NAME = "Zqxname"
"""A patient's name, and a file's, which no log may hold."""
MEMORY = Path("/dev/shm")  # noqa: S108 a file system of its own

TAKE_LONG = (
    "test_spark_engine.py",
    "test_ui.py",
    "test_cluster.py",
    "test_object_store_root.py",
    "test_disturbed.py",
    "test_corrections.py",
    "test_verify.py",
    "test_cli.py",
    "test_external.py",
    "test_assets.py",
    "test_sensors.py",
    "test_killed_on_the_first_day.py",
    "test_killed_on_the_next_day.py",
)
"""What comes first, so that it does not end last and alone: the longest first."""

if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    # lakehouses of tests lie in memory: what syncing is for is tried with power cuts of its own
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(TAKE_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    keep_what_is_loaded()  # pytest looks for garbage at its end again and again


def another_file_system(than: Path) -> Path:
    """Returns a folder on a file system other than that of a path; skips where there is none."""
    for folder in (MEMORY, Path(tempfile.gettempdir()), Path.cwd()):
        if folder.is_dir() and folder.stat().st_dev != than.stat().st_dev:
            return folder
    pytest.skip("there is no other file system")


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    if not SHARED_DICOM.is_dir():
        pytest.skip("../shared/data/dicom is not beside this checkout")
    return SHARED_DICOM


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """Returns a folder that is made once for all processes of a run. Nobody changes it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, is_made = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that broke off
            make(folder)
            is_made.touch()
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample. Nobody changes it."""
    from dicom_assets.sample import write_sample

    return made_once(tmp_path_factory, "sample", write_sample)


def interrupting(done: int) -> Callable[[Callable], Callable]:
    """Returns what makes functions break off before the next call, once so many were made."""
    acts = iter(range(100))

    def interrupted(original: Callable) -> Callable:
        def act(*args: Any, **kwargs: Any) -> Any:
            if next(acts) == done:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return act

    return interrupted


@contextmanager
def as_nobody(root: Path) -> Iterator[None]:
    """Root may write anywhere; this makes the process somebody who may write to `root` alone."""
    if os.geteuid():
        yield
        return
    for path in (root, *root.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    for path in list(root.parents)[:4]:
        os.chmod(path, path.stat().st_mode | 0o055)  # noqa: S103
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class House:
    """A lakehouse under test."""

    def __init__(self, root: Path | str, **choices: Any) -> None:
        self.settings: Settings = load_settings(
            lakehouse=root, **{"settle_seconds": 0, "workers": 2, **choices}
        )
        self.run = self.on(DAY)
        self.drop = self.run.engine.layout.drop_folder
        self.drop.mkdir(parents=True, exist_ok=True)

    def on(self, day: date) -> Run:
        return Run.of(self.settings, day.isoformat(), "test-run")

    def chain(self, day: date = DAY, *, until: str | None = None) -> None:
        """Runs the steps for a date, all of them or up to one."""
        for name, step in STEPS.items():
            step(self.on(day))
            if name == until:
                break

    def rows(self, table: Any) -> list[dict[str, Any]]:
        return self.run.engine.read(table, table.schema.names).to_pylist()

    def failures(self) -> dict[str, str]:
        """Source path → reason code."""
        rows = self.rows(catalog.INGESTION_FAILURES)
        return {row["sourcePath"]: row["reasonCode"] for row in rows}

    def files(self, below: str) -> list[Path]:
        return sorted(p for p in (self.settings.lakehouse / below).rglob("*") if p.is_file())

    def metastore(self) -> list[dict[str, Any]]:
        return self.rows(catalog.metastore(self.settings.promoted))

    def everything(self) -> dict[str, Any]:
        """Every file and when it was last written: what a rerun must leave as it is."""
        root = self.settings.lakehouse
        return {
            str(path.relative_to(root)): path.stat().st_mtime_ns
            for path in root.rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="session")
def house_class() -> type[House]:
    return House


def drop_published(drop: Path) -> None:
    """Drops all files that others have published, and one of a patient by a name of ours."""
    published = SHARED_DICOM
    if not published.is_dir():
        published = Path(pydicom.__path__[0]) / "data/test_files"
    ignored = shutil.ignore_patterns("*.md", "*.txt")
    shutil.copytree(published, drop, dirs_exist_ok=True, ignore=ignored)
    dicom(drop / NAME, PatientName=NAME, SOPInstanceUID="1.2.3.4.1.1")


@pytest.fixture(scope="session")
def with_published(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A lakehouse of what was published, whose chain has run. Nobody changes it."""

    def make(folder: Path) -> None:
        house = House(folder)
        drop_published(house.drop)
        house.chain()

    return House(made_once(tmp_path_factory, "published", make))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "lakehouse")


@pytest.fixture
def make_house(tmp_path: Path) -> Callable[..., House]:
    return lambda **choices: House(tmp_path / "lakehouse", **choices)


def dicom(path: Path, **elements: Any) -> Dataset:
    """Writes a small instance; any element can be given or, by None, left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.1",
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "StudyDate": "20260102",
        "Modality": "CT",
    } | elements
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from dicom_assets_tests import object_stores

    if not object_stores.AZURITE_IS_INSTALLED:
        pytest.skip("Azurite is not there: `make test` installs it where there is npm")
    with object_stores.azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from dicom_assets_tests import object_stores

    with object_stores.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["folder", "azure", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A folder, a container and a bucket, each of the test's own."""
    from dicom_assets_tests.object_stores import folder_place

    if request.param == "folder":
        return folder_place(tmp_path / "elsewhere")
    server = request.getfixturevalue({"azure": "azurite", "s3": "moto"}[request.param])
    return server.place(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def write_dicom() -> Callable[..., Dataset]:
    return dicom


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if not IS_INSTALLED:
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (orthanc, orthanc-dicomweb)")
    with running(tmp_path_factory.mktemp("orthanc")) as started:
        yield started


@pytest.fixture
def front(orthanc: Orthanc) -> Iterator[Front]:
    with in_front_of(orthanc) as started:
        yield started

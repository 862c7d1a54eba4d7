"""The C-STORE receiver, as DCMTK's storescu and echoscu see it; and killed in the middle."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity as AE
from pynetdicom.status import code_to_category

from dicom_assets.cli import main
from dicom_assets.dicomweb.part10 import dataset_hash
from dicom_assets.steps.listen import _FOLDER_NAME, Receiver
from dicom_assets_tests.conftest import dicom
from dicom_assets_tests.serving import free_port

COMMAND = str(Path(sys.executable).with_name("dicom-assets"))
STORESCU = shutil.which("storescu")
needs_dcmtk = pytest.mark.skipif(not STORESCU, reason="DCMTK is not installed (dcmtk)")
# without it each answer waits for the acknowledgement of the last one
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}


class Listener:
    """A running `dicom-assets listen`."""

    def __init__(self, lakehouse: Path, port: int, *options: str) -> None:
        arguments = ["--aet", "DROP", "--port", str(port), "--lakehouse", str(lakehouse), *options]
        self.port = str(port)
        self.drop = lakehouse / "bronze/Files/Ingest/Imaging/DICOM"
        self.process = subprocess.Popen(
            [COMMAND, "listen", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout
        assert "listening as DROP" in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def send(self, *paths: Path, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Sends files and folders over one association."""
        return subprocess.Popen(
            [str(STORESCU), "-v", "+sd", "+r", *options, "127.0.0.1", self.port, *map(str, paths)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def files(self) -> list[Path]:
        return sorted(self.drop.rglob("*.dcm"))


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    started: list[Listener] = []

    def start(*options: str, port: int | None = None) -> Listener:
        started.append(Listener(tmp_path / "lakehouse", port or free_port(), *options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture(scope="module")
def listen_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    listener = Listener(tmp_path_factory.mktemp("listen") / "lakehouse", free_port())
    yield listener
    listener.kill()


def dataset_of(path: Path) -> str:
    found = dataset_hash([path.read_bytes()])
    assert found
    return found[1]


def acknowledged(senders: list[subprocess.Popen[str]]) -> set[Path]:
    """Waits for storescu to end, and returns the files of which it was told that they are kept."""
    found = set()
    for sender in senders:
        sent = None
        for line in sender.communicate(timeout=60)[0].splitlines():
            if match := re.search(r"Sending file: (\S+)", line):
                sent = Path(match[1])
            elif "Received Store Response (Success)" in line and sent:
                found.add(sent)
    return found


@needs_dcmtk
def test_what_is_acknowledged_is_there_after_a_kill(listen, tmp_path):
    """1,000 instances over six associations; the receiver is killed in the midst of them."""
    dicom(tmp_path / "one.dcm", SOPInstanceUID="1.2.3.900000", PatientComments="x" * 2000)
    one = (tmp_path / "one.dcm").read_bytes()
    folders = [tmp_path / f"made/{number}" for number in range(6)]
    for number in range(1000):
        path = folders[number % 6] / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.replace(b"1.2.3.900000", f"1.2.3.1{number:05}".encode()))
    sent = {path: dataset_of(path) for folder in folders for path in folder.iterdir()}
    assert len(set(sent.values())) == 1000
    listener = listen()
    senders = [listener.send(folder) for folder in folders]
    while len(listener.files()) < 500:
        assert all(sender.poll() is None for sender in senders)
        time.sleep(0.02)
    listener.kill()
    told = acknowledged(senders)
    assert 400 < len(told) < 1000, "it was killed in the middle"
    kept = {dataset_of(path) for path in listener.files()}
    assert {sent[path] for path in told} <= kept
    assert len(kept) <= len(told) + 6, "one of each association may be there and not be told of"
    (remains,) = (p for p in listener.drop.parent.iterdir() if p.name.startswith(_FOLDER_NAME))
    again = listen(port=int(listener.port))
    assert not remains.exists(), "half files of the killed one are gone"
    for path in told:
        path.unlink()
    rest = acknowledged([again.send(folder) for folder in folders])
    assert len(rest) == 1000 - len(told)
    assert {dataset_of(path) for path in again.files()} == set(sent.values())
    assert {oct(path.stat().st_mode)[-3:] for path in again.files()} == {"640"}


@needs_dcmtk
def test_it_answers_an_echo(listen_once):
    echo = subprocess.run(["echoscu", "127.0.0.1", listen_once.port], check=False)
    assert echo.returncode == 0


def send(path: Path, port: str) -> int:
    """Sends a file's dataset as it stands, and returns the status."""
    meta = read_file_meta_info(path)
    entity = AE()
    entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", int(port))
    assert association.is_established
    status = association.send_c_store(path)
    association.release()
    return status.Status


@pytest.mark.parametrize(
    ("sop_class", "syntax"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2"),
        ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.2"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.1.2.1.99"),
        ("1.2.840.10008.5.1.4.1.1.77.1.4.1", "1.2.840.10008.1.2.4.100"),
        ("1.3.12.2.1107.5.9.1", "1.2.840.10008.1.2.1"),  # a vendor's own
        ("1.2.840.10008.5.1.4.1.1.999", "1.2.840.10008.1.2.4.999"),  # of a standard to come
    ],
)
def test_every_sop_class_is_taken_in_every_transfer_syntax_and_never_decoded(
    listen_once, tmp_path, monkeypatch, sop_class, syntax
):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UID(sop_class), UID(syntax)
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    content = BytesIO()
    write_file_meta_info(content, meta)  # pyright: ignore[reportArgumentType]
    path = tmp_path / "sent"
    path.write_bytes(b"\0" * 128 + b"DICM" + content.getvalue() + b"nothing to decode" * 20_001)
    assert send(path, listen_once.port) == 0
    (file,) = listen_once.files()
    kept = read_file_meta_info(file)
    assert (kept.MediaStorageSOPClassUID, kept.TransferSyntaxUID) == (sop_class, syntax)
    assert dataset_of(file) == dataset_of(path)
    assert file.name.startswith("1.2.3.4_")
    file.unlink()


def test_what_cannot_be_kept_is_refused(listen_once, tmp_path, monkeypatch):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    dicom(tmp_path / "a.dcm")
    aside = listen_once.drop.with_name("aside")
    listen_once.drop.rename(aside)
    listen_once.drop.write_text("no folder")
    try:
        assert send(tmp_path / "a.dcm", listen_once.port) == 0x0110
    finally:
        listen_once.drop.unlink()
        aside.rename(listen_once.drop)
    assert listen_once.files() == []
    assert send(tmp_path / "a.dcm", listen_once.port) == 0
    (file,) = listen_once.files()
    file.unlink()


def test_instances_come_under_a_namespace_whose_folder_may_have_gone(listen, tmp_path, monkeypatch):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    monkeypatch.setenv("DICOM_ASSETS_SOURCE_SYSTEMS", "PACS1")
    listener = listen("--namespace", "PACS1")
    (listener.drop / "PACS1").rmdir()
    dicom(tmp_path / "a.dcm")
    assert send(tmp_path / "a.dcm", listener.port) == 0
    assert [path.parent.name for path in listener.files()] == ["PACS1"]
    listener.process.send_signal(signal.SIGTERM)
    said = listener.process.communicate(timeout=20)[0]
    assert (listener.process.returncode, said) == (0, "stopped; 1 instances received\n")
    assert [path.name for path in listener.drop.parent.iterdir()] == ["DICOM"]


def test_no_instance_is_kept_behind_a_link_and_none_is_said_to_be(listen, tmp_path, monkeypatch):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    monkeypatch.setenv("DICOM_ASSETS_SOURCE_SYSTEMS", "PACS1")
    listener = listen("--namespace", "PACS1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (listener.drop / "PACS1").rmdir()
    (listener.drop / "PACS1").symlink_to(outside)
    dicom(tmp_path / "a.dcm")
    assert send(tmp_path / "a.dcm", listener.port) == 0x0110
    assert list(outside.iterdir()) == []
    options = ["--aet", "DROP", "--port", "0", "--namespace", "PACS1"]
    options += ["--lakehouse", str(tmp_path / "lakehouse")]
    again = CliRunner().invoke(main, ["listen", *options])
    assert again.exit_code == 1
    assert f"no instance can be put into {listener.drop / 'PACS1'}: a link" in again.output
    assert "take it away" in again.output
    (listener.drop / "PACS1").unlink()
    assert send(tmp_path / "a.dcm", listener.port) == 0
    assert [path.parent.name for path in listener.files()] == ["PACS1"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((error, 0xA700) for error in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)),
        *((error, 0x0110) for error in (errno.EIO, errno.EROFS, errno.EACCES)),
    ],
)
def test_what_the_storage_refuses_can_be_sent_again_and_is_not_said_to_be_no_dicom(
    tmp_path, monkeypatch, caplog, error, status
):
    def fails(*_: object) -> None:
        raise OSError(error, os.strerror(error), "Doe_Jane")

    monkeypatch.setattr("dicom_assets.steps.listen.give_name", fails)
    (tmp_path / "written").write_bytes(b"x")
    sent: Any = SimpleNamespace(dataset_path=tmp_path / "written", request=None)
    receiver = Receiver(tmp_path / "drop", within=tmp_path / "drop", scratch=tmp_path)
    assert receiver.store(sent) == status
    assert code_to_category(status) == "Failure"
    assert receiver.received == 0
    assert "could not be kept" in caplog.text
    assert "Doe" not in caplog.text


def test_a_port_that_is_taken_and_a_wrong_namespace_are_told(listen_once, tmp_path):
    taken = ["--aet", "DROP", "--port", listen_once.port, "--lakehouse", str(tmp_path)]
    run = CliRunner().invoke(main, ["listen", *taken])
    assert (run.exit_code, "cannot listen on 127.0.0.1" in run.output) == (1, True)
    run = CliRunner().invoke(main, ["listen", *taken, "--namespace", "X"])
    assert (run.exit_code, "no such namespace" in run.output) == (2, True)
    run = CliRunner().invoke(main, ["listen", *taken[2:], "--aet", "A TITLE THAT IS TOO LONG"])
    assert (run.exit_code, "is no AE title" in run.output) == (1, True)

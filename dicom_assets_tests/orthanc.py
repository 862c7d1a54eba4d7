"""A real Orthanc for tests and benchmarks: on free ports of 127.0.0.1, ended by its process."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dicom_assets.dicomweb.service import Service

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "tester", "not-a-secret"
IS_INSTALLED = PROGRAM is not None and PLUGIN.exists()
_SECONDS = 20


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass
class Orthanc:
    """A running one.

    Attributes:
        address: Its REST root.
        storage: Where it keeps files.
    """

    address: str
    storage: Path

    @property
    def service(self) -> Service:
        """It, as a site states it; whoever wants its changes read names its REST root."""
        return Service.model_validate(
            {"address": f"{self.address}/dicom-web", "user": USER, "password": PASSWORD}
        )

    @property
    def with_changes(self) -> Service:
        return self.service.model_copy(update={"orthanc_address": self.address})

    def rest(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, auth=(USER, PASSWORD), timeout=30)

    def count(self) -> int:
        with self.rest() as client:
            return client.get("/statistics").json()["CountInstances"]


@contextmanager
def running(folder: Path) -> Iterator[Orthanc]:
    """Starts an Orthanc in a folder, and ends it."""
    assert PROGRAM
    folder.mkdir(parents=True, exist_ok=True)
    port, storage = free_port(), folder / "storage"
    configuration = {
        "Name": "dicom-assets",
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "StorageCompression": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [PROGRAM, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
        )
    orthanc = Orthanc(f"http://127.0.0.1:{port}", storage)
    try:
        end = time.monotonic() + _SECONDS
        while not _answers(orthanc):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "Orthanc does not answer"
            time.sleep(0.05)
        yield orthanc
    finally:
        process.kill()  # told to terminate it takes two seconds, and nothing of it is kept
        process.wait()


def _answers(orthanc: Orthanc) -> bool:
    try:
        with orthanc.rest() as client:
            return client.get("/system").is_success
    except httpx.TransportError:
        return False

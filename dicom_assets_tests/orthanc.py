"""A real Orthanc for tests and benchmarks: on free ports of 127.0.0.1, ended by its process."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dicom_assets.dicomweb.service import Service
from dicom_assets_tests.serving import free_port, served

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "tester", "not-a-secret"
IS_INSTALLED = PROGRAM is not None and PLUGIN.exists()


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
    orthanc = Orthanc(f"http://127.0.0.1:{port}", storage)
    command = [PROGRAM, str(folder / "orthanc.json")]
    with served(command, answers=lambda: _answers(orthanc), log=folder / "log"):
        yield orthanc


def _answers(orthanc: Orthanc) -> bool:
    try:
        with orthanc.rest() as client:
            return client.get("/system").is_success
    except httpx.TransportError:
        return False

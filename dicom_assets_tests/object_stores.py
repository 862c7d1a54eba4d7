"""Object stores for tests: Azurite and moto, started on free ports, and plain folders."""

import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore

from dicom_assets_tests.serving import free_port, listens, served

AZURITE = Path(__file__).parent / "servers/node_modules/.bin/azurite-blob"
AZURITE_IS_INSTALLED = AZURITE.exists() and shutil.which("node") is not None
ACCOUNT = "devstoreaccount1"
# the key of every Azurite, as its documentation says
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-12-02"
# moto's S3, without moto_server's asking of each request which of 170 services it is for
_ONLY_S3 = """
import logging, sys
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

logging.getLogger("werkzeug").setLevel(logging.ERROR)
port, app = int(sys.argv[1]), create_backend_app("s3")
run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)
"""


class Place:
    """A container, bucket or folder of a test's own."""

    def __init__(self, address: str, section: dict[str, str], store: Any) -> None:
        self.address, self.section, self.store = address, section, store

    @property
    def storage(self) -> dict[str, dict[str, str]]:
        return {self.address: self.section} if self.section else {}

    def put(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data)

    def delete(self, key: str) -> None:
        obstore.delete(self.store, key)

    def keys(self) -> set[str]:
        return {each["path"] for batch in obstore.list(self.store) for each in batch}


class Azurite:
    """A running Azurite."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"

    def place(self, name: str) -> Place:
        """Makes a container."""
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = f"x-ms-date:{date}\nx-ms-version:{_VERSION}"
        resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = _signed("\n".join(["PUT", *[""] * 11, headers, resource]))
        request = urllib.request.Request(  # noqa: S310
            f"{self.endpoint}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": _VERSION,
                "Authorization": f"SharedKey {ACCOUNT}:{signature}",
                "Content-Length": "0",
            },
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.status == 201
        section = {
            "azure_storage_account_name": ACCOUNT,
            "azure_storage_account_key": KEY,
            "azure_storage_endpoint": self.endpoint,
        }
        return Place(f"az://{name}", section, self.client(name, section))

    def for_tables(self) -> dict[str, str]:
        """Returns options with which delta-rs lists as Azurite can; the environment says where."""
        os.environ["AZURITE_BLOB_STORAGE_URL"] = self.endpoint.removesuffix(f"/{ACCOUNT}")
        return {"azure_storage_use_emulator": "true"}

    def client(self, name: str, section: dict[str, str]) -> Any:
        from obstore.store import AzureStore

        options: Any = {"allow_http": True}
        return AzureStore(name, config=section, client_options=options)  # pyright: ignore

    def read_only(self, place: Place, *, permissions: str = "rl") -> dict[str, str]:
        """Returns options with a SAS of a container, in place of the key."""
        name = place.address.removeprefix("az://")
        until = "2099-01-01T00:00:00Z"
        resource = f"/blob/{ACCOUNT}/{name}"
        fields = [permissions, "", until, resource, "", "", "", _VERSION, "c", *[""] * 7]
        signature = urllib.parse.quote(_signed("\n".join(fields)), safe="")
        sas = f"sp={permissions}&se={until}&sv={_VERSION}&sr=c&sig={signature}"
        rest = {name: value for name, value in place.section.items() if "key" not in name}
        return rest | {"azure_storage_sas_token": sas}


def _signed(text: str) -> str:
    return base64.b64encode(
        hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    ).decode()


class Moto:
    """A running moto."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def place(self, name: str) -> Place:
        """Makes a bucket."""
        from obstore.store import S3Store

        section = {
            "aws_access_key_id": "test",
            "aws_secret_access_key": "testing-secret",
            "aws_region": "us-east-1",
            "aws_endpoint": self.endpoint,
        }
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.status == 200
        options: Any = {"allow_http": True}
        store = S3Store(name, config=section, client_options=options)  # pyright: ignore
        return Place(f"s3://{name}", section, store)


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    port = free_port()
    command = [str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]
    with served([*command, *options], answers=lambda: listens(port), log=folder / "log"):
        yield Azurite(port)


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Moto]:
    port = free_port()
    command = [sys.executable, "-c", _ONLY_S3, str(port)]
    with served(command, answers=lambda: listens(port), log=folder / "log"):
        yield Moto(port)


def folder_place(folder: Path) -> Place:
    from obstore.store import LocalStore

    folder.mkdir(parents=True)
    return Place(str(folder), {}, LocalStore(folder))

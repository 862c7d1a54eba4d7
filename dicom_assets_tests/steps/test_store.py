"""Files go into a real Orthanc, and come out as they went in."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dicom_assets.cli import main
from dicom_assets.dicomweb.client import Client
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.settings import Settings, load_settings
from dicom_assets.steps import store as storing
from dicom_assets.steps.store import chosen, compare, store
from dicom_assets_tests.conftest import dicom
from dicom_assets_tests.orthanc import PASSWORD, USER, Orthanc


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(lakehouse=tmp_path / "lakehouse")


@pytest.fixture
def client(orthanc: Orthanc) -> Iterator[Client]:
    with Client.of("orthanc", orthanc.service) as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    for number in range(5):
        dicom(folder / f"{number}.dcm", SOPInstanceUID=f"1.2.3.{number}")
    return folder


def test_the_sample_goes_in_and_comes_out_the_same(client, sample, settings):
    assert store(client, [sample], settings).counts["stored"] == 96
    again = store(client, [sample], settings)
    assert (again.counts["stored"], again.problems) == (96, []), "running it again is safe"
    found = compare(client, [sample], settings)
    assert found.counts["the same"] == 96
    assert found.size > 10_000_000
    assert found.problems == []


def test_one_that_the_service_does_not_take_fails_alone(client, files, settings):
    whole = (files / "2.dcm").read_bytes()
    (files / "2.dcm").write_bytes(whole[:-3])
    (files / "head only.dcm").write_bytes(whole[:140])
    dicom(files / "bare.dcm")
    (files / "bare.dcm").write_bytes((files / "bare.dcm").read_bytes()[132:])
    (files / "notes.txt").write_text("hello")
    found = store(client, [files], settings)
    assert found.counts == {"stored": 4, "failed": 3, "no DICOM": 1}
    said = {Path(source).name: problem for source, problem in found.problems}
    assert set(said) == {"2.dcm", "head only.dcm", "bare.dcm"}
    assert "without the head of a file" in said["bare.dcm"]
    assert "the service" in said["2.dcm"]


def test_many_go_in_few_requests_bounded_by_bytes(client, files, settings, monkeypatch):
    size = (files / "0.dcm").stat().st_size
    monkeypatch.setattr(storing, "_BYTES_PER_REQUEST", 2 * size)
    sent = []
    original = Client.store
    monkeypatch.setattr(Client, "store", lambda c, f: sent.append(len(f)) or original(c, f))
    assert store(client, [files], settings).counts == {"stored": 5}
    assert sent == [2, 2, 1]


def test_archives_in_archives_are_stored_and_a_damaged_one_is_told(client, files, settings):
    with zipfile.ZipFile(files / "inner.zip", "w") as inner:
        for number in range(3):
            inner.write(files / f"{number}.dcm", f"deep/er/{number}")
            (files / f"{number}.dcm").unlink()
    with zipfile.ZipFile(files / "outer.zip", "w") as outer:
        outer.write(files / "inner.zip", "x/inner.zip")
    (files / "inner.zip").write_bytes(b"PK\x03\x04 nothing of the kind")
    found = store(client, [files], settings)
    assert found.counts == {"stored": 5, "failed": 1}
    assert [Path(source).name for source, _ in found.problems] == ["inner.zip"]
    compared = compare(client, [files / "outer.zip"], settings)
    assert compared.counts == {"the same": 3}


def test_of_two_archives_joined_the_one_that_is_seen_is_stored_and_the_other_told(
    client, files, settings
):
    with zipfile.ZipFile(files / "a.zip", "w") as archive:
        archive.write(files / "0.dcm", "0")
    joined = files / "joined.zip"
    joined.write_bytes(2 * (files / "a.zip").read_bytes())
    found = store(client, [joined], settings)
    assert found.counts == {"stored": 1, "failed": 1}
    ((source, why),) = found.problems
    assert source == f"{joined}"
    assert "two archives joined" in why


def test_what_differs_and_what_is_not_there_is_told(client, files, settings):
    store(client, [files], settings)
    dicom(files / "3.dcm", SOPInstanceUID="1.2.3.3", PatientComments="another one now")
    dicom(files / "9.dcm", SOPInstanceUID="1.2.3.999")
    found = compare(client, [files], settings)
    assert found.counts == {"the same": 4, "differs": 1, "not there": 1}
    assert {Path(source).name for source, _ in found.problems} == {"3.dcm", "9.dcm"}


def test_the_head_of_a_file_does_not_count(client, files, settings):
    store(client, [files], settings)
    content = bytearray((files / "0.dcm").read_bytes())
    content[:128] = b"x" * 128
    (files / "0.dcm").write_bytes(content)
    assert compare(client, [files / "0.dcm"], settings).counts == {"the same": 1}


def test_a_service_is_named_unless_there_is_one(tmp_path, orthanc, monkeypatch):
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__PACS__ADDRESS", orthanc.address)
    assert chosen(load_settings(), None) == "pacs"
    with pytest.raises(PlainError, match="name one of the configured services: pacs"):
        chosen(load_settings(), "vna")
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__VNA__ADDRESS", orthanc.address)
    with pytest.raises(PlainError, match="pacs, vna"):
        chosen(load_settings(), None)
    monkeypatch.undo()
    with pytest.raises(PlainError, match="no DICOM service is configured"):
        chosen(load_settings(), None)


def test_the_command_line_stores_verifies_and_says_so_by_its_exit_code(
    orthanc, files, tmp_path, monkeypatch
):
    configuration = tmp_path / "dicom_assets.toml"
    configuration.write_text(
        f'[dicom_services.pacs]\naddress = "{orthanc.service.address}"\nuser = "{USER}"\n'
    )
    monkeypatch.setenv("DICOM_ASSETS_CONFIG", str(configuration))
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__PACS__PASSWORD", PASSWORD)

    def call(verb: str) -> Result:
        return CliRunner().invoke(main, ["dicomweb", verb, str(files)])

    stored = call("store")
    assert (stored.exit_code, stored.stdout[:9]) == (0, "5 stored;"), stored.stderr
    verified = call("verify")
    assert (verified.exit_code, verified.stdout[:11]) == (0, "5 the same;"), verified.stderr
    shutil.copyfile(files / "0.dcm", files / "copy.dcm")
    dicom(files / "8.dcm", SOPInstanceUID="1.2.3.888")
    missing = call("verify")
    assert missing.exit_code == 1
    assert "8.dcm: the service does not have it" in missing.stderr
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__PACS__PASSWORD", "wrong")
    refused = call("store")
    assert refused.exit_code == 1
    assert "refuses it (401); check user and password" in refused.stderr

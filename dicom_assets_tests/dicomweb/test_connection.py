"""Requests that fail, and who asks: against a real Orthanc, behind a server that loses some."""

import logging
import time
from collections.abc import Callable

import pytest

from dicom_assets.dicomweb.client import Client, Instance
from dicom_assets.dicomweb.connection import ATTEMPTS, Connection, ServiceError
from dicom_assets.dicomweb.service import Service
from dicom_assets_tests.dicomweb.front import Front
from dicom_assets_tests.orthanc import Orthanc
from dicom_assets_tests.serving import free_port

UIDS = Instance("1.2.3.4", "1.2.3.4.1", "1.2.3.4.1.7")


@pytest.fixture(scope="module")
def stored(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from dicom_assets_tests.conftest import dicom

    path = tmp_path_factory.mktemp("stored") / "a.dcm"
    dicom(path, SOPInstanceUID=UIDS.sop)
    with Client.of("orthanc", orthanc.service) as client:
        client.store([(path, path.stat().st_size)])
    return path.read_bytes()


@pytest.fixture
def retrieve(front: Front, stored: bytes) -> Callable[..., bytes]:
    def retrieved(**statements: str) -> bytes:
        service = Service.model_validate({"address": front.address, **statements})
        client = Client(Connection("pacs", service, pause=0.001))
        found: list[bytes] = []
        client.retrieve(UIDS, lambda pieces: found.append(b"".join(pieces)))
        client.connection.close()
        return found[-1]

    return retrieved


@pytest.mark.parametrize("fault", [429, 500, 503, 504, "lost", "cut"])
def test_what_passes_is_tried_again(front, retrieve, stored, fault):
    front.answers = [(fault, {}), (fault, {})]
    assert retrieve() == stored
    assert len(front.seen) == 3


def test_a_service_says_how_long_to_wait(front, retrieve, stored):
    front.answers = [(429, {"Retry-After": "1"})]
    begin = time.monotonic()
    assert retrieve() == stored
    assert time.monotonic() - begin > 0.9


def test_what_does_not_pass_is_told_without_what_it_is_about(front, retrieve):
    front.answers = [(503, {})] * 99
    with pytest.raises(ServiceError, match="pacs, asked for WADO-RS, still answers 503") as told:
        retrieve()
    assert len(front.seen) == ATTEMPTS
    assert UIDS.sop not in str(told.value)
    assert not told.value.is_of_the_service


@pytest.mark.parametrize("status", [400, 404, 302])
def test_an_answer_that_will_not_change_is_taken_as_it_is(front, retrieve, status):
    front.answers = [(status, {"Location": "http://elsewhere.example"})]
    with pytest.raises(ServiceError, match=f"answers {status}"):
        retrieve()
    assert len(front.seen) == 1


def test_a_service_that_is_not_there_is_named(monkeypatch):
    service = Service(address=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ServiceError, match="cannot be reached") as told:
        Client(Connection("pacs", service, pause=0.001)).retrieve(UIDS, lambda _: None)
    assert told.value.is_of_the_service


def test_a_wrong_password_stops_everything_at_once(orthanc, stored):
    service = Service.model_validate(orthanc.service.model_dump() | {"password": "wrong-secret"})
    with (
        Client.of("pacs", service) as client,
        pytest.raises(ServiceError, match="check user and password") as told,
    ):
        client.retrieve(UIDS, lambda _: None)
    assert told.value.is_of_the_service
    assert "wrong-secret" not in f"{told.value} {service!r} {service.model_dump()}"


@pytest.fixture
def credentials(front: Front) -> dict[str, str]:
    front.wants_token = True
    return {
        "token_address": f"{front.address}/token",
        "client_id": "the-client",
        "client_secret": "the-secret",
        "scope": "the-scope/.default",
    }


def test_a_token_is_asked_for_once(front, retrieve, stored, credentials):
    assert retrieve(**credentials) == stored
    assert front.token_forms == [
        {
            "grant_type": "client_credentials",
            "client_id": "the-client",
            "client_secret": "the-secret",
            "scope": "the-scope/.default",
        }
    ]


def test_a_token_that_was_withdrawn_is_replaced(front, stored, credentials):
    service = Service.model_validate({"address": front.address, **credentials})
    with Client.of("pacs", service) as client:
        for _ in range(3):
            client.retrieve(UIDS, lambda _: None)
        assert len(front.tokens) == 1
        front.tokens.append("another")
        client.retrieve(UIDS, lambda _: None)
    assert len(front.token_forms) == 2


def test_a_token_that_ends_is_replaced_in_time(front, stored, credentials):
    front.token_seconds = 30
    service = Service.model_validate({"address": front.address, **credentials})
    with Client.of("pacs", service) as client:
        for _ in range(2):
            client.retrieve(UIDS, lambda _: None)
    assert len(front.tokens) == 2, "half a minute before its end it is not used any more"


def test_a_token_endpoint_that_refuses_is_told(front, retrieve, stored, credentials):
    with pytest.raises(ServiceError, match="token endpoint answers 401") as told:
        retrieve(**credentials | {"token_address": f"{front.address}/v2/nowhere"})
    assert "the-secret" not in str(told.value)


def test_no_log_names_an_instance_or_a_secret(front, retrieve, caplog, credentials):
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        assert logging.getLogger(name).level == logging.WARNING
    front.answers = [(503, {})]
    retrieve(**credentials)
    said = caplog.text
    assert "pacs: WADO-RS is tried again" in said
    assert not [word for word in (UIDS.study, "the-secret", "token-0") if word in said]

"""Services that answer with nonsense, or without end: each is told, and nothing goes on and on."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from dicom_assets.dicomweb import connection
from dicom_assets.dicomweb.client import Client
from dicom_assets.dicomweb.connection import Connection, ServiceError
from dicom_assets.dicomweb.feeds import AzureFeed, DateFeed, Feed, OrthancFeed
from dicom_assets.dicomweb.service import Service

ADDRESS = "http://pacs.example/v1"
Answering = Callable[[Callable[[httpx.Request], httpx.Response]], Client]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Makes a client of a service that answers as a function says."""
    made: list[Connection] = []

    def of(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
        service = Service(address=ADDRESS, orthanc_address=ADDRESS)
        made.append(Connection("pacs", service, pause=0.001))
        made[-1]._client = httpx.Client(transport=httpx.MockTransport(answer))
        return Client(made[-1])

    yield of
    for each in made:
        each.close()


def study(number: int) -> dict[str, Any]:
    return {"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}}


def test_a_search_ends_at_a_service_that_ignores_offset(answering):
    for size in (1, 200):
        client = answering(lambda _, n=size: httpx.Response(200, json=[study(i) for i in range(n)]))
        with pytest.raises(ServiceError, match="ignores `offset`"):
            list(client.search("/studies", {}))


def test_what_comes_during_a_search_moves_others_and_breaks_nothing(answering):
    pages = iter([[study(1), study(2)], [study(2)], [study(3)], []])
    client = answering(lambda _: httpx.Response(200, json=next(pages)))
    assert list(client.search("/studies", {})) == [study(1), study(2), study(3)]


def test_a_change_feed_ends_where_it_goes_round(answering):
    entry = {"sequence": 3, "studyInstanceUid": "1", "seriesInstanceUid": "1"}
    entry |= {"sopInstanceUid": "1", "action": "create", "timestamp": "2026-03-14T10:00:00Z"}

    def azure(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/latest"):
            return httpx.Response(200, json=entry | {"sequence": 9})
        return httpx.Response(200, json=[entry])

    def orthanc(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"Last": 5, "Done": False, "Changes": []})

    with pytest.raises(ServiceError, match="ignores `offset`"):
        list(AzureFeed(answering(azure)).pages(0))
    with pytest.raises(ServiceError, match="ignores `since`"):
        list(OrthancFeed(answering(orthanc)).pages(0))


NONSENSE = [5, "x", [5], [[]], {"a": 1}, {"Last": "x", "sequence": "x"}, {"sequence": 1e30}]
NONSENSE += [{"Last": 9, "Done": False, "Changes": 5, "sequence": [1]}]


@pytest.mark.parametrize("said", NONSENSE, ids=json.dumps)
@pytest.mark.parametrize("feed", [AzureFeed, OrthancFeed])
def test_a_feed_of_nonsense_is_told(answering, said, feed: Callable[[Client], Feed]):
    def answer(request: httpx.Request) -> httpx.Response:
        is_latest = request.url.path.endswith("/latest") and not isinstance(said, dict)
        return httpx.Response(200, json={"sequence": 7} if is_latest else said)

    with pytest.raises(ServiceError, match="answers something else"):
        list(feed(answering(answer)).pages(0))


@pytest.mark.parametrize(
    "said", [5, {"a": 1}, ["x"], [{"0020000D": 5}], [study(1) | {"00080018": 1}]]
)
def test_a_search_of_nonsense_is_told(answering, said):
    client = answering(lambda _: httpx.Response(200, json=said))
    with pytest.raises(ServiceError, match="QIDO-RS, answers something else"):
        list(client.search("/studies", {}))


def test_what_cannot_be_decoded_is_told(answering):
    headers = {"Content-Encoding": "gzip", "Content-Type": "multipart/related; boundary=x"}

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"no gzip"))

    client = answering(answer)
    with pytest.raises(ServiceError, match="answers something else"):
        list(client.search("/studies", {}))
    client.try_series("1", "2", lambda pieces: None)
    deep = answering(lambda _: httpx.Response(200, content=b"[" * 200_000))
    with pytest.raises(ServiceError, match="no JSON"):
        list(deep.search("/studies", {}))


def test_a_name_that_makes_no_address_is_told(answering):
    client = answering(lambda _: httpx.Response(200, json=[]))
    with pytest.raises(ServiceError, match="makes no address"):
        list(client.search("/studies/1\n2/instances", {}))


@pytest.mark.parametrize(
    "address", ["http://h:99999/x", "http://[::1", "https://h/x?y=1", "https://h/#x", "http://:80"]
)
def test_an_address_that_is_none_is_refused_by_the_settings(address):
    with pytest.raises(ValidationError, match="must be an address"):
        Service(address=address)


def test_a_token_endpoint_out_of_reach_is_told_by_its_setting(monkeypatch):
    asked = []

    def post(*_: Any, **__: Any) -> httpx.Response:
        asked.append(1)
        raise httpx.ConnectError("no")

    monkeypatch.setattr(connection.httpx, "post", post)
    client = {"client_id": "x", "client_secret": "y", "token_address": "https://token.example"}
    service = Service.model_validate({"address": ADDRESS, **client})
    one = Connection("pacs", service, pause=0.001)
    with pytest.raises(ServiceError, match="check token_address") as told:
        one.json("QIDO-RS", f"{ADDRESS}/studies")
    one.close()
    assert told.value.is_of_the_service
    assert len(asked) == connection.ATTEMPTS


def test_a_study_whose_uid_is_none_is_never_asked_for_and_holds_up_no_other(answering):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        is_first_page = request.url.params.get("offset", "0") == "0"
        if request.url.path.endswith("/instances"):
            uids = {"00080018": "1.2.7.1", "0020000E": "1.2.7"}
            found = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}
            return httpx.Response(200, json=[found] if is_first_page else [])
        listed = [
            {"0020000D": {"vr": "UI", "Value": [uid]}} for uid in ("../../x", "1.2.5\0", "no uid")
        ]
        is_first = request.url.params["StudyDate"].startswith("-")
        return httpx.Response(200, json=listed if is_first and is_first_page else [])

    first = next(DateFeed(answering(answer)).pages(0))
    assert [(each.instance.study, each.instance.sop) for each in first.changes] == [
        ("../../x", ""),
        ("1.2.5", "1.2.7.1"),
        ("no uid", ""),
    ]
    assert all("/studies/1.2.5/" in path for path in asked if "instances" in path)

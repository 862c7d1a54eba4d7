"""A server in front of a real service: it lets requests through, loses some, and asks for tokens.

It can also tell of changes as Azure documents its change feed, which runs nowhere but in Azure:
what is stored and retrieved stays Orthanc's.
"""

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from dicom_assets_tests.orthanc import PASSWORD, USER, Orthanc


@dataclass
class Front:
    """What it does, and what it has seen.

    Attributes:
        address: Where it listens.
        behind: The service's DICOMweb base address.
        answers: What the next requests get instead of being let through: status, headers; `lost`
            requests get no answer, `cut` ones half of it.
        tokens: Tokens it has given; empty where it wants none.
        token_seconds: How long one is said to hold.
        changes: What its change feed tells; None where it has none.
        refuses: What it does not hand out: requests whose path ends so get 406.
        seen: Method and path of each request.
    """

    behind: str
    address: str = ""
    answers: list[tuple[int | str, dict[str, str]]] = field(default_factory=list)
    wants_token: bool = False
    token_seconds: int = 3600
    tokens: list[str] = field(default_factory=list)
    token_forms: list[dict[str, str]] = field(default_factory=list)
    changes: list[dict[str, Any]] | None = None
    refuses: tuple[str, ...] = ()
    seen: list[str] = field(default_factory=list)

    def tell(self, action: str, uids: tuple[str, str, str], *, sequence: int | None = None) -> None:
        """Adds an entry to the change feed, its letters as the service writes them."""
        assert self.changes is not None
        last = self.changes[-1]["sequence"] if self.changes else 0
        self.changes.append(
            {
                "sequence": sequence or last + 1,
                "studyInstanceUid": uids[0],
                "seriesInstanceUid": uids[1],
                "sopInstanceUid": uids[2],
                "action": action,
                "timestamp": datetime(2026, 3, 14, 10, tzinfo=UTC).isoformat(),
                "state": "current",
            }
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    front: Front
    client: httpx.Client

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):  # who was asked to wait no longer does
            super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def _do(self) -> None:
        front = self.front
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        if address.path == "/token":
            front.token_forms.append({k: v[0] for k, v in parse_qs(body.decode()).items()})
            front.tokens.append(f"token-{len(front.tokens)}")
            token = {"access_token": front.tokens[-1], "expires_in": front.token_seconds}
            return self._json(token)
        front.seen.append(f"{self.command} {self.path}")
        answer = front.answers.pop(0) if front.answers else (0, {})
        if answer[0] == "lost":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if answer[0] not in (0, "cut"):
            return self._answer(int(answer[0]), b"", answer[1])
        if front.refuses and address.path.endswith(front.refuses):
            return self._answer(406, b"", {})
        wanted = f"Bearer {front.tokens[-1]}" if front.tokens else ""
        if front.wants_token and self.headers.get("Authorization") != wanted:
            return self._answer(401, b"", {})
        if address.path.startswith("/v1/changefeed") and front.changes is not None:
            return self._feed(address.path, parse_qs(address.query))
        path = self.path.removeprefix("/v2")
        kept = {n: v for n, v in self.headers.items() if n.lower() in ("accept", "content-type")}
        got = self.client.request(
            self.command, front.behind + path, content=body, headers=kept, auth=(USER, PASSWORD)
        )
        content = got.content[: len(got.content) // 2] if answer[0] == "cut" else got.content
        headers = {"Content-Type": got.headers.get("Content-Type", "")}
        self._answer(got.status_code, content, headers)

    def _feed(self, path: str, query: dict[str, list[str]]) -> None:
        """Answers as API v1: sequences after `offset`, up to `offset` + `limit`."""
        changes = self.front.changes or []
        if path.endswith("/latest"):
            return self._json(changes[-1]) if changes else self._answer(204, b"", {})
        offset, limit = (int(query[name][0]) for name in ("offset", "limit"))
        assert 1 <= limit <= 100, "more the service does not give"
        return self._json([c for c in changes if offset < c["sequence"] <= offset + limit])

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def in_front_of(orthanc: Orthanc) -> Iterator[Front]:
    """Starts one on a free port of 127.0.0.1, and ends it."""
    front = Front(behind=orthanc.service.address)
    with httpx.Client(timeout=30, headers={"Accept-Encoding": "identity"}) as client:
        handler = type("Handler", (_Handler,), {"front": front, "client": client})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        front.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield front
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

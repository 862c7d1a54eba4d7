"""A lakehouse in an object store whose runs are killed: at requests, seen in front of the server.

Decided here: a proxy between the chain and a real server counts the requests that change something,
and ends the process that sent one: before the server sees it, or once it has done it. What the
store then holds is fetched into a folder, where it is compared like any lakehouse (`likeness`).
Not decided here: what is dropped (`drops`) and where the chain is ended (`steps`).
"""

import http.client
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore

from dicom_assets.lakehouse.lease import NAME as LEASE

_CHANCE = re.compile(
    r"\b1[5-9]\d{11}(?=_)|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?<=_ImagingStudy_)[0-9a-f]{8}_v\d+-\d+"
)
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["dicom_assets.steps.chain", "dicom_assets.steps.verify", "dicom_assets.lakehouse.lease"]
)


@dataclass
class Front:
    """The proxy.

    Attributes:
        endpoint: Its address.
        acts: The requests that changed something, since `watch`.
        victim: The process that is ended.
    """

    endpoint: str
    acts: list[str] = field(default_factory=list)
    victim: list[int] = field(default_factory=list)
    _at: int | None = None
    _is_before: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, at: int | None, *, is_before: bool) -> None:
        """From here on the act of a number, from 0, ends the victim."""
        with self._lock:
            self.acts, self._at, self._is_before = [], at, is_before
            self.victim.clear()

    def told(self, act: str) -> str:
        """Counts an act; returns when its sender is to be ended: `before`, `after` or never."""
        with self._lock:
            self.acts.append(act)
            number = len(self.acts) - 1
            if self._at is None or number < self._at:
                return ""
            # what the process has sent beside it, from other threads, is too late
            return "before" if number > self._at or self._is_before else "after"

    def end(self) -> None:
        """Ends the process, once it is known."""
        while not self.victim:
            time.sleep(0.01)
        os.kill(self.victim[0], signal.SIGKILL)


@contextmanager
def in_front_of(endpoint: str) -> Iterator[Front]:
    """Runs the proxy until the block ends."""
    to = urlsplit(endpoint)
    front = Front("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer is sent in two writes

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            path = unquote(self.path)
            is_of_lease = LEASE in path or LEASE.encode() in body
            ends = ""
            if self.command in ("PUT", "POST", "DELETE") and not is_of_lease:
                is_copy = any("copy-source" in name for name in self.headers)
                verb = "COPY" if is_copy else self.command
                ends = front.told(f"{verb} {_CHANCE.sub('*', path)}")
            if ends != "before":
                self._answer(body, is_silent=bool(ends))
            if ends:
                front.end()
                self.close_connection = True

        def _answer(self, body: bytes, *, is_silent: bool) -> None:
            server = http.client.HTTPConnection(to.hostname or "", to.port, timeout=60)
            try:
                server.request(self.command, self.path, body, dict(self.headers.items()))
                answer = server.getresponse()
                data = answer.read()
            finally:
                server.close()
            if is_silent:
                return
            self.send_response(answer.status)
            own = {"transfer-encoding", "connection", "date", "server", "content-length"}
            for name, value in answer.getheaders():
                if name.lower() not in own:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", f"{length or 0}")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Says nothing: senders are killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        front.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield front
        finally:
            server.shutdown()


def _chain(choices: dict[str, Any], environment: dict[str, str], days: list[str]) -> None:
    """What the process does that is killed."""
    os.environ.update(environment)
    from dicom_assets.lakehouse import lease
    from dicom_assets.settings import load_settings
    from dicom_assets.steps.chain import STEPS
    from dicom_assets.steps.run import Run

    # another machine's lease is not waited for as long as outside of tests
    lease.EXPIRES_SECONDS, lease._RENEWED_SECONDS, lease._LOOKS_SECONDS = 1.0, 0.2, 0.1
    settings = load_settings(**choices)
    for day in days:
        for step in STEPS.values():
            step(Run.of(settings, day, "test-run"))


def run(
    front: Front,
    choices: Mapping[str, Any],
    *,
    days: list[str],
    environment: Mapping[str, str],
    kill_at: int | None = None,
    is_before: bool = True,
) -> int:
    """Runs the chain in a process of its own; returns its exit status."""
    process = _FORKED.Process(target=_chain, args=(dict(choices), dict(environment), days))
    front.watch(kill_at, is_before=is_before)
    process.start()
    front.victim.append(process.pid or 0)
    process.join(300)
    assert process.exitcode is not None, "the run does not end"
    return process.exitcode


def fetched(store: Any, prefix: str, to: Path) -> Path:
    """Fetches what lies below a prefix into a folder."""
    for chunk in obstore.list(store, prefix=prefix):
        for meta in chunk:
            path = to / meta["path"].removeprefix(f"{prefix}/")
            if path.name != LEASE:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(obstore.get(store, meta["path"]).bytes())
    return to

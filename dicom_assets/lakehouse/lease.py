"""The lease: one machine works on a lakehouse in an object store at a time, others wait.

Decided here: that it is an object, written only if nobody else has (a conditional put), and again
every so often while it is held. Another machine takes it over once it has seen it unchanged for
EXPIRES_SECONDS by its own clock, so that clocks need not agree. What this machine's own killed run
has left it takes at once: who asks here holds the lock of this machine's scratch folder already
(`lock`), so nobody here holds the lease. Who loses it, since the network was away for too long,
writes nothing more. Between who slips through, the application transactions hold (`engine`).
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import LOST, TAKEN_OVER, FarPath
from dicom_assets.lakehouse.paths import clear_temporaries, scratch_of

NAME = ".dicom_assets_lease"
EXPIRES_SECONDS = 90.0
_RENEWED_SECONDS = 15.0
_LOOKS_SECONDS = 3.0
_LOG = logging.getLogger(__name__)


@contextmanager
def leased(root: FarPath) -> Iterator[None]:
    """Holds the lease of a lakehouse, waiting for it if need be.

    Raises:
        PlainError: It was lost meanwhile; whoever has it now goes on from where this one was.
    """
    lease = _Lease(root)
    LOST.discard(root)
    lease.take()
    clear_temporaries(root)
    done = threading.Event()
    keeper = threading.Thread(target=lease.keep, args=(done,), daemon=True, name="lease")
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        lease.give_back()
    if lease.is_lost:
        raise PlainError(TAKEN_OVER)


class _Lease:
    def __init__(self, root: FarPath) -> None:
        self._root, self._path = root, root / NAME
        self._machine = _machine(root)
        self._holder = uuid.uuid4().hex
        self._beats = 0
        self._version: Any = None
        self.is_lost = False

    def take(self) -> None:
        """Returns once it is held."""
        seen, since, has_told = None, time.monotonic(), False
        while not self._put("create"):
            try:
                version, content = self._read()
            except FileNotFoundError:
                continue
            if version != seen:
                seen, since = version, time.monotonic()
            is_ours = content.get("machine") == self._machine
            if is_ours or time.monotonic() - since > EXPIRES_SECONDS:
                if self._put(version):
                    return
                continue
            if not has_told:
                _LOG.warning("a run on another machine holds this lakehouse; waiting for it")
                has_told = True
            time.sleep(_LOOKS_SECONDS)

    def keep(self, done: threading.Event) -> None:
        """Writes it again and again, until it is done; otherwise it is lost."""
        try:
            self._renew(done)
        finally:
            if not done.is_set():
                self.is_lost = True
                LOST.add(self._root)

    def _renew(self, done: threading.Event) -> None:
        """Returns when it is done, or held by somebody else, or may be."""
        last, version = time.monotonic(), self._version
        while not done.wait(_RENEWED_SECONDS):
            try:
                if not self._put(version):
                    # the store may have done what it has not answered
                    self._version, content = self._read()
                    if content.get("holder") != self._holder:
                        return
                last, version = time.monotonic(), self._version
            except FileNotFoundError:
                return
            except OSError:  # told by whoever else needs the store
                if time.monotonic() - last > EXPIRES_SECONDS - 2 * _RENEWED_SECONDS:
                    return

    def give_back(self) -> None:
        """Removes it, if it is still held."""
        if not self.is_lost:
            with suppress(OSError):  # it expires
                self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[Any, dict[str, Any]]:
        version = self._path.version()
        piece = self._path.piece(0, 1 << 12, etag=version["e_tag"].strip('"'))
        return version, json.loads(piece.data)

    def _put(self, mode: Any) -> bool:
        """Writes it, if nobody has meanwhile; says whether."""
        # S3's etags are of the content: what is written again must not be the same
        self._beats += 1
        content = {"machine": self._machine, "holder": self._holder, "beats": self._beats}
        self._version = self._path.put_if(json.dumps(content).encode(), mode)
        return self._version is not None


def _machine(root: FarPath) -> str:
    """Returns who this machine is: the id of its scratch folder."""
    kept = scratch_of(root) / "id"
    if not kept.exists():
        new = kept.with_name(f"id-{uuid.uuid4().hex}")
        new.write_text(uuid.uuid4().hex)
        new.replace(kept)
    return kept.read_text()

"""DICOMweb (PS3.18): store, retrieve, search.

Decided here: which requests are sent, and what their answers mean. A search's patients never leave
this module. Not decided here: how requests are sent (`connection`), what is stored or retrieved,
and what becomes of it (`dicom_assets.steps`).
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from dicom_assets.dicomweb.connection import BROKEN, Connection, Passing, ServiceError
from dicom_assets.dicomweb.multipart import Body, MultipartError, boundary_of, parts
from dicom_assets.dicomweb.service import Service

# as it is stored, whatever its transfer syntax: nothing is to be decoded on the way
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_JSON = "application/dicom+json"
_REFERENCED, _FAILED = "00081199", "00081198"
_SOP_INSTANCE, _REASON = "00081155", "00081197"
_UID = re.compile(r"\d+(\.\d+)*")
_UIDS = ("0020000D", "0020000E", "00080018")
_STORED_BEFORE = 45070
"""Azure's failure reason of an instance that was stored before; it keeps the first one."""
_LOG = logging.getLogger(__name__)
_PAGE = 200  # more an Azure service does not give
_REASONS = {
    0x0110: "the service failed while it processed it",
    0x0117: "its SOP Instance UID is not valid",
    0x0122: "the service does not take its SOP class",
    0x0124: "not authorised",
    43264: "the service is out of resources",
    43265: "the service could not validate it",
    43266: "its study is another one",
    43272: "the service could not validate it",
    49152: "the service cannot understand it",
    49442: "the service does not take its transfer syntax",
}


def is_uid(text: str) -> bool:
    """Says whether a text is a UID (PS3.5 section 9.1), and so may be part of an address."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Instance:
    """Where an instance stands in a service: its three UIDs."""

    study: str
    series: str
    sop: str

    @property
    def path(self) -> str:
        """Its address below the base address."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.sop}"


@dataclass(slots=True)
class Stored:
    """What a service says of instances that were sent to it.

    Attributes:
        stored: SOP Instance UIDs of those it took.
        before: Of those that it had before, and keeps as they were.
        failed: Of those it did not take, with why.
    """

    stored: set[str] = field(default_factory=set)
    before: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


class Client:
    """A DICOM service. May be used by several threads."""

    def __init__(self, connection: Connection) -> None:
        """Uses a connection."""
        self.connection = connection
        self._base = connection.service.address

    @classmethod
    @contextmanager
    def of(cls, name: str, service: Service) -> Iterator["Client"]:
        """Opens a client, and closes it at the end."""
        connection = Connection(name, service)
        try:
            yield cls(connection)
        finally:
            connection.close()

    def store(self, files: Sequence[tuple[Path, int]]) -> Stored:
        """Stores files in one request (STOW-RS, PS3.18 section 10.5).

        Args:
            files: DICOM files of Part 10, and their sizes.

        Returns:
            What the service says of each; of some it may say nothing.

        Raises:
            ServiceError: It says nothing at all, or refuses everything.
        """

        def act() -> Stored:
            body = Body(files)
            headers = {
                "Content-Type": body.content_type,
                "Content-Length": str(body.length),
                "Accept": _JSON,
            }
            address = f"{self._base}/studies"
            with self.connection.answer("POST", address, content=body, headers=headers) as response:
                response.read()
                # 202: some failed; 409, of an Orthanc 400: at least one did
                if response.status_code not in (400, 409):
                    self.connection.check("STOW-RS", response)
                try:
                    return _stored(response.json())
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    self.connection.check("STOW-RS", response)
                    return Stored()

        return self.connection.persist("STOW-RS", act)

    def retrieve(self, instance: Instance, take: Callable[[Iterator[bytes]], None]) -> None:
        """Retrieves one instance (WADO-RS, PS3.18 section 10.4), as it is stored.

        Args:
            instance: Which one.
            take: Is given its file in pieces; once more from the beginning when it broke off.

        Raises:
            ServiceError: The service does not hand it out.
        """

        def act() -> None:
            with self._parts(instance.path) as found:
                content = next(found, None)
                if content is None:
                    raise MultipartError("the answer has no part")
                take(content)

        self.connection.persist("WADO-RS", act)

    def try_series(self, study: str, series: str, take: Callable[[Iterator[bytes]], None]) -> None:
        """Retrieves the instances of a series in one request; ends early where that breaks off.

        Args:
            study: Study Instance UID.
            series: Series Instance UID.
            take: Is given each file in pieces; raises what `retrieve`'s would.
        """
        try:
            with self._parts(f"/studies/{study}/series/{series}") as found:
                for content in found:
                    take(content)
        except (ServiceError, Passing, httpx.RequestError, MultipartError) as error:
            _LOG.info("%s: a series broke off (%s)", self.connection.name, type(error).__name__)

    @contextmanager
    def _parts(self, path: str) -> Iterator[Iterator[Iterator[bytes]]]:
        headers = {"Accept": _AS_STORED}
        with self.connection.answer("GET", self._base + path, headers=headers) as response:
            self.connection.check("WADO-RS", response)
            boundary = boundary_of(response.headers.get("Content-Type", ""))
            yield parts(response.iter_bytes(), boundary)

    def search(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Searches (QIDO-RS, PS3.18 section 10.6), page by page.

        Args:
            path: What for, such as `/studies`.
            query: Attributes to match and to include.

        Yields:
            What is found, in the DICOM JSON Model, each once.

        Raises:
            ServiceError: It is refused, or goes on for ever.
        """
        address, headers, offset = self._base + path, {"Accept": _JSON}, 0
        seen: set[tuple[Any, ...]] = set()
        before = 0
        # to the first empty page: a service may give less at a time than it is asked for
        while True:
            asked = {**query, "limit": str(_PAGE), "offset": str(offset)}
            found = self.connection.json("QIDO-RS", address, params=asked, headers=headers)
            if not found:
                return
            with self.connection.understood("QIDO-RS"):
                uids = [tuple(value_of(item, tag) for tag in _UIDS) for item in found]
                new = dict(zip(uids, found, strict=True))
                unseen = [item for each, item in new.items() if each not in seen]
                seen |= new.keys()
            # what comes meanwhile moves some to the next page, but never all of a page
            if not unseen and len(found) >= before:
                raise ServiceError(
                    f"the DICOM service {self.connection.name} ignores `offset` of QIDO-RS and"
                    " gives the same again and again; it cannot be listed whole",
                    BROKEN,
                )
            yield from unseen
            before = len(found)
            offset += before


def _stored(said: dict[str, Any]) -> Stored:
    """Reads a Store Instances Response (PS3.18 section 10.5.3.2)."""
    found = Stored()
    for item in said.get(_REFERENCED, {}).get("Value", []):
        found.stored.add(value_of(item, _SOP_INSTANCE))
    for item in said.get(_FAILED, {}).get("Value", []):
        uid, reason = value_of(item, _SOP_INSTANCE), value_of(item, _REASON)
        if reason == _STORED_BEFORE:
            found.before.add(uid)
        else:
            found.failed[uid] = _REASONS.get(reason, "the service does not take it") + (
                f" (failure reason {reason})"
            )
    return found


def value_of(item: Mapping[str, Any], tag: str) -> Any:
    """Returns an attribute's first value in the DICOM JSON Model; None where there is none."""
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]

"""What is new in a service: its change feed where it has one, else a search by dates.

Decided here: how each kind of feed is read, and where its position stands. An Azure service tells
of every instance that was stored, replaced or deleted (`/changefeed`); an Orthanc of those that
were stored (`/changes`; deletions it forgets); of any other the studies of some dates are listed.
Not decided here: what becomes of a change (`dicom_assets.steps.pull`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

from dicom_assets.dicomweb.client import Client, Instance, is_uid, value_of
from dicom_assets.dicomweb.connection import BROKEN, ServiceError
from dicom_assets.lakehouse.errors import PlainError

_PAGE = 1000
_AZURE_PAGE = 100
_FIRST_MONTH = date(2000, 1, 1)
_LATE_DAYS = 7
"""Studies of so many days before today are listed again each time: parts of them come late."""
_STUDY, _SERIES, _SOP, _STUDY_DATE = "0020000D", "0020000E", "00080018", "00080020"


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to an instance.

    Attributes:
        instance: Which one.
        deleted: Whether it went; else it came, or was replaced.
        sequence: The change's number in the feed; 0 where the feed numbers none.
        at_ns: When, nanoseconds since 1970; None where the feed does not say: such an instance may
            have been there before.
        series_size: How many instances its series has in the service, where that is known.
    """

    instance: Instance
    deleted: bool = False
    sequence: int = 0
    at_ns: int | None = None
    series_size: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some changes.

    Attributes:
        changes: In order.
        position: What to go on from once they have been dealt with; the one before, where the feed
            has to be gone on with from there.
        more: Whether the feed goes on.
    """

    changes: list[Change]
    position: int
    more: bool


class Feed(Protocol):
    """A service's changes in order.

    Attributes:
        kind: Tells positions of one kind of feed from those of another.
        seconds_between: How long to wait before asking it again.
    """

    kind: str
    seconds_between: int

    def has_news(self, position: int) -> bool:
        """Says whether there may be something behind a position; costs one request at most."""
        ...

    def pages(self, position: int) -> Iterator[Page]:
        """Yields what is behind a position; 0 is the beginning."""
        ...

    def holds(self, instance: Instance) -> bool:
        """Says whether the service has an instance of which it said that it is not there.

        One that it may have lost since is not asked for where a later change will tell.
        """
        ...


def feed_of(client: Client) -> Feed:
    """Returns the best feed that a service has.

    Raises:
        ServiceError: It cannot be asked.
    """
    if client.connection.service.orthanc_address:
        return OrthancFeed(client)
    azure = AzureFeed(client)
    return azure if azure.is_there() else DateFeed(client)


class AzureFeed:
    """The change feed of Azure Health Data Services, by sequence number, which its API v1 has."""

    kind = "changefeed"
    what = "its change feed"
    seconds_between = 0

    def __init__(self, client: Client) -> None:
        """Asks nothing yet."""
        self._connection = client.connection
        self._address = re.sub(r"/v\d+$", "/v1", client.connection.service.address) + "/changefeed"

    def is_there(self) -> bool:
        """Says whether the service has it."""
        return self._latest() is not None

    def has_news(self, position: int) -> bool:
        """Says whether the latest change is behind a position."""
        return (self._latest() or 0) > position

    def pages(self, position: int) -> Iterator[Page]:
        """Yields changes behind a sequence number."""
        latest = self._latest() or 0
        _check_begin(self._connection.name, position, latest)
        while position < latest:
            changes: list[Change] = []
            while position < latest and len(changes) < _PAGE:
                # those with offset < sequence <= offset + limit: there may be none of them
                asked = {"offset": position, "limit": _AZURE_PAGE, "includeMetadata": "false"}
                told = self._ask("", **asked) or []
                with self._connection.understood(self.what):
                    new = [_azure_change(_lower(entry)) for entry in told]
                changes += new
                end = max((change.sequence for change in new), default=position + _AZURE_PAGE)
                if end <= position:
                    raise _goes_round(self._connection.name, "offset", self.what)
                position = end if new else min(end, latest)
            yield Page(changes, position, more=position < latest)

    def holds(self, instance: Instance) -> bool:
        """Says no: what has gone is told as a change."""
        del instance
        return False

    def _latest(self) -> int | None:
        told = self._ask("/latest", includeMetadata="false")
        with self._connection.understood(self.what):
            return _number(_lower(told)["sequence"]) if isinstance(told, dict) else None

    def _ask(self, path: str, **asked: Any) -> Any:
        return self._connection.json(self.what, self._address + path, params=asked)


class OrthancFeed:
    """The changes of an Orthanc. Deletions are not among them: it forgets what it deleted."""

    kind = "changes"
    what = "its changes"
    seconds_between = 0

    def __init__(self, client: Client) -> None:
        """Asks nothing yet."""
        self._connection = client.connection
        self._address = client.connection.service.orthanc_address or ""

    def has_news(self, position: int) -> bool:
        """Says whether the latest change is behind a position."""
        return self._latest() != position

    def pages(self, position: int) -> Iterator[Page]:
        """Yields changes behind a sequence number."""
        _check_begin(self._connection.name, position, self._latest())
        more = True
        while more:
            told = self._ask("/changes", params={"since": position, "limit": _PAGE})
            with self._connection.understood(self.what):
                end, more = _number(told["Last"]), not told["Done"]
                new = [each for each in told["Changes"] if each["ChangeType"] == "NewInstance"]
                changes = self._changes(new)
            if more and end <= position:
                raise _goes_round(self._connection.name, "since", self.what)
            position = end
            if told["Changes"]:
                yield Page(changes, position, more)

    def holds(self, instance: Instance) -> bool:
        """Looks it up: what has two patients, for one, its DICOMweb does not find."""
        query = {
            "StudyInstanceUID": instance.study,
            "SeriesInstanceUID": instance.series,
            "SOPInstanceUID": instance.sop,
        }
        asked = {"Level": "Instance", "Query": query}
        return bool(self._ask("/tools/find", method="POST", json=asked))

    def _changes(self, new: list[dict[str, Any]]) -> list[Change]:
        """Looks up which instances those are; some may have gone meanwhile."""
        instances = self._resources("Instance", {each["ID"] for each in new})
        series = self._resources("Series", {each["ParentSeries"] for each in instances.values()})
        studies = self._resources("Study", {each["ParentStudy"] for each in series.values()})
        found = []
        for change in new:
            of_instance = instances.get(change["ID"], {})
            of_series = series.get(of_instance.get("ParentSeries"), {})
            of_study = studies.get(of_series.get("ParentStudy"))
            if of_study:
                uids = (
                    str(of_study["MainDicomTags"]["0020,000d"]),
                    str(of_series["MainDicomTags"]["0020,000e"]),
                    str(of_instance["MainDicomTags"]["0008,0018"]),
                )
                found.append(
                    Change(
                        Instance(*uids),
                        sequence=_number(change["Seq"]),
                        at_ns=_ns(datetime.strptime(change["Date"], "%Y%m%dT%H%M%S")),
                        series_size=len(of_series["Instances"]),
                    )
                )
        return found

    def _resources(self, level: str, ids: set[str]) -> dict[Any, dict[str, Any]]:
        if not ids:
            return {}
        asked = {"Resources": sorted(ids), "Level": level, "Short": True}
        told = self._ask("/tools/bulk-content", method="POST", json=asked)
        return {each["ID"]: each for each in told}

    def _latest(self) -> int:
        told = self._ask("/changes", params={"last": ""})
        with self._connection.understood(self.what):
            return _number(told["Last"])

    def _ask(self, path: str, **request: Any) -> Any:
        told = self._connection.json(self.what, self._address + path, **request)
        if told is None:
            raise PlainError(
                f"the DICOM service {self._connection.name} has no {path} at its orthanc_address;"
                " check that it is the REST root of an Orthanc of version 1.9.4 or later"
            )
        return told


class DateFeed:
    """Studies by Study Date (QIDO-RS), for services that tell no changes.

    What has no Study Date is not found, nor what comes later than a week after its study's date.
    A position is the instant, in milliseconds since 1970, up to which dates have been listed.
    """

    kind = "dates"
    seconds_between = 600  # each time it lists all studies of a week

    def __init__(self, client: Client) -> None:
        """Asks nothing yet."""
        self._client = client

    def has_news(self, position: int) -> bool:
        """Says yes: it can be told only by listing."""
        return True

    def pages(self, position: int) -> Iterator[Page]:
        """Yields instances of studies, by windows of dates: a month, and first all before 2000."""
        today = datetime.now(UTC).date() + timedelta(days=1)  # where a day begins earlier
        begin = None
        if position:
            until = datetime.fromtimestamp(position / 1000, UTC).date()
            begin = until - timedelta(days=_LATE_DAYS)
        while begin is None or begin <= today:
            end = _FIRST_MONTH - timedelta(days=1) if begin is None else _end_of_month(begin)
            end, first = min(end, today), f"{begin:%Y%m%d}" if begin else ""
            more = end < today
            listed = end if more else today - timedelta(days=1)
            changes: list[Change] = []
            for study in self._uids("/studies", _STUDY, {"StudyDate": f"{first}-{end:%Y%m%d}"}):
                changes += self._instances(study)
                if len(changes) >= _PAGE:
                    yield Page(changes, position, more=True)
                    changes = []
            instant = _ns(datetime(listed.year, listed.month, listed.day)) // 10**6
            position = max(position, instant)
            if changes or not more:
                yield Page(changes, position, more)
            begin = end + timedelta(days=1)

    def holds(self, instance: Instance) -> bool:
        """Lists it once more."""
        query = {"SOPInstanceUID": instance.sop}
        found = self._client.search(f"/studies/{instance.study}/instances", query)
        return any(value_of(item, _SOP) == instance.sop for item in found)

    def _uids(self, path: str, tag: str, query: dict[str, str]) -> Iterator[str]:
        for item in self._client.search(path, query):
            if uid := value_of(item, tag):
                yield str(uid).rstrip(" \0")  # padding

    def _instances(self, study: str) -> list[Change]:
        if not is_uid(study):  # must not be part of an address; it fails alone
            return [Change(Instance(study, "", ""))]
        found = [
            Instance(study, str(value_of(item, _SERIES)), str(value_of(item, _SOP)))
            for item in self._client.search(f"/studies/{study}/instances", {})
        ]
        sizes: dict[str, int] = {}
        for instance in found:
            sizes[instance.series] = sizes.get(instance.series, 0) + 1
        return [Change(instance, series_size=sizes[instance.series]) for instance in found]


def _check_begin(name: str, position: int, latest: int) -> None:
    """Checks that a feed is still the one that was read.

    Raises:
        PlainError: It has become shorter.
    """
    if latest < position:
        raise PlainError(
            f"the feed of the DICOM service {name} was read up to {position} and ends at {latest}:"
            " it is another one now. Give the service another name, or another spelling of its"
            " address, and its feed is read from the beginning"
        )


def _goes_round(name: str, parameter: str, what: str) -> ServiceError:
    return ServiceError(
        f"the DICOM service {name}, asked for {what}, ignores `{parameter}` and gives the same"
        " again and again; it cannot be read to its end",
        BROKEN,
    )


def _number(said: Any) -> int:
    """Returns a change's number.

    Raises:
        ValueError: It is none that a position can have.
    """
    number = int(said)
    if not 0 <= number < 2**63:
        raise ValueError
    return number


def _azure_change(entry: dict[str, Any]) -> Change:
    names = ("studyinstanceuid", "seriesinstanceuid", "sopinstanceuid")
    return Change(
        Instance(*(str(entry[name]) for name in names)),
        deleted=entry["action"].lower() == "delete",
        sequence=_number(entry["sequence"]),
        at_ns=_ns(datetime.fromisoformat(entry["timestamp"])),
    )


def _lower(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns an object with small names: documentation and services differ in their letters."""
    return {name.lower(): value for name, value in entry.items()}


def _ns(instant: datetime) -> int:
    """Returns nanoseconds since 1970 of an instant, UTC where it does not say."""
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (since // timedelta(microseconds=1)) * 1000


def _end_of_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)

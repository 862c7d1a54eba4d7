"""Dates and times: DICOM's DA, TM and offset in FHIR's words, and FHIR's text as typed values.

Decided here: what is a date and a time (PS3.5 6.2), and where an offset comes from. A time is only
said together with an offset; none is invented. Not decided here: which elements are dates.
"""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_DA = re.compile(r"(\d{4})([.-]?)(\d\d)\2(\d\d)", re.ASCII)
_TM = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d*))?)?)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)", re.ASCII)
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)((?:\.\d+)?(?:Z|[+-]\d\d:\d\d))", re.ASCII
)
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(?:T|$)", re.ASCII)


@lru_cache(maxsize=65_536)
def fhir_datetime(
    da: str | None, tm: str | None, *, offset: str | None, site_timezone: str | None
) -> str | None:
    """Returns a FHIR dateTime, or None without a valid date.

    A local time that the site's clocks showed twice (end of summer time) is taken as the first.

    Args:
        da: DICOM date, `20240131` or the retired `2024.01.31`.
        tm: DICOM time, `09` to `093000.123456`, or the retired `09:30:00`.
        offset: Timezone Offset From UTC (0008,0201), `+0100`.
        site_timezone: IANA zone for a time without offset; None leaves the date alone.
    """
    day = _date(da)
    if day is None:
        return None
    clock = _time(tm)
    if clock is None:
        return day.isoformat()
    hour, minute, second, fraction = clock
    zone = _offset(offset) or _site_offset(day, hour, minute, site_timezone)
    if zone is None:
        return day.isoformat()
    return f"{day.isoformat()}T{hour}:{minute}:{second}{fraction}{zone}"


@lru_cache(maxsize=16_384)
def instant_of(text: str | None) -> datetime | None:
    """Returns a FHIR dateTime or instant as UTC; None when it has no time, or is none."""
    match = _INSTANT.fullmatch(text) if text else None
    if not match:
        return None
    leap = match[2] == "60"  # FHIR allows it, Python does not: the second after :59
    try:
        parsed = datetime.fromisoformat(f"{match[1]}{'59' if leap else match[2]}{match[3]}")
        return (parsed + timedelta(seconds=leap)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=16_384)
def date_of(text: str | None) -> date | None:
    """Returns the calendar date a FHIR date or dateTime states; None for a partial date."""
    match = _DAY.match(text) if text else None
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def instant(moment: datetime) -> str:
    """Returns an aware datetime as FHIR instant in UTC, with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _date(da: str | None) -> date | None:
    match = _DA.fullmatch(da.strip()) if da else None
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None


def _time(tm: str | None) -> tuple[str, str, str, str] | None:
    """Returns hour, minute, second, and the fraction with its point or ''."""
    match = _TM.fullmatch(tm.strip()) if tm else None
    if not match:
        return None
    hour, minute, second = match[1], match[2] or "00", match[3] or "00"
    if hour > "23" or minute > "59" or second > "60":
        return None
    return hour, minute, second, f".{match[4]}" if match[4] else ""


def _offset(offset: str | None) -> str | None:
    match = _OFFSET.fullmatch(offset.strip()) if offset else None
    if not match or match[3] > "59" or match[2] + match[3] > "1400":
        return None
    sign = "+" if match[2] + match[3] == "0000" else match[1]
    return f"{sign}{match[2]}:{match[3]}"


def _site_offset(day: date, hour: str, minute: str, site_timezone: str | None) -> str | None:
    if site_timezone is None:
        return None
    zone = ZoneInfo(site_timezone)
    local = datetime(day.year, day.month, day.day, int(hour), int(minute), tzinfo=zone)
    # before standard time, offsets had seconds, which FHIR cannot say: then the date alone
    return _offset(local.strftime("%z"))

"""DICOM dates, times and offsets in FHIR's words."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from dicom_assets.fhir.dates import date_of, fhir_datetime, instant, instant_of


@pytest.mark.parametrize(
    ("da", "tm", "offset", "zone", "said"),
    [
        # a time needs an offset: its own, else the site's, else the date alone
        ("20040119", "072730", "-0500", None, "2004-01-19T07:27:30-05:00"),
        ("20040119", "072730", "-0500", "Europe/Zurich", "2004-01-19T07:27:30-05:00"),
        ("20040119", "072730", None, "Europe/Zurich", "2004-01-19T07:27:30+01:00"),
        ("20040719", "072730", None, "Europe/Zurich", "2004-07-19T07:27:30+02:00"),
        ("20040119", "072730", None, None, "2004-01-19"),
        ("20040119", None, "+0100", "Europe/Zurich", "2004-01-19"),
        # short, long and retired times
        ("20040119", "0930", "+0100", None, "2004-01-19T09:30:00+01:00"),
        ("20040119", "09", "+0100", None, "2004-01-19T09:00:00+01:00"),
        ("20040119", "093000.5", "+0100", None, "2004-01-19T09:30:00.5+01:00"),
        ("20040119", "093000.123456", "+0100", None, "2004-01-19T09:30:00.123456+01:00"),
        ("20040119", "093000.", "+0100", None, "2004-01-19T09:30:00+01:00"),
        ("1997.04.24", "14:04:38", "+0000", None, "1997-04-24T14:04:38+00:00"),
        (" 20040119 ", " 0930 ", " +0100 ", None, "2004-01-19T09:30:00+01:00"),
        ("20161231", "235960", "+0000", None, "2016-12-31T23:59:60+00:00"),
        # what is no time leaves the date
        ("20040119", "930", "+0100", None, "2004-01-19"),
        ("20040119", "2400", "+0100", None, "2004-01-19"),
        ("20040119", "0960", "+0100", None, "2004-01-19"),
        ("20040119", "093061", "+0100", None, "2004-01-19"),
        ("20040119", "noon", "+0100", None, "2004-01-19"),
        # what is no offset is as if there were none
        ("20040119", "0930", "0100", None, "2004-01-19"),
        ("20040119", "0930", "+1500", None, "2004-01-19"),
        ("20040119", "0930", "+0160", None, "2004-01-19"),
        ("20040119", "0930", "CET", "Europe/Zurich", "2004-01-19T09:30:00+01:00"),
        ("20040119", "0930", "+1400", None, "2004-01-19T09:30:00+14:00"),
        ("20040119", "0930", "-0000", None, "2004-01-19T09:30:00+00:00"),
        # before standard time a zone's offset had seconds, which FHIR cannot say
        ("18500101", "0930", None, "Europe/Zurich", "1850-01-01"),
        # what is no date is nothing, whatever the time
        ("20040231", "0930", "+0100", None, None),
        ("00000000", "0930", "+0100", None, None),
        ("200401", "0930", "+0100", None, None),
        ("2004-0119", "0930", "+0100", None, None),
        ("", "0930", "+0100", None, None),
        (None, "0930", "+0100", None, None),
    ],
)
def test_a_dicom_date_and_time_become_a_fhir_datetime(da, tm, offset, zone, said):
    assert fhir_datetime(da, tm, offset=offset, site_timezone=zone) == said


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2011-01-01T11:01:20+03:00", datetime(2011, 1, 1, 8, 1, 20, tzinfo=UTC)),
        ("2011-01-01T11:01:20Z", datetime(2011, 1, 1, 11, 1, 20, tzinfo=UTC)),
        ("2011-01-01T11:01:20.25Z", datetime(2011, 1, 1, 11, 1, 20, 250_000, tzinfo=UTC)),
        ("2011-01-01T11:01:20.123456789Z", datetime(2011, 1, 1, 11, 1, 20, 123_456, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("2011-01-01T11:01:20", None),
        ("2011-13-01T11:01:20Z", None),
        ("2011-01-01", None),
        ("2011", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_an_instant_is_typed_only_with_time_and_offset(text, moment):
    assert instant_of(text) == moment


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2011-01-02", date(2011, 1, 2)),
        ("2011-01-02T23:30:00-05:00", date(2011, 1, 2)),
        ("2011-02-30", None),
        ("2011-01", None),
        ("2011", None),
        ("2011-W01", None),
        ("2011-01-021", None),
        (None, None),
    ],
)
def test_a_date_is_typed_only_when_it_is_whole(text, day):
    assert date_of(text) == day


def test_an_instant_is_written_in_utc():
    zone = timezone(timedelta(hours=2))
    assert instant(datetime(2024, 5, 1, 12, 0, 0, 7, zone)) == "2024-05-01T10:00:00.000007Z"

"""Files of FHIR resources → lines."""

import io
import json
from datetime import UTC, datetime

import pytest

from dicom_assets.fhir import ndjson
from dicom_assets.fhir.ndjson import BadLine, Line, read_lines
from dicom_assets.lakehouse.reasons import Reason

PATIENT = b'{"resourceType":"Patient","id":"%s"}'
A, B, C = PATIENT % b"a", PATIENT % b"b", PATIENT % b"c"


def _read(data, resource_type="Patient"):
    return list(read_lines(io.BytesIO(data), resource_type=resource_type))


def _ids(data, resource_type="Patient"):
    return [(line.number, getattr(line, "id", line)) for line in _read(data, resource_type)]


@pytest.mark.parametrize(
    "data",
    [
        A + b"\n" + B + b"\n",
        A + b"\n" + B,
        A + b"\r\n" + B + b"\r\n",
        b"\xef\xbb\xbf" + A + b"\n" + B,
    ],
)
def test_line_ends_and_a_byte_order_mark_do_not_matter(data):
    assert _ids(data) == [(1, "a"), (2, "b")]
    assert [line.text for line in _read(data)] == [A.decode(), B.decode()]


def test_blank_lines_count_but_say_nothing():
    assert _ids(b"\n \n" + A + b"\n\r\n" + B + b"\n\n") == [(3, "a"), (5, "b")]
    assert _read(b"") == _read(b"\n\n") == _read(b"\xef\xbb\xbf\n") == []


def test_the_text_is_the_line_unchanged():
    meta = '"meta":{"lastUpdated":"2024-01-01T01:00:00+01:00"}'
    text = f'{{ "resourceType":"Patient", "id" : "é", "x":1.50, {meta} }}'
    (line,) = _read(text.encode())
    assert line == Line(1, text, "é", datetime(2024, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "meta", ["null", "[]", '{"lastUpdated":"2024"}', '{"lastUpdated":5}', '{"lastUpdated":null}']
)
def test_a_line_without_id_and_instant_is_a_line(meta):
    (line,) = _read(b'{"resourceType":"Patient","id":5,"meta":%s}' % meta.encode())
    assert isinstance(line, Line)
    assert (line.id, line.last_updated) == (None, None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{oops}", Reason.INVALID_JSON),
        (A[:-4], Reason.INVALID_JSON),
        (b'{"resourceType":"Patient","id":"\xe9"}', Reason.INVALID_JSON),
        (b'{"resourceType":"Patient","id":NaN}', Reason.INVALID_JSON),
        (b'{"resourceType":"Patient","id":"\\ud800"}', Reason.INVALID_JSON),
        (b"5", Reason.INVALID_JSON),
        (b'"Patient"', Reason.INVALID_JSON),
        (b"null", Reason.INVALID_JSON),
        (b"[" * 5000, Reason.INVALID_JSON),
        (b'{"id":"a"}', Reason.WRONG_RESOURCE_TYPE),
        (b'{"resourceType":["Patient"]}', Reason.WRONG_RESOURCE_TYPE),
        (b'{"resourceType":"Observation","id":"Jane"}', Reason.WRONG_RESOURCE_TYPE),
    ],
)
def test_a_bad_line_is_told_and_the_others_are_read(bad, reason):
    for data, number in ((A + b"\n" + bad + b"\n" + C, 2), (bad + b"\n" + A + b"\n" + C, 1)):
        lines = _read(data)
        (told,) = [line for line in lines if isinstance(line, BadLine)]
        assert (told.number, told.text, told.reason) == (number, bad, reason)
        assert told.message
        assert "Jane" not in told.message
        assert [line.id for line in lines if isinstance(line, Line)] == ["a", "c"]


def test_a_file_cut_in_its_last_line_keeps_the_others():
    lines = _read(A + b"\n" + B[:10])
    assert [type(line) for line in lines] == [Line, BadLine]


def test_a_first_line_that_breaks_off_does_not_hide_the_others():
    lines = _read(b'{"resourceType":"Patient",\n' + B + b"\n" + C)
    assert [type(line) for line in lines] == [BadLine, Line, Line]


@pytest.mark.parametrize("indent", [1, 4])
def test_a_pretty_printed_resource_is_taken(indent):
    data = json.dumps(json.loads(A), indent=indent).encode()
    assert _read(b"\xef\xbb\xbf" + data) == [Line(1, A.decode(), "a", None)]


def test_pretty_printed_resources_one_after_the_other_are_taken():
    pretty = [json.dumps(json.loads(each), indent=2).encode() for each in (A, B)]
    assert _ids(b"\n".join(pretty)) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_and_bundles_stand_for_what_is_in_them(indent):
    patients = [json.loads(each) for each in (A, B)]
    bundle = {"resourceType": "Bundle", "entry": [{"resource": each} for each in patients]}
    for document in (patients, bundle, [bundle]):
        lines = _read(json.dumps(document, indent=indent).encode())
        assert [line.id for line in lines if isinstance(line, Line)] == ["a", "b"]
        assert len(lines) == 2


def test_an_array_with_one_resource_a_line_is_taken():
    assert _ids(b"[" + A + b",\n" + B + b"]\n") == [(1, "a"), (2, "b")]


def test_what_else_is_in_a_bundle_is_told():
    bundle = {
        "resourceType": "Bundle",
        "entry": [{"resource": json.loads(A)}, {"resource": {"resourceType": "Claim"}}, {}, 5],
    }
    good, *bad = _read(json.dumps(bundle).encode())
    assert isinstance(good, Line)
    assert [getattr(line, "reason", None) for line in bad] == [
        Reason.WRONG_RESOURCE_TYPE,
        Reason.INVALID_JSON,
        Reason.INVALID_JSON,
    ]


def test_bundles_are_lines_where_bundles_are_asked_for():
    assert _ids(b'{"resourceType":"Bundle","id":"b","entry":[]}', "Bundle") == [(1, "b")]


def test_a_document_that_is_broken_is_one_bad_line():
    data = json.dumps({"resourceType": "Patient", "name": [{"text": "x"}]}, indent=2).encode()[:-3]
    (bad,) = _read(data)
    assert isinstance(bad, BadLine)
    assert (bad.number, bad.text) == (1, data)


def test_ndjson_is_read_line_by_line():
    def endless():
        yield A + b"\n"
        yield B + b"\n"
        raise AssertionError("read ahead")

    lines = read_lines(endless(), resource_type="Patient")  # type: ignore[arg-type]
    assert [next(lines), next(lines)] == [
        Line(1, A.decode(), "a", None),
        Line(2, B.decode(), "b", None),
    ]


def test_a_file_too_large_for_a_document_is_read_as_lines(monkeypatch):
    monkeypatch.setattr(ndjson, "MAX_DOCUMENT_BYTES", 50)
    lines = _read(b"[\n" + A + b"\n" + B + b"\n" + C)
    assert [type(line) for line in lines] == [BadLine, Line, Line, Line]


def test_reports_from_the_field_are_read(examples):
    for pattern in ("siim-hackathon/diagnostic_report.a*.json", "hl7-r4b-4.3.0/Diag*-pap.json"):
        (report,) = examples(pattern)
        (line,) = _read(json.dumps(report, indent=2).encode(), "DiagnosticReport")
        assert isinstance(line, Line)
        assert json.loads(line.text) == report


def test_a_bundle_of_hl7_gives_its_reports_and_tells_the_rest(examples):
    (bundle,) = (
        each
        for each in examples("fhir-test-cases/diagnosticreport-example.json")
        if each["resourceType"] == "Bundle"
    )
    lines = _read(json.dumps(bundle, indent=2).encode(), "DiagnosticReport")
    assert len(lines) == len(bundle["entry"])
    assert [type(line) for line in lines].count(Line) == 1

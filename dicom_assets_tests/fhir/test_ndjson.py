"""Files of FHIR resources → lines."""

import gzip
import io
import json
import os
import zlib
from datetime import UTC, datetime

import pytest

from dicom_assets.fhir import document, ndjson
from dicom_assets.fhir.ndjson import BadLine, Expansion, Line, read_file, read_lines
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
    assert line == Line(1, text, "Patient", "é", datetime(2024, 1, 1, tzinfo=UTC))


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


@pytest.mark.parametrize("depth", [255, 1023, 5000])
@pytest.mark.parametrize(
    "line",
    [
        b'{"resourceType":"Patient","id":"d","x":%s}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","x":%s}}]}',
        b'{"entry":[{"resource":{"resourceType":"Patient","x":%s}}],"resourceType":"Bundle"}',
        b'{"entry":%s,"resourceType":"Bundle"}',
    ],
)
def test_what_is_nested_too_deep_fails_alone(depth, line):
    first, bad, last = _read(b"\n".join([A, line % (b"[" * depth + b"]" * depth), B]))
    assert (getattr(first, "id", None), getattr(last, "id", None)) == ("a", "b")
    assert isinstance(bad, BadLine)
    assert bad.reason == Reason.NESTED_TOO_DEEP


def test_what_is_nested_as_deep_as_may_be_is_a_line():
    (line,) = _read(b'{"resourceType":"Patient","x":%s}' % (b"[" * 253 + b"]" * 253))
    assert isinstance(line, Line)


def test_a_file_cut_in_its_last_line_keeps_the_others():
    lines = _read(A + b"\n" + B[:10])
    assert [type(line) for line in lines] == [Line, BadLine]


def test_a_first_line_that_breaks_off_does_not_hide_the_others():
    lines = _read(b'{"resourceType":"Patient",\n' + B + b"\n" + C)
    assert [type(line) for line in lines] == [BadLine, Line, Line]


@pytest.mark.parametrize("indent", [1, 4])
def test_a_pretty_printed_resource_is_taken(indent):
    data = json.dumps(json.loads(A), indent=indent).encode()
    assert _read(b"\xef\xbb\xbf" + data) == [Line(1, A.decode(), "Patient", "a", None)]


def test_pretty_printed_resources_one_after_the_other_are_taken():
    pretty = [json.dumps(json.loads(each), indent=2).encode() for each in (A, B)]
    assert _ids(b"\n".join(pretty)) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_and_bundles_stand_for_what_is_in_them(indent):
    patients = [json.loads(each) for each in (A, B)]
    bundle = {"resourceType": "Bundle", "entry": [{"resource": each} for each in patients]}
    for whole in (patients, bundle, [bundle]):
        lines = _read(json.dumps(whole, indent=indent).encode())
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


class Watched(io.BytesIO):
    """A file that says how much of it was held at once, and how far it was read."""

    longest = 0

    def readline(self, size=-1, /):
        line = super().readline(size)
        self.longest = max(self.longest, len(line))
        return line

    def read(self, size=-1, /):
        found = super().read(size)
        self.longest = max(self.longest, len(found))
        return found


def test_ndjson_is_read_line_by_line():
    stream = Watched(b"".join(PATIENT % b"%d" % n + b"\n" for n in range(100)))
    lines = read_lines(stream, resource_type="Patient")
    assert [getattr(next(lines), "id", None) for _ in range(2)] == ["0", "1"]
    assert stream.tell() == 2 * len(PATIENT % b"0\n")
    assert stream.longest < 50


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("in_bundle", [True, False])
def test_a_document_larger_than_memory_should_hold_is_read_piece_by_piece(
    monkeypatch, indent, in_bundle
):
    monkeypatch.setattr(ndjson, "_LONG_LINE", 1000)
    monkeypatch.setattr(document, "_CHUNK", 500)
    monkeypatch.setattr(document, "_BUNDLE_HEAD", 100)
    odd = [{"y": ']}\\"'}]
    patients = [{"resourceType": "Patient", "id": f"{n}", "x": odd} for n in range(500)]
    whole = patients
    if in_bundle:
        whole = {"id": "b", "resourceType": "Bundle", "entry": [{"resource": p} for p in patients]}
    stream = Watched(json.dumps(whole, indent=indent).encode())
    lines = list(read_lines(stream, resource_type=None))
    assert [json.loads(line.text) for line in lines if isinstance(line, Line)] == patients
    assert [line.number for line in lines] == list(range(1, 501))
    assert stream.longest <= 1001


def test_a_resource_that_is_too_long_fails_alone(monkeypatch):
    monkeypatch.setattr(ndjson, "MAX_RESOURCE_BYTES", 50)
    lines = _read(A + b"\n" + A[:-1] + b" " * 60 + b"}\n" + B)
    assert [getattr(line, "reason", None) for line in lines] == [None, Reason.TOO_LARGE, None]
    assert [line.number for line in lines] == [1, 2, 3]


def test_what_a_document_says_is_kept_to_the_digit():
    numbers = b'"x": [1.50, 12345678901234567890.1, "a  b"]'
    (line,) = _read(b'[\n  {\n  "resourceType" : "Patient",\t' + numbers + b"\n}\n]")
    assert isinstance(line, Line)
    assert line.text == '{"resourceType":"Patient","x":[1.50,12345678901234567890.1,"a  b"]}'


def test_a_document_that_breaks_off_keeps_what_came_before():
    patients = [json.loads(each) for each in (A, B, C)]
    data = json.dumps(patients, indent=1).encode()
    first, second, bad = _read(data[: data.index(b'"c"')])
    assert (first.number, second.number, bad.number) == (1, 2, 3)
    assert isinstance(bad, BadLine)
    assert bad.reason == Reason.INVALID_JSON


def test_no_two_resources_of_a_file_have_a_number():
    bundle = {"resourceType": "Bundle", "entry": [{"resource": json.loads(A)}] * 3}
    late = {"entry": bundle["entry"], "resourceType": "Bundle"}
    lines = _read(b"\n".join([json.dumps(bundle).encode(), B, json.dumps(late).encode(), b"", C]))
    assert [line.number for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]


def read_whole(data: bytes, *, max_ratio: float = 250, max_bytes: int = 1 << 40) -> list:
    may_expand = Expansion(max_ratio, max_bytes)
    return list(read_file(io.BytesIO(data), resource_type="Patient", may_expand=may_expand))


@pytest.mark.parametrize(
    "data", [A + b"\n" + B, json.dumps([json.loads(A), json.loads(B)], indent=1).encode()]
)
def test_gzip_is_taken_and_its_damage_told(data):
    packed = gzip.compress(data)
    good = read_whole(packed)
    assert [getattr(line, "id", None) for line in good] == ["a", "b"]
    wrong = packed[:-8] + b"\0\0\0\0" + packed[-4:]
    for damaged in (packed[:-12], packed[:-8], wrong):
        *_, bad = read_whole(damaged)
        assert isinstance(bad, BadLine)
        assert bad.reason == Reason.GZIP_DAMAGED


LINES = b"\n".join(PATIENT % b"%d" % n for n in range(5000))
LAST = LINES.rpartition(b"\n")[2]
PACKED = gzip.compress(LINES)


@pytest.mark.parametrize(
    ("damaged", "cut"),
    [
        (gzip.compress(A + b"\n" + B)[:-6], None),
        (gzip.compress(A + b"\n" + B + b"\n") + b"trailing", None),
        (gzip.compress(A + b"\n" + B + b'\n{"re')[:-8], b'{"re'),
        (gzip.compress(A + b"\n") + gzip.compress(B)[:-2], None),
        (gzip.compress(A) + bytes(9000) + gzip.compress(b"\n" + B) + b"\x1f\x8b\x08", None),
        (gzip.compress(A + b"\n" + B + b"\n", 0)[:-8] + b"\x07" + bytes(7), None),
        (PACKED[:-6], None),
        (PACKED + b"trailing", None),
        (PACKED[:-8] + bytes(8), None),
        (gzip.compress(LINES, 0)[:-9], LAST[:-1]),
    ],
    ids=[
        "cut in the trailer",
        "something behind",
        "a line that was begun",
        "the second member cut",
        "padding, and a third member that is only begun",
        "a wrong checksum",
        "large, cut in the trailer",
        "large, something behind",
        "large, a wrong checksum",
        "large, cut in the last line",
    ],
)
def test_what_a_damaged_gzip_file_expands_to_before_the_damage_counts(damaged, cut):
    *good, bad = read_whole(damaged)
    if len(damaged) < 10_000:
        assert [line.id for line in good] == ["a", "b"]
    else:
        count = 5000 - bool(cut)
        assert [line.id for line in good] == [f"{n}" for n in range(count)]
    assert (bad.number, bad.text) == (len(good) + 1, cut or b"")
    assert bad.reason == Reason.GZIP_DAMAGED


def test_of_gzip_data_that_are_wrong_all_lines_before_the_wrong_byte_count():
    whole = zlib.compressobj(wbits=31)
    begin = whole.compress(A + b"\n" + B + b"\n") + whole.flush(zlib.Z_FULL_FLUSH)
    packed = begin + b"\x07" + gzip.compress(C)  # a kind of block that deflate does not know
    *good, bad = read_whole(packed)
    assert [line.id for line in good] == ["a", "b"]
    assert (bad.number, bad.reason) == (3, Reason.GZIP_DAMAGED)


def test_gzip_may_expand_so_far_and_no_further(monkeypatch):
    monkeypatch.setattr(ndjson, "_FREE_EXPANSION", 10_000)
    packed = gzip.compress(b"\n".join(PATIENT % b"%d" % n for n in range(50_000)))
    assert len(read_whole(packed, max_ratio=30)) == 50_000
    for limits in ({"max_ratio": 2}, {"max_bytes": 100_000}, {"max_ratio": 0}):
        *good, bad = read_whole(packed, **limits)
        assert all(isinstance(line, Line) for line in good)
        assert len(good) < 50_000
        assert bad.reason == Reason.ARCHIVE_BOMB


def test_so_many_bad_lines_are_told_one_by_one_as_a_files_size_justifies():
    few = read_whole(b"{}\n" * 900 + A)
    assert [type(line) for line in few] == [BadLine] * 900 + [Line]
    many = read_whole(A + b"\n" + b"{}\n" * 1_000_000)
    assert 1000 < len(many) < 40_000
    assert many[-1].message.endswith("what follows was not read")
    assert len(read_whole(gzip.compress(b"{}\n" * 1_000_000))) < 1100


def test_of_many_bad_lines_the_first_are_told_and_all_good_ones_are_read(monkeypatch):
    monkeypatch.setattr(ndjson, "_MOST_TOLD", 10)
    lines = read_whole(b"{}\n" * 100 + A + b"\n" + b"{}\n" * 100 + B)
    assert [type(line) for line in lines] == [BadLine] * 10 + [Line] * 2
    assert [line.number for line in lines] == [*range(1, 11), 101, 202]
    assert lines[8].message == "the resourceType is not Patient"
    assert lines[9].message.endswith("; of bad lines after it none is told, good ones are taken")


def test_that_a_file_is_damaged_is_told_after_however_many_bad_lines(monkeypatch):
    monkeypatch.setattr(ndjson, "_MOST_TOLD", 10)
    packed = gzip.compress(
        b"".join(b'["%b"]\n' % os.urandom(50).hex().encode() for _ in range(1500))
    )
    reasons = [line.reason for line in read_whole(packed[:-8])]
    assert reasons == [Reason.INVALID_JSON] * 10 + [Reason.GZIP_DAMAGED]


def test_every_type_that_r4b_knows_is_taken_where_none_is_asked_for():
    bundle = {
        "resourceType": "Bundle",
        "entry": [{"resource": json.loads(A)}, {"resource": {"resourceType": "Observation"}}],
    }
    lines = list(read_lines(io.BytesIO(json.dumps(bundle).encode()), resource_type=None))
    assert [getattr(line, "resource_type", None) for line in lines] == ["Patient", "Observation"]


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

"""Headers become the metastore's map and its JSON text, saying the same."""

import io
import struct

import orjson
import pyarrow as pa
from dicom_bytes import DICOM_FILES, element, file_of, read, sequence, uids

from dicom_assets.dicom import Header, HeaderError, read_header
from dicom_assets.dicom.columns import metadata_column, metadata_string
from dicom_assets.lakehouse.schemas import METADATA_MAP


def published() -> list[Header]:
    headers = []
    for path in DICOM_FILES:
        try:
            headers.append(read_header(io.BytesIO(path.read_bytes())))
        except HeaderError:
            continue
    return headers


def as_text(value) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def one_by_one(header: Header) -> list[tuple[str, dict]]:
    """The row as it would be said in Python, for comparison."""
    row = []
    for key, attribute in header.json.items():
        inline = attribute.get("InlineBinary")
        values = [inline] if inline else [as_text(value) for value in attribute.get("Value", [])]
        row.append((key, {"vr": attribute["vr"], "Value": values or None}))
    return row


def test_the_map_of_many_headers_is_that_of_each():
    headers = published()
    assert len(headers) > 60
    column = metadata_column(headers)
    column.validate(full=True)
    assert column.type == METADATA_MAP
    rows = column.to_pylist()
    assert rows == pa.array([one_by_one(header) for header in headers], METADATA_MAP).to_pylist()
    assert [dict(row) for row in rows] == [dict(one_by_one(header)) for header in headers]


def test_each_kind_of_value_has_its_text():
    data = (
        element(0x00080060, "CS", b"CT")
        + element(0x00081030, "LO", b"")
        + sequence(0x00081115, element(0x00080050, "SH", b"x "))
        + sequence(0x00081140)
        + element(0x00100010, "PN", b"A^B\\\\C ")
        + element(0x00180050, "DS", b"1\\2.50\\abc")
        + element(0x00200013, "IS", b"7 ")
        + element(0x00189073, "FD", struct.pack("<2d", 1e300, float("nan")))
        + element(0x00420011, "OB", b"\1\2")
        + element(0x00420012, "OB", bytes(5000))
    )
    row = dict(metadata_column([read(file_of(data + uids()))]).to_pylist()[0])
    assert row["00080060"] == {"vr": "CS", "Value": ["CT"]}
    assert row["00081030"] == {"vr": "LO", "Value": None}
    assert row["00081115"]["Value"] == ['{"00080050":{"vr":"SH","Value":["x"]}}']
    assert row["00081140"] == {"vr": "SQ", "Value": None}
    assert row["00100010"]["Value"] == ['{"Alphabetic":"A^B"}', None, '{"Alphabetic":"C"}']
    assert row["00180050"]["Value"] == ["1.0", "2.5", "abc"]
    assert row["00200013"]["Value"] == ["7"]
    assert row["00189073"]["Value"] == ["1e+300", "NaN"]
    assert row["00420011"] == {"vr": "OB", "Value": ["AQI="]}
    assert row["00420012"] == {"vr": "OB", "Value": None}


def test_the_json_text_is_the_header():
    for header in published():
        assert orjson.loads(metadata_string(header)) == header.json


def test_no_headers_make_an_empty_column_and_an_empty_header_an_empty_row():
    assert metadata_column([]).to_pylist() == []
    assert metadata_column([]).type == METADATA_MAP
    empty = Header([], {}, None, [])
    whole = read(file_of(uids()))
    rows = metadata_column([empty, whole, empty]).to_pylist()
    assert [len(row) for row in rows] == [0, 3, 0]

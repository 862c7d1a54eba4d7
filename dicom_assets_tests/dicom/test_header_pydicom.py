"""Headers are read as pydicom reads them, and values that pydicom gives up on are kept."""

import base64
import io
import math
import struct
import warnings
from pathlib import Path

import orjson
import pydicom
import pytest
from dicom_bytes import DICOM_FILES, SHARED, element, file_of, read, refused, sequence, uids
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from dicom_assets.dicom import Header, HeaderError
from dicom_assets.dicom.elements import BULK_BYTES, is_excluded
from dicom_assets.lakehouse.reasons import Reason

# Where the header of a published file is not pydicom's JSON: file → element → what it is instead.
DIFFERENCES = {
    # pydicom raises: an IS that is no number. Text is allowed there (PS3.18 table F.2.3-1).
    "badVR.dcm": {"00280008": {"vr": "IS", "Value": ["1A"]}},
    # The file ends inside this element; pydicom takes the half of its value that is there.
    "rtplan_truncated.dcm": {"300A00B0.300A0111.300A012C": {"vr": "DS"}},
    # Zeros behind the dataset, which pydicom takes for an element (0000,0000).
    "brain_001.dcm": {"00000000": None},
}
# Published files that are no rows, whatever pydicom makes of them.
REFUSED = {"no_meta.dcm": Reason.NOT_DICOM, "DICOMDIR-empty.dcm": Reason.DICOMDIR}


def pydicom_json(dataset: pydicom.Dataset) -> dict:
    """pydicom's DICOM JSON Model without the excluded elements and bulk data."""
    found = {}
    for tag in dataset.keys():  # noqa: SIM118
        if is_excluded(int(tag)):
            continue
        said = bytes_of(dataset, tag)
        attribute = ATTRIBUTES.get(said) if said else None
        if attribute is None:
            attribute = pydicom_attribute(dataset, tag)
            if said:
                ATTRIBUTES[said] = attribute
        found[f"{tag:08X}"] = attribute
    return found


ATTRIBUTES: dict[tuple, dict] = {}
"""What pydicom makes of elements it has seen: slices of a series say most of the same."""


def bytes_of(dataset: pydicom.Dataset, tag: BaseTag) -> tuple | None:
    """All that an attribute depends on; None when it may depend on other elements, or is large."""
    raw = dataset.get_item(tag)
    if not isinstance(raw, RawDataElement) or raw.VR in (None, "UN", "SQ"):
        return None
    if len(raw.value or b"") > BULK_BYTES:
        return None
    encoding = dataset.original_character_set or dataset._character_set
    return tag, raw.VR, raw.value, raw.is_little_endian, str(encoding)


def pydicom_attribute(dataset: pydicom.Dataset, tag: BaseTag) -> dict:
    try:
        whole = dataset[tag]
        if whole.VR == "SQ":
            return {"vr": "SQ", "Value": [pydicom_json(item) for item in whole.value]}
        attribute = whole.to_json_dict(None, 1024)
    except Exception as error:
        return {"pydicom raises": type(error).__name__}
    inline = attribute.get("InlineBinary", "")
    if len(base64.b64decode(inline)) > BULK_BYTES:
        attribute.pop("InlineBinary")
    return attribute


def differences(theirs: dict, ours: dict, path: str = "") -> dict:
    found = {}
    for key in sorted(theirs.keys() | ours.keys()):
        one, other = theirs.get(key), ours.get(key)
        if one == other:
            continue
        items = [(attribute or {}).get("Value") or [] for attribute in (one, other)]
        if (
            one
            and other
            and one.get("vr") == other["vr"] == "SQ"
            and len(set(map(len, items))) == 1
        ):
            for left, right in zip(*items, strict=True):
                found |= differences(left, right, f"{path}{key}.")
        else:
            found[path + key] = other
    return found


def read_with_uids(path: Path) -> tuple[bytes, Header] | None:
    """The file, with the UIDs that palettes and fragments of files lack added at its end.

    None when it is refused for another reason.
    """
    data = path.read_bytes()
    try:
        return data, read(data)
    except HeaderError as error:
        if error.reason not in (Reason.NO_STUDY_UID, Reason.TRUNCATED):
            return None
    implicit, little = pydicom.dcmread(path, force=True).original_encoding
    data += uids(None if implicit else "UI", "<" if little else ">")
    return data, read(data)


def check_against_pydicom(path: Path) -> dict | None:
    """The differences that there should not be; None when the file is refused."""
    if not (found := read_with_uids(path)):
        return None
    data, header = found
    ours = header.json
    assert orjson.loads(orjson.dumps(ours)) == ours
    assert list(ours) == sorted(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom_json(pydicom.dcmread(io.BytesIO(data), force=True))
    different = differences(theirs, ours)
    return {} if different == DIFFERENCES.get(path.name, {}) else different


@pytest.mark.parametrize("path", DICOM_FILES, ids=lambda path: path.name)
def test_a_header_is_what_pydicom_makes_of_the_file(path: Path):
    if path.name in REFUSED:
        assert refused(path.read_bytes()).reason == REFUSED[path.name]
    else:
        assert check_against_pydicom(path) == {}


def test_no_file_of_the_shared_collection_raises_and_all_are_what_pydicom_makes_of_them():
    if not SHARED.is_dir():
        pytest.skip("the shared collection of DICOM files is not here")
    found = {path: check_against_pydicom(path) for path in SHARED.rglob("*") if path.is_file()}
    assert {path.name: each for path, each in found.items() if each} == {}
    assert len([path for path, each in found.items() if each is not None]) > 900, "were compared"


# Values that do not decode, or that JSON does not have: element, what it becomes, its note.
ODD_VALUES = {
    "a decimal that is none": (
        element(0x00180050, "DS", b"1.5\\abc "),
        {"vr": "DS", "Value": [1.5, "abc"]},
        "not a number of DS",
    ),
    "a decimal that is not finite": (
        element(0x00180050, "DS", b"1e999\\nan"),
        {"vr": "DS", "Value": ["1e999", "nan"]},
        "not a number of DS",
    ),
    "an empty decimal among others": (
        element(0x00180050, "DS", b"1\\\\2 "),
        {"vr": "DS", "Value": [1.0, None, 2.0]},
        None,
    ),
    "an integer with a fraction, which pydicom cuts off": (
        element(0x00200013, "IS", b"1.5 "),
        {"vr": "IS", "Value": ["1.5"]},
        "not a number of IS",
    ),
    "an integer written as a decimal": (
        element(0x00200013, "IS", b"1.0 "),
        {"vr": "IS", "Value": [1]},
        None,
    ),
    "an integer that no JSON number holds": (
        element(0x00200013, "IS", b"9" * 30),
        {"vr": "IS", "Value": ["9" * 30]},
        "not a number of IS",
    ),
    "floats that JSON does not have": (
        element(0x00189073, "FD", struct.pack("<3d", math.nan, math.inf, -math.inf)),
        {"vr": "FD", "Value": ["NaN", "Infinity", "-Infinity"]},
        None,
    ),
    "a number of the wrong length": (
        element(0x00280010, "US", b"\1\2\3"),
        {"vr": "UN", "InlineBinary": "AQID"},
        "a length that is not of US",
    ),
    "a tag of the wrong length": (
        element(0x00280009, "AT", b"\1\2\3\4\5\6"),
        {"vr": "UN", "InlineBinary": "AQIDBAUG"},
        "a length that is not of AT",
    ),
    "an unknown VR of a known tag": (
        element(0x00080060, "QQ", b"CT"),
        {"vr": "CS", "Value": ["CT"]},
        "an unknown value representation",
    ),
    "an empty name among others": (
        element(0x00081048, "PN", b"A^B\\\\=I "),
        {
            "vr": "PN",
            "Value": [{"Alphabetic": "A^B"}, None, {"Alphabetic": "", "Ideographic": "I"}],
        },
        None,
    ),
    "text that is not of its character set": (
        element(0x00080005, "CS", b"ISO_IR 192") + element(0x00081030, "LO", b"a\xffb "),
        {"vr": "LO", "Value": ["a\ufffdb"]},
        "text not of the specific character set",
    ),
    "text in an unknown character set": (
        element(0x00080005, "CS", b"ISO_IR 999") + element(0x00081030, "LO", b"a\xe9 "),
        {"vr": "LO", "Value": ["aé"]},
        None,
    ),
    "an unresolved VR of a retired element": (
        element(0x00281200, "UN", b"\1\2"),
        {"vr": "OW", "InlineBinary": "AQI="},
        None,
    ),
}


def attribute_tag(data: bytes) -> int:
    """The last element's tag: behind the character set, if that comes first."""
    first = struct.unpack_from("<HH", data)
    at = 18 if first == (8, 5) else 0
    high, low = struct.unpack_from("<HH", data, at)
    return high << 16 | low


@pytest.mark.parametrize("what", ODD_VALUES)
def test_an_odd_value_is_kept_as_it_stands(what: str):
    data, attribute, note = ODD_VALUES[what]
    header = read(file_of(data + uids()))
    key = f"{attribute_tag(data):08X}"
    assert header.json[key] == attribute
    assert [n for n in header.decode_notes if n.startswith(key)] == (
        [f"{key} {note}"] if note else []
    )
    assert orjson.loads(orjson.dumps(header.json)) == header.json


def test_an_unknown_character_set_is_noted():
    header = read(file_of(ODD_VALUES["text in an unknown character set"][0] + uids()))
    assert header.decode_notes == ["00080005 unknown character set"]


def test_a_note_on_a_nested_element_names_the_way_to_it():
    inner = element(0x00080050, "SH", b"x ") + element(0x00200013, "IS", b"no")
    header = read(file_of(sequence(0x00081115, sequence(0x00081199, inner)) + uids()))
    assert header.decode_notes == ["00081115.00081199.00200013 not a number of IS"]

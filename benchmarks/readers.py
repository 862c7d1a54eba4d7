"""Header → DICOM JSON text in Python: each contestant as a function from path to text.

`ours` is the product's reader, `pydicom` the usual loop, `gdcm` python-gdcm with a recursion of its
own (character sets and checks are left out there, which is in its favour), `floor` reads 16 KiB and
nothing else. Not decided here: what is timed (`benchmarks.header`).
"""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

Reader = Callable[[str], str]
_BULK = 1024
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_BINARY = {"OB", "OW", "OF", "OD", "OL", "OV", "UN"}


def ours() -> Reader:
    """Returns the product's way."""
    from dicom_assets.dicom import read_header
    from dicom_assets.dicom.columns import metadata_string

    def read(path: str) -> str:
        with open(path, "rb") as stream:
            return metadata_string(read_header(stream))

    return read


def pydicom() -> Reader:
    """Returns pydicom's own way."""
    import pydicom

    def read(path: str) -> str:
        return json.dumps(pydicom.dcmread(path, stop_before_pixels=True).to_json_dict())

    return read


def gdcm() -> Reader:
    """Returns a straightforward way with GDCM's Python binding."""
    import gdcm  # pyright: ignore[reportMissingImports] -- of the extra `bench`

    pixel_data = gdcm.Tag(0x7FE0, 0x0010)

    def converted(dataset: Any) -> dict[str, Any]:
        result = {}
        for element in dataset.GetDES():
            tag, vr = element.GetTag(), str(element.GetVR())
            key = f"{tag.GetGroup():04X}{tag.GetElement():04X}"
            result[key] = {"vr": vr} | value(element, vr)
        return result

    def value(element: Any, vr: str) -> dict[str, Any]:
        if vr == "SQ":
            sequence = element.GetValueAsSQ()
            items = range(1, sequence.GetNumberOfItems() + 1)
            return {"Value": [converted(sequence.GetItem(at).GetNestedDataSet()) for at in items]}
        stored = element.GetByteValue()
        if stored is None or element.IsEmpty():
            return {}
        text = stored.GetBuffer()
        if vr in _NUMBERS or vr in _BINARY or vr == "AT":
            return _binary(text.encode("utf-8", "surrogateescape"), vr)
        texts = text.rstrip(" \0").split("\\")
        if vr == "PN":
            return {"Value": [{"Alphabetic": each} for each in texts]}
        if vr == "IS":
            return {"Value": [int(each) for each in texts]}
        return {"Value": [float(each) for each in texts] if vr == "DS" else texts}

    def read(path: str) -> str:
        reader = gdcm.Reader()
        reader.SetFileName(path)
        if not reader.ReadUpToTag(pixel_data):
            raise ValueError(f"GDCM cannot read {path}")
        return json.dumps(converted(reader.GetFile().GetDataSet()))

    return read


def _binary(raw: bytes, vr: str) -> dict[str, Any]:
    if vr in _NUMBERS:
        code = _NUMBERS[vr]
        return {"Value": list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))}
    if vr == "AT":
        return {"Value": [f"{group:04X}{element:04X}" for group, element in _pairs(raw)]}
    return {"InlineBinary": base64.b64encode(raw).decode()} if len(raw) <= _BULK else {}


def _pairs(raw: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<HH", raw))


def floor() -> Reader:
    """Returns what nobody can go below: open, read 16 KiB, close."""

    def read(path: str) -> str:
        with open(path, "rb", buffering=0) as stream:
            stream.read(16 * 1024)
        return ""

    return read


READERS: dict[str, Callable[[], Reader]] = {
    "ours": ours,
    "pydicom": pydicom,
    "gdcm": gdcm,
    "floor": floor,
}


def differences(ours: dict[str, Any], theirs: dict[str, Any], at: str = "") -> list[str]:
    """Returns the tags at which our DICOM JSON is not pydicom's.

    Bulk data may be missing in ours by design: of binary values over 1 KiB the `vr` alone stays.
    """
    wrong = [f"{at}{tag}" for tag in ours.keys() ^ theirs.keys()]
    for tag in ours.keys() & theirs.keys():
        mine, other = ours[tag], theirs[tag]
        if mine.get("vr") == other.get("vr") == "SQ":
            pairs = mine.get("Value", []), other.get("Value", [])
            if len(pairs[0]) != len(pairs[1]):
                wrong.append(f"{at}{tag}")
            for item, theirs_item in zip(*pairs, strict=False):
                wrong += differences(item, theirs_item, f"{at}{tag}.")
        elif mine != other and not _left_out(mine, other):
            wrong.append(f"{at}{tag}")
    return sorted(wrong)


def _left_out(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    inline = other.get("InlineBinary", "")
    return mine == {"vr": other["vr"]} and len(inline) * 3 // 4 > _BULK

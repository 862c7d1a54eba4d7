"""DICOM files made of bytes, for tests: each element as PS3.5 section 7.1 encodes it."""

import io
import struct
import zlib
from pathlib import Path

import pydicom
import pytest

from dicom_assets.dicom import Header, HeaderError, read_header

WHEEL = Path(pydicom.__file__).parent / "data"
"""Published test files, as pydicom's wheel brings them."""

SHARED = Path(__file__).parents[3] / "shared/data/dicom"
"""A larger collection, where it is present."""

DICOM_FILES = sorted(
    path
    for path in WHEEL.rglob("*")
    if path.is_file()
    and (path.suffix == ".dcm" or path.parent.parent.parent.name == "dicomdirtests")
)

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")


def number(tag: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)


def element(tag: int, vr: str | None, value: bytes, *, order: str = "<", length=None) -> bytes:
    """Encodes an element; implicit VR if `vr` is None."""
    size = len(value) if length is None else length
    if vr is None:
        return number(tag, order) + struct.pack(f"{order}L", size) + value
    if vr in LONG:
        return number(tag, order) + vr.encode() + b"\0\0" + struct.pack(f"{order}L", size) + value
    return number(tag, order) + vr.encode() + struct.pack(f"{order}H", size) + value


def uids(vr: str | None = "UI", order: str = "<") -> bytes:
    return b"".join(
        element(tag, vr and "UI", value, order=order)
        for tag, value in ((0x00080018, b"1.2.3"), (0x0020000D, b"1.2.4"), (0x0020000E, b"1.2.5"))
    )


def sequence(tag: int, *items: bytes) -> bytes:
    """Encodes a sequence, everything of undefined length."""
    ends = number(0xFFFEE00D) + bytes(4)
    inner = b"".join(number(0xFFFEE000) + b"\xff" * 4 + item + ends for item in items)
    return element(tag, "SQ", inner + number(0xFFFEE0DD) + bytes(4), length=0xFFFFFFFF)


def encapsulated(*fragments: bytes) -> bytes:
    items = b"".join(element(0xFFFEE000, None, fragment) for fragment in (b"", *fragments))
    value = items + number(0xFFFEE0DD) + bytes(4)
    return element(0x7FE00010, "OB", value, length=0xFFFFFFFF)


def deflated(dataset: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(dataset) + deflater.flush()


def file_of(dataset: bytes, syntax: str = EXPLICIT) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.2\0") + element(
        0x00020010, "UI", uid
    )
    return (
        bytes(128)
        + b"DICM"
        + element(0x00020000, "UL", struct.pack("<L", len(meta)))
        + meta
        + dataset
    )


def read(data: bytes, **kwargs) -> Header:
    return read_header(io.BytesIO(data), **kwargs)


def refused(data: bytes) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        read(data)
    return caught.value

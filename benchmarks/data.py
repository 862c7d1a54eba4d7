"""Bytes, pixels and files: what the benchmarks run on, made in seconds.

A series' header is encoded once; for each instance only the elements that vary are encoded again.
Pixels are drawn from a pool of different images, for no contestant looks at them: CT-like noise
that zlib's level 6 packs to about 0.54, ISA-L's level 1 to about 0.56. The members of ZIPs are
deflated by zlib's level 6, as hospitals' exports are: the pixels of the pool once, the headers each
time; a deflate stream may be put together of such parts. Not decided here: what stands in headers
(`benchmarks.headers`).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pydicom.charset import convert_encodings
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from benchmarks import headers
from benchmarks.header_values import CR, CT, MR

SLICES_PER_SERIES = 100
SERIES_PER_STUDY = 4
_POOL = 24
_ENHANCED_FRAMES = 300
_ENHANCED_ROWS = 64
_MADE = "made"


class Series:
    """Files of one series: what they share is encoded once."""

    def __init__(self, header: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> None:
        """Encodes each element of the header."""
        correct_ambiguous_vr(header, True)
        self._encodings = convert_encodings(header.SpecificCharacterSet)
        self._sop_class, self._transfer_syntax = header.SOPClassUID, transfer_syntax
        self._vrs = {int(element.tag): element.VR for element in header}
        self._elements = {int(element.tag): self._encoded(element) for element in header}

    def _encoded(self, element) -> bytes:  # a DataElement, raw or not
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, self._encodings)
        return buffer.getvalue()

    def header_bytes(self, values: dict[str, str]) -> bytes:
        """Returns the file up to its pixels, with these values instead of the first instance's."""
        elements = dict(self._elements)
        for keyword, text in values.items():
            tag = tag_for_keyword(keyword) or 0
            if tag in elements:
                elements[tag] = _text_element(tag, self._vrs[tag], text)
        uid = values["SOPInstanceUID"]
        return self._meta(uid) + b"".join(elements[tag] for tag in sorted(elements))

    def _meta(self, sop_instance_uid: str) -> bytes:
        elements = (
            struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2)
            + b"\x00\x01"
            + _text_element(0x00020002, "UI", self._sop_class)
            + _text_element(0x00020003, "UI", sop_instance_uid)
            + _text_element(0x00020010, "UI", self._transfer_syntax)
            + _text_element(0x00020012, "UI", "1.2.826.0.1.3680043.8.498.1")
        )
        group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements))
        return bytes(128) + b"DICM" + group_length + elements


def _text_element(tag: int, vr: str, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\x00" if vr == "UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


@dataclass(frozen=True, slots=True)
class Pixels:
    """A pixel data element, and the same deflated."""

    element: bytes
    deflated: bytes


def _pixels(value: bytes, *, encapsulated: bool = False) -> Pixels:
    length = 0xFFFFFFFF if encapsulated else len(value)
    vr = b"OB" if encapsulated else b"OW"
    element = struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, length) + value
    packer = zlib.compressobj(6, wbits=-15)
    return Pixels(element, packer.compress(element) + packer.flush())


@cache
def ct_pixels() -> tuple[Pixels, ...]:
    """Returns the pool of CT-like images of 512 x 512: body, lungs, noise, padding outside."""
    noise = np.random.default_rng(7)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = y**2 * 1.6 + x**2 < 0.7
    lungs = (abs(x) - 0.35) ** 2 * 3 + y**2 * 1.5 < 0.15
    tissue = np.where(lungs & body, 150, 1040 + 60 * np.sin(5 * x) * np.cos(4 * y))
    base, spread = np.where(body, tissue, 60.0), np.where(body, 80.0, 40.0)
    seen = x**2 + y**2 < 1.04
    images = []
    for _ in range(_POOL):
        image = np.where(seen, base + noise.normal(size=base.shape) * spread, 0)
        images.append(_pixels(image.clip(0, 4095).astype("<u2").tobytes()))
    return tuple(images)


@cache
def other_pixels(kind: str) -> Pixels:
    """Returns pixels of a kind of file that is no CT slice."""
    noise = np.random.default_rng(11)
    if kind == "JPEG 2000":
        # a code stream does not deflate; nothing here decodes it
        stream = b"\xff\x4f\xff\x51" + noise.integers(0, 256, 180_000, np.uint8).tobytes()
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        items += struct.pack("<HHI", 0xFFFE, 0xE000, len(stream)) + stream
        return _pixels(items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), encapsulated=True)
    sizes = {"CR": (1344, 1024), "MR": (320, 320), "small": (16, 16)}
    shape = sizes.get(kind, (_ENHANCED_FRAMES * _ENHANCED_ROWS, _ENHANCED_ROWS))
    return _pixels(noise.normal(600, 90, shape).clip(0, 4095).astype("<u2").tobytes())


@dataclass(frozen=True, slots=True)
class Instance:
    """One file: what stands before its pixels, and those."""

    name: str
    header: bytes
    pixels: Pixels

    def write(self, folder: Path) -> None:
        """Writes the file."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.header + self.pixels.element)


def ct_files(count: int, *, small: bool = False, long: bool | None = None) -> Iterator[Instance]:
    """Makes CT files: a hundred a series, four series a study, four studies a patient.

    Args:
        count: How many.
        small: With 16 x 16 pixels, so that many fit on a disk; headers are the same.
        long: Whether headers have some 260 elements or some 90; None: every second study.
    """
    images = (other_pixels("small"),) if small else ct_pixels()
    for first in range(0, count, SLICES_PER_SERIES):
        series = first // SLICES_PER_SERIES
        study = series // SERIES_PER_STUDY
        chosen = study % 2 == 1 if long is None else long
        made = Series(headers.series_header(CT, study, series, long=chosen))
        for number in range(min(SLICES_PER_SERIES, count - first)):
            header = made.header_bytes(headers.varying(CT, study, series, number))
            name = f"S{study:04}/SE{series:05}/IM{number:06}.dcm"
            yield Instance(name, header, images[(first + number) % len(images)])


def files_of(kind: str, count: int) -> Iterator[Instance]:
    """Makes files of one of the kinds of `KINDS`."""
    if kind.startswith("CT"):
        yield from ct_files(count, long="260" in kind)
        return
    modality = {"MR": MR, "CR": CR}.get(kind, CT)
    pixels = other_pixels(kind)
    series = None
    for number in range(count):
        first = number - number % 20
        if kind == "enhanced":
            series = Series(headers.enhanced_header(number, _ENHANCED_FRAMES))
        elif number == first or series is None:
            header = headers.series_header(modality, first, first, long=kind == "JPEG 2000")
            syntax = JPEG2000Lossless if kind == "JPEG 2000" else ExplicitVRLittleEndian
            series = Series(header, syntax)
        place = number if kind == "enhanced" else first
        header = series.header_bytes(headers.varying(modality, place, place, number - place))
        yield Instance(f"{kind.replace(' ', '')}/IM{number:06}.dcm", header, pixels)


KINDS = {
    "CT, ~90 elements": 400,
    "CT, ~260 elements": 400,
    "MR": 200,
    "JPEG 2000": 200,
    "CR": 40,
    "enhanced": 8,
}
"""Kinds of file for the header benchmark, and how many of each make it."""


def write_zips(folder: Path, files: Iterator[Instance], members: int) -> None:
    """Writes files into ZIPs of so many members each, in nested folders inside."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = list(files)
    for first in range(0, len(waiting), members):
        path = folder / f"EXPORT{first // members:03}.zip"
        path.write_bytes(_zip(waiting[first : first + members]))


def _zip(files: list[Instance]) -> bytes:
    body, directory = bytearray(), bytearray()
    for file in files:
        name = f"DICOM/{file.name}".encode()
        packer = zlib.compressobj(6, wbits=-15)
        stream = packer.compress(file.header) + packer.flush(zlib.Z_FULL_FLUSH)
        stream += file.pixels.deflated
        crc = zlib.crc32(file.pixels.element, zlib.crc32(file.header))
        size = len(file.header) + len(file.pixels.element)
        common = struct.pack(
            "<HHHHHIIIHH", 20, 0, 8, 0x4A00, 0x5C6E, crc, len(stream), size, len(name), 0
        )
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\x03\x04" + common + name + stream
    end = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), len(body), 0
    )
    return bytes(body + directory + end)


def once(folder: Path) -> bool:
    """Says whether a folder's data are still to be made; `done` ends that."""
    return not (folder / _MADE).exists()


def done(folder: Path) -> None:
    """Marks a folder's data as whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MADE).touch()

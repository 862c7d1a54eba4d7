"""Pixel Data → one frame as an array, for previews.

Decided here: which encodings are decoded (native and RLE, with numpy alone) and how much memory one
frame may take. Not decided here: whether a frame may be shown, and how (`thumbnails`). Reads the
one frame only; a length that lies finds no memory.
"""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dicom_assets.dicom.elements import Pixels
from dicom_assets.dicom.part10 import EXPLICIT_BIG_ENDIAN, NATIVE, DicomFile
from dicom_assets.dicom.source import Source

MOST_PIXELS = 64 << 20
"""Pixels of the largest frame that is read."""

_MOST_BITS = 256 << 23
_MOST_RLE_PIXELS = 8 << 20  # decoded by hand, byte by byte
_RLE = "1.2.840.10008.1.2.5"
_ITEM = b"\xfe\xff\x00\xe0"
_ENCODINGS = (
    ("1.2.840.10008.1.2.1.99", "Deflated"),
    ("1.2.840.10008.1.2.4.5", "JPEG"),
    ("1.2.840.10008.1.2.4.7", "JPEG lossless"),
    ("1.2.840.10008.1.2.4.8", "JPEG-LS"),
    ("1.2.840.10008.1.2.4.9", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.11", "JPEG XL"),
    ("1.2.840.10008.1.2.4.20", "High-throughput JPEG 2000"),
    ("1.2.840.10008.1.2.4.10", "video"),
    (_RLE, "RLE"),
)


class NoPreview(Exception):
    """The frame cannot be decoded; the argument says why, for a placeholder."""


@dataclass(frozen=True, slots=True)
class FrameShape:
    """How the pixels of a frame are laid out (PS3.3 C.7.6.3).

    Attributes:
        rows: (0028,0010).
        columns: (0028,0011).
        samples: (0028,0002).
        allocated: Bits Allocated (0028,0100).
        stored: Bits Stored (0028,0101).
        high_bit: (0028,0102).
        signed: Pixel Representation (0028,0103) is 1.
        planar: Planar Configuration (0028,0006) is 1.
        halved: Chrominance is stored for every second column (YBR_FULL_422).
    """

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    planar: bool
    halved: bool


def frame(
    stream: BinaryIO, file: DicomFile, shape: FrameShape, *, index: int, step: int
) -> np.ndarray:
    """Returns one frame: (rows, columns), or (rows, columns, samples) if there are several.

    Args:
        stream: The file; read from where its pixels lie.
        file: What is known of it.
        shape: How they are laid out.
        index: Frame number, from 0.
        step: Only every so many rows and columns are returned.

    Raises:
        NoPreview: The encoding is not decoded here, the frame is too large, or damaged.
    """
    pixels, syntax = file.pixels, file.transfer_syntax_uid
    count = shape.rows * shape.columns
    if pixels is None:
        raise NoPreview("no image")
    if not 0 < count <= MOST_PIXELS:
        raise NoPreview("too large for a preview" if count > 0 else "no pixels")
    if count * shape.samples * shape.allocated > _MOST_BITS:
        raise NoPreview("too large for a preview")
    if shape.allocated not in (1, 8, 16, 32) or shape.samples not in (1, 3):
        raise NoPreview("unusual pixels: no preview")
    stream.seek(pixels.offset)
    if syntax in NATIVE and pixels.length is not None:
        flat = _native(stream, pixels, shape, index, big_endian=syntax == EXPLICIT_BIG_ENDIAN)
    elif syntax == _RLE and shape.allocated > 1:
        flat = _run_lengths(stream, shape, index)
    else:
        name = next((name for uid, name in _ENCODINGS if (syntax or "").startswith(uid)), "")
        raise NoPreview(f"{name or 'unknown encoding'}: no preview")
    shaped = _shaped(flat, shape, planar=shape.planar or syntax == _RLE)
    return _signed_values(shaped[::step, ::step], shape)


def _native(
    stream: BinaryIO, pixels: Pixels, shape: FrameShape, index: int, *, big_endian: bool
) -> np.ndarray:
    samples = 2 if shape.halved else shape.samples
    bits = shape.rows * shape.columns * samples * shape.allocated
    start, lead = divmod(index * bits, 8)
    swapped = big_endian and shape.allocated == 8 and pixels.vr == "OW"
    if swapped:
        lead, start = start % 2, start - start % 2
    source = Source(stream)
    source.skip(start)
    size = (bits + 7 + lead) // 8 if shape.allocated == 1 else bits // 8 + lead
    data = source.take(size + size % 2 if swapped else size)
    if shape.allocated == 1:
        flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return flat[lead : lead + bits]
    if swapped:
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()[lead : lead + bits // 8]
    order = ">" if big_endian else "<"
    return np.frombuffer(data, f"{order}u{shape.allocated // 8}")


def _shaped(flat: np.ndarray, shape: FrameShape, *, planar: bool) -> np.ndarray:
    rows, columns = shape.rows, shape.columns
    if shape.halved and flat.size == rows * columns * 2:
        pairs = flat.reshape(-1, 4)  # Y1 Y2 Cb Cr
        first, second = pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]
        return np.stack([first, second], axis=1).reshape(rows, columns, 3)
    if shape.samples == 1:
        return flat.reshape(rows, columns)
    if planar:
        return flat.reshape(shape.samples, rows, columns).transpose(1, 2, 0)
    return flat.reshape(rows, columns, shape.samples)


def _signed_values(values: np.ndarray, shape: FrameShape) -> np.ndarray:
    """Returns the stored bits alone: old files keep overlays in the others."""
    allocated = values.dtype.itemsize * 8
    stored, high_bit = min(shape.stored, allocated), shape.high_bit
    if not 0 < stored <= high_bit + 1 <= allocated:
        stored, high_bit = allocated, allocated - 1
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if shape.signed:
        values = values.view(f"i{values.dtype.itemsize}")
    if stored == allocated:
        return values
    return (values << (allocated - 1 - high_bit)) >> (allocated - stored)


def _run_lengths(stream: BinaryIO, shape: FrameShape, index: int) -> np.ndarray:
    """Returns an RLE frame, all of one sample after the other (PS3.5 Annex G)."""
    count = shape.rows * shape.columns
    width = shape.allocated // 8
    if count > _MOST_RLE_PIXELS:
        raise NoPreview("too large for a preview")
    source = Source(stream)
    for _ in range(index + 1):  # the first item is the offset table
        source.skip(_item_length(source))
    length = _item_length(source)
    if length > 64 + count * shape.samples * width * 2:
        raise NoPreview("damaged pixels: no preview")
    data = source.take(length)
    offsets = np.frombuffer(data[:64], "<u4").tolist()
    segments = offsets.pop(0)
    if segments != shape.samples * width:
        raise NoPreview("damaged pixels: no preview")
    ends = [*offsets[1:segments], len(data)]
    planes = [_unpack(data[start:end], count) for start, end in zip(offsets, ends, strict=False)]
    stacked = np.stack(planes).reshape(shape.samples, width, count)
    # The most significant byte comes first.
    flat = np.ascontiguousarray(stacked.transpose(0, 2, 1)).view(f">u{width}")
    return flat.reshape(-1)


def _item_length(source: Source) -> int:
    head = source.take(8)
    if head[:4] != _ITEM:
        raise NoPreview("damaged pixels: no preview")
    return int.from_bytes(head[4:], "little")


def _unpack(data: bytes, count: int) -> np.ndarray:
    """Returns a segment's bytes, `count` of them and no more."""
    out = bytearray()
    at = 0
    while at + 1 < len(data) and len(out) < count:
        run = data[at]
        if run < 128:
            out += data[at + 1 : at + 2 + run]
            at += run + 2
        else:
            if run > 128:
                out += data[at + 1 : at + 2] * (257 - run)
            at += 2 if run > 128 else 1
    if len(out) < count:
        raise NoPreview("damaged pixels: no preview")
    return np.frombuffer(bytes(out[:count]), np.uint8)

"""What stands before a value: tag, VR and length, and what is to be done with such an element.

Decided here: which elements the fast reader takes, and which are not plain enough for it. Not
decided here: how they are read (`plain`). Whatever depends on more than these bytes is told by the
kind, so that what was found for them holds wherever they stand.
"""

import struct
from collections.abc import Container
from typing import NamedTuple

from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.elements import (
    BULK_BYTES,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    is_excluded,
    standard_vr,
)
from dicom_assets.dicom.values import DECIDING

PLAIN, PROMOTED, LONG, SEQUENCE, DECIDES, UNSURE, BULK, EXCLUDED, PIXELS, END = range(10)
"""What is done with an element.

PLAIN: its bytes tell what it is. PROMOTED: so do they, and it is promoted at the top level. LONG:
four more bytes hold its length. SEQUENCE: it holds items. DECIDES: others are read by it. UNSURE:
others decide about its VR. BULK: its value is left out. EXCLUDED: all of it is. PIXELS: Pixel Data.
END: the item ends.
"""


class NotPlain(Exception):
    """The careful reader has to read this file."""


class Head(NamedTuple):
    """What the bytes before a value tell.

    Attributes:
        kind: What is done with the element.
        tag: Its number.
        size: Bytes of the whole element; 0 where its length is undefined or not known yet.
        key: Its number in the DICOM JSON Model.
        vr: Its value representation; empty where an item or a private creator decides.
        width: Bytes before the value.
    """

    kind: int
    tag: int
    size: int
    key: str = ""
    vr: str = ""
    width: int = 8


class Encoding:
    """How numbers and VRs stand in a dataset, and the heads that were seen in such ones."""

    def __init__(self, *, implicit: bool, little_endian: bool) -> None:
        """Takes what the dataset's start and the transfer syntax say."""
        order = "<" if little_endian else ">"
        self.implicit = implicit
        self.little_endian = little_endian
        self.heads: dict[bytes, Head] = {}
        self.long = struct.Struct(f"{order}L").unpack_from
        self._tag = struct.Struct(f"{order}HH").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from
        self.item = struct.pack(f"{order}HH", ITEM >> 16, ITEM & 0xFFFF)
        self.sequence_end = struct.pack(f"{order}HHL", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)

    def head(self, key: bytes, promoted: Container[int]) -> Head:
        """Returns what so many bytes tell: eight, or twelve if eight were found to be LONG.

        Raises:
            NotPlain: No plain element begins so.
        """
        high, low = self._tag(key)
        tag = high << 16 | low
        if high == 0xFFFE:
            if tag != ITEM_END or any(key[4:8]):
                raise NotPlain
            return Head(END, tag, 8)
        if high == 4:
            raise NotPlain  # a DICOMDIR
        if self.implicit:
            return _head(tag, None, self.long(key, 4)[0], 8, promoted)
        stated = vrs.EXPLICIT.get(key[4:6])
        if stated is None:
            raise NotPlain
        if stated not in vrs.LONG:
            return _head(tag, stated, self._short(key, 6)[0], 8, promoted)
        if len(key) == 8:
            return Head(LONG, tag, 0)
        return _head(tag, stated, self.long(key, 8)[0], 12, promoted)


def creator_of(tag: int) -> int:
    """Returns the tag of the private creator that a private element belongs to."""
    return tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8


def _head(tag: int, stated: str | None, length: int, width: int, promoted: Container[int]) -> Head:
    defined = length != UNDEFINED
    size = width + length if defined else 0
    if tag == PIXEL_DATA:
        return Head(PIXELS, tag, size)
    if is_excluded(tag):
        if not defined:
            raise NotPlain
        return Head(EXCLUDED, tag, size)
    vr = _vr(tag, stated, length)
    kind = _kind(tag, vr, length, promoted)
    if not defined and kind != SEQUENCE:
        raise NotPlain
    return Head(kind, tag, size, f"{tag:08X}", vr, width)


def _vr(tag: int, stated: str | None, length: int) -> str:
    """Returns the VR; empty where an item or a private creator decides."""
    if stated is not None and stated != "UN":
        return stated
    if length == UNDEFINED:
        return "SQ" if stated else vrs.dictionary_vr(tag) or ""
    if _is_creator(tag):
        return "LO"
    if tag & 0x10000:
        return "" if tag & 0xFF00 else "UN"
    return standard_vr(tag, stated, length)


def _kind(tag: int, vr: str, length: int, promoted: Container[int]) -> int:
    if vr == "SQ" or (not vr and length == UNDEFINED):
        return SEQUENCE
    if not vr or vr in vrs.AMBIGUOUS:
        return UNSURE
    if _is_creator(tag) or tag in DECIDING:
        return DECIDES
    if length > BULK_BYTES and vr in vrs.BULKY:
        return BULK
    return PROMOTED if tag in promoted else PLAIN


def _is_creator(tag: int) -> bool:
    return bool(tag & 0x10000) and 0x10 <= tag & 0xFFFF < 0x100

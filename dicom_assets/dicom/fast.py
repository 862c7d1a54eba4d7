"""The fast reader: plain DICOM files, at a small part of what the careful reader costs.

Decided here: what stands around a dataset in a plain file, and how what lies behind its pixel data
is read. Not decided here: the dataset (`plain`), and whatever is not plain (`careful`): damage,
anything worth a note, tags out of order, deflated data, command sets.
"""

import io
import re
import struct
import threading
from collections.abc import Sequence

from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.attributes import Header, attribute_of
from dicom_assets.dicom.careful import careful_header
from dicom_assets.dicom.elements import PIXEL_DATA, UNDEFINED, Dataset, NestedTooDeep, Walker
from dicom_assets.dicom.heads import NotPlain
from dicom_assets.dicom.memory import Plain
from dicom_assets.dicom.part10 import (
    DEFLATED,
    EXPLICIT_BIG_ENDIAN,
    HeaderError,
    joined,
    read_file,
)
from dicom_assets.dicom.plain import PlainReader
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of
from dicom_assets.dicom.source import CHUNK, Source
from dicom_assets.dicom.values import Converter
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag
from dicom_assets.lakehouse.reasons import Reason

__all__ = ["NotPlain", "fast_header"]

_DICOMDIR = b"1.2.840.10008.1.3.10"
_META_ELEMENT = struct.Struct("<HH2sH").unpack_from
_THREE_UIDS = (0x0020000D, 0x0020000E, 0x00080018)
_UID = re.compile(r"[0-2](\.[0-9]+)+")
_FRAGMENTS_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_TAIL_BYTES = 1 << 12


class _Remembered(threading.local):
    """What a thread remembers: one reader, for the tags that were asked for last."""

    def __init__(self) -> None:
        self.tags: Sequence[PromotedTag] = PROMOTED_TAGS
        self.reader = PlainReader(PROMOTED_TAGS)


_REMEMBERED = _Remembered()


def fast_header(source: Source, tags: Sequence[PromotedTag], *, is_far: bool = False) -> Header:
    """Returns the header of a plain file.

    Args:
        source: A binary file at its start. Nothing of it is consumed where this raises NotPlain.
        tags: The attributes to promote.
        is_far: See `dicom_assets.dicom.header.read_header`.

    Raises:
        NotPlain: The careful reader has to read the file.
        HeaderError: What lies behind the pixel data is nested too deep.
    """
    head = source.peek(CHUNK)
    bare = head[128:132] != b"DICM"
    if bare and kind_of(head[:HEAD_BYTES]) is not Kind.BARE:
        raise NotPlain
    syntax, at = _syntax(head, 0 if bare else 132)
    first = head[at : at + 6]
    if syntax == DEFLATED or len(first) < 6 or first.startswith(b"\0\0"):
        raise NotPlain
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    little = syntax != EXPLICIT_BIG_ENDIAN
    if syntax is None and explicit:
        little = struct.unpack_from("<H", first)[0] < 0x0400
    reader = _reader(tags)
    plain = reader.read(source, at, implicit=not explicit, little_endian=little)
    if plain.end - at > source.most:
        raise NotPlain
    uids = [plain.texts.get(tag) or "" for tag in _THREE_UIDS]
    if not all(uids) or (bare and not all(map(_UID.fullmatch, uids))):
        raise NotPlain
    text = plain.texts.get
    promoted = {column: text(tag) for column, tag in reader.columns}
    header = Header(plain.attributes, promoted, syntax, [])
    if plain.pixels is None or (plain.pixels and source.ends_at(plain.end + plain.pixels)):
        return header
    if is_far and not plain.pixels and _ends_with_fragments(source):
        return header
    return _with_what_lies_behind(source, plain, header, reader, tags, little=little)


def _ends_with_fragments(source: Source) -> bool:
    """Whether nothing lies behind encapsulated pixel data, told without a walk through them.

    What lies there is short. If it ended with such a mark too, two of them would be at the end.
    """
    tail = source.tail(_TAIL_BYTES)
    return tail.endswith(_FRAGMENTS_END) and tail.count(_FRAGMENTS_END) == 1


def _reader(tags: Sequence[PromotedTag]) -> PlainReader:
    if tags is not _REMEMBERED.tags:
        if tuple(tags) != tuple(_REMEMBERED.tags):
            _REMEMBERED.reader = PlainReader(tags)
        _REMEMBERED.tags = tags
    return _REMEMBERED.reader


def _syntax(head: bytes, at: int) -> tuple[str | None, int]:
    """Returns the transfer syntax of the file meta group, and where the dataset begins."""
    syntax, last = None, -1
    while head.startswith(b"\2\0", at) and len(head) >= at + 12:
        _, number, code, length = _META_ELEMENT(head, at)
        vr = vrs.EXPLICIT.get(code)
        if vr is None or number <= last:
            raise NotPlain
        last = number
        at += 8
        if vr in vrs.LONG:
            length = struct.unpack_from("<L", head, at)[0]
            at += 4
            if vr in ("SQ", "UN") or length == UNDEFINED:
                raise NotPlain
        end = at + length
        if number == 0x0010:
            syntax = head[at:end].strip(b" \0").decode("latin-1") or None
        elif number == 0x0002 and head[at:end].rstrip(b" \0") == _DICOMDIR:
            raise NotPlain
        at = end
    return syntax, at


def _with_what_lies_behind(
    source: Source,
    plain: Plain,
    header: Header,
    reader: PlainReader,
    tags: Sequence[PromotedTag],
    *,
    little: bool,
) -> Header:
    """Returns the header with the elements behind the pixel data, which the careful reader reads.

    They are rare, and small. What they could change of those before, all is read again with care.
    """
    before = source.peek(plain.end)
    source.skip(plain.end)
    deciding = plain.deciding
    behind = Dataset(None, deciding.implicit, dict(deciding.elements))
    walker = Walker(source, little_endian=little)
    try:
        walker.walk(behind)
    except NestedTooDeep:
        raise HeaderError(Reason.NESTED_TOO_DEEP, "sequences lie too deep in each other") from None
    new = {
        tag: element
        for tag, element in behind.elements.items()
        if deciding.elements.get(tag) is not element
    }
    if any(tag <= PIXEL_DATA or tag in reader.vrs for tag in new):
        file = read_file(Source(io.BytesIO(before), most=source.most))
        return careful_header(joined(file, new, walker), tags)
    converter = Converter(little_endian=little)
    attributes = [
        attribute_of(f"{tag:08X}", converter.attribute(new[tag], behind, plain.encodings))
        for tag in sorted(new)
    ]
    notes = list(walker.notes | converter.notes)
    return Header(
        [*header.attributes, *attributes], header.promoted, header.transfer_syntax_uid, notes
    )

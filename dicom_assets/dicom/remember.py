"""Datasets read from a buffer in one pass, by what was remembered of the files before.

Decided here: what is remembered, under which context, how much, and what is too odd to be read so.
Not decided here: what an element is (`elements`) or what its value means (`values`): whatever is
not remembered is decoded by their code. What stands around a dataset: `fast`.

Inside a series most elements are byte for byte those of the file before. So elements are remembered
by their bytes, under what else their meaning depends on: VR encoding, byte order, character set,
and for some the VR that other elements decide.
"""

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from dicom_assets.dicom import charset
from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.attributes import Attribute, attribute_of, object_of, sequence_of
from dicom_assets.dicom.elements import (
    BULK_BYTES,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Dataset,
    Element,
    is_excluded,
    looks_implicit,
    private_vr,
    standard_vr,
)
from dicom_assets.dicom.source import CHUNK, Source
from dicom_assets.dicom.values import (
    CHARACTER_SET,
    DECIDING,
    PIXEL_REPRESENTATION,
    Converter,
    Encodings,
    promoted_text,
)
from dicom_assets.lakehouse.promoted import PromotedTag

MOST_BYTES = 1 << 26
"""Longest header that is read so."""

MOST_REMEMBERED = 1 << 25
"""About how many bytes of memory the remembered elements take, all contexts together."""

_LONGEST_ELEMENT = 2048
_LONGEST_SEQUENCE = 1 << 16
_OVERHEAD = 500  # of a remembered element, beside its bytes and texts
_UIDS = {0x0020000D: "UI", 0x0020000E: "UI", 0x00080018: "UI"}
_WAVEFORMS = 0x5400
_NO_END = sys.maxsize

# What is done with an element; the first are the most frequent.
_PLAIN, _PROMOTED, _LONG, _SEQUENCE, _DECIDES, _UNSURE, _BULK, _EXCLUDED, _PIXELS, _END = range(10)


class NotPlain(Exception):
    """The careful reader has to read this file."""


class _Head(NamedTuple):
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


class _Context:
    """How bytes are read, and what is remembered of those read so."""

    def __init__(
        self,
        heads: dict[bytes, _Head],
        encodings: Encodings,
        *,
        implicit: bool,
        little_endian: bool,
    ) -> None:
        order = "<" if little_endian else ">"
        self.heads = heads
        self.values: dict[bytes, Attribute] = {}
        self.unsure: dict[tuple[str, bytes], Attribute] = {}
        self.promoted: dict[bytes, tuple[Attribute, str | None]] = {}
        self.sequences: dict[int, tuple[bytes, Attribute]] = {}
        self.encodings = encodings
        self.implicit = implicit
        self.little_endian = little_endian
        self.converter = Converter(little_endian=little_endian)
        self.tag = struct.Struct(f"{order}HH").unpack_from
        self.short = struct.Struct(f"{order}H").unpack_from
        self.long = struct.Struct(f"{order}L").unpack_from
        self.item = struct.pack(f"{order}HH", ITEM >> 16, ITEM & 0xFFFF)
        self.sequence_end = struct.pack(f"{order}HHL", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)


@dataclass(slots=True)
class Plain:
    """A dataset that was plain, up to its pixel data.

    Attributes:
        attributes: Its elements in tag order.
        texts: Promoted tag → text, for those that are there.
        deciding: Those elements which decide how others are read.
        encodings: Codecs of its character set.
        end: Where reading ended.
        pixels: Bytes of the pixel data element that stands there, 0 if it is encapsulated; None if
            the file ends there.
    """

    attributes: list[Attribute]
    texts: dict[int, str | None]
    deciding: Dataset
    encodings: Encodings
    end: int
    pixels: int | None = None


class PlainReader:
    """Reads plain datasets, and remembers their elements for the next."""

    def __init__(self, tags: Sequence[PromotedTag]) -> None:
        """Remembers nothing yet.

        Args:
            tags: The attributes to promote.
        """
        self.vrs = {int(tag.tag, 16): tag.vr for tag in tags} | _UIDS
        self._heads: dict[tuple[bool, bool], dict[bytes, _Head]] = {}
        self._contexts: dict[tuple[Encodings, bool, bool], _Context] = {}
        self._room = MOST_REMEMBERED

    def read(self, source: Source, at: int, *, implicit: bool, little_endian: bool) -> Plain:
        """Reads a dataset up to its pixel data, or to its end.

        Args:
            source: A file of which nothing is consumed yet; nothing is after.
            at: Where the dataset begins.
            implicit: Whether the dataset is implicit VR.
            little_endian: Whether it is little endian.

        Raises:
            NotPlain: The careful reader has to read the file.
        """
        if self._room < 0:
            self._forget()
        self._source = source
        self._buffer = source.peek(CHUNK)
        self._path: list[int] = []
        self._climbs = 0
        found = self._found = Plain([], {}, Dataset(None, implicit), charset.DEFAULT, at)
        context = self._context(charset.DEFAULT, implicit=implicit, little_endian=little_endian)
        found.end = self._elements(found.attributes, found.deciding, context, at, _NO_END)
        return found

    def _context(self, encodings: Encodings, *, implicit: bool, little_endian: bool) -> _Context:
        key = (encodings, implicit, little_endian)
        context = self._contexts.get(key)
        if context is None:
            heads = self._heads.setdefault((implicit, little_endian), {})
            context = _Context(heads, encodings, implicit=implicit, little_endian=little_endian)
            self._contexts[key] = context
            self._room -= CHUNK
        return context

    def _forget(self) -> None:
        self._heads.clear()
        self._contexts.clear()
        self._room = MOST_REMEMBERED

    def _elements(  # noqa: PLR0912 -- the inner loop: a call costs as much as an element
        self, attributes: list[Attribute], dataset: Dataset, context: _Context, at: int, until: int
    ) -> int:
        """Reads elements up to `until`, to a delimiter, the pixel data or the end; returns where.

        Args:
            attributes: Where they go.
            dataset: Where those go which decide how others are read.
            context: How the bytes are read.
            at: Where the first one begins.
            until: Where a dataset of defined length ends.
        """
        buffer, heads, values = self._buffer, context.heads, context.values
        top = dataset.parent is None
        last = -1
        while at < until:
            head = heads.get(buffer[at : at + 8])
            if head is None:
                head = self._head(context, at, 8, top=top)
                if head is None:
                    return at
                buffer = self._buffer
            if head[0] == _LONG:
                head = heads.get(buffer[at : at + 12])
                if head is None:
                    head = self._head(context, at, 12)
                    assert head
                    buffer = self._buffer
            kind, tag, size, _, _, _ = head
            if tag <= last:
                raise NotPlain
            last = tag
            if kind == _PLAIN or (kind == _PROMOTED and not top):
                raw = buffer[at : at + size]
                attribute = values.get(raw)
                if attribute is None:
                    attribute = self._value(context, dataset, head, at)
                    buffer = self._buffer
            elif kind == _PROMOTED:
                pair = context.promoted.get(buffer[at : at + size])
                if pair is None:
                    pair = self._promoted(context, dataset, head, at)
                    buffer = self._buffer
                attribute, self._found.texts[tag] = pair
            elif kind == _SEQUENCE:
                known = context.sequences.get(tag)
                if known is None or not buffer.startswith(known[0], at):
                    attribute, end = self._sequence(context, dataset, head, at)
                    buffer = self._buffer
                    size = end - at
                else:
                    attribute = known[1]
                    size = len(known[0])
            elif kind in (_DECIDES, _UNSURE):
                attribute, end = self._deciding(context, dataset, head, at)
                buffer = self._buffer
                size = end - at
                if tag == CHARACTER_SET:
                    context = self._in_its_characters(context, dataset, attributes)
                    values = context.values
                    if top:
                        self._found.encodings = context.encodings
            elif kind == _BULK:
                attribute = attribute_of(head.key, {"vr": head.vr})
            elif kind == _EXCLUDED or (kind == _PIXELS and not top and size):
                at += size
                continue
            elif kind == _PIXELS:
                if not top:
                    raise NotPlain
                if not size or at + size > len(buffer):
                    self._found.pixels = size
                    return at
                at += size
                continue
            else:
                if until != _NO_END or top:
                    raise NotPlain
                return at + 8
            attributes.append(attribute)
            if kind > _PROMOTED and top and tag in self.vrs:
                self._found.texts[tag] = self._rare_text(context, head, attribute, at)
            at += size
        if at != until:
            raise NotPlain
        return at

    def _head(self, context: _Context, at: int, width: int, *, top: bool = False) -> _Head | None:
        """Returns what stands before a value; None at the end of the file or of what is in it."""
        if top and width == 8 and self._is_end(at):
            return None
        key = self._upto(at + width)[at : at + width]
        head = self._classified(context, key)
        if self._room > 0:
            context.heads[key] = head
            self._room -= _OVERHEAD
        return head

    def _is_end(self, at: int) -> bool:
        """Whether the file ends here, or holds nothing but zeros from here on."""
        if self._grows(at + 8) and any(self._buffer[at : at + 8]):
            return False
        if self._grows(max(at, len(self._buffer)) + 1) or at > len(self._buffer):
            raise NotPlain
        return not any(self._buffer[at:])

    def _classified(self, context: _Context, key: bytes) -> _Head:
        high, low = context.tag(key)
        tag = high << 16 | low
        if high == 0xFFFE:
            if tag != ITEM_END or any(key[4:8]):
                raise NotPlain
            return _Head(_END, tag, 8)
        if high == 4:
            raise NotPlain  # a DICOMDIR
        if context.implicit:
            stated, width = None, 8
            length = context.long(key, 4)[0]
        else:
            stated, width = vrs.EXPLICIT.get(key[4:6]), len(key)
            if stated is None:
                raise NotPlain
            if stated not in vrs.LONG:
                length = context.short(key, 6)[0]
            elif width == 8:
                return _Head(_LONG, tag, 0)
            else:
                length = context.long(key, 8)[0]
        return self._sorted(tag, stated, length, width)

    def _sorted(self, tag: int, stated: str | None, length: int, width: int) -> _Head:
        defined = length != UNDEFINED
        size = width + length if defined else 0
        name = f"{tag:08X}"
        if is_excluded(tag):
            if tag == PIXEL_DATA:
                return _Head(_PIXELS, tag, size)
            if not defined:
                raise NotPlain
            return _Head(_EXCLUDED, tag, size)
        number = tag & 0xFFFF
        is_creator = bool(tag & 0x10000) and 0x10 <= number < 0x100
        vr = stated or "UN"
        if stated is None or stated == "UN":
            if not defined:
                vr = "SQ" if stated else vrs.dictionary_vr(tag) or ""
                if vr and vr != "SQ":
                    raise NotPlain
                return _Head(_SEQUENCE, tag, 0, name, vr, width)
            if is_creator:
                vr = "LO"
            elif not tag & 0x10000:
                vr = standard_vr(tag, stated, length)
            elif number & 0xFF00:
                return _Head(_UNSURE, tag, size, name, "", width)
        if vr in vrs.AMBIGUOUS:
            return _Head(_UNSURE, tag, size, name, vr, width)
        if vr == "SQ":
            return _Head(_SEQUENCE, tag, size, name, vr, width)
        if not defined:
            raise NotPlain
        if is_creator or tag in DECIDING:
            return _Head(_DECIDES, tag, size, name, vr, width)
        if length > BULK_BYTES and vr in vrs.BULKY:
            return _Head(_BULK, tag, size, name, vr, width)
        return _Head(_PROMOTED if tag in self.vrs else _PLAIN, tag, size, name, vr, width)

    def _value(self, context: _Context, dataset: Dataset, head: _Head, at: int) -> Attribute:
        raw = self._upto(at + head.size)[at : at + head.size]
        element = Element(head.tag, head.vr, raw[head.width :])
        attribute = self._decoded(context, dataset, head, element)
        if self._takes(raw, attribute):
            context.values[raw] = attribute
        return attribute

    def _promoted(
        self, context: _Context, dataset: Dataset, head: _Head, at: int
    ) -> tuple[Attribute, str | None]:
        raw = self._upto(at + head.size)[at : at + head.size]
        element = Element(head.tag, head.vr, raw[head.width :])
        attribute = self._decoded(context, dataset, head, element)
        json = orjson.loads(object_of((attribute,)))[head.key]
        text = promoted_text(element, json, self.vrs[head.tag], context.encodings)
        if self._takes(raw, attribute):
            context.promoted[raw] = attribute, text
        return attribute, text

    def _rare_text(
        self, context: _Context, head: _Head, attribute: Attribute, at: int
    ) -> str | None:
        """Returns the promoted text of an element that is not often promoted."""
        json = orjson.loads(object_of((attribute,)))[head.key]
        vr = head.vr or attribute.vr
        value = None
        if head.kind in (_DECIDES, _UNSURE) and vr != "SQ":
            value = self._buffer[at + head.width : at + head.size]
        return promoted_text(
            Element(head.tag, vr, value), json, self.vrs[head.tag], context.encodings
        )

    def _decoded(
        self, context: _Context, dataset: Dataset, head: _Head, element: Element
    ) -> Attribute:
        converter = context.converter
        json = converter.attribute(element, dataset, context.encodings)
        if converter.notes:
            converter.notes.clear()
            raise NotPlain
        return attribute_of(head.key, json)

    def _deciding(
        self, context: _Context, dataset: Dataset, head: _Head, at: int
    ) -> tuple[Attribute, int]:
        """Reads an element that decides about others, or whose VR others decide."""
        tag, vr = head.tag, head.vr or private_vr(dataset, head.tag)
        if vr == "SQ":
            return self._sequence(context, dataset, head, at)
        end = at + head.size
        raw = self._upto(end)[at:end]
        value = raw[head.width :]
        bulk = len(value) > BULK_BYTES and vr in vrs.BULKY
        element = Element(tag, vr, None if bulk else value)
        decided = vr
        if vr in vrs.AMBIGUOUS:
            self._assure(context, dataset, tag, vr)
            decided = context.converter.decided_vr(element, dataset)
        attribute = context.unsure.get((decided, raw))
        if attribute is None:
            attribute = self._decoded(context, dataset, head, element)
            if self._takes(raw, attribute):
                context.unsure[decided, raw] = attribute
        if head.kind == _DECIDES or tag in DECIDING:
            dataset.elements[tag] = element
        return attribute, end

    def _assure(self, context: _Context, dataset: Dataset, tag: int, vr: str) -> None:
        """Raises NotPlain unless what decides about the VR has been seen, if it is there."""
        if tag >> 16 == _WAVEFORMS and not context.implicit:
            raise NotPlain
        if vr != "US or SS":
            return
        here: Dataset | None = dataset
        for follows in (tag, *reversed(self._path)):
            assert here
            if follows < PIXEL_REPRESENTATION:
                raise NotPlain
            stated = here.elements.get(PIXEL_REPRESENTATION)
            if stated and isinstance(stated.value, bytes) and len(stated.value) > 1:
                return
            here = here.parent
            self._climbs += 1

    def _in_its_characters(
        self, context: _Context, dataset: Dataset, before: list[Attribute]
    ) -> _Context:
        """Returns the context of a dataset's Specific Character Set."""
        value = dataset.elements[CHARACTER_SET].value
        assert isinstance(value, bytes)
        encodings, reason = charset.encodings_of(value)
        if reason:
            raise NotPlain
        if encodings == context.encodings:
            return context
        if any(attribute.vr != "UL" for attribute in before):
            raise NotPlain
        return self._context(
            encodings, implicit=context.implicit, little_endian=context.little_endian
        )

    def _sequence(
        self, context: _Context, dataset: Dataset, head: _Head, at: int
    ) -> tuple[Attribute, int]:
        if len(self._path) >= MAX_DEPTH // 2:  # a remembered one may be as deep again
            raise NotPlain
        size = head.size
        buffer = self._upto(at + max(size, head.width + 4))
        if size and (known := context.values.get(buffer[at : at + size])):
            return known, at + size
        if not head.vr and not size and not buffer.startswith(context.item, at + head.width):
            raise NotPlain
        climbs = self._climbs
        self._path.append(head.tag)
        items, end = self._items(context, dataset, at + head.width, at + size if size else _NO_END)
        self._path.pop()
        attribute = sequence_of(head.key, items)
        if self._climbs == climbs and end - at <= _LONGEST_SEQUENCE:
            self._remember_sequence(context, head, self._buffer[at:end], attribute)
        return attribute, end

    def _items(
        self, context: _Context, dataset: Dataset, at: int, until: int
    ) -> tuple[list[bytes], int]:
        items: list[bytes] = []
        while at < until:
            buffer = self._upto(at + 8)
            if not buffer.startswith(context.item, at):
                if until == _NO_END and buffer.startswith(context.sequence_end, at):
                    return items, at + 8
                raise NotPlain
            length = context.long(buffer, at + 4)[0]
            at += 8
            end = _NO_END if length == UNDEFINED else at + length
            if end > until:
                raise NotPlain
            inner = context
            if not context.implicit and length and looks_implicit(self._upto(at + 6)[at : at + 6]):
                inner = self._context(
                    context.encodings, implicit=True, little_endian=context.little_endian
                )
            attributes: list[Attribute] = []
            at = self._elements(attributes, Dataset(dataset, inner.implicit), inner, at, end)
            items.append(object_of(attributes))
        if at != until:
            raise NotPlain
        return items, at

    def _remember_sequence(
        self, context: _Context, head: _Head, raw: bytes, attribute: Attribute
    ) -> None:
        replaced = context.sequences.get(head.tag)
        if replaced:
            self._room += _cost(*replaced)
        self._room -= _cost(raw, attribute)
        if self._room > 0:
            context.sequences[head.tag] = raw, attribute
        if head.size and self._takes(raw, attribute):
            context.values[raw] = attribute

    def _takes(self, raw: bytes, attribute: Attribute) -> bool:
        """Whether there is room to remember an element; takes the room."""
        if len(raw) > _LONGEST_ELEMENT or self._room < 0:
            return False
        self._room -= _cost(raw, attribute)
        return True

    def _upto(self, end: int) -> bytes:
        """Returns the buffer, grown to reach so far."""
        if not self._grows(end):
            raise NotPlain
        return self._buffer

    def _grows(self, end: int) -> bool:
        """Whether the file goes so far; never reads twice as much as it holds."""
        while (size := len(self._buffer)) < end:
            if size >= MOST_BYTES:
                raise NotPlain
            self._buffer = self._source.peek(max(4 * CHUNK, 2 * size))
            if len(self._buffer) == size:
                return False
        return True


def _cost(raw: bytes, attribute: Attribute) -> int:
    return _OVERHEAD + len(raw) + 2 * len(attribute.json)

"""Datasets read from a buffer in one pass, by what is remembered of the files before.

Decided here: how a plain dataset is walked, and what is too odd to be read so. Not decided here:
what an element is (`heads`, `elements`), what its value means (`values`: what is not remembered is
decoded there), what is remembered (`memory`), what stands around a dataset (`fast`).
"""

import sys
from collections.abc import Sequence
from typing import Any

import orjson

from dicom_assets.dicom import charset
from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.attributes import Attribute, attribute_of, object_of, sequence_of
from dicom_assets.dicom.elements import (
    BULK_BYTES,
    MAX_DEPTH,
    UNDEFINED,
    Dataset,
    Element,
    looks_implicit,
    private_vr,
)
from dicom_assets.dicom.heads import (
    BULK,
    DECIDES,
    END,
    LONG,
    PIXELS,
    PLAIN,
    PROMOTED,
    SEQUENCE,
    UNSURE,
    Head,
    NotPlain,
)
from dicom_assets.dicom.memory import (
    LONGEST_ELEMENT,
    LONGEST_SEQUENCE,
    Context,
    Memory,
    Plain,
    Run,
    Unchanged,
)
from dicom_assets.dicom.source import CHUNK, Source
from dicom_assets.dicom.values import (
    CHARACTER_SET,
    DECIDING,
    PIXEL_REPRESENTATION,
    promoted_text,
)
from dicom_assets.lakehouse.promoted import PromotedTag

MOST_BYTES = 1 << 26
"""Longest header that is read so."""

MOST_PASSED = 1 << 20
"""Longest value that is read only to be left out; the careful reader seeks past longer ones."""

_UIDS = {0x0020000D: "UI", 0x0020000E: "UI", 0x00080018: "UI"}
_WAVEFORMS = 0x5400
_NO_END = sys.maxsize
_NO_RUNS: dict[bytes, Run] = {}


class PlainReader:
    """Reads plain datasets, and remembers their elements for the next.

    Attributes:
        vrs: Promoted tags, and the three UIDs that make a file a row → VR by the data dictionary.
        columns: The columns of the promoted tags, and those tags.
    """

    def __init__(self, tags: Sequence[PromotedTag]) -> None:
        """Remembers nothing yet.

        Args:
            tags: The attributes to promote.
        """
        self.vrs = {int(tag.tag, 16): tag.vr for tag in tags} | _UIDS
        self.columns = [(tag.column, int(tag.tag, 16)) for tag in tags]
        self._memory = Memory()

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
        self._memory.tidy()
        self._source = source
        self._buffer = source.peek(CHUNK)
        self._path: list[int] = []
        self._climbs = 0
        found = self._found = Plain([], {}, Dataset(None, implicit), charset.DEFAULT, at)
        context = self._memory.context(implicit=implicit, little_endian=little_endian)
        found.end = self._elements(found.attributes, found.deciding, context, at, _NO_END)
        return found

    def _elements(  # noqa: PLR0912, PLR0915 -- the inner loop: a call costs as much as an element
        self, attributes: list[Attribute], dataset: Dataset, context: Context, at: int, until: int
    ) -> int:
        """Reads elements up to `until`, to a delimiter, the pixel data or the end; returns where.

        Args:
            attributes: Where they go.
            dataset: Where those go which decide how others are read.
            context: How the bytes are read.
            at: Where the first one begins.
            until: Where a dataset of defined length ends.
        """
        buffer, heads, values = self._buffer, context.encoding.heads, context.values
        top = dataset.parent is None
        unchanged = Unchanged(self._memory, context, self._found) if top else None
        runs = context.runs if top else _NO_RUNS
        last = -1
        while at < until:
            key = buffer[at : at + 8]
            run = runs.get(key)
            if run and unchanged and run.first > last and buffer.startswith(run.raw, at):
                unchanged.run(run, at)
                attributes += run.attributes
                self._found.texts.update(run.texts)
                dataset.elements.update(run.deciding)
                last = run.last
                at += len(run.raw)
                continue
            head = heads.get(key)
            if head is None:
                head = self._head(context, at, top=top)
                if head is None:
                    break
                buffer = self._buffer
            if head[0] == LONG:
                head = heads.get(buffer[at : at + 12])
                if head is None:
                    head = self._new_head(context, at, 12)
                    buffer = self._buffer
            kind, tag, size, _, _, _ = head
            if tag <= last:
                raise NotPlain
            last = tag
            if kind == PLAIN or (kind == PROMOTED and not top):
                attribute = values.get(buffer[at : at + size])
                if attribute is None:
                    attribute = self._value(context, dataset, head, at)
            elif kind == PROMOTED:
                pair = context.promoted.get(buffer[at : at + size])
                if pair is None:
                    pair = self._promoted(context, dataset, head, at)
                attribute, self._found.texts[tag] = pair
            elif kind == SEQUENCE:
                known = context.sequences.get(tag)
                if known and buffer.startswith(known[0], at):
                    size, attribute = len(known[0]), known[1]
                else:
                    attribute, end = self._sequence(context, dataset, head, at)
                    size = end - at
            elif kind in (DECIDES, UNSURE):
                attribute, end = self._deciding(context, dataset, head, at)
                size = end - at
            elif kind == BULK:
                self._pass(at + size)
                attribute = attribute_of(head.key, {"vr": head.vr})
            elif kind == END:
                if top or until != _NO_END:
                    raise NotPlain
                return at + 8
            else:
                if kind == PIXELS and not self._passes_pixels(at, size, top=top):
                    break
                if unchanged:
                    unchanged.end(at, buffer)
                at += size
                self._pass(at)
                continue
            buffer = self._buffer
            if unchanged:
                unchanged.element(head, attribute, at, buffer)
                if kind > PROMOTED and tag in self.vrs:
                    self._found.texts[tag] = self._rare_text(context, head, attribute, at)
            attributes.append(attribute)
            at += size
            if tag == CHARACTER_SET:
                context = self._in_its_characters(context, dataset, attributes)
                values = context.values
                if unchanged:
                    self._found.encodings = context.encodings
                    runs = context.runs
                    unchanged = Unchanged(self._memory, context, self._found)
        if at != until and not top:
            raise NotPlain
        if unchanged:
            unchanged.end(at, buffer)
        return at

    def _pass(self, end: int) -> None:
        if end > len(self._buffer) + MOST_PASSED:
            raise NotPlain

    def _passes_pixels(self, at: int, size: int, *, top: bool) -> bool:
        """Whether pixel data are passed over in the buffer; else they end what is read here."""
        if not top and not size:
            raise NotPlain
        if not top or (size and at + size <= len(self._buffer)):
            return True
        self._found.pixels = size
        return False

    def _head(self, context: Context, at: int, *, top: bool) -> Head | None:
        """Returns what stands before a value; None at the end of the file or of what is in it."""
        if top and self._is_end(at):
            return None
        return self._new_head(context, at, 8)

    def _new_head(self, context: Context, at: int, width: int) -> Head:
        key = self._upto(at + width)[at : at + width]
        head = context.encoding.head(key, self.vrs)
        self._memory.takes_head(context.encoding, key, head)
        return head

    def _is_end(self, at: int) -> bool:
        """Whether the file ends here, or holds nothing but zeros from here on."""
        if self._grows(at + 8) and any(self._buffer[at : at + 8]):
            return False
        if self._grows(max(at, len(self._buffer)) + 1) or at > len(self._buffer):
            raise NotPlain
        return not any(self._buffer[at:])

    def _value(self, context: Context, dataset: Dataset, head: Head, at: int) -> Attribute:
        _, tag, size, key, vr, width = head
        raw = self._buffer[at : at + size]
        if len(raw) < size:
            raw = self._upto(at + size)[at : at + size]
        json = self._decoded(context, dataset, Element(tag, vr, raw[width:]))
        attribute = attribute_of(key, json)
        if self._memory.takes(raw, attribute):
            context.values[raw] = attribute
        return attribute

    def _promoted(
        self, context: Context, dataset: Dataset, head: Head, at: int
    ) -> tuple[Attribute, str | None]:
        _, tag, size, key, vr, width = head
        raw = self._upto(at + size)[at : at + size]
        element = Element(tag, vr, raw[width:])
        json = self._decoded(context, dataset, element)
        attribute = attribute_of(key, json)
        text = promoted_text(element, json, self.vrs[tag], context.encodings)
        if self._memory.takes(raw, attribute):
            context.promoted[raw] = attribute, text
        return attribute, text

    def _rare_text(self, context: Context, head: Head, attribute: Attribute, at: int) -> str | None:
        """Returns the promoted text of an element that is not often promoted."""
        json = orjson.loads(object_of((attribute,)))[head.key]
        vr = head.vr or attribute.vr
        value = None
        is_bulk = head.size - head.width > BULK_BYTES and vr in vrs.BULKY
        if head.kind in (DECIDES, UNSURE) and vr != "SQ" and not is_bulk:
            value = self._buffer[at + head.width : at + head.size]
        return promoted_text(
            Element(head.tag, vr, value), json, self.vrs[head.tag], context.encodings
        )

    def _decoded(self, context: Context, dataset: Dataset, element: Element) -> dict[str, Any]:
        converter = context.converter
        json = converter.attribute(element, dataset, context.encodings)
        if converter.notes:
            converter.notes.clear()
            raise NotPlain
        return json

    def _deciding(
        self, context: Context, dataset: Dataset, head: Head, at: int
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
            attribute = attribute_of(head.key, self._decoded(context, dataset, element))
            if self._memory.takes(raw, attribute):
                context.unsure[decided, raw] = attribute
        if head.kind == DECIDES or tag in DECIDING:
            dataset.elements[tag] = element
        return attribute, end

    def _assure(self, context: Context, dataset: Dataset, tag: int, vr: str) -> None:
        """Raises NotPlain unless what decides about the VR has been seen, if it is there."""
        if tag >> 16 == _WAVEFORMS and not context.encoding.implicit:
            raise NotPlain
        if vr != "US or SS":
            return
        here: Dataset | None = dataset
        for follows in (tag, *reversed(self._path)):
            if here is None or follows < PIXEL_REPRESENTATION:
                raise NotPlain
            stated = here.elements.get(PIXEL_REPRESENTATION)
            if stated and isinstance(stated.value, bytes) and len(stated.value) > 1:
                return
            here = here.parent
            self._climbs += 1

    def _in_its_characters(
        self, context: Context, dataset: Dataset, before: list[Attribute]
    ) -> Context:
        """Returns the context of a dataset's Specific Character Set."""
        stated = dataset.elements.get(CHARACTER_SET)  # none where it claims to be a sequence
        value = stated and stated.value
        encodings, reason = charset.encodings_of(value) if isinstance(value, bytes) else ((), "")
        if reason or not encodings:
            raise NotPlain
        if encodings == context.encodings:
            return context
        if any(attribute.vr != "UL" for attribute in before[:-1]):
            raise NotPlain
        return self._memory.context(
            encodings,
            implicit=context.encoding.implicit,
            little_endian=context.encoding.little_endian,
        )

    def _sequence(
        self, context: Context, dataset: Dataset, head: Head, at: int
    ) -> tuple[Attribute, int]:
        if len(self._path) >= MAX_DEPTH // 2:  # a remembered one may be as deep again
            raise NotPlain
        size = head.size
        if size and size <= LONGEST_ELEMENT:
            known = context.values.get(self._upto(at + size)[at : at + size])
            if known:
                return known, at + size
        first = at + head.width
        if (
            not head.vr
            and not size
            and self._upto(first + 4)[first : first + 4] != context.encoding.item
        ):
            raise NotPlain
        climbs = self._climbs
        self._path.append(head.tag)
        items, end = self._items(context, dataset, first, at + size if size else _NO_END)
        self._path.pop()
        attribute = sequence_of(head.key, items)
        if self._climbs == climbs and end - at <= LONGEST_SEQUENCE:
            self._memory.takes_sequence(context, head, self._upto(end)[at:end], attribute)
        return attribute, end

    def _items(
        self, context: Context, dataset: Dataset, at: int, until: int
    ) -> tuple[list[bytes], int]:
        items: list[bytes] = []
        while at < until:
            buffer = self._upto(at + 8)
            if not buffer.startswith(context.encoding.item, at):
                if until == _NO_END and buffer.startswith(context.encoding.sequence_end, at):
                    return items, at + 8
                raise NotPlain
            length = context.encoding.long(buffer, at + 4)[0]
            at += 8
            end = _NO_END if length == UNDEFINED else at + length
            if end > until:
                raise NotPlain
            inner = context
            if (
                not context.encoding.implicit
                and length
                and looks_implicit(self._upto(at + 6)[at : at + 6])
            ):
                inner = self._memory.context(
                    context.encodings, implicit=True, little_endian=context.encoding.little_endian
                )
            attributes: list[Attribute] = []
            at = self._elements(
                attributes, Dataset(dataset, inner.encoding.implicit), inner, at, end
            )
            items.append(object_of(attributes))
        if at != until:
            raise NotPlain
        return items, at

    def _upto(self, end: int) -> bytes:
        """Returns the buffer, grown to reach so far."""
        if not self._grows(end):
            raise NotPlain
        return self._buffer

    def _grows(self, end: int) -> bool:
        """Whether the file goes so far. Holds no more than half as much again as was asked for."""
        if end > MOST_BYTES:
            raise NotPlain
        while (size := len(self._buffer)) < end:
            self._buffer = self._source.peek(max(end + CHUNK // 2, size + size // 2))
            if len(self._buffer) == size:
                return False
        return True

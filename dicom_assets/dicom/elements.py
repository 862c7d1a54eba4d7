"""Bytes → elements: a dataset cut into tags, value representations and raw values.

Decided here: how the bytes of a dataset are walked (PS3.5 section 7), which elements are left out,
and how far a damaged one is followed. Not decided here: what a raw value means (`values`) and what
stands around the dataset in a file (`part10`). The walk goes forward only and skips pixels unread.
"""

import struct
from dataclasses import dataclass, field

from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.notes import Notes
from dicom_assets.dicom.source import CHUNK, Source, Truncated

BULK_BYTES = 1024
"""Longest binary value that is kept, in raw bytes."""

MAX_DEPTH = 64
"""Deepest nesting of sequences: each is three levels of JSON, and orjson writes 254."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
_PIXELS = (PIXEL_DATA, 0x7FE00008, 0x7FE00009, 0x7FE00001, 0x7FE00002)  # and offset tables
_PALETTES = (0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223)
_ICC_PROFILE, _WAVEFORM = 0x00282000, 0x54001010
_EXCLUDED = frozenset((*_PIXELS, *_PALETTES, _ICC_PROFILE, _WAVEFORM))


class NestedTooDeep(Exception):
    """Sequences lie deeper in each other than MAX_DEPTH."""


class _Damaged(Exception):
    """The enclosing sequence cannot be followed further."""


class _Lost(Exception):
    """The dataset cannot be followed further."""


@dataclass(slots=True)
class Element:
    """One element. `value` is None where it is bulk data left out, or cut off by the file's end."""

    tag: int
    vr: str
    value: "bytes | list[Dataset] | None"


@dataclass(slots=True)
class Dataset:
    """A dataset or sequence item: tag → element, the last of equal tags."""

    parent: "Dataset | None"
    implicit: bool
    elements: dict[int, Element] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where Pixel Data (7FE0,0010) lies; `length` is None when it is encapsulated."""

    offset: int
    length: int | None
    vr: str


def is_excluded(tag: int) -> bool:
    """Whether the element is left out at every level: pixels, palettes, overlays, waveforms."""
    return tag in _EXCLUDED or (tag & 0xFF01FFFF) == 0x60003000


class Walker:
    """Walks one dataset; what it found so far stays when the file ends early.

    Attributes:
        notes: `TAG reason` of what could not be followed; nested tags are joined with dots.
        pixels: Where the top-level Pixel Data lies, if it was met.
        whole: Whether the file does not end, and is not damaged, inside an element.
    """

    def __init__(
        self, source: Source, *, little_endian: bool, kept: frozenset[int] = frozenset()
    ) -> None:
        """Starts at the source's position.

        Args:
            source: The bytes.
            little_endian: By the transfer syntax.
            kept: Tags that are read whole, though they are excluded or bulk.
        """
        order = "<" if little_endian else ">"
        self.notes = Notes()
        self.pixels: Pixels | None = None
        self.whole = True
        self._source = source
        self._kept = kept
        self._tag = struct.Struct(f"{order}HH").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from
        self._long = struct.Struct(f"{order}L").unpack_from
        self._end_mark = struct.pack(f"{order}HH", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF)
        self._path: list[int] = []
        self._current = 0

    def walk(self, dataset: Dataset, *, group: int | None = None) -> None:
        """Fills `dataset` from the source.

        Args:
            dataset: An empty one.
            group: Stop before the first element of another group.

        Raises:
            NestedTooDeep: Sequences lie deeper in each other than MAX_DEPTH.
        """
        try:
            self._elements(dataset, group=group)
        except _Lost:
            return
        except Truncated:
            self.whole = False
        else:
            at_end = self._source.damaged or not self._source.peek(1)
            self.whole = not (at_end and self._source.overran())
        if not self.whole:
            what = "the data are damaged" if self._source.damaged else "the file ends"
            self._note(self._current, f"{what} in or after this element")

    def _elements(
        self,
        dataset: Dataset,
        *,
        until: int | None = None,
        bound: int | None = None,
        group: int | None = None,
    ) -> None:
        """Reads elements up to a delimiter, to `until` or to the end.

        Args:
            dataset: Where they go.
            until: Position where a dataset of defined length ends; an element may run over it.
            bound: Position where an enclosing sequence ends; nothing runs over that.
            group: See `walk`.
        """
        source, top = self._source, dataset.parent is None
        while (until is None or source.position < until) and (
            bound is None or source.position < bound
        ):
            head = source.peek(12)
            if len(head) < 8:
                if top and not head.strip(b"\0"):
                    return
                raise Truncated
            high, low = self._tag(head)
            if group is not None and high != group:
                return
            if high == 0xFFFE:
                if self._ends_dataset(high << 16 | low, top=top):
                    return
            elif top and not any(head[:8]):
                self._skip_zeros()
            else:
                self._element(dataset, high << 16 | low, head, bound)
        if until is not None and source.position > until:
            self._note_here("an item that ends inside an element")

    def _element(self, dataset: Dataset, tag: int, head: bytes, bound: int | None) -> None:
        source = self._source
        self._current = tag
        vr, length, width = self._vr_and_length(dataset, tag, head)
        source.take(width)
        if bound is not None and length != UNDEFINED and source.position + length > bound:
            raise _Damaged
        if is_excluded(tag) and tag not in self._kept:
            is_image = tag == PIXEL_DATA and dataset.parent is None
            if is_image:
                size = None if length == UNDEFINED else length
                self.pixels = Pixels(source.position, size, vr)
            if length == UNDEFINED:
                self._fragments(bound, keep=0, is_image=is_image)
            else:
                source.skip(length)
            return
        element = dataset.elements[tag] = Element(tag, vr, None)
        if vr == "SQ":
            element.value = items = []
            self._sequence(dataset, element, items, length, bound)
        elif length == UNDEFINED:
            element.value = self._fragments(bound)
        elif length > BULK_BYTES and vr in vrs.BULKY and tag not in self._kept:
            source.skip(length)
        else:
            element.value = source.take(length)

    def _ends_dataset(self, tag: int, *, top: bool) -> bool:
        """Whether a delimiter ends the dataset; that of the sequence is left to be seen there."""
        if top or tag == ITEM_END:
            self._source.take(8)
        if top:
            self._note(tag, "a delimiter where none belongs")
        return not top

    def _skip_zeros(self) -> None:
        """Passes over padding, which may be long, in steps that keep the alignment."""
        self._source.take(8)
        while self._source.peek(CHUNK) == bytes(CHUNK):
            self._source.skip(CHUNK)

    def _vr_and_length(self, dataset: Dataset, tag: int, head: bytes) -> tuple[str, int, int]:
        """Returns VR, length of the value, and bytes that stand before it."""
        stated = None
        width = 8
        if dataset.implicit or not b"AA" <= head[4:6] <= b"ZZ":
            # Some writers switch to implicit VR inside an explicit dataset.
            length = self._long(head, 4)[0]
        else:
            stated = vrs.EXPLICIT.get(head[4:6])
            length = self._short(head, 6)[0]
            if stated is None:
                self._note(tag, "an unknown value representation")
                stated = "UN"
            elif stated in vrs.LONG:
                if len(head) < 12:
                    raise Truncated
                length = self._long(head, 8)[0]
                width = 12
        if stated is None or stated == "UN":
            stated = self._known_vr(dataset, tag, stated, length, width)
        return stated, length, width

    def _known_vr(
        self, dataset: Dataset, tag: int, stated: str | None, length: int, width: int
    ) -> str:
        """Returns the VR of an element that the file does not tell (PS3.5 section 6.2.2)."""
        if length == UNDEFINED:
            found = "SQ" if stated == "UN" else vrs.dictionary_vr(tag)
            if found:
                return found
            ahead = self._source.peek(width + 4)[width:]
            if len(ahead) == 4 and self._tag(ahead) == (ITEM >> 16, ITEM & 0xFFFF):
                return "SQ"
        if tag & 0x10000:
            return private_vr(dataset, tag)
        return standard_vr(tag, stated, length)

    def _sequence(
        self,
        parent: Dataset,
        element: Element,
        items: list[Dataset],
        length: int,
        bound: int | None,
    ) -> None:
        """Reads the items of a sequence; a damaged one of defined length is passed over."""
        if len(self._path) >= MAX_DEPTH:
            raise NestedTooDeep
        source = self._source
        end = None if length == UNDEFINED else source.position + length
        self._path.append(element.tag)
        depth = len(self._path)
        try:
            self._items(parent, items, end, bound if end is None else end)
        except _Damaged:
            if end is None:
                raise
            del self._path[depth:]
            self._note_here("a damaged sequence")
        if end is not None and source.position < end:
            source.skip(end - source.position)
        self._path.pop()
        self._current = element.tag

    def _items(
        self, parent: Dataset, items: list[Dataset], end: int | None, bound: int | None
    ) -> None:
        source = self._source
        while bound is None or source.position < bound:
            if bound is not None and source.position + 8 > bound:
                raise _Damaged
            head = source.peek(8)
            if len(head) < 8:
                raise Truncated
            high, low = self._tag(head)
            tag = high << 16 | low
            if tag == SEQUENCE_END:
                source.take(8)
                return
            if tag == ITEM_END:
                source.take(8)
                continue
            if tag != ITEM:
                if end is not None:
                    raise _Damaged
                # No delimiter: the sequence has ended, here the enclosing dataset goes on.
                self._note_here("a sequence without its delimiter")
                return
            source.take(8)
            length = self._long(head, 4)[0]
            item = Dataset(parent, parent.implicit or looks_implicit(source.peek(6)))
            items.append(item)
            until = None if length == UNDEFINED else source.position + length
            self._elements(item, until=until, bound=bound)

    def _fragments(
        self, bound: int | None, *, keep: int = BULK_BYTES, is_image: bool = False
    ) -> bytes | None:
        """Reads a value of undefined length that is no sequence (PS3.5 section A.4).

        Args:
            bound: See `_elements`.
            keep: Longest value that is returned; fragments of a longer one are passed over.
            is_image: Fragments that cannot be followed are not searched for their end.
        """
        source = self._source
        kept: bytes | None = b""
        while True:
            head = source.peek(8)
            if len(head) < 8:
                raise Truncated
            high, low = self._tag(head)
            tag, length = high << 16 | low, self._long(head, 4)[0]
            if bound is not None and source.position + 8 + length > bound:
                raise _Damaged
            if tag == SEQUENCE_END:
                source.take(8)
                return kept
            if tag != ITEM or length == UNDEFINED:
                if is_image:
                    self._note(self._current, "damaged fragments; nothing after them was read")
                    raise _Lost
                self._note(self._current, "damaged fragments")
                return self._scan()
            source.take(8)
            if kept is not None and len(kept) + 8 + length <= keep:
                kept += head + source.take(length)
            else:
                kept = None
                source.skip(length)

    def _scan(self) -> None:
        """Passes over everything up to the next sequence delimiter."""
        source = self._source
        while len(window := source.peek(CHUNK)) >= 8:
            found = window.find(self._end_mark)
            if found >= 0:
                source.skip(found + 8)
                return
            source.skip(len(window) - 3)
        raise Truncated

    def _note_here(self, reason: str) -> None:
        self._note(None, reason)

    def _note(self, tag: int | None, reason: str) -> None:
        path = self._path if tag is None else [*self._path, tag]
        self.notes.add(path, reason)


def looks_implicit(head: bytes) -> bool:
    """Whether no VR stands after the first tag of a dataset."""
    return len(head) == 6 and not (0x41 <= head[4] <= 0x5A and 0x41 <= head[5] <= 0x5A)


def standard_vr(tag: int, stated: str | None, length: int) -> str:
    """Returns the VR of a standard element that the file does not tell, or tells as UN."""
    if stated == "UN" and length >= 0xFFFF:
        return "UN"  # too long for the VR it should have
    return vrs.dictionary_vr(tag) or ("UN" if tag & 0xFFFF or stated else "UL")


def private_vr(dataset: Dataset, tag: int) -> str:
    """Returns the VR of a private element by its private creator (PS3.5 section 7.8)."""
    number = tag & 0xFFFF
    if 0x10 <= number < 0x100:
        return "LO"
    creator = dataset.elements.get(tag & 0xFFFF0000 | number >> 8) if number & 0xFF00 else None
    if creator is None or not isinstance(creator.value, bytes):
        return "UN"
    return vrs.private_vr(tag, creator.value.decode("latin-1").rstrip(" \0")) or "UN"

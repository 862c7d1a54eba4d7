"""What a process remembers of the elements it has read, so as not to decode them again.

Decided here: under what context an element's bytes mean the same, what is remembered, and how much.
Not decided here: how a dataset is read with it (`plain`).

Inside a series most elements are byte for byte those of the file before. Single elements are
remembered by their bytes, whole sequences the last of each tag, and what stood next to each other
unchanged in two files as a run, which is then compared and taken at once.
"""

from dataclasses import dataclass

from dicom_assets.dicom import charset
from dicom_assets.dicom.attributes import Attribute
from dicom_assets.dicom.elements import Dataset, Element
from dicom_assets.dicom.heads import UNSURE, Encoding, Head, creator_of
from dicom_assets.dicom.values import CHARACTER_SET, PIXEL_REPRESENTATION, Converter, Encodings

MOST_REMEMBERED = 1 << 25
"""About how many bytes of memory are taken, all together; then everything is forgotten."""

LONGEST_ELEMENT = 2048
"""Longest element, or sequence of defined length, that is remembered by its bytes."""

LONGEST_SEQUENCE = 1 << 16
"""Longest sequence that is remembered as the last of its tag."""

_LONGEST_RUN = 1 << 16
_OVERHEAD = 500  # of a remembered element, beside its bytes and texts


@dataclass(slots=True)
class Run:
    """Neighbours at the top level that were the same in two files, in tag order.

    Attributes:
        raw: Their bytes.
        first: Tag of the first one.
        last: Tag of the last one.
        attributes: What they are.
        texts: Promoted tag → text.
        deciding: Those of them which decide how others are read.
    """

    raw: bytes
    first: int
    last: int
    attributes: list[Attribute]
    texts: dict[int, str | None]
    deciding: dict[int, Element]


class Context:
    """How bytes are read, and what those read so were found to be.

    Attributes:
        values: Bytes of an element that tell all → the element.
        promoted: The same of promoted tags, with the promoted text.
        unsure: VR that others decided and bytes of an element → the element.
        sequences: Tag → bytes and element of its last sequence.
        runs: First eight bytes → the last run that began so.
        previous: Tag → the element at the top level of the last file that had it.
    """

    def __init__(self, encoding: Encoding, encodings: Encodings) -> None:
        """Remembers nothing yet."""
        self.encoding = encoding
        self.encodings = encodings
        self.converter = Converter(little_endian=encoding.little_endian)
        self.values: dict[bytes, Attribute] = {}
        self.promoted: dict[bytes, tuple[Attribute, str | None]] = {}
        self.unsure: dict[tuple[str, bytes], Attribute] = {}
        self.sequences: dict[int, tuple[bytes, Attribute]] = {}
        self.runs: dict[bytes, Run] = {}
        self.previous: dict[int, Attribute] = {}


class Memory:
    """The contexts of a process; holds about MOST_REMEMBERED bytes at most."""

    def __init__(self) -> None:
        """Remembers nothing yet."""
        self._encodings: dict[tuple[bool, bool], Encoding] = {}
        self._contexts: dict[tuple[Encodings, bool, bool], Context] = {}
        self._room = MOST_REMEMBERED

    def context(
        self,
        encodings: Encodings = charset.DEFAULT,
        *,
        implicit: bool,
        little_endian: bool,
    ) -> Context:
        """Returns what is remembered of elements that were read so."""
        key = (encodings, implicit, little_endian)
        context = self._contexts.get(key)
        if context is None:
            encoding = self._encodings.get(key[1:])
            if encoding is None:
                encoding = Encoding(implicit=implicit, little_endian=little_endian)
                self._encodings[key[1:]] = encoding
            context = self._contexts[key] = Context(encoding, encodings)
            self._room -= 10 * _OVERHEAD
        return context

    def tidy(self) -> None:
        """Forgets everything if too much is remembered. Not to be called while a file is read."""
        if self._room < 0:
            self._encodings.clear()
            self._contexts.clear()
            self._room = MOST_REMEMBERED

    def takes_head(self, encoding: Encoding, key: bytes, head: Head) -> None:
        """Remembers a head, if there is room."""
        if self._room > 0:
            self._room -= _OVERHEAD
            encoding.heads[key] = head

    def takes(self, raw: bytes, attribute: Attribute) -> bool:
        """Whether there is room for an element of these bytes; takes the room."""
        if len(raw) > LONGEST_ELEMENT or self._room < 0:
            return False
        self._room -= _OVERHEAD + len(raw) + 2 * len(attribute.json)
        return True

    def takes_sequence(self, context: Context, head: Head, raw: bytes, found: Attribute) -> None:
        """Remembers a sequence, if there is room."""
        if replaced := context.sequences.get(head.tag):
            self._room += len(replaced[0]) + 2 * len(replaced[1].json)
        else:
            self._room -= _OVERHEAD
        self._room -= len(raw) + 2 * len(found.json)
        if self._room > 0:
            context.sequences[head.tag] = raw, found
        if head.size and self.takes(raw, found):
            context.values[raw] = found

    def takes_run(self, context: Context, run: Run) -> None:
        """Remembers a run, if there is room and it is not long."""
        if len(run.raw) > _LONGEST_RUN:
            return
        key = run.raw[:8]
        if replaced := context.runs.get(key):
            self._room += len(replaced.raw) + 8 * len(replaced.attributes)
        else:
            self._room -= _OVERHEAD
        self._room -= len(run.raw) + 8 * len(run.attributes)
        if self._room > 0:
            context.runs[key] = run


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


class Unchanged:
    """Finds the runs of one file: told of each run and element at its top level, in order."""

    def __init__(self, memory: Memory, context: Context, found: Plain) -> None:
        """Starts before the first element."""
        self._memory = memory
        self._context = context
        self._found = found
        self._pieces = 0

    def run(self, run: Run, at: int) -> None:
        """A run that was remembered begins here, before its elements are added."""
        if not self._pieces:
            self._begin(at, run.first)
        self._pieces += 1
        self._last = run.last

    def element(self, head: Head, attribute: Attribute, at: int, buffer: bytes) -> None:
        """An element begins here, before it is added."""
        tag, previous = head.tag, self._context.previous
        # a character set decides in which context all others are
        if previous.get(tag) is not attribute or tag == CHARACTER_SET:
            if len(attribute.json) <= LONGEST_ELEMENT:  # a longer one is made anew each time
                previous[tag] = attribute
            self.end(at, buffer)
            return
        if not self._pieces:
            if head.kind == UNSURE:
                return
            self._begin(at, tag)
        elif head.kind == UNSURE and not self._is_settled(head):
            self.end(at, buffer)
            return
        self._pieces += 1
        self._last = tag

    def end(self, at: int, buffer: bytes) -> None:
        """What was unchanged so far ends here; it is remembered if it is more than one run."""
        pieces, self._pieces = self._pieces, 0
        if pieces < 2:
            return
        found, first, last = self._found, self._first, self._last
        run = Run(
            buffer[self._at : at],
            first,
            last,
            found.attributes[self._index :],
            {tag: text for tag, text in found.texts.items() if first <= tag <= last},
            {tag: e for tag, e in found.deciding.elements.items() if first <= tag <= last},
        )
        self._memory.takes_run(self._context, run)

    def _begin(self, at: int, first: int) -> None:
        self._at = at
        self._first = first
        self._index = len(self._found.attributes)

    def _is_settled(self, head: Head) -> bool:
        """Whether what decides about the element's VR stands in the same run."""
        decider = PIXEL_REPRESENTATION if head.vr else creator_of(head.tag)
        return (
            head.vr in ("", "US or SS")
            and decider >= self._first
            and decider in self._found.deciding.elements
        )

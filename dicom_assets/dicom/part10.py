"""A DICOM file: what stands around its dataset (PS3.10 section 7), and the dataset as elements.

Decided here: which bytes are taken for DICOM, which transfer syntax they are read in, and which
files are refused. Not decided here: how elements are cut (`elements`) or converted (`values`).
"""

import re
import struct
import zlib
from dataclasses import dataclass, replace

from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.elements import Dataset, Element, NestedTooDeep, Pixels, Walker
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of, what_it_looks_like
from dicom_assets.dicom.source import Source
from dicom_assets.lakehouse.reasons import MEANINGS, Reason

_MOST_INFLATED = 8 << 30
"""A small file may inflate to terabytes; no dataset is that large."""

DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = (None, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", EXPLICIT_BIG_ENDIAN)
"""Transfer syntaxes, stated or not, that compress nothing (PS3.5 section A)."""
_DIRECTORY_RECORDS = 0x00041220
_SOP_CLASS = 0x00080016
_THREE_UIDS = (0x0020000D, 0x0020000E, 0x00080018)
_UID = re.compile(rb"[0-2](\.[0-9]+)+")


class HeaderError(Exception):
    """The file cannot become a row.

    Attributes:
        reason: The reason code.
        message: What was wrong, without patient data.
    """

    def __init__(self, reason: Reason, message: str | None = None) -> None:
        """Takes the reason's meaning where there is nothing more to say."""
        self.reason = reason
        self.message = message or MEANINGS[reason]
        super().__init__(reason, self.message)

    def __str__(self) -> str:
        """Returns the message."""
        return self.message


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A DICOM file as elements.

    Attributes:
        dataset: The dataset.
        command: Command set elements (0000,eeee) that stand before it; they are little endian.
        little_endian: Of the dataset.
        transfer_syntax_uid: (0002,0010), if stated.
        notes: `TAG reason` of what could not be followed.
        pixels: Where Pixel Data lies, in the inflated stream if deflated.
        whole: Whether the file does not end inside an element or before the dataset.
        damaged: Whether the data could not be inflated to their end.
    """

    dataset: Dataset
    command: Dataset
    little_endian: bool
    transfer_syntax_uid: str | None
    notes: list[str]
    pixels: Pixels | None
    whole: bool
    damaged: bool


def read_file(source: Source, *, kept: frozenset[int] = frozenset()) -> DicomFile:
    """Reads the elements of a DICOM file or bare dataset, forward only, pixels skipped.

    Args:
        source: A binary file at its start.
        kept: Tags that are read whole, though they are excluded or bulk.

    Raises:
        HeaderError: The file is not DICOM or a DICOMDIR, or sequences lie too deep.
    """
    kind = _kind(source)
    if kind is Kind.DICOM:
        source.skip(132)
    meta, before = _group(source, 0x0002)
    syntax = _raw(meta, 0x00020010).decode("latin-1") or None
    command, between = _group(source, 0x0000)
    if syntax == DEFLATED:
        source = Source(_Inflated(source), most=source.most)
    implicit, little = _encoding(source, syntax)
    dataset = Dataset(None, implicit)
    walker = Walker(source, little_endian=little, kept=kept)
    try:
        walker.walk(dataset)
    except NestedTooDeep:
        raise HeaderError(Reason.NESTED_TOO_DEEP, "sequences lie too deep in each other") from None
    _refuse_directory(dataset)
    if kind is Kind.BARE and not _proves_itself(dataset):
        raise HeaderError(Reason.NOT_DICOM, "no DICOM file: it starts like one, but has no UIDs")
    return DicomFile(
        dataset,
        command,
        little,
        syntax,
        [*before.notes, *between.notes, *walker.notes],
        walker.pixels,
        whole=before.whole and between.whole and walker.whole and bool(dataset.elements),
        damaged=source.damaged,
    )


def joined(file: DicomFile, behind: dict[int, Element], walker: Walker) -> DicomFile:
    """Returns a file that was read up to its pixel data, with what a walker found from there on.

    Raises:
        HeaderError: It is a DICOMDIR.
    """
    file.dataset.elements.update(behind)
    _refuse_directory(file.dataset)
    notes = [*file.notes, *walker.notes]
    return replace(file, notes=notes, pixels=walker.pixels, whole=walker.whole)


def _refuse_directory(dataset: Dataset) -> None:
    if _DIRECTORY_RECORDS in dataset.elements:
        raise HeaderError(Reason.DICOMDIR)


def _kind(source: Source) -> Kind:
    head = source.peek(HEAD_BYTES)
    kind = kind_of(head)
    if kind is Kind.DICOMDIR:
        raise HeaderError(Reason.DICOMDIR)
    if kind in (Kind.ZIP, Kind.OTHER):
        raise HeaderError(Reason.NOT_DICOM, f"not a DICOM file but {what_it_looks_like(head)}")
    return kind


def _group(source: Source, group: int) -> tuple[Dataset, Walker]:
    """Reads the elements of one group that stand next: file meta or command set."""
    head = source.peek(8)
    dataset = Dataset(None, not _states_vr(head))
    walker = Walker(source, little_endian=True)
    if len(head) == 8 and struct.unpack_from("<H", head)[0] == group:
        walker.walk(dataset, group=group)
    return dataset, walker


def _encoding(source: Source, syntax: str | None) -> tuple[bool, bool]:
    """Returns whether the dataset is implicit VR, and whether it is little endian.

    The first element decides about implicit VR, whatever the transfer syntax says; without a
    transfer syntax it also decides about the byte order: its group is small.
    """
    head = source.peek(6)
    little = syntax != EXPLICIT_BIG_ENDIAN
    if syntax is None and len(head) == 6 and head[4:6] in vrs.EXPLICIT:
        little = struct.unpack_from("<H", head)[0] < 0x0400
    return not _states_vr(head), little


def _states_vr(head: bytes) -> bool:
    """Whether two capitals stand where explicit VR has them."""
    return all(0x41 <= byte <= 0x5A for byte in head[4:6])


def _proves_itself(dataset: Dataset) -> bool:
    """Whether a bare dataset is DICOM: a SOP Class UID, or the three UIDs."""
    three = [_raw(dataset, tag) for tag in _THREE_UIDS]
    proofs = ([_raw(dataset, _SOP_CLASS)], three)
    return any(all(_UID.fullmatch(uid) for uid in proof) for proof in proofs)


def _raw(dataset: Dataset, tag: int) -> bytes:
    element = dataset.elements.get(tag)
    value = element.value if element else None
    return value.strip(b" \0") if isinstance(value, bytes) else b""


class _Inflated:
    """The inflated rest of a source, forward only (PS3.5 section A.5)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._allowed = _MOST_INFLATED
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, size: int, /) -> bytes:
        inflater = self._inflater
        while not inflater.eof:
            some = inflater.unconsumed_tail or self._source.some()
            if not some:
                break
            if data := inflater.decompress(some, size):
                self._allowed -= len(data)
                if self._allowed < 0:
                    raise EOFError
                return data
        return b""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int, /) -> int:
        raise NotImplementedError

"""The fast reader gives what the careful one gives, whatever was read before."""

import io
import random
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dicom_bytes import (
    BIG_ENDIAN,
    DICOM_FILES,
    EXPLICIT,
    IMPLICIT,
    SHARED,
    WHEEL,
    element,
    encapsulated,
    file_of,
    number,
    read,
    sequence,
    uids,
)

from dicom_assets.dicom import Header, HeaderError, memory, read_header
from dicom_assets.dicom.careful import careful_header
from dicom_assets.dicom.part10 import read_file
from dicom_assets.dicom.plain import PlainReader
from dicom_assets.dicom.source import Source
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, promoted_tags

Said = tuple[object, ...]


def said(header: Header) -> Said:
    texts = [
        tuple(text.decode() if isinstance(text, bytes) else text for text in attribute.texts)
        for attribute in header.attributes
    ]
    keys = [(attribute.key, attribute.vr) for attribute in header.attributes]
    return (
        header.text,
        header.promoted,
        header.transfer_syntax_uid,
        header.decode_notes,
        texts,
        keys,
    )


def by_care(data: bytes, tags=PROMOTED_TAGS) -> Said:
    try:
        return said(careful_header(read_file(Source(io.BytesIO(data))), tags))
    except HeaderError as error:
        return error.reason, error.message


def as_read(data: bytes, tags=PROMOTED_TAGS) -> Said:
    try:
        return said(read(data, tags=tags))
    except HeaderError as error:
        return error.reason, error.message


def ordered(*elements: bytes, vr: str | None = "UI", order: str = "<") -> bytes:
    """Elements and the three UIDs in tag order, as plain files have them."""
    three = [uids(vr, order)[at : at + 13] for at in range(0, 39, 13)]
    return b"".join(
        sorted((*elements, *three), key=lambda each: struct.unpack_from(f"{order}HH", each))
    )


def is_fast(data: bytes) -> bool:
    return not read(data).slow


def slow_among(files: list[Path]) -> tuple[list[str], int]:
    """Reads files in order, then shuffled; returns which the careful reader read, of how many."""
    slow, count = [], 0
    wanted = {}
    for path in files:
        data = path.read_bytes()
        wanted[path] = by_care(data)
        assert as_read(data) == wanted[path], path.name
    random.Random(3).shuffle(files)  # noqa: S311
    for path in files:
        try:
            header = read_header(io.BytesIO(path.read_bytes()))
        except HeaderError as error:
            assert wanted[path] == (error.reason, error.message)
            continue
        assert said(header) == wanted[path], path.name
        count += 1
        if header.slow:
            slow.append(path.name)
    return sorted(slow), count


def test_published_files_are_read_as_with_care_and_all_but_three_are_plain():
    slow, _ = slow_among(list(DICOM_FILES))
    assert slow == ["badVR.dcm", "image_dfl.dcm", "rtplan_truncated.dcm"]


def test_of_the_shared_collection_less_than_two_in_a_hundred_files_are_not_plain():
    if not SHARED.is_dir():
        pytest.skip("the shared collection of DICOM files is not here")
    slow, all_of_them = slow_among(sorted(path for path in SHARED.rglob("*") if path.is_file()))
    assert all_of_them > 900
    assert len(slow) < all_of_them * 0.02


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "rtplan.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm"]
)
def test_a_file_cut_anywhere_gives_the_same_header_or_error(name: str):
    data = (WHEEL / "test_files" / name).read_bytes()
    ends = {*range(0, 900, 7), *range(900, len(data), 211), *range(len(data) - 30, len(data))}
    for end in sorted(ends):
        assert as_read(data[:end]) == by_care(data[:end])


def implicit(*elements: bytes) -> bytes:
    return file_of(ordered(*elements, vr=None), IMPLICIT)


def explicit(*elements: bytes) -> bytes:
    return file_of(ordered(*elements))


def items(tag: int, *elements: bytes) -> bytes:
    """A sequence of one item in implicit VR, of defined length."""
    return element(tag, None, element(0xFFFEE000, None, b"".join(elements)))


TEXT = element(0x00081030, "LO", b"\xd0\xb9")
SMALLEST = element(0x00280106, None, b"\xf0\xff")
CREATORS = (b"SIEMENS MR HEADER ", b"GEMS_ACQU_01", b"NOBODY", b"\x1b(BNOBODY ", b"")
# Files that hold the same bytes, which mean different things in each.
SAME_BYTES = {
    "another character set": [
        explicit(TEXT),
        *(
            explicit(element(0x00080005, "CS", name), TEXT)
            for name in (b"ISO_IR 100", b"ISO_IR 192", b"ISO_IR 144")
        ),
    ],
    "another character set around a sequence": [
        explicit(element(0x00080005, "CS", name), sequence(0x00081115, TEXT))
        for name in (b"ISO_IR 100", b"ISO_IR 192")
    ],
    "a character set of the item alone": [
        explicit(element(0x00080005, "CS", b"ISO_IR 100"), sequence(0x00081115, before + TEXT))
        for before in (b"", element(0x00080005, "CS", b"ISO_IR 192"))
    ],
    "another private creator": [
        explicit(element(0x00190010, "LO", name), element(0x00191008, "UN", b"12345678"))
        for name in CREATORS
    ],
    "another private creator, implicit": [
        implicit(element(0x00190010, None, name), element(0x00191008, None, b"12345678"))
        for name in CREATORS
    ],
    "no private creator": [
        explicit(*creator, element(0x00191008, "UN", b"12345678"))
        for creator in ([], [element(0x00190010, "LO", b"GEMS_ACQU_01")])
    ],
    "another Pixel Representation": [
        implicit(element(0x00280103, None, stated), SMALLEST) for stated in (b"\0\0", b"\1\0", b"")
    ],
    "another Pixel Representation around an item": [
        implicit(element(0x00280103, None, stated), items(0x00409096, SMALLEST))
        for stated in (b"\0\0", b"\1\0")
    ],
    "another Pixel Representation before a palette": [
        implicit(
            element(0x00280103, None, stated), element(0x00281101, None, b"\xf0\xff\0\0\x10\0")
        )
        for stated in (b"\0\0", b"\1\0")
    ],
    "another byte order": [
        explicit(element(0x00280010, "US", b"\1\2")),
        file_of(ordered(element(0x00280010, "US", b"\1\2", order=">"), order=">"), BIG_ENDIAN),
    ],
    "explicit and implicit VR": [
        # in the second, the length of the value is what stands for a VR and a length in the first
        explicit(element(0x00180050, "DS", b"0.5 ")),
        implicit(element(0x00180050, None, b"0.5 " + b" " * (0x45344 - 4))),
    ],
    "another LUT descriptor": [
        implicit(
            items(
                0x00283000,
                element(0x00283002, None, struct.pack("<3H", entries, 0, 16)),
                element(0x00283006, None, b"\1\2\3\4"),
            ),
            element(0x00280103, None, b"\0\0"),
        )
        for entries in (1, 2)
    ],
}
# The same, where what decides comes too late for the fast reader.
TOO_LATE = {
    "a Pixel Representation behind the sequence": [
        implicit(items(0x00189732, SMALLEST), element(0x00280103, None, stated))
        for stated in (b"\0\0", b"\1\0")
    ],
    "a character set behind a text": [
        file_of(TEXT + element(0x00080005, "CS", name) + uids())
        for name in (b"ISO_IR 100", b"ISO_IR 192")
    ],
    "a creator behind its element": [
        file_of(
            uids() + element(0x00191008, "UN", b"12345678") + element(0x00190010, "LO", creator)
        )
        for creator in (b"GEMS_ACQU_01", b"NOBODY")
    ],
    "an identifier that comes twice": [
        explicit(element(0x00100020, "LO", b"P1"), element(0x00100020, "LO", second))
        for second in (b"P2", b"P3")
    ],
}


@pytest.mark.parametrize("what", [*SAME_BYTES, *TOO_LATE])
def test_the_same_bytes_in_another_context_are_not_taken_for_the_same(what: str):
    files = (SAME_BYTES | TOO_LATE)[what]
    wanted = [by_care(data) for data in files]
    assert len({repr(words) for words in wanted}) == len(files) or "creator" in what
    for _ in range(2):
        for data, words in zip(files, wanted, strict=True):
            for _ in range(4):  # what was the same in two files is a run in the third
                assert as_read(data) == words
            assert is_fast(data) is (what in SAME_BYTES)


def slice_of(at: int, *, syntax: str = EXPLICIT, kvp: bytes = b"120 ") -> bytes:
    """One of a series: some elements change with each, one in the middle of the series."""
    vr = None if syntax == IMPLICIT else "UI"
    order = ">" if syntax == BIG_ENDIAN else "<"
    rows = struct.pack(f"{order}H", 512)
    parts = [
        (0x00080005, "CS", b"ISO_IR 100"),
        (0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        (0x00080018, "UI", f"1.2.3.{at:03}".encode()),
        (0x00080060, "CS", b"CT"),
        (0x00081030, "LO", b"caf\xe9"),
        (0x00090010, "LO", b"GEMS_IDEN_01"),
        (0x00091001, vr and "UN", b"GE_GENESIS_FF "),
        (0x00100020, "LO", b"P1"),
        (0x00180050, "DS", b"0.625 "),
        (0x00180060, "DS", kvp),
        (0x0020000D, "UI", b"1.2.4\0"),
        (0x0020000E, "UI", b"1.2.5\0"),
        (0x00200013, "IS", f"{at:02}".encode()),
        (0x00280010, "US", rows),
        (0x00280103, "US", struct.pack(f"{order}H", 1)),
        (0x00280106, vr and "SS", struct.pack(f"{order}h", -5)),
        (0x00281050, "DS", b"40"),
    ]
    dataset = b"".join(element(tag, vr and kind, raw, order=order) for tag, kind, raw in parts)
    return file_of(dataset, syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_series_is_read_as_if_each_file_were_the_first(syntax: str):
    for at in range(40):
        data = slice_of(at, syntax=syntax, kvp=b"120 " if at < 15 or at % 7 == 0 else b"80")
        assert as_read(data) == by_care(data)
        assert is_fast(data)
        between = DICOM_FILES[at].read_bytes()
        assert as_read(between) == by_care(between)


def test_equal_elements_of_a_series_are_the_same_object():
    one, other = (
        {attribute.key: attribute for attribute in read(slice_of(at)).attributes} for at in (1, 2)
    )
    assert {key for key in one if one[key] is not other[key]} == {"00080018", "00200013"}


def test_promoted_values_are_those_of_the_tags_asked_for():
    data = explicit(
        element(0x00080005, "CS", b"ISO_IR 192"),
        element(0x00080060, "CS", b"CT"),
        sequence(0x00081115, element(0x00081150, "UI", b"1.2")),
        element(0x00280103, "US", b"\1\0"),
        element(0x00280106, "UN", b"\xff\xff"),
        element(0x00420011, "OB", bytes(3000)),
    )
    extra = {
        "SpecificCharacterSet": "charset",
        "ReferencedSeriesSequence": "referenced",
        "PixelRepresentation": "signed",
        "SmallestImagePixelValue": "smallest",
        "EncapsulatedDocument": "document",
    }
    for tags in (promoted_tags(extra), PROMOTED_TAGS, promoted_tags({"KVP": "kvp"})):
        for _ in range(3):
            assert as_read(data, tags) == by_care(data, tags)
    assert is_fast(data)


def test_a_sequence_that_ends_with_what_is_left_out_is_compared_whole():
    def file(overlay: bytes, behind: bytes) -> bytes:
        item = element(0x00280010, "US", b"\1\0") + element(0x7FE00010, "OW", overlay)
        icon = element(0x00880200, "SQ", element(0xFFFEE000, None, item))
        return file_of(ordered(icon, element(0x01000010, "CS", behind)))

    files = [file(bytes(size), name) for size in (4, 20_000, 100_000) for name in (b"NO", b"IN")]
    for data in files * 3:
        assert as_read(data) == by_care(data)
        assert is_fast(data)


BEHIND = {
    "nothing": b"",
    "padding": element(0xFFFCFFFC, "OB", bytes(50)),
    "zeros": bytes(500),
    "private elements": element(0x7FE10010, "LO", b"GEMS_ACQU_01")
    + element(0x7FE11008, "UN", b"1234"),
    "a sequence": sequence(0xFFFAFFFA, element(0x04000100, "UI", b"1.2\0")),
    "an earlier tag": element(0x00100020, "LO", b"P1"),
    "a directory": sequence(0x00041220, element(0x00041430, "CS", b"IMAGE ")),
    "half an element": element(0xFFFCFFFC, "OB", bytes(50))[:-9],
    "another character set": element(0x00080005, "CS", b"ISO_IR 192"),
}


class Piped(io.BytesIO):
    """A file that cannot be sought in."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation


@pytest.mark.parametrize("what", BEHIND)
def test_what_lies_behind_the_pixel_data_is_read_as_with_care(what: str):
    latin = element(0x00080005, "CS", b"ISO_IR 100")
    start = ordered(latin, element(0x00081030, "LO", b"\xe9 "))
    for pixels in (
        element(0x7FE00010, "OW", bytes(100)),
        element(0x7FE00010, "OW", bytes(100_000)),
        encapsulated(bytes(100), bytes(60_000)),
        encapsulated(bytes(100)).replace(number(0xFFFEE0DD), b"XXXX"),
    ):
        data = file_of(start + pixels + BEHIND[what])
        wanted = by_care(data)
        assert as_read(data) == wanted
        try:
            piped = said(read_header(Piped(data)))
        except HeaderError as error:
            piped = error.reason, error.message
        assert piped == wanted


class Asked(io.BytesIO):
    """A file that keeps what was asked of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bytes_read = 0
        self.largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        self.largest = max(self.largest, size or 0)
        return data


def test_of_pixels_nothing_is_read_and_of_a_short_header_only_the_first_bytes():
    start = ordered(element(0x00080060, "CS", b"CT"))
    stream = Asked(file_of(start + element(0x7FE00010, "OW", bytes(1 << 24))))
    assert not read_header(stream).slow
    assert stream.bytes_read == 1 << 14
    long = ordered(element(0x00081030, "LO", b"x" * 60_000))
    stream = Asked(file_of(long + element(0x7FE00010, "OW", bytes(1 << 24))))
    assert not read_header(stream).slow
    assert stream.bytes_read <= 1 << 17


@pytest.mark.parametrize("tag", [0x00420011, 0x60003000, 0x00081115])
def test_a_length_makes_nothing_be_read_that_is_left_out(tag: int):
    start = ordered(element(0x00080060, "CS", b"CT"))
    start = start if tag > 0x0020000E else uids()
    vr = "SQ" if tag == 0x00081115 else "OB"
    for length in (1 << 23, 0xFFFFFF00):
        stream = Asked(file_of(start + element(tag, vr, bytes(1 << 23), length=length)))
        assert read_header(stream).slow
        assert stream.bytes_read < 1 << 20
        assert stream.largest <= 1 << 20


def test_long_headers_with_thousands_of_items_are_plain():
    def frame(at: int) -> bytes:
        position = element(0x00200032, "DS", f"0\\0\\{at} ".encode().ljust(10))
        measures = element(0x00180050, "DS", b"1 ") + element(0x00280030, "DS", b"0.5\\0.5 ")
        return (
            sequence(0x00189114, element(0x00189073, "FD", struct.pack("<d", at)))
            + sequence(0x00209113, position)
            + sequence(0x00289110, measures)
        )

    frames = [frame(at) for at in range(2000)]
    data = file_of(uids() + sequence(0x52009230, *frames) + element(0x7FE00010, "OW", bytes(9999)))
    assert len(data) > 1 << 18
    assert as_read(data) == by_care(data)
    assert is_fast(data)


def test_what_is_remembered_is_bounded(monkeypatch):
    def remembered(count: int) -> int:
        reader = PlainReader(PROMOTED_TAGS)
        tracemalloc.start()
        for at in range(count):
            dataset = (
                element(0x00080050, "SH", f"{at:08}".encode())
                + sequence(0x00081115, element(0x00080050, "SH", f"{at:010}".encode()))
                + element(0x00190000 + at % 0xEF + 0x10, "LO", f"{at:06}".encode())
                + element(0x00210010, "LO", b"NOBODY")
                + element(0x00211000 + at % 0xFF, "UN", f"{at:06}".encode())
                + element(0x00420010, "ST", b"x" * (at % 1000))
            )
            source = Source(io.BytesIO(dataset))
            reader.read(source, 0, implicit=False, little_endian=True)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    monkeypatch.setattr(memory, "MOST_REMEMBERED", 1 << 20)
    assert remembered(200) > 1 << 16
    assert remembered(2000) < 1.25 * (1 << 20)


def test_threads_that_read_at_once_do_not_mix_their_files():
    files = [slice_of(at, syntax=syntax) for at in range(30) for syntax in (EXPLICIT, IMPLICIT)]
    wanted = [by_care(data) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(as_read, files)) == wanted

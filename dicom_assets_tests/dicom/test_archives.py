"""Members come out of dropped ZIPs whole, or with a reason; none expands past what it says."""

import hashlib
import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from dicom_bytes import file_of, uids
from hypothesis import given
from hypothesis import strategies as st

from dicom_assets.dicom.archives import ArchiveError, Budget, Limits, Member, members
from dicom_assets.dicom.own_zip import Entry, open_organised
from dicom_assets.dicom.sniff import Kind
from dicom_assets.lakehouse.reasons import Reason

LIMITS = Limits(
    max_file_bytes=1 << 30, max_bytes=1 << 40, max_ratio=250, max_depth=5, max_members=1_000_000
)
DICOM = file_of(uids()) + bytes(n * n % 251 for n in range(3000)) * 3


def zipped(contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()


def unpacked(folder: Path, archive: bytes, *, own: bool = True, workers: int = 2) -> list[Member]:
    path = folder / "dropped.zip"
    path.write_bytes(archive)
    into = folder / "into"
    into.mkdir(exist_ok=True)
    return list(
        members(
            path,
            into=into,
            budget=Budget(len(archive), LIMITS),
            organised=lambda name: f"1_{name}",
            own_name=(lambda name: f"{name}.dcm") if own else None,
            workers=workers,
        )
    )


def content_of(member: Member) -> bytes:
    assert member.file
    if member.sha256 is None:
        return member.file.read_bytes()
    as_zip = member.file.with_suffix(".zip")
    member.file.rename(as_zip)
    with open_organised(as_zip) as stream:
        content = stream.read()
    assert hashlib.sha256(content).hexdigest() == member.sha256
    return content


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_member_comes_out_in_order_with_its_bytes(tmp_path, method, workers):
    contents = {f"{n}": DICOM + bytes([n]) for n in range(20)} | {"text": b"no DICOM", "empty": b""}
    found = unpacked(tmp_path, zipped(contents, method), workers=workers)
    assert [member.name for member in found] == list(contents)
    assert [member.size for member in found] == [len(content) for content in contents.values()]
    assert [content_of(member) for member in found] == list(contents.values())
    assert {member.kind for member in found[:20]} == {Kind.DICOM}
    carried = [member.sha256 is not None for member in found]
    assert carried == [method == zipfile.ZIP_DEFLATED] * 20 + [False] * 2


def test_without_own_zips_members_are_written_as_they_are(tmp_path):
    (member,) = unpacked(tmp_path, zipped({"x": DICOM}), own=False)
    assert member.sha256 is None
    assert content_of(member) == DICOM


def test_a_stream_with_bytes_behind_its_end_is_not_carried_over(tmp_path):
    archive = bytearray(zipped({"x": DICOM}))
    info = zipfile.ZipFile(io.BytesIO(archive)).infolist()[0]
    end = 30 + 1 + info.compress_size
    archive[end:end] = b"junk"
    grown = struct.pack("<L", info.compress_size + 4)
    archive[18:22] = grown
    directory = archive.index(b"PK\1\2")
    archive[directory + 20 : directory + 24] = grown
    archive[-6:-2] = struct.pack("<L", directory)
    (member,) = unpacked(tmp_path, bytes(archive))
    assert member.sha256 is None
    assert content_of(member) == DICOM


def test_a_stream_that_begins_with_a_megabyte_of_nothing_is_not_carried_over(tmp_path):
    packer = zlib.compressobj(wbits=-15)
    stream = b"\0\0\0\xff\xff" * 300_000 + packer.compress(DICOM) + packer.flush()
    entry = Entry("x", zipfile.ZIP_DEFLATED, zlib.crc32(DICOM), len(stream), len(DICOM), False)
    (member,) = unpacked(tmp_path, entry.head + stream + entry.tail)
    assert content_of(member) == DICOM


def test_members_that_overlap_are_damaged(tmp_path):
    archive = bytearray(zipped({"a": DICOM, "b": DICOM}))
    first = archive.index(b"PK\1\2")
    second = archive.index(b"PK\1\2", first + 1)
    size = zipfile.ZipFile(io.BytesIO(archive)).infolist()[0].compress_size
    archive[first + 20 : first + 24] = struct.pack("<L", size + 40)
    found = unpacked(tmp_path, bytes(archive))
    assert second > first
    assert found[0].error and found[0].error.reason is Reason.MEMBER_DAMAGED
    assert content_of(found[1]) == DICOM


def test_a_member_that_inflates_to_more_than_is_declared_is_damaged_and_not_written(tmp_path):
    archive = bytearray(zipped({"bomb": b"0" * 50_000_000}))
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = archive.index(signature) + at
        archive[start : start + 4] = struct.pack("<L", 1000)
    (member,) = unpacked(tmp_path, bytes(archive))
    assert member.error and member.error.reason is Reason.MEMBER_DAMAGED
    assert list((tmp_path / "into").iterdir()) == []


def test_a_name_that_differs_from_the_directory_is_damage(tmp_path):
    archive = zipped({"abc": DICOM}).replace(b"abc", b"abd", 1)
    (member,) = unpacked(tmp_path, archive)
    assert member.error and member.error.reason is Reason.MEMBER_DAMAGED


ONE, TWO = zipped({"one": DICOM}), zipped({"two": DICOM})
CUT = TWO[: TWO.index(b"PK\1\2")]


def commented(archive: bytes, comment: bytes) -> bytes:
    stream = io.BytesIO(archive)
    with zipfile.ZipFile(stream, "a") as opened:
        opened.comment = comment
    return stream.getvalue()


@pytest.mark.parametrize(
    ("archive", "names"),
    [
        (ONE + TWO, ["two"]),
        (CUT + ONE, ["one"]),
        (ONE + CUT, ["one"]),
        (commented(ONE, b"PK\3\4") + CUT, ["one"]),
        (zipped({}) + ONE + TWO, ["two"]),
        (ONE + zipped({}), []),
        (ONE[: ONE.index(b"PK\1\2")] + zipped({"folder/": b""}), []),
    ],
)
def test_entries_that_the_directory_does_not_name_are_told_after_those_that_it_names(
    tmp_path, archive, names
):
    *named, rest = unpacked(tmp_path, archive)
    assert [member.name for member in named] == names
    assert all(content_of(member) == DICOM for member in named)
    assert rest.name is None and rest.file is None
    assert rest.error and rest.error.reason is Reason.ARCHIVE_DAMAGED
    assert "two archives joined" in rest.error.message


PROGRAM = b"MZ" + bytes(5000) + b"PK\3\4" + bytes(100)


@pytest.mark.parametrize(
    "archive",
    [
        PROGRAM + ONE,
        b"PK\7\x08" + ONE,
        zipped({}) + ONE,
        ONE + b"x" * 30,
        commented(ONE, b"PK\3\4"),
    ],
)
def test_what_is_no_entry_before_and_behind_an_archive_does_not_matter(tmp_path, archive):
    (member,) = unpacked(tmp_path, archive)
    assert content_of(member) == DICOM


def test_a_program_that_unpacks_itself_may_count_itself_in(tmp_path):
    path = tmp_path / "itself"
    path.write_bytes(PROGRAM)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("one", DICOM)
    (member,) = unpacked(tmp_path, path.read_bytes())
    assert content_of(member) == DICOM


@given(data=st.data())
def test_a_damaged_archive_gives_its_bytes_or_a_reason(tmp_path_factory, data):
    contents = {"a": DICOM[:400], "b.txt": b"text " * 30}
    archive = bytearray(zipped(contents))
    for _ in range(data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(archive)), st.integers(0, len(archive))))
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        found = unpacked(folder, bytes(archive[:end]), workers=1)
    except ArchiveError:
        return
    for member in found:
        if member.error is None:
            assert content_of(member) in contents.values()

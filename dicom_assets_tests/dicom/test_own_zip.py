"""One DICOM file, one ZIP: written in one pass, read as far as is asked, by anybody."""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_assets.dicom import own_zip
from dicom_assets.dicom.own_zip import digest, open_organised, write_zip

TEXT = b"the same words again " * 5000
NOISE = os.urandom(50_000)


def written(path: Path, content: bytes, **choices) -> zipfile.ZipInfo:
    found = write_zip(io.BytesIO(content), path, **{"member": "x.dcm", "level": 1, **choices})
    assert (found.size, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
        assert archive.testzip() is None
        assert archive.read(info) == content
    return info


@pytest.mark.parametrize("content", [b"", b"x", TEXT, NOISE], ids=["empty", "one", "text", "noise"])
@pytest.mark.parametrize("level", range(1, 10))
def test_any_zip_program_reads_what_is_written(tmp_path, content, level):
    path = tmp_path / "x.dcm.zip"
    info = written(path, content, member="Größe.dcm", level=level)
    assert info.filename == "Größe.dcm"
    with open_organised(path) as stream:
        assert stream.read() == content
    assert [each.name for each in tmp_path.iterdir()] == ["x.dcm.zip"]


def test_a_higher_level_is_smaller(tmp_path):
    words = b"".join(b"%d " % (n * n % 9973) for n in range(50_000))
    sizes = [written(tmp_path / "x.dcm.zip", words, level=level).compress_size for level in (1, 6)]
    assert sizes[1] < sizes[0]


def test_the_same_file_packs_to_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / f"{name}.dcm.zip", TEXT)
    assert (tmp_path / "a.dcm.zip").read_bytes() == (tmp_path / "b.dcm.zip").read_bytes()


def test_what_is_compressed_is_stored_unless_deflating_gains(tmp_path):
    path = tmp_path / "x.dcm.zip"
    assert written(path, NOISE, is_compressed=True).compress_type == zipfile.ZIP_STORED
    with open_organised(path) as stream:
        assert digest(stream).size == len(NOISE)
    assert written(path, TEXT, is_compressed=True).compress_type == zipfile.ZIP_DEFLATED
    assert written(path, NOISE).compress_type == zipfile.ZIP_DEFLATED


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_file_larger_than_what_is_held_at_once_is_streamed(tmp_path, monkeypatch, is_compressed):
    monkeypatch.setattr(own_zip, "CHUNK", 1000)
    path = tmp_path / "x.dcm.zip"
    written(path, NOISE, is_compressed=is_compressed)
    with open_organised(path) as stream:
        assert digest(stream).sha256 == hashlib.sha256(NOISE).hexdigest()


def test_sizes_past_4_gib_are_written_in_eight_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(own_zip, "is_large", lambda size: True)
    path = tmp_path / "x.dcm.zip"
    info = written(path, TEXT)
    assert info.extract_version == 45
    with open_organised(path) as stream:
        assert stream.read() == TEXT


def test_a_plain_file_is_opened_as_it_is(tmp_path):
    (tmp_path / "x.dcm").write_bytes(TEXT)
    with open_organised(tmp_path / "x.dcm") as stream:
        assert stream.read() == TEXT


@given(moves=st.lists(st.tuples(st.integers(0, 120_000), st.integers(0, 9000)), max_size=20))
def test_reading_anywhere_gives_what_the_file_has_there(tmp_path_factory, moves):
    path = tmp_path_factory.getbasetemp() / "seek.dcm.zip"
    content = TEXT + NOISE[:10_000]
    if not path.exists():
        written(path, content)
    plain = io.BytesIO(content)
    with open_organised(path) as stream:
        for offset, size in moves:
            assert stream.seek(offset) == plain.seek(offset)
            assert stream.read(size) == plain.read(size)
        assert stream.seek(-5, os.SEEK_END) == len(content) - 5
        assert stream.read() == content[-5:]


def test_the_end_can_be_found_without_inflating(tmp_path, monkeypatch):
    path = tmp_path / "x.dcm.zip"
    written(path, TEXT)
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(broken)
    with open_organised(path) as stream:
        assert stream.seek(0, os.SEEK_END) == len(TEXT)
        assert stream.read(1) == b""


@given(data=st.data())
def test_a_damaged_zip_is_told_and_never_read_as_something_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.dcm.zip"
    written(path, NOISE[:300] + b"0" * 300)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        broken = whole[:at]
    else:
        broken = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    path.write_bytes(broken)
    try:
        with open_organised(path) as stream:
            assert stream.read() == NOISE[:300] + b"0" * 300
    except zipfile.BadZipFile:
        pass

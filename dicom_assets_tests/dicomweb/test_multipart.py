"""multipart/related in pieces, however the pieces fall."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_assets.dicomweb.multipart import Body, MultipartError, boundary_of, parts
from dicom_assets.lakehouse.errors import PlainError

TWO = (
    b"a preamble\r\n--x \r\nContent-Type: application/dicom\r\n\r\n\r\n--no\r\n\r\n"
    b"\r\n--x\r\n\r\nsecond\r\n--x--\r\nan epilogue"
)
CONTENT = [b"\r\n--no\r\n\r\n", b"second"]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", range(1, 40))
def test_parts_are_the_same_however_they_arrive(size: int):
    assert [b"".join(content) for content in parts(cut(TWO, size), b"x")] == CONTENT


def test_what_is_left_of_a_part_is_passed_over():
    found = [next(content) for content in parts(cut(TWO, 3), b"x")]
    assert len(found) == 2
    assert CONTENT[1].startswith(found[1])


@pytest.mark.parametrize("length", [0, 20, len(TWO) - 20])
def test_a_body_that_ends_too_early_is_no_whole_one(length: int):
    with pytest.raises(MultipartError, match="ends too early"):
        [b"".join(content) for content in parts(cut(TWO[:length], 7), b"x")]


def test_a_header_without_end_is_not_kept():
    endless = iter([b"--x\r\n", *[b"a" * 10_000] * 100])
    with pytest.raises(MultipartError, match="too long"):
        list(parts(endless, b"x"))


def test_a_boundary_may_be_quoted():
    assert boundary_of('Multipart/Related; type="application/dicom"; Boundary="a b"') == b"a b"
    assert boundary_of("multipart/related; boundary=ab; type=x") == b"ab"
    with pytest.raises(MultipartError):
        boundary_of("application/json")


def test_a_body_can_be_sent_twice_and_is_as_long_as_it_says(tmp_path: Path):
    files = []
    for number, content in enumerate((b"one", b"", b"x" * 300_000)):
        (tmp_path / f"{number}").write_bytes(content)
        files.append((tmp_path / f"{number}", len(content)))
    body = Body(files)
    sent = [b"".join(body) for _ in range(2)]
    assert sent[0] == sent[1]
    assert len(sent[0]) == body.length
    found = parts(iter([sent[0]]), boundary_of(body.content_type))
    assert [len(b"".join(content)) for content in found] == [3, 0, 300_000]


def test_a_file_that_becomes_shorter_is_not_sent_as_if_it_were_whole(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"short")
    with pytest.raises(PlainError, match="shorter"):
        list(Body([(tmp_path / "a", 6)]))

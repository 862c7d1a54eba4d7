"""The seeds that the fuzz targets start from: small files made here, one of each kind.

python -m dicom_assets_tests.fuzz.seeds
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path

from dicom_assets_tests.dicom.dicom_bytes import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    deflated,
    element,
    encapsulated,
    file_of,
    sequence,
    uids,
)


def headers() -> dict[str, bytes]:
    """Returns DICOM files, good and bad, by name."""

    def body(vr: str | None, order: str = "<") -> bytes:
        def of(tag: int, code: str, value: bytes) -> bytes:
            return element(tag, vr and code, value, order=order)

        return (
            of(0x00080005, "CS", b"ISO_IR 192")
            + uids(vr, order)[:13]
            + of(0x00080020, "DA", b"20260102")
            + of(0x00080060, "CS", b"CT")
            + of(0x00090010, "LO", b"SIEMENS ")
            + of(0x00091001, "UN", b"\1\2\3\4")
            + of(0x00100010, "PN", b"A^B=C^D ")
            + of(0x00180050, "DS", b"1.5\\2 ")
            + uids(vr, order)[13:]
            + of(0x00200013, "IS", b"7 ")
            + of(0x00280010, "US", struct.pack(f"{order}H", 2))
            + of(0x00280106, "US", struct.pack(f"{order}H", 2))
        )

    plain = body("UI")
    nested = sequence(0x00081115, sequence(0x00081140, element(0x00081155, "UI", b"1.2\0")))
    pixels = element(0x7FE00010, "OW", bytes(8))
    japanese = element(0x00080005, "CS", b"\\ISO 2022 IR 87 ") + uids()[:13]
    japanese += element(0x00100010, "PN", b"Y^T=\x1b$B;3ED\x1b(B ") + uids()[13:]
    return {
        "explicit": file_of(plain + pixels),
        "implicit": file_of(body(None), IMPLICIT),
        "big_endian": file_of(body("UI", ">"), BIG_ENDIAN),
        "deflated": file_of(deflated(plain), DEFLATED),
        "bare": body(None),
        "sequences": file_of(nested + uids()),
        "defined_lengths": file_of(
            uids()[:13]
            + element(0x00081115, "SQ", element(0xFFFEE000, None, element(0x00080050, "SH", b"A ")))
            + uids()[13:]
        ),
        "encapsulated": file_of(uids() + encapsulated(b"\1\2"), "1.2.840.10008.1.2.4.50"),
        "behind_pixels": file_of(uids() + pixels + element(0xFFFCFFFC, "OB", bytes(4)), EXPLICIT),
        "two_character_sets": file_of(japanese),
        "command_set": file_of(element(0x00000002, None, b"1.2\0") + plain),
        "endless": file_of(uids() + element(0x00081115, "SQ", b"", length=0xFFFFFFFF)),
        "four_gigabytes": file_of(uids() + element(0x00104000, "UT", b"x", length=0xFFFFFFF0)),
    }


def _archive(method: int, contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def archives() -> dict[str, bytes]:
    """Returns ZIPs by name."""
    image = file_of(uids())
    contents = {"a.dcm": image, "b/": b"", "b/c.txt": b"text " * 9}
    streamed = io.BytesIO()
    with zipfile.ZipFile(_Unseekable(streamed), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("s.dcm"), image, zipfile.ZIP_DEFLATED)
    large = io.BytesIO()
    with (
        zipfile.ZipFile(large, "w") as archive,
        archive.open(zipfile.ZipInfo("l"), "w", force_zip64=True) as member,
    ):
        member.write(image)
    inner = _archive(zipfile.ZIP_STORED, {"x": image})
    bomb = bytearray(_archive(zipfile.ZIP_DEFLATED, {"z": bytes(70_000)}))
    directory = bomb.index(b"PK\1\2")
    bomb[directory + 24 : directory + 28] = struct.pack("<L", 100)
    return {
        "stored": _archive(zipfile.ZIP_STORED, contents),
        "deflated": _archive(zipfile.ZIP_DEFLATED, contents),
        "bzip2": _archive(zipfile.ZIP_BZIP2, contents),
        "lzma": _archive(zipfile.ZIP_LZMA, contents),
        "streamed": streamed.getvalue(),
        "zip64": large.getvalue(),
        "nested": _archive(zipfile.ZIP_DEFLATED, {"in.zip": inner}),
        "same_names": _archive(zipfile.ZIP_STORED, {"a": b"1", "A": b"2", "\u00e9": b"3"}),
        "joined": inner + _archive(zipfile.ZIP_DEFLATED, {"y": image}),
        "prefixed": zlib.compress(b"before") + inner,
        "leaves": _archive(zipfile.ZIP_STORED, {"../x": image, "..\\y": image, "/z": image}),
        "lies": bytes(bomb),
    }


class _Unseekable(io.RawIOBase):
    """Makes zipfile write sizes behind the data."""

    def __init__(self, sink: io.BytesIO) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        return self._sink.write(data)


def main() -> None:
    """Writes them where the targets and the tests look."""
    for kind, made in (("header", headers()), ("archive", archives())):
        folder = Path(__file__).parent / "corpus" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()

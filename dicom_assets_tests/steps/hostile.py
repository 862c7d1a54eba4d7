"""Hostile files for the whole chain: what is dropped, and what must come of it.

Decided here: each input that may be dropped, and its reason code or that it is a row. Not decided
here: how the chain is run over them (`test_hostile`).
"""

import io
import os
import socket
import stat
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "dicom"))

from dicom_bytes import (
    DEFLATED,
    IMPLICIT,
    deflated,
    element,
    file_of,
    number,
    sequence,
)

from dicom_assets_tests.steps.quine import quine

ROW = "row"
SOP, STUDY, SERIES = 0x00080018, 0x0020000D, 0x0020000E


@dataclass(frozen=True)
class Case:
    """What is put into a folder of its own, and what comes of it.

    Attributes:
        drop: Puts it there.
        expect: Address in that folder → reason code or ROW.
    """

    drop: Callable[[Path], None]
    expect: dict[str, str]


def uids(sop: bytes = b"1.2.3", study: bytes = b"1.2.4", series: bytes = b"1.2.5") -> bytes:
    return b"".join(
        element(tag, "UI", value) for tag, value in ((SOP, sop), (STUDY, study), (SERIES, series))
    )


IMAGE = file_of(uids())


def one(content: bytes, outcome: str, name: str = "bad.dcm") -> Case:
    return Case(lambda folder: _write(folder, name, content), {name: outcome})


def _write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def whole(content: bytes, outcome: str) -> Case:
    return one(content, outcome, "bad.zip")


def of_members(content: bytes, expect: dict[str, str]) -> Case:
    return joined(content, {f"!/{name}": outcome for name, outcome in expect.items()})


def joined(content: bytes, expect: dict[str, str]) -> Case:
    found = {f"bad.zip{behind}": outcome for behind, outcome in expect.items()}
    return Case(lambda folder: _write(folder, "bad.zip", content), found)


def spoilt(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def in_directory(content: bytes, at: int, value: bytes) -> bytes:
    return spoilt(content, content.index(b"PK\1\2") + at, value)


def link(name: str, kind: int) -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr(info, "/etc/hostname")
        made.writestr("good.dcm", IMAGE)
    return stream.getvalue()


def deep(depth: int) -> bytes:
    head = element(0x0040A730, "SQ", b"", length=0xFFFFFFFF) + number(0xFFFEE000) + b"\xff" * 4
    return head * depth


def defined(depth: int) -> bytes:
    body = b""
    for _ in range(depth):
        item = number(0xFFFEE000) + struct.pack("<L", len(body)) + body
        body = element(0x0040A730, "SQ", item)
    return body


def of_one_name(name: str, *contents: bytes) -> bytes:
    stream = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),  # zipfile warns of it
        zipfile.ZipFile(stream, "w") as made,
    ):
        for content in contents:
            made.writestr(name, content)
    return stream.getvalue()


def zip64(content: bytes) -> bytes:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made,
        made.open("good.dcm", "w", force_zip64=True) as member,
    ):
        member.write(content)
    return stream.getvalue()


HEADERS = {
    "empty": one(b"", "not_dicom"),
    "a preamble alone": one(bytes(128) + b"DICM", "truncated"),
    "cut in an element": one(IMAGE[:-3], "truncated"),
    "a length past the end": one(
        file_of(element(0x00080005, "UT", b"x", length=0xFFFFFFF0) + uids()), "truncated"
    ),
    "a length past the end behind the UIDs": one(
        file_of(uids() + element(0x00204000, "UT", b"x", length=0xFFFFFFF0)), ROW
    ),
    "undefined length without end": one(
        file_of(element(0x00080008, "SQ", b"", length=0xFFFFFFFF)), "truncated"
    ),
    "undefined length without end behind the UIDs": one(
        file_of(uids() + element(0x00400275, "SQ", b"", length=0xFFFFFFFF)), ROW
    ),
    "undefined length of text": one(
        file_of(uids() + element(0x00204000, "UT", b"x", length=0xFFFFFFFF)), ROW
    ),
    "10,000 sequences of undefined length": one(file_of(uids() + deep(10_000)), "nested_too_deep"),
    "100 sequences of defined length": one(file_of(uids() + defined(100)), "nested_too_deep"),
    "odd lengths": one(file_of(uids() + element(0x00204000, "LT", b"odd")), ROW),
    "the same tag twice": one(file_of(uids() + element(0x00200013, "IS", b"1 ") * 2), ROW),
    "the same UID twice": one(file_of(uids() + element(SERIES, "UI", b"1.2.6")), ROW),
    "a wrong VR": one(file_of(uids() + element(0x00200013, "US", b"\1\2\3")), ROW),
    "UIDs of a wrong VR": one(file_of(uids().replace(b"UI", b"LO")), ROW),
    "a VR that there is not": one(file_of(uids() + element(0x00200013, "??", b"1 ")), ROW),
    "implicit VR under an explicit syntax": one(
        file_of(b"".join(element(t, None, b"1.2\0") for t in (SOP, STUDY, SERIES))), ROW
    ),
    "explicit VR under an implicit syntax": one(file_of(uids(), IMPLICIT), ROW),
    "no SOP Instance UID": one(file_of(uids()[13:]), "no_sop_uid"),
    "no Study Instance UID": one(file_of(uids()[:13] + uids()[26:]), "no_study_uid"),
    "no Series Instance UID": one(file_of(uids()[:26]), "no_series_uid"),
    "an empty SOP Instance UID": one(file_of(uids(sop=b"")), "no_sop_uid"),
    "an empty Study Instance UID": one(file_of(uids(study=b"\0\0")), "no_study_uid"),
    "an empty Series Instance UID": one(file_of(uids(series=b"  ")), "no_series_uid"),
    "a Study Instance UID with letters": one(file_of(uids(study=b"1.2.x")), ROW),
    "a SOP Instance UID of a sentence": one(file_of(uids(sop=b"not a UID")), "invalid_resource"),
    "a Series Instance UID of 65 digits": one(
        file_of(uids(series=b"1." + b"2" * 63)), "invalid_resource"
    ),
    "a Study Instance UID of 65 digits": one(file_of(uids(study=b"1." + b"2" * 63)), ROW),
    "a Study Instance UID that is a path": one(file_of(uids(study=b"../../etc/x")), ROW),
    "a wrong character set": one(
        file_of(
            element(0x00080005, "CS", b"ISO_IR 192")
            + uids()[:13]
            + element(0x00100010, "PN", b"\xff\xfe^A")
            + uids()[13:]
        ),
        ROW,
    ),
    "two character sets": one(
        file_of(
            element(0x00080005, "CS", b"ISO_IR 100\\ISO_IR 192")
            + uids()[:13]
            + element(0x00100010, "PN", b"M\xc3\xbcller")
            + uids()[13:]
        ),
        ROW,
    ),
    "an unknown character set": one(file_of(element(0x00080005, "CS", b"EBCDIC") + uids()), ROW),
    "a DICOMDIR": one(
        file_of(uids()).replace(
            b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0"
        ),
        "dicomdir",
    ),
    "directory records": one(
        file_of(sequence(0x00041220, element(0x00041430, "CS", b"PATIENT ")) + uids()), "dicomdir"
    ),
    "a Windows program before it": one(b"MZ" + IMAGE[2:], ROW),
    "a program before it": one(b"\x7fELF" + IMAGE[4:], ROW),
    "a ZIP before it": one(b"PK\3\4" + IMAGE[4:], ROW),
    "a Windows program": one(b"MZ" + bytes(300), "not_dicom"),
    "deflated data that are none": one(file_of(b"\xff" * 50, DEFLATED), "unreadable"),
    "deflated": one(file_of(deflated(uids()), DEFLATED), ROW),
}

NAMES = (
    b"new\nline.dcm",
    b"caf\xe9.dcm",
    b"x" * 251 + b".dcm",
    b"..dcm",
    b"...",
    b"C:\\windows\\x.dcm",
    b"..\\..\\x.dcm",
    b"-rf",
    b" ",
    b"$(id).dcm",
    b"';drop table x--.dcm",
    "\u202e\u00e9.dcm".encode(),
    "e\u0301.dcm".encode(),
    b"%2e%2e%2fx.dcm",
)


def drop_names(folder: Path) -> None:
    for name in NAMES:
        path = os.fsencode(folder) + b"/" + name
        with open(path, "wb") as file:
            file.write(IMAGE)


SPECIALS = ("to_file.dcm", "to_folder", "dangling.dcm", "cycle", "up", "pipe.dcm", "socket.dcm")


def drop_specials(folder: Path, outside: Path) -> None:
    """Drops what is no file; one of the links leads to a file of the other folder."""
    (folder / "to_file.dcm").symlink_to(outside / "secret.dcm")
    (folder / "to_folder").symlink_to(outside, target_is_directory=True)
    (folder / "dangling.dcm").symlink_to(folder / "nowhere")
    (folder / "cycle").symlink_to(folder / "cycle")
    (folder / "up").symlink_to("..", target_is_directory=True)
    os.mkfifo(folder / "pipe.dcm")
    here = os.getcwd()
    os.chdir(folder)  # a socket's whole address has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket.dcm")
    finally:
        os.chdir(here)


def _entries(folder: Path) -> None:
    outside = folder.parents[6] / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret.dcm").write_bytes(IMAGE)
    (folder / "folder.dcm").mkdir()
    (folder / "folder.dcm/inside.dcm").write_bytes(IMAGE)
    drop_specials(folder, outside)
    (folder / "first.dcm").write_bytes(IMAGE)
    os.link(folder / "first.dcm", folder / "second.dcm")
    if not os.geteuid():
        try:
            os.mknod(folder / "zero.dcm", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except PermissionError:
            (folder / "zero.dcm").symlink_to("/dev/zero")
    else:
        (folder / "zero.dcm").symlink_to("/dev/zero")


_ENTRIES = {
    "folder.dcm/inside.dcm": ROW,
    **dict.fromkeys(SPECIALS, "not_a_file"),
    "zero.dcm": "not_a_file",
    "first.dcm": ROW,
    "second.dcm": ROW,
}

SAME_NAME = (b"1.3.1", b"1.3.2")
"""SOP Instance UIDs of the members that are called the same."""

_TWO = zipped({"a.dcm": IMAGE, "b.dcm": IMAGE})
_STORED = zipped({"a.dcm": IMAGE}, zipfile.ZIP_STORED)
_NESTED = zipped({"in.zip": zipped({"in.zip": zipped({"good.dcm": IMAGE})})})
_OTHER = zipped({"c.dcm": IMAGE})
_CASES = {"a.dcm": IMAGE, "A.DCM": IMAGE, "\u00e9.dcm": IMAGE, "e\u0301.dcm": IMAGE}


def _nested(depth: int) -> bytes:
    content = zipped({"x.dcm": IMAGE})
    for _ in range(depth - 1):
        content = zipped({"in.zip": content})
    return content


ARCHIVES = {
    "empty archive": whole(zipped({}), "archive_empty"),
    "folders alone": whole(zipped({"a/": b"", "a/b/": b""}), "archive_empty"),
    "cut": whole(_TWO[:-10], "archive_damaged"),
    "directory damaged": whole(in_directory(_TWO, 0, b"XX"), "archive_damaged"),
    "encrypted": of_members(
        in_directory(_TWO, 8, b"\1"), {"a.dcm": "archive_encrypted", "b.dcm": ROW}
    ),
    "a member is damaged": of_members(
        spoilt(_TWO, 40, b"\xff\xff\xff"), {"a.dcm": "member_damaged", "b.dcm": ROW}
    ),
    "a wrong CRC": of_members(
        in_directory(_TWO, 16, b"\0\0\0\0"), {"a.dcm": "member_damaged", "b.dcm": ROW}
    ),
    "a wrong CRC of a stored member": of_members(
        in_directory(_STORED, 16, b"\0\0\0\0"), {"a.dcm": "member_damaged"}
    ),
    "a size that lies": of_members(
        in_directory(_TWO, 24, struct.pack("<L", 9)), {"a.dcm": "member_damaged", "b.dcm": ROW}
    ),
    "a size beyond max_file_bytes": of_members(
        in_directory(_TWO, 24, struct.pack("<L", 1 << 25)), {"a.dcm": "too_large", "b.dcm": ROW}
    ),
    "an offset that lies": of_members(
        in_directory(_TWO, 42, struct.pack("<L", 1 << 30)),
        {"a.dcm": "member_damaged", "b.dcm": ROW},
    ),
    "members that overlap": of_members(
        in_directory(_TWO, 20, struct.pack("<L", 300)), {"a.dcm": "member_damaged", "b.dcm": ROW}
    ),
    "unsupported compression": of_members(
        in_directory(_TWO, 10, b"\x63\0"),
        {"a.dcm": "archive_unsupported_compression", "b.dcm": ROW},
    ),
    "bzip2": of_members(zipped({"x": IMAGE}, zipfile.ZIP_BZIP2), {"x": ROW}),
    "lzma": of_members(zipped({"x": IMAGE}, zipfile.ZIP_LZMA), {"x": ROW}),
    "zip64": of_members(zip64(IMAGE), {"good.dcm": ROW}),
    "a link to a file": of_members(
        link("x.dcm", stat.S_IFLNK), {"x.dcm": "archive_member_unsafe", "good.dcm": ROW}
    ),
    "a device as a member": of_members(
        link("x.dcm", stat.S_IFBLK), {"x.dcm": "archive_member_unsafe", "good.dcm": ROW}
    ),
    "members that leave": of_members(
        zipped({"../a": IMAGE, "..\\b": IMAGE, "c/../../d": IMAGE, "e": IMAGE}),
        {
            "../a": "archive_member_unsafe",
            "..\\b": "archive_member_unsafe",
            "c/../../d": "archive_member_unsafe",
            "e": ROW,
        },
    ),
    "two members of one name": of_members(
        of_one_name("a.dcm", *(file_of(uids(sop=sop)) for sop in SAME_NAME)), {"a.dcm": ROW}
    ),
    "absolute members": of_members(
        zipped({"/etc/passwd": IMAGE, "C:\\windows\\x": IMAGE}),
        {"/etc/passwd": ROW, "C:\\windows\\x": ROW},
    ),
    "names that differ by case and normalisation": of_members(
        zipped(_CASES), dict.fromkeys(_CASES, ROW)
    ),
    "zip that holds itself": of_members(
        quine("in.zip"), {"in.zip!/in.zip!/in.zip!/in.zip!/in.zip": "nested_too_deep"}
    ),
    "zip in zip in zip": of_members(_NESTED, {"in.zip!/in.zip!/good.dcm": ROW}),
    "six zips in each other": of_members(
        _nested(6), {"in.zip!/in.zip!/in.zip!/in.zip!/in.zip": "nested_too_deep"}
    ),
    "data before": whole(b"MZ" + bytes(40) + _TWO, "not_dicom"),
    "data behind": of_members(_TWO + b"x" * 30, {"a.dcm": ROW, "b.dcm": ROW}),
    "another archive before": joined(
        _OTHER + _TWO, {"": "archive_damaged", "!/a.dcm": ROW, "!/b.dcm": ROW}
    ),
    "another archive behind, cut": joined(
        _OTHER + _TWO[:-80], {"": "archive_damaged", "!/c.dcm": ROW}
    ),
    "an empty archive behind": joined(_OTHER + zipped({}), {"": "archive_damaged"}),
    "two archives joined in one": joined(
        zipped({"in.zip": _OTHER + _TWO, "d.dcm": IMAGE}),
        {
            "!/in.zip": "archive_damaged",
            "!/in.zip!/a.dcm": ROW,
            "!/in.zip!/b.dcm": ROW,
            "!/d.dcm": ROW,
        },
    ),
    "operations are no members": of_members(
        zipped({"Operations/delete.json": b'{"operation": "delete"}', "good.dcm": IMAGE}),
        {"Operations/delete.json": "not_dicom", "good.dcm": ROW},
    ),
    "a manifest that is none": of_members(
        zipped({"dicom_assets_manifest.json": b"[]", "good.dcm": IMAGE}),
        {"dicom_assets_manifest.json": "invalid_json", "good.dcm": ROW},
    ),
    "no DICOM in it": of_members(
        zipped({"x.txt": b"hello", "good.dcm": IMAGE}), {"x.txt": "not_dicom", "good.dcm": ROW}
    ),
}

CASES = HEADERS | ARCHIVES | {"entries": Case(_entries, _ENTRIES)}

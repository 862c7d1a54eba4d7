"""What a file is, by its first bytes.

Decided here: which files are taken for DICOM, for a DICOMDIR or for a ZIP archive, whatever they
are called, and what a file that is none of these looks like. Not decided here: whether a bare
dataset is one (`header.read_header` proves it).
"""

import struct
from enum import StrEnum

from dicom_assets.dicom import vr as vrs

HEAD_BYTES = 4096
"""How much of a file is looked at."""

_DICOMDIR = b"1.2.840.10008.1.3.10"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_FIRST_GROUPS = (0x0000, 0x0002, 0x0004, 0x0008, 0x0010, 0x0018, 0x0020)
_LONGEST_FIRST_VALUE = 1 << 16

_LOOKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"BM", "a bitmap image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x1f\x8b", "a gzip archive; only ZIP archives are opened"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; only ZIP archives are opened"),
    (0, b"Rar!", "a RAR archive; only ZIP archives are opened"),
    (0, b"\xfd7zXZ", "an xz archive; only ZIP archives are opened"),
    (0, b"BZh", "a bzip2 archive; only ZIP archives are opened"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive; only ZIP archives are opened"),
    (257, b"ustar", "a tar archive; only ZIP archives are opened"),
    (32769, b"CD001", "a CD image; only ZIP archives are opened"),
    (344, b"n+1\0", "a NIfTI image"),
    (344, b"ni1\0", "a NIfTI image"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"NRRD", "an NRRD image"),
    (4, b"ftyp", "a video"),
    (0, b"\xd0\xcf\x11\xe0", "an Office document"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"<", "an XML or HTML document"),
    (0, b"MZ", "a Windows program"),
    (0, b"\x7fELF", "a program"),
    (0, b"\x8eIS&", "a DICOM service's index file"),
)


class Kind(StrEnum):
    """What a file is by its first bytes."""

    DICOM = "dicom"
    DICOMDIR = "dicomdir"
    ZIP = "zip"
    BARE = "bare"
    """Maybe a dataset without a file header; `header.read_header` has to prove it."""
    OTHER = "other"


def kind_of(head: bytes) -> Kind:
    """Returns what a file is.

    `DICM` at byte 128 wins over everything at byte 0, for the preamble may hold anything, a ZIP or
    TIFF signature too (PS3.10 section 7.1).

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a shorter one.
    """
    if head[128:132] == b"DICM":
        return Kind.DICOMDIR if _is_dicomdir(head, 132) else Kind.DICOM
    if head.startswith(_ZIP):
        return Kind.ZIP
    if not _starts_a_dataset(head):
        return Kind.OTHER
    return Kind.DICOMDIR if _is_dicomdir(head, 0) else Kind.BARE


def what_it_looks_like(head: bytes) -> str:
    """Returns what a file looks like, for a message; never anything of its content.

    Args:
        head: As for `kind_of`.
    """
    if not head:
        return "an empty file"
    kind = kind_of(head)
    if kind is Kind.ZIP:
        return "a ZIP archive"
    if kind is not Kind.OTHER:
        return "a DICOMDIR" if kind is Kind.DICOMDIR else "a DICOM file"
    if not any(head):
        return "a file of zeros"
    for offset, signature, name in _LOOKS:
        if head.startswith(signature, offset):
            return name
    return "text or unknown data"


def _is_dicomdir(head: bytes, at: int) -> bool:
    """Whether Media Storage SOP Class UID (0002,0002) is that of a DICOMDIR (PS3.10 section 8)."""
    while len(head) >= at + 12:
        group, number, vr, length = struct.unpack_from("<HH2sH", head, at)
        if group == 4:
            return True
        if group != 2:
            return False
        start = at + 8
        if vrs.EXPLICIT.get(vr, "") in vrs.LONG:
            length = struct.unpack_from("<L", head, start)[0]
            start += 4
        elif vr not in vrs.EXPLICIT:
            length = struct.unpack_from("<L", head, at + 4)[0]
        if number == 2:
            return head[start : start + length].rstrip(b"\0 ") == _DICOMDIR
        at = start + length
    return False


def _starts_a_dataset(head: bytes) -> bool:
    """Whether the first element could be that of a dataset, in any transfer syntax."""
    if len(head) < 12:
        return False
    for order in "<>":
        group, number = struct.unpack_from(order + "HH", head)
        if group not in _FIRST_GROUPS:
            continue
        vr = vrs.EXPLICIT.get(head[4:6])
        if vr is None:
            if order == ">":  # big endian is explicit VR
                continue
            length = struct.unpack_from("<L", head, 4)[0]
        elif vr in vrs.LONG:
            length = struct.unpack_from(order + "L", head, 8)[0]
        else:
            length = struct.unpack_from(order + "H", head, 6)[0]
        if number == 0:
            return length == 4
        if length < _LONGEST_FIRST_VALUE or (length == 0xFFFFFFFF and vr in (None, "SQ")):
            return group > 0 and not (group == 2 and vr is None)
    return False

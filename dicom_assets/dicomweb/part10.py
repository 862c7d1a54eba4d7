"""What stands before the dataset of a DICOM file (PS3.10 section 7.1), and no more.

Decided here: where the dataset begins, so that it can be hashed as it stands: a service may write
the file's head anew, but has to hand back the dataset. Not decided here: what is in it
(`dicom_assets.dicom`).
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

MOST_HEAD_BYTES = 1 << 16
_LONG = (b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF", b"OD", b"OL", b"UC", b"UR")


@dataclass(frozen=True, slots=True)
class Head:
    """What the File Meta Information says.

    Attributes:
        sop_instance_uid: (0002,0003), empty when it is not stated.
        transfer_syntax_uid: (0002,0010), empty when it is not stated.
        length: Bytes before the dataset.
    """

    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int


def head_of(data: bytes) -> Head | None:
    """Reads the head of a file; None where it is no DICOM file of Part 10.

    Args:
        data: Its first `MOST_HEAD_BYTES`, or all of a shorter one.
    """
    if data[128:132] != b"DICM":
        return None
    found: dict[int, str] = {}
    at = 132
    while len(data) >= at + 8:
        group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        if group != 2:
            break
        start = at + 8
        if vr in _LONG:
            if len(data) < at + 12:
                return None
            (length,) = struct.unpack_from("<L", data, start)
            start += 4
        if start + length > len(data):
            return None
        found[element] = data[start : start + length].rstrip(b"\0 ").decode("latin-1")
        at = start + length
    return Head(found.get(3, ""), found.get(0x10, ""), at)


def dataset_hash(pieces: Iterable[bytes]) -> tuple[Head, str] | None:
    """Returns a file's head and the SHA-256 of its dataset; None where it is no Part 10 file."""
    begin, head, digest = bytearray(), None, hashlib.sha256()
    for piece in pieces:
        if head is not None:
            digest.update(piece)
            continue
        begin += piece
        if len(begin) >= MOST_HEAD_BYTES:
            head = head_of(bytes(begin))
            if head is None:
                return None
            digest.update(begin[head.length :])
    if head is None:
        head = head_of(bytes(begin))
        if head is None:
            return None
        digest.update(begin[head.length :])
    return head, digest.hexdigest()

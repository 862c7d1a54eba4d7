"""What a file is shows in its first bytes, whatever it is called."""

import io
import subprocess
import sys

import pytest
from dicom_bytes import (
    DICOM_FILES,
    SHARED,
    WHEEL,
    element,
    file_of,
    uids,
)

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of, what_it_looks_like

DICOMDIR = WHEEL / "test_files/dicomdirtests/DICOMDIR"


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        (file_of(uids()), Kind.DICOM, "a DICOM file"),
        (DICOMDIR.read_bytes()[:HEAD_BYTES], Kind.DICOMDIR, "a DICOMDIR"),
        (DICOMDIR.read_bytes()[132:HEAD_BYTES], Kind.DICOMDIR, "a DICOMDIR"),
        (b"PK\3\4" + bytes(124) + b"DICM", Kind.DICOM, "a DICOM file"),
        (b"PK\3\4" + bytes(300), Kind.ZIP, "a ZIP archive"),
        (b"PK\5\6" + bytes(18), Kind.ZIP, "a ZIP archive"),
        (b"PK\7\x08PK\3\4", Kind.ZIP, "a ZIP archive"),
        (b"PKWARE wrote this", Kind.OTHER, "text or unknown data"),
        (uids(), Kind.BARE, "a DICOM file"),
        (uids(vr=None), Kind.BARE, "a DICOM file"),
        (uids(order=">"), Kind.BARE, "a DICOM file"),
        (element(0x00080000, None, b"\x08\1\0\0"), Kind.BARE, "a DICOM file"),
        (element(0x00041130, "CS", b"NAMES "), Kind.DICOMDIR, "a DICOMDIR"),
        (b"", Kind.OTHER, "an empty file"),
        (b"\x08\0\x05\0", Kind.OTHER, "text or unknown data"),
        (bytes(500), Kind.OTHER, "a file of zeros"),
        (b"\0\0\1\0\1\0\x10\x10\0\0\1\0 icon", Kind.OTHER, "text or unknown data"),
        (b"\xff\xd8\xff\xe0" + bytes(9), Kind.OTHER, "a JPEG image"),
        (b"\x1f\x8b\x08", Kind.OTHER, "a gzip archive; only ZIP archives are opened"),
        (bytes(257) + b"ustar", Kind.OTHER, "a tar archive; only ZIP archives are opened"),
        (
            b"name\0" + bytes(252) + b"ustar\0",
            Kind.OTHER,
            "a tar archive; only ZIP archives are opened",
        ),
        (b"%PDF-1.7 of Jane Doe", Kind.OTHER, "a PDF document"),
        (b"Jane Doe, born 1970", Kind.OTHER, "text or unknown data"),
    ],
)
def test_the_first_bytes_tell(head: bytes, kind: Kind, words: str):
    assert kind_of(head) == kind
    assert what_it_looks_like(head) == words


def test_a_dicomdir_is_seen_behind_other_meta_elements():
    meta = element(0x00020000, "UL", bytes(4)) + element(0x00020001, "OB", b"\0\1")
    sop_class = element(0x00020002, "UI", b"1.2.840.10008.1.3.10")
    assert kind_of(bytes(128) + b"DICM" + meta + sop_class) == Kind.DICOMDIR
    assert kind_of(bytes(128) + b"DICM" + meta + sop_class[:20]) == Kind.DICOM
    records = element(0x00041220, "SQ", b"")
    assert kind_of(bytes(128) + b"DICM" + meta + records) == Kind.DICOMDIR


def test_every_published_file_that_can_be_read_is_seen_to_be_dicom():
    paths = [path for path in SHARED.rglob("*") if path.is_file()] + DICOM_FILES
    for path in paths:
        data = path.read_bytes()
        kind = kind_of(data[:HEAD_BYTES])
        try:
            read_header(io.BytesIO(data))
        except HeaderError as error:
            seen = {"not_dicom": (Kind.OTHER, Kind.ZIP, Kind.BARE), "dicomdir": (Kind.DICOMDIR,)}
            assert kind in seen.get(error.reason, (Kind.DICOM,)), path.name
        else:
            assert kind in (Kind.DICOM, Kind.BARE), path.name


def test_sniffing_loads_no_pydicom():
    code = (
        "import sys; from dicom_assets.dicom.sniff import kind_of; kind_of(b'x' * 200); "
        "print('pydicom' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

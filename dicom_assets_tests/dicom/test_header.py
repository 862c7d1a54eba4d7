"""A header is all of a DICOM file but its pixels, wherever the file lies and however it is made."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from dicom_bytes import (
    EXPLICIT,
    WHEEL,
    element,
    encapsulated,
    file_of,
    number,
    read,
    refused,
    sequence,
    uids,
)

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.elements import BULK_BYTES
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag, promoted_tags
from dicom_assets.lakehouse.reasons import Reason


def test_promoted_values_stand_as_in_the_file_but_trimmed():
    data = (
        element(0x00080005, "CS", b"\\ISO 2022 IR 87 ")
        + element(0x00080020, "DA", b"abcd")
        + element(0x00080060, "CS", b" MR\0")
        + element(0x00080061, "CS", b"CT \\MR ")
        + element(0x00081030, "LO", b"  ")
        + element(0x00100010, "PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\\B^C ")
        + element(0x00180060, "DS", b"01.50 ")
        + element(0x00200013, "IS", b" 007")
        + element(0x00280010, "US", struct.pack("<2H", 512, 7))
        + element(0x00280009, "AT", number(0x00181063))
        + sequence(0x00081115, element(0x0020000E, "UI", b"1.2"))
    )
    extra = {
        "KVP": "kvp",
        "Rows": "rows",
        "FrameIncrementPointer": "pointer",
        "ReferencedSeriesSequence": "referenced",
    }
    header = read(file_of(data + uids()), tags=promoted_tags(extra))
    wanted = {
        "sopInstanceUid": "1.2.3",
        "studyDate": "abcd",
        "modality": "MR",
        "modalitiesInStudy": "CT\\MR",
        "studyDescription": None,
        "patientName": "Yamada^Tarou\\B^C",
        "patientId": None,
        "kvp": "01.50",
        "instanceNumber": "007",
        "rows": "512\\7",
        "pointer": "00181063",
        "referenced": '[{"0020000E":{"vr":"UI","Value":["1.2"]}}]',
    }
    assert {key: header.promoted[key] for key in wanted} == wanted
    assert list(header.promoted) == [tag.column for tag in PROMOTED_TAGS] + list(extra.values())
    assert header.transfer_syntax_uid == EXPLICIT


def test_a_name_is_promoted_in_the_character_set_of_the_file():
    with (WHEEL / "charset_files" / "chrH31.dcm").open("rb") as stream:
        assert read_header(stream).promoted["patientName"] == "Yamada^Tarou"
    with (WHEEL / "charset_files" / "chrRuss.dcm").open("rb") as stream:
        assert read_header(stream).promoted["patientName"] == "Люкceмбypг"  # noqa: RUF001


def test_an_identifier_with_a_binary_vr_is_promoted_as_text():
    tags = (PromotedTag("patientId", "00100020", "PatientID", "LO"),)
    header = read(file_of(element(0x00100020, "OB", b"P1\0\0") + uids()), tags=tags)
    assert header.promoted == {"patientId": "P1"}
    assert header.json["00100020"] == {"vr": "OB", "InlineBinary": "UDEAAA=="}


def test_pixels_palettes_overlays_and_waveforms_are_left_out_at_every_level():
    excluded = b"".join(
        element(tag, "OW", b"\1\2")
        for tag in (0x00281201, 0x00281223, 0x00282000, 0x54001010, 0x60023000, 0x7FE00010)
    )
    icon = excluded + element(0x00280010, "US", b"\1\0")
    header = read(file_of(uids() + sequence(0x00880200, icon) + excluded))
    assert header.json["00880200"]["Value"] == [{"00280010": {"vr": "US", "Value": [1]}}]
    assert set(header.json) == {"00080018", "0020000D", "0020000E", "00880200"}


def test_of_bulk_binary_the_vr_alone_stays():
    for size, kept in ((BULK_BYTES, True), (BULK_BYTES + 2, False)):
        header = read(file_of(uids() + element(0x00420011, "OB", bytes(size))))
        assert ("InlineBinary" in header.json["00420011"]) is kept


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.total += len(data)
        return data


@pytest.mark.parametrize(
    "pixels",
    [element(0x7FE00010, "OW", bytes(1 << 24)), encapsulated(bytes(1 << 23), bytes(1 << 23))],
)
def test_pixels_are_passed_over_and_what_stands_behind_them_is_read(pixels: bytes):
    behind = element(0x7FE10010, "LO", b"SOMEBODY")
    stream = Counted(file_of(uids() + pixels + behind))
    header = read_header(stream)
    assert header.json["7FE10010"] == {"vr": "LO", "Value": ["SOMEBODY"]}
    assert header.decode_notes == []
    assert stream.total < 1 << 17


class ForwardOnly(io.RawIOBase):
    """A pipe: no seeking, and short reads."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._data.read(min(size or 1, 1000))

    def seekable(self) -> bool:
        return False


def test_streams_that_only_go_forward_give_the_same_header(tmp_path: Path):
    for name in ("CT_small.dcm", "rtplan.dcm", "MR_small_jp2klossless.dcm", "image_dfl.dcm"):
        data = (WHEEL / "test_files" / name).read_bytes()
        with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
        with zipfile.ZipFile(tmp_path / "one.zip") as archive, archive.open(name) as member:
            assert read_header(member) == read(data)  # type: ignore[arg-type]
        assert read_header(ForwardOnly(data)) == read(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm", "rtplan.dcm"]
)
def test_a_bare_dataset_that_proves_itself_is_read(name: str):
    data = (WHEEL / "test_files" / name).read_bytes()
    whole = read(data)
    if data[128:132] == b"DICM":
        size = struct.unpack_from("<L", data, 140)[0]
        assert read(data[132:]).json == whole.json  # file meta without a preamble
        data = data[144 + size :]
    bare = read(data)
    assert bare.json == whole.json
    assert bare.transfer_syntax_uid is None


def test_bytes_that_only_begin_like_a_dataset_are_not_dicom():
    start = element(0x00080005, "CS", b"ISO_IR 100")
    assert refused(start + element(0x00080016, "UI", b"no uid") + bytes(40)).reason == "not_dicom"
    assert read(start + uids()).promoted["sopInstanceUid"] == "1.2.3"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"Patient: Doe, Jane\n" * 20, "text or unknown data"),
        (b"PK\3\4" + bytes(200), "a ZIP archive"),
        (b"\xff\xd8\xff\xe0" + bytes(200), "a JPEG image"),
        (bytes(200), "a file of zeros"),
    ],
)
def test_what_is_not_dicom_is_said_to_be_something_else(data: bytes, words: str):
    error = refused(data)
    assert error.reason == Reason.NOT_DICOM
    assert error.message == f"not a DICOM file but {words}"


def test_a_dicomdir_is_refused_whatever_tells_it():
    assert refused((WHEEL / "test_files/dicomdirtests/DICOMDIR").read_bytes()).reason == "dicomdir"
    records = sequence(0x00041220, element(0x00041430, "CS", b"IMAGE "))
    assert refused(file_of(uids() + records)).reason == Reason.DICOMDIR
    assert refused(element(0x00041130, "CS", b"NAME") + records).reason == Reason.DICOMDIR


@pytest.mark.parametrize(
    ("missing", "reason"),
    [(b"1.2.4", "no_study_uid"), (b"1.2.5", "no_series_uid"), (b"1.2.3", "no_sop_uid")],
)
@pytest.mark.parametrize("instead", [b" \0\0\0 ", b"\\\\\\\\ "])
def test_a_file_without_one_of_the_three_uids_is_refused(missing, reason, instead):
    assert refused(file_of(uids().replace(missing, instead))).reason == reason


@pytest.mark.parametrize("reader", ["fast_header", "read_file"])
def test_what_is_unforeseen_is_unreadable_but_a_broken_machine_is_not(monkeypatch, reader: str):
    def fails(error):
        def broken(*_args, **_kwargs):
            raise error

        return broken

    not_plain = file_of(element(0x00080060, "QQ", b"CT") + uids())
    module = f"dicom_assets.dicom.header.{reader}"
    for error, reason in ((ValueError("Doe"), "unreadable"), (RecursionError(), "nested_too_deep")):
        monkeypatch.setattr(module, fails(error))
        found = refused(not_plain)
        assert found.reason == reason
        assert "Doe" not in str(found)
        assert found.__cause__ is None
    monkeypatch.setattr(module, fails(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        read(not_plain)


def test_headers_and_errors_pass_between_processes():
    header = read(file_of(uids()))
    assert pickle.loads(pickle.dumps(header)) == header  # noqa: S301
    error = pickle.loads(pickle.dumps(HeaderError(Reason.TRUNCATED, "words")))  # noqa: S301
    assert (error.reason, error.message, str(error)) == (Reason.TRUNCATED, "words", "words")


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'dagster', 'deltalake', 'fhir', 'pydantic', 'pydicom', 'numpy', 'pyarrow'}"
    code = f"import sys, dicom_assets.dicom; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

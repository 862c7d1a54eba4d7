"""Files that are cut off, damaged or hostile: what they hold is read, and nothing else happens."""

import io
import logging
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import orjson
import pytest
from dicom_bytes import (
    BIG_ENDIAN,
    DEFLATED,
    DICOM_FILES,
    EXPLICIT,
    IMPLICIT,
    WHEEL,
    deflated,
    element,
    encapsulated,
    file_of,
    number,
    read,
    refused,
    sequence,
    uids,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_header_fast import as_read, by_care

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.elements import MAX_DEPTH
from dicom_assets.lakehouse.reasons import Reason

SMALL = [path.read_bytes() for path in DICOM_FILES if path.stat().st_size < 20_000]
SNIPPETS = st.sampled_from(
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0",
        b"\xfe\xff\x00\xe0",
        b"\xfe\xff\xdd\xe0",
        b"\xfe\xff\x0d\xe0",
        b"SQ",
        b"UN",
        b"PN",
        b"\x1b$B",
        b"nan",
        b"ISO_IR 192",
        b"utf-7",
    ]
) | st.binary(min_size=1, max_size=6)


@settings(
    max_examples=600, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), SNIPPETS, st.booleans()), max_size=8),
    st.none() | st.floats(0, 1),
)
@example(b"\x08\0\x05\0CS", [], None)
@example(bytes(128) + b"DICM", [], None)
def test_no_bytes_raise_anything_but_a_header_error(data, edits, cut):
    spoilt = bytearray(data)
    for where, snippet, inserted in edits:
        at = int(where**3 * len(spoilt))
        spoilt[at : at if inserted else at + len(snippet)] = snippet
    if cut is not None:
        del spoilt[int(cut * len(spoilt)) :]
    assert as_read(bytes(spoilt)) == by_care(bytes(spoilt))
    try:
        header = read(bytes(spoilt))
    except HeaderError as error:
        assert error.message
        return
    assert orjson.loads(orjson.dumps(header.json)) == header.json
    assert all(header.promoted[key] for key in ("studyInstanceUid", "seriesInstanceUid"))
    assert all(note[:8].strip("0123456789ABCDEF") == "" for note in header.decode_notes)


def test_nothing_of_the_patient_is_said_in_notes_errors_warnings_or_logs(caplog, capfd):
    secret = b"Zebedee^Quux"
    spoilt = [
        element(tag, vr, value)
        for value in (secret, secret + b"\\\xff", b"=" + secret * 30, secret * 1000)
        for tag, vr in (
            (0x00080005, "CS"),
            (0x00080020, "DA"),
            (0x00100010, "PN"),
            (0x00100020, "US"),
            (0x00100030, "QX"),
            (0x00101010, "AS"),
            (0x00180050, "DS"),
            (0x00200013, "IS"),
            (0x00280009, "AT"),
            (0x00189073, "FD"),
            (0x0020000D, "UI"),
            (0x00081115, "SQ"),
        )
        if len(value) < 1 << 16
    ]
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data in spoilt:
            for body in (data + uids(), data, uids()[:30] + data, uids() + data[:-7]):
                for whole in (file_of(body), file_of(body, IMPLICIT), file_of(body, BIG_ENDIAN)):
                    try:
                        said += read(whole).decode_notes
                    except HeaderError as error:
                        said += [str(error), repr(error), error.message]
    said += [caplog.text, *(str(warning.message) for warning in warned), *capfd.readouterr()]
    assert len(said) > 100
    assert not [text for text in said if "zebedee" in text.lower() or "quux" in text.lower()]
    assert not warned


@pytest.mark.parametrize("name", ["rtplan.dcm", "MR_small_bigendian.dcm"])
def test_a_file_cut_anywhere_gives_what_it_holds_or_says_that_it_ends(name: str):
    data = (WHEEL / "test_files" / name).read_bytes()[:3000]
    whole = read((WHEEL / "test_files" / name).read_bytes())
    allowed = {Reason.NOT_DICOM, Reason.TRUNCATED, Reason.NO_STUDY_UID, Reason.NO_SERIES_UID}
    # behind the first thousand bytes elements are like those before; their lengths are even, so
    # that every 7th byte, over many of them, is each place in one
    for end in (*range(1000), *range(1000, len(data), 7)):
        try:
            header = read(data[:end])
        except HeaderError as error:
            assert error.reason in allowed
            continue
        for column, value in header.promoted.items():
            assert value in (None, whole.promoted[column])
        for key, attribute in header.json.items():
            complete = attribute == whole.json[key] or attribute == {"vr": attribute["vr"]}
            assert complete or attribute["vr"] == "SQ"


def test_a_length_that_lies_finds_no_memory():
    for vr in ("UT", "OB", "SQ", "UN", None):
        lying = element(0x00081199, vr, b"x", length=0xFFFFFFF0)
        syntax = EXPLICIT if vr else IMPLICIT
        data = file_of(uids(vr and "UI") + lying, syntax)
        read(data)
        tracemalloc.start()
        header = read(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
        assert header.decode_notes[-1].endswith("the file ends in or after this element")


def test_sequences_nest_as_deep_as_allowed_and_no_deeper():
    nested = b""
    for _ in range(MAX_DEPTH):
        nested = sequence(0x0040A730, nested)
    assert orjson.dumps(read(file_of(uids() + nested)).json)
    for depth in (1, 3000):
        deeper = nested
        for _ in range(depth):
            deeper = (
                sequence(0x0040A730, deeper)
                if depth == 1
                else element(
                    0x0040A730, "SQ", number(0xFFFEE000) + b"\xff" * 4 + deeper, length=0xFFFFFFFF
                )
            )
        assert refused(file_of(uids() + deeper)).reason == Reason.NESTED_TOO_DEEP


def test_a_damaged_sequence_does_not_lose_the_elements_behind_it():
    junk = element(0x00081115, "SQ", number(0xFFFEE000) + b"\x50\0\0\0" + b"\1" * 30)
    header = read(file_of(junk + element(0x00100020, "LO", b"P1") + uids()))
    assert header.promoted["patientId"] == "P1"
    assert any("00081115" in note for note in header.decode_notes)
    endless = sequence(0x00081115, element(0x00080050, "SH", b"x "))[:-8]
    header = read(file_of(endless + element(0x00100020, "LO", b"P1") + uids()))
    assert header.promoted["patientId"] == "P1"
    assert header.decode_notes == ["00081115 a sequence without its delimiter"]


def test_pixels_that_are_cut_off_or_damaged_are_noted_and_the_row_is_written():
    cut = read(file_of(uids() + element(0x7FE00010, "OW", bytes(10), length=1000)))
    assert cut.decode_notes == ["7FE00010 the file ends in or after this element"]
    broken = encapsulated(bytes(100)).replace(number(0xFFFEE0DD), b"XXXX")
    damaged = read(file_of(uids() + broken + element(0x7FE10010, "LO", b"x ")))
    assert damaged.decode_notes == ["7FE00010 damaged fragments; nothing after them was read"]


def test_a_member_whose_data_are_damaged_behind_the_header_still_gives_it(tmp_path: Path):
    data = file_of(uids() + element(0x7FE00010, "OW", b"\x55" * 100_000))
    # of members that are only stored, Python 3.12 leaves checksums alone once it has jumped in them
    path, deflated = tmp_path / "one.zip", zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", deflated, compresslevel=0) as archive:
        archive.writestr("a", data)
    spoilt = bytearray(path.read_bytes())
    spoilt[50_000] ^= 0xFF
    with zipfile.ZipFile(io.BytesIO(spoilt)) as archive, archive.open("a") as member:
        header = read_header(member)  # type: ignore[arg-type]
    assert header.promoted["studyInstanceUid"] == "1.2.4"
    assert header.decode_notes == ["7FE00010 the data are damaged in or after this element"]


def test_a_deflated_dataset_is_inflated_and_a_damaged_one_is_unreadable():
    body = deflated(element(0x00080060, "CS", b"CT") + uids() + bytes(5000))
    assert read(file_of(body, DEFLATED)).promoted["modality"] == "CT"
    assert refused(file_of(b"\xff" * 50, DEFLATED)).reason == Reason.UNREADABLE
    assert refused(file_of(body[:10], DEFLATED)).reason == Reason.TRUNCATED

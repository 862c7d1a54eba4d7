"""Headers of datasets that pydicom writes, whatever stands in them, are what pydicom reads."""

import io
import warnings

import pydicom
from dicom_bytes import BIG_ENDIAN, EXPLICIT, IMPLICIT, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from test_header_fast import as_read, by_care
from test_header_pydicom import differences, pydicom_json

WORDS = st.text("abcXYZ 019.-", max_size=12).map(str.strip)
LETTERS = {
    "ISO_IR 100": "aé",
    "ISO_IR 192": "aéй山",
    "ISO_IR 144": "aй",
    "\\ISO 2022 IR 87": "a山田",
    "GB18030": "a王",
}
NUMBERS = {
    "US": st.integers(0, 0xFFFF),
    "SS": st.integers(-0x8000, 0x7FFF),
    "UL": st.integers(0, 0xFFFFFFFF),
    "SL": st.integers(-0x80000000, 0x7FFFFFFF),
    "FD": st.floats(allow_nan=False, allow_infinity=False),
    "FL": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "IS": st.integers(-(2**31), 2**31 - 1),
    "DS": st.integers(-9999, 9999).map(lambda number: number / 8),
}
# One element of each value representation that can be written, by its tag.
TAGS = {
    0x00080020: ("DA", st.sampled_from(["20240131", ""])),
    0x00080030: ("TM", st.sampled_from(["101112.5", "10", ""])),
    0x0008002A: ("DT", st.sampled_from(["20240131101112", ""])),
    0x00080054: ("AE", WORDS),
    0x00080060: ("CS", st.sampled_from(["CT", "MR", ""])),
    0x00080008: ("CS", st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", ""]), max_size=3)),
    0x0008001A: ("UI", st.lists(st.sampled_from(["1.2.3", "1.2.840.10008"]), max_size=2)),
    0x00101010: ("AS", st.sampled_from(["030Y", ""])),
    0x00080120: ("UR", st.sampled_from(["http://a.b/c", ""])),
    0x00280010: ("US", NUMBERS["US"]),
    0x00280009: ("AT", st.integers(0, 0xFFFFFFFF)),
    0x00281050: ("DS", st.lists(NUMBERS["DS"], max_size=3)),
    0x00200013: ("IS", NUMBERS["IS"]),
    0x00189073: ("FD", NUMBERS["FD"]),
    0x00189089: ("FD", st.lists(NUMBERS["FD"], max_size=3)),
    0x00186020: ("SL", NUMBERS["SL"]),
    0x00189219: ("SS", NUMBERS["SS"]),
    0x00186016: ("UL", NUMBERS["UL"]),
    0x00720074: ("FD", NUMBERS["FD"]),
    0x00420011: ("OB", st.binary(max_size=3000)),
    0x00660016: ("OF", st.binary(max_size=5).map(lambda data: data * 4)),
}
TEXTS = {0x00081030: "LO", 0x00080050: "SH", 0x00104000: "LT", 0x00081048: "PN", 0x0040A160: "UT"}
SIGNED = (0x00280106, 0x00280107, 0x00280120)
CREATORS = ("GEMS_ACQU_01", "SIEMENS MR HEADER", "NOBODY")


@st.composite
def datasets(draw, letters: str, depth: int = 2) -> Dataset:
    """A dataset in one character set, with elements of every kind in items of it too."""
    dataset = Dataset()
    for tag in draw(st.lists(st.sampled_from([*TAGS, *TEXTS]), unique=True, max_size=8)):
        if tag in TEXTS:
            value = draw(st.text(letters, max_size=6) | WORDS)
            dataset.add_new(tag, TEXTS[tag], value)
        else:
            vr, values = TAGS[tag]
            dataset.add_new(tag, vr, draw(values))
    if draw(st.booleans()):
        signed = draw(st.booleans())
        dataset.PixelRepresentation = int(signed)
        for tag in draw(st.lists(st.sampled_from(SIGNED), unique=True)):
            vr = "SS" if signed else "US"
            dataset.add_new(tag, vr, draw(NUMBERS[vr]))
    for group, creator in enumerate(draw(st.lists(st.sampled_from(CREATORS), max_size=2))):
        block = dataset.private_block(0x0019 + 2 * group, creator, create=True)
        for number in draw(st.lists(st.integers(0, 0x30), unique=True, max_size=3)):
            # a value that is one in most VRs: implicit VR takes that of the private dictionary
            block.add_new(number, draw(st.sampled_from(["UN", "OB"])), b"12345678")
    for tag in draw(st.lists(st.sampled_from([0x00081115, 0x00081140, 0x52009230]), max_size=2)):
        if depth:
            items = draw(st.lists(datasets(letters, depth - 1), max_size=3))
            dataset.add_new(tag, "SQ", Sequence(items))
            dataset[tag].is_undefined_length = draw(st.booleans())
            for item in items:
                item.is_undefined_length_sequence_item = draw(st.booleans())
    return dataset


def written(dataset: Dataset, character_set: str, syntax: str) -> bytes:
    dataset.SpecificCharacterSet = character_set
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = "1.2.3", "1.2.4"
    dataset.SeriesInstanceUID = "1.2.5"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.file_meta = meta
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


@settings(
    max_examples=120, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    st.data(), st.sampled_from(sorted(LETTERS)), st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN])
)
def test_what_pydicom_writes_is_read_as_pydicom_reads_it(data, character_set: str, syntax: str):
    dataset = data.draw(datasets(LETTERS[character_set]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = written(dataset, character_set, syntax)
        theirs = pydicom_json(pydicom.dcmread(io.BytesIO(file)))
    assert as_read(file) == by_care(file)
    assert as_read(file) == by_care(file)
    assert differences(theirs, read(file).json) == {}

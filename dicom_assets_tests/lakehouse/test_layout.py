import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_assets.lakehouse.keys import hex_key, int_key
from dicom_assets.lakehouse.layout import Layout, organised_name, printable, zip_name

DAY = date(2026, 3, 4)


def test_folders_are_those_of_the_contract():
    layout = Layout(Path("/lake"))
    files = Path("/lake/bronze/Files")
    assert layout.drop_folder == files / "Ingest/Imaging/DICOM"
    process = files / "Process/Imaging/DICOM"
    assert layout.process_folder("default", DAY) == process / "2026/03/04"
    assert layout.process_folder("PACS1", DAY) == process / "PACS1/2026/03/04"
    failed = files / "Failed/Imaging/DICOM/VNA/2026/03/04"
    assert layout.failed_folder("VNA", DAY) == failed
    fhir = files / "Process/Clinical/FHIR NDJSON/2026/03/04/ImagingStudy"
    assert layout.fhir_folder("default", DAY, "ImagingStudy") == fhir
    assert layout.table("gold", "Image_Occurrence") == Path("/lake/gold/Tables/Image_Occurrence")


def test_whatever_stands_before_the_year_is_the_namespace(tmp_path):
    layout = Layout(tmp_path)
    for namespace in ("", "RIS", "north/RIS"):
        folder = layout.fhir_root / namespace / "2026/03/04/ImagingStudy"
        folder.mkdir(parents=True)
        (folder / "a.ndjson").touch()
        (folder / ".b.ndjson").touch()
    found = [system for system, _ in layout.fhir_files(DAY, "ImagingStudy")]
    assert found == ["RIS", "default", "north/RIS"]


@pytest.mark.parametrize(
    ("name", "zipped"),
    [("1_x.dcm", "1_x.dcm.zip"), ("1_X.DCM", "1_X.dcm.zip"), ("1_IM1", "1_IM1.dcm.zip")],
)
def test_a_zip_is_called_dcm_zip(name, zipped):
    assert zip_name(name) == zipped


@given(st.binary(min_size=1).map(os.fsdecode))
def test_any_name_becomes_one_that_can_be_written_and_zipped(original):
    name = organised_name(1_700_000_000_000, original)
    assert name.startswith("1700000000000_")
    assert len(f".{zip_name(name)}.tmp".encode()) <= 255
    assert not set(name) & set('/\\:*?"<>|\x00\n')
    assert printable(original).encode().decode() == printable(original)


def test_only_bytes_that_are_not_utf8_are_written_otherwise():
    assert printable(os.fsdecode(b"C:\\x\\y\xe9.dcm")) == "C:\\x\\y%E9.dcm"


def test_keys_can_be_computed_in_sql():
    """sha256('default|ImagingStudy|1.2.3') by any other tool."""
    expected = "8926e96d4436d2c3ec6390003cdf90cca062fe88a04f05a5ee52245190959df8"
    assert hex_key("default", "ImagingStudy", "1.2.3") == expected
    assert int_key("a") == int(hex_key("a"), 16) >> 193

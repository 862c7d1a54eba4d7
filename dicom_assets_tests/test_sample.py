import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_assets.sample import DICOM_FOLDER, MANIFEST_NAME, REPORT_FOLDER
from dicom_assets.sample.cases import studies
from dicom_assets.sample.instances import instances

ROOT = Path(__file__).parents[1]
COMMITTED_MANIFEST = ROOT / "data" / "sample_manifest.json"


@dataclass(frozen=True)
class Found:
    """A file found in the sample; `archives` says in how many ZIPs it lies."""

    name: str
    archives: int
    content: bytes

    def header(self) -> Dataset:
        return dcmread(BytesIO(self.content), stop_before_pixels=True)


def everything_in(name: str, content: bytes, archives: int = 0) -> Iterator[Found]:
    if not name.endswith(".zip"):
        yield Found(name, archives, content)
        return
    with ZipFile(BytesIO(content)) as archive:
        for member in archive.namelist():
            yield from everything_in(member, archive.read(member), archives + 1)


@pytest.fixture(scope="module")
def found(sample: Path) -> list[Found]:
    paths = [path for path in sorted((sample / DICOM_FOLDER).rglob("*")) if path.is_file()]
    return [file for path in paths for file in everything_in(path.name, path.read_bytes())]


@pytest.fixture(scope="module")
def headers(found: list[Found]) -> list[Dataset]:
    return [file.header() for file in found]


@pytest.fixture(scope="module")
def reports(sample: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((sample / REPORT_FOLDER).iterdir())]


def by_study(headers: list[Dataset], keyword: str) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for header in headers:
        values.setdefault(header.StudyInstanceUID, set()).add(str(header.get(keyword, "absent")))
    return values


def test_it_holds_96_instances_in_24_series_of_9_studies(headers: list[Dataset]) -> None:
    assert len(headers) == 96
    assert len({header.SOPInstanceUID for header in headers}) == 96
    assert len({header.SeriesInstanceUID for header in headers}) == 24
    assert len({header.StudyInstanceUID for header in headers}) == 9


def test_it_is_about_at_least_six_patients_one_of_whom_comes_twice(headers: list[Dataset]) -> None:
    patients = Counter(
        header.PatientID
        for header in {header.StudyInstanceUID: header for header in headers}.values()
    )
    assert len(patients) >= 6
    assert max(patients.values()) > 1


def test_it_comes_from_seven_modalities(headers: list[Dataset]) -> None:
    assert {header.Modality for header in headers} == {"CT", "MR", "CR", "DX", "US", "PT", "NM"}


def test_only_dicom_lies_in_the_dicom_folder(found: list[Found]) -> None:
    assert all(file.content[128:132] == b"DICM" for file in found)
    assert not any("DICOMDIR" in file.name.upper() for file in found)


def test_about_half_lies_loose_and_one_zip_lies_in_a_zip(found: list[Found]) -> None:
    depths = Counter(file.archives for file in found)
    assert 40 <= depths[0] <= 56
    assert depths[2] > 0


def test_some_loose_files_have_no_extension(found: list[Found]) -> None:
    assert any("." not in file.name for file in found if file.archives == 0)


def test_two_processes_write_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    code = "import pathlib, sys; from dicom_assets.sample import write_sample as w; "
    subprocess.run(
        [sys.executable, "-c", code + "w(pathlib.Path(sys.argv[1]))", str(tmp_path)],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo"},
    )
    first = {path.relative_to(sample): path for path in sample.rglob("*") if path.is_file()}
    second = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert first.keys() == second.keys()
    assert [name for name in first if first[name].read_bytes() != second[name].read_bytes()] == []


def test_another_seed_gives_other_uids_and_other_noise() -> None:
    portable = next(study for study in studies() if study.key == "case8")
    one, other = (dcmread(BytesIO(next(instances(portable, seed=seed)).content)) for seed in (7, 8))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert one[keyword].value != other[keyword].value
    assert one.PixelData != other.PixelData


def validator_lines(path: Path) -> list[str]:
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    return (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) not on PATH")
def test_the_validator_finds_no_error_in_any_instance(found: list[Found], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02d}.dcm" for number in range(len(found))]
    for path, file in zip(paths, found, strict=True):
        path.write_bytes(file.content)
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(validator_lines, paths))
    assert all(said), "dciodvfy said nothing at all about some file"
    assert [line for lines in said for line in lines if line.startswith("Error")] == []


def test_the_manifest_says_what_was_written(sample: Path, headers: list[Dataset]) -> None:
    manifest = json.loads((sample / MANIFEST_NAME).read_bytes())
    assert manifest["expected"] == {
        "process_files": 96,
        "dicomimagingmetastore": 96,
        "ImagingStudy": 9,
        "Image_Occurrence": 24,
        "DiagnosticReport": 6,
    }
    described = {study["uid"]: study for study in manifest["studies"]}
    assert described.keys() == {header.StudyInstanceUID for header in headers}
    for uid, study in described.items():
        own = [header for header in headers if header.StudyInstanceUID == uid]
        assert study["instances"] == len(own)
        assert study["series"] == len({header.SeriesInstanceUID for header in own})
        assert study["modalities"] == sorted({header.Modality for header in own})
        assert {study["description"]} == {header.StudyDescription for header in own}
        assert {study["accession"]} == {header.AccessionNumber for header in own}


def test_the_committed_manifest_is_the_one_that_is_written(sample: Path) -> None:
    assert (sample / MANIFEST_NAME).read_bytes() == COMMITTED_MANIFEST.read_bytes()


def test_reports_are_valid_r4b_on_many_lines(sample: Path) -> None:
    paths = sorted((sample / REPORT_FOLDER).iterdir())
    assert len(paths) == 6
    for path in paths:
        assert path.suffix == ".json"
        assert path.read_bytes().count(b"\n") > 20
        report = DiagnosticReport.model_validate_json(path.read_bytes())
        assert report.issued is not None
        assert report.issued.utcoffset() is not None


def test_reports_point_to_six_studies_and_one_by_the_bare_uid(
    reports: list[dict[str, Any]], headers: list[Dataset]
) -> None:
    patients = by_study(headers, "PatientID")
    values = []
    for report in reports:
        identifier = report["imagingStudy"][0]["identifier"]
        assert identifier["system"] == "urn:dicom:uid"
        values.append(identifier["value"])
        uid = identifier["value"].removeprefix("urn:oid:")
        assert patients[uid] == {report["subject"]["identifier"]["value"]}
    assert len({value.removeprefix("urn:oid:") for value in values}) == 6
    assert [value.startswith("urn:oid:") for value in values].count(False) == 1


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (["ISO_IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "Müller^Jörg^^Dr."),
        ("ISO_IR 100", "Lefèvre^François"),
        ("ISO_IR 192", "Wójcik^Łucja"),
    ],
)
def test_names_of_all_scripts_decode(
    headers: list[Dataset], character_set: str | list[str], name: str
) -> None:
    header = next(header for header in headers if str(header.PatientName) == name)
    declared = header.SpecificCharacterSet
    if isinstance(character_set, list):
        assert [term or "ISO_IR 6" for term in declared] == character_set
    else:
        assert declared == character_set


def test_one_study_has_no_accession_number(headers: list[Dataset]) -> None:
    accessions = by_study(headers, "AccessionNumber")
    assert [value for value in accessions.values()].count({""}) == 1


def test_times_come_short_whole_and_with_fractions_with_and_without_a_zone(
    headers: list[Dataset],
) -> None:
    times = {time for values in by_study(headers, "StudyTime").values() for time in values}
    assert "0930" in times
    assert "101512.345" in times
    assert "214503" in times
    zones = [
        zone for values in by_study(headers, "TimezoneOffsetFromUTC").values() for zone in values
    ]
    assert "absent" in zones
    assert {"+0100", "+0900", "-0500"} <= set(zones)


def test_both_sides_occur_and_are_told_apart(headers: list[Dataset]) -> None:
    knees = [header for header in headers if header.get("BodyPartExamined") == "KNEE"]
    assert {header.Laterality for header in knees} == {"R", "L"}
    assert len({header.SeriesInstanceUID for header in knees}) == 2


def test_headers_hold_nested_sequences_issuers_and_private_elements(
    headers: list[Dataset],
) -> None:
    assert all(header.ProcedureCodeSequence[0].CodeMeaning for header in headers)
    assert any("IssuerOfAccessionNumberSequence" in header for header in headers)
    assert any("IssuerOfPatientID" in header for header in headers)
    scan = next(header for header in headers if header.Modality == "MR")
    protocol = scan.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0]
    context = protocol.ProtocolContextSequence[0]
    assert context.ConceptNameCodeSequence[0].CodeValue == "121106"
    own = scan.private_block(0x0029, "NORTHLIGHT MR 1.0")
    assert own[0x10].value[0].private_block(0x0029, "NORTHLIGHT MR 1.0")[0x11].value == "COIL1"


def test_references_lead_to_instances_of_the_same_study(headers: list[Dataset]) -> None:
    study_of = {header.SOPInstanceUID: header.StudyInstanceUID for header in headers}
    referring = 0
    for header in headers:
        for keyword in ("ReferencedImageSequence", "SourceImageSequence"):
            for item in header.get(keyword, []):
                assert study_of[item.ReferencedSOPInstanceUID] == header.StudyInstanceUID
                referring += 1
    assert referring > 20


def test_three_transfer_syntaxes_occur(headers: list[Dataset]) -> None:
    syntaxes = {header.file_meta.TransferSyntaxUID for header in headers}
    assert syntaxes == {ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless}


def test_every_picture_shows_something_and_nothing_is_burned_in(found: list[Found]) -> None:
    for file in found:
        ds = dcmread(BytesIO(file.content))
        assert ds.BurnedInAnnotation == "NO"
        assert min(ds.Rows, ds.Columns) >= 128
        assert ds.pixel_array.std() > 0


def test_importing_the_sample_loads_neither_numpy_nor_pydicom() -> None:
    code = "import sys, dicom_assets.sample; sys.exit(bool({'numpy', 'pydicom'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

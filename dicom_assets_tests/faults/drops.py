"""What is dropped before the chain is killed: small, and a little of everything.

Decided here: the files of each delivery. To have another kind of file tried at every act, add it to
a delivery; the undisturbed run that all others are compared with takes it, too.
"""

import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pydicom import Dataset

from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.manifest import NAME as MANIFEST
from dicom_assets_tests.conftest import dicom

_LONG_AGO = 1_577_836_800  # 2020-01-01: told apart from what the clock says while tests run


def first(folder: Path) -> None:
    """A delivery with everything that organise and extract tell apart."""
    file(folder / "a/Doe 1.dcm", 1, PatientSex="F", PatientBirthDate="19600101")
    file(folder / "a/Doe same again.dcm", 1, PatientSex="F", PatientBirthDate="19600101")
    file(folder / "Doe 2.dcm", 2, SeriesInstanceUID="1.2.3.4.2")
    file(folder / "Doe no series.dcm", 3, SeriesInstanceUID=None)
    with warnings.catch_warnings(action="ignore"):  # pydicom warns of it
        file(folder / "Doe no uid.dcm", 4, SeriesInstanceUID="1_2")
    (folder / "Doe notes.txt").write_text("no DICOM")
    (folder / MANIFEST).write_text('{"expected": {"process_files": 10}}')
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/Doe 5.dcm", of(5, StudyInstanceUID="1.2.3.5"))
    good = {"Doe 6.dcm": of(6), "Doe notes.txt": b"no DICOM", "Doe in.zip": inner.getvalue()}
    packed(folder / "b/Doe good.zip", good)
    with zipfile.ZipFile(folder / "b/Doe good.zip", "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("Doe stored.dcm", of(7))
        archive.writestr("Doe bad.dcm", of(8, StudyInstanceUID=None))
    packed(folder / "Doe damaged member.zip", {"Doe 9.dcm": of(9), "Doe spoilt.dcm": of(10)})
    spoil(folder / "Doe damaged member.zip", "Doe spoilt.dcm")
    (folder / "Doe damaged.zip").write_bytes((folder / "b/Doe good.zip").read_bytes()[:-30])


def second(folder: Path) -> None:
    """What comes a day later: late parts, other content, other studies, corrections."""
    file(folder / "Doe 1.dcm", 1, PatientSex="M", StudyDescription="corrected")
    file(folder / "Doe late.dcm", 11, SeriesInstanceUID="1.2.3.4.3")
    file(folder / "Doe moved.dcm", 2, SeriesInstanceUID="1.2.3.4.1")
    file(folder / "Doe new.dcm", 12, StudyInstanceUID="1.2.3.6", PatientID="P2")
    file(folder / "Doe elsewhere.dcm", 7, StudyInstanceUID="1.2.3.5")
    said = {"requestedBy": "Doe", "reason": "wrong"}
    asked = [
        {"operation": "delete", "sopInstanceUid": "1.2.9.6", **said},
        {"operation": "change_patient", "patientId": "P1", "newPatientId": "P3", **said},
        {"operation": "reread", "sopInstanceUid": "1.2.9.5", **said},
    ]
    (folder / "Operations").mkdir()
    (folder / "Operations/Doe.json").write_text(json.dumps(asked))
    (folder / "Doe notes.txt").write_text("no DICOM either")
    packed(folder / "Doe more.zip", {"Doe 13.dcm": of(13, StudyInstanceUID="1.2.3.5"), "x": b""})


REPORT = {
    "resourceType": "DiagnosticReport",
    "id": "r1",
    "status": "final",
    "code": {"text": "CT"},
    "conclusion": "Doe has nothing.",
    "imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": "1.2.3.6"}}],
}
"""About a study that comes a day later."""


def first_fhir(folder: Path) -> None:
    """FHIR files of each kind that are told apart."""
    folder.mkdir(parents=True)
    patient = {"resourceType": "Patient", "id": "p"}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": r} for r in (REPORT, patient, 5)]}
    (folder / "Doe bundle.json").write_text(json.dumps(bundle, indent=1))
    second = REPORT | {"id": "r2", "imagingStudy": [{"reference": "ImagingStudy/1.2.3.4"}]}
    (folder / "Doe report.ndjson").write_text(f"{json.dumps(second)}\n{{nonsense\n")
    (folder / "Doe no.json").write_text("no FHIR")


def second_fhir(folder: Path) -> None:
    """A report that replaces another."""
    folder.mkdir(parents=True)
    (folder / "Doe later.json").write_text(json.dumps(REPORT | {"conclusion": "Doe has it."}))


FHIR_DELIVERIES: Mapping[str, Callable[[Path], None]] = {
    "2026-03-14": first_fhir,
    "2026-03-15": second_fhir,
}
"""What is dropped of FHIR with them."""

DELIVERIES: Mapping[str, Callable[[Path], None]] = {"2026-03-14": first, "2026-03-15": second}
"""Ingest date → what is dropped before its run."""


def drop(root: Path, day: str, template: Path) -> None:
    """Drops a delivery of a day, made once in a folder beside."""
    made, fhir = template / day, template / f"{day} FHIR"
    if not made.exists():
        DELIVERIES[day](made)
        FHIR_DELIVERIES[day](fhir)
        for path in (*made.rglob("*"), *fhir.rglob("*")):
            os.utime(path, (_LONG_AGO, _LONG_AGO))
    shutil.copytree(made, Layout(root).drop_folder, dirs_exist_ok=True)
    shutil.copytree(fhir, Layout(root).fhir_drop_folder, dirs_exist_ok=True)


def file(path: Path, number: int, **elements: str | None) -> Dataset:
    """Writes an instance with UIDs that are always the same."""
    return dicom(path, **{"SOPInstanceUID": f"1.2.9.{number}", **elements})


def of(number: int, **elements: str | None) -> bytes:
    """Returns an instance's bytes."""
    stream = io.BytesIO()
    dataset = dicom(Path(os.devnull), **{"SOPInstanceUID": f"1.2.9.{number}", **elements})
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def packed(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes a ZIP of deflated members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def spoil(path: Path, member: str) -> None:
    """Damages the data of one member of a ZIP."""
    whole = bytearray(path.read_bytes())
    at = whole.index(member.encode()) + len(member) + 20
    whole[at] ^= 255
    path.write_bytes(whole)

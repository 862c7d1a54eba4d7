"""Nothing of a patient in anything that Dagster keeps or a run says.

A real instance on disk, with compute logs on, sees the chain take files in which every place that a
person can write to holds a mark: good files, bad ones, and runs that break with such a file in
hand. Tables may hold the marks, since that is what they are for; nothing else may.
"""

import contextlib
import json
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from datetime import date
from io import BytesIO
from pathlib import Path
from traceback import TracebackException

import dagster as dg
import pytest
from dagster_shared.error import SerializableErrorInfo
from pydicom.dataset import Dataset

import dicom_assets
from dicom_assets.cli import main
from dicom_assets.definitions import defs
from dicom_assets.defs.errors import told_plainly
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.defs.sensors import drop_folder_sensor
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.storage_error import StorageError
from dicom_assets.lakehouse.told import StepError
from dicom_assets.steps import catalog
from dicom_assets_tests.conftest import dicom

REPOSITORY = Path(dicom_assets.__file__).parents[1]
MARK = "ZQX"  # every planted value begins with it, whatever its letters' case
STUDY, SERIES = "1.2.826.990077.1", "1.2.826.990077.1.1"
UIDS = "1.2.826.990077"
BIRTH = "19370629"
PHONE = "0799900777"
PLANTED = (MARK.encode(), UIDS.encode(), BIRTH.encode(), b"1937-06-29", PHONE.encode())
_PICTURE = re.compile(rb"[A-Za-z0-9+/=]{200,}")  # base64, which the database's pages cut
GOOD_DAY, BROKEN_DAY = "2026-03-14", "2026-05-05"


def marked(path: Path, number: int, **more: object) -> None:
    """Writes an instance with a mark in everything."""
    values = {
        "SOPInstanceUID": f"{SERIES}.{number}",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "PatientName": "ZqxDoe^Jane",
        "PatientID": "ZQXID7",
        "PatientBirthDate": BIRTH,
        "PatientTelephoneNumbers": PHONE,
        "PatientComments": "zqx comments",
        "AccessionNumber": "ZQXACC",
        "ReferringPhysicianName": "ZqxHouse^Gregory",
        "StudyDescription": "Zqx study",
        "SeriesDescription": "Zqx series",
        "ProtocolName": "Zqx protocol",
        "InstitutionName": "Zqx hospital",
        "Modality": "ZQXMODAL",
        "BodyPartExamined": "ZQXBODY",
        "Manufacturer": "Zqx maker",
        "StudyTime": "101010",
        **more,
    }
    made = dicom(path, **values)
    made.private_block(0x0029, "ZQX CREATOR", create=True).add_new(0x10, "LO", "Zqx private")
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator = "ZQXCODE", "99ZQX"
    procedure.CodeMeaning = "Zqx meaning"
    made.ProcedureCodeSequence = [procedure]
    made.save_as(path, enforce_file_format=True)


def fill(drop: Path) -> None:
    """Drops good files and bad ones, all with marked names."""
    marked(drop / "ZqxClinic/ZqxFolder/ZqxDoe_Jane.dcm", 1)
    marked(drop / "ZqxClinic/no date.dcm", 2, StudyDate="zqxdate", StudyTime="zqxtime")
    marked(drop / "zqx wrong uid.dcm", 3, StudyInstanceUID="1.2.826.990077.zqx")
    marked(drop / "zqx no series.dcm", 4, SeriesInstanceUID=None)
    whole = (drop / "ZqxClinic/ZqxFolder/ZqxDoe_Jane.dcm").read_bytes()
    (drop / "zqx truncated.dcm").write_bytes(whole[: len(whole) // 4])
    (drop / "zqx half.dcm").write_bytes(whole[:-30])
    at = whole.index(b"ZqxDoe")
    (drop / "zqx damaged.dcm").write_bytes(whole[: at - 2] + b"\xff\xff" + whole[at:])
    (drop / "zqx text.txt").write_bytes(b"Zqx, born 1937-06-29")
    (drop / "zqx link.dcm").symlink_to("zqx nowhere")
    (drop / "zqx empty").touch()
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("zqx in zip in zip.dcm", whole)
    with zipfile.ZipFile(drop / "ZqxZip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ZqxFolder/ZqxMember.dcm", whole)
        archive.writestr("../ZqxEvil.dcm", whole)
        archive.writestr("zqx inner.zip", inner.getvalue())
        archive.comment = b"Zqx comment"
    (drop / "zqx damaged.zip").write_bytes((drop / "ZqxZip.zip").read_bytes()[:-40])
    counts = {"expected": {"Image_Occurrence": 99}, "about Zqx": "Zqx"}
    (drop / "ZqxFolder").mkdir()
    (drop / "ZqxFolder/dicom_assets_manifest.json").write_text(json.dumps(counts))
    (drop / "dicom_assets_manifest.json").write_text('{"expected": {"Zqx": "Zqx"}}')
    said = {"requestedBy": "Zqx Moll", "reason": "Zqx Doe was another", "id": "zqx-ticket"}
    about = {"patientId": "ZqxWrong", "newPatientId": "ZqxRight"}
    (drop / "Operations").mkdir()
    (drop / "Operations/zqx good.json").write_text(
        json.dumps({"operation": "change_patient", **about, **said})
    )
    (drop / "Operations/zqx wrong.json").write_text(
        json.dumps({"operation": "delete", "studyInstanceUid": "Zqx ", "zqx": "Zqx", **said})
    )
    fill_external(Layout(drop.parents[4]).external_root / "ZqxArchive", whole)


def fill_external(namespace: Path, whole: bytes) -> None:
    """Lets good files and bad ones lie in external storage, and shortcuts lead nowhere."""
    marked(namespace / "ZqxFolder/ZqxDoe.dcm", 9, StudyInstanceUID="1.2.826.990077.9")
    marked(namespace / "zqx no series.dcm", 10, SeriesInstanceUID=None)
    (namespace / "zqx truncated.dcm").write_bytes(whole[: len(whole) // 4])
    (namespace / "zqx text.txt").write_bytes(b"Zqx, born 1937-06-29")
    (namespace / "ZqxNowhere").symlink_to("zqx nowhere")
    (namespace / "ZqxShortcut.json").write_text('{"address": "az://zqx?sig=zqx"}')
    (namespace / "ZqxWrong.json").write_text('{"Zqx": "Zqx"}')


def fill_fhir(lakehouse: Path) -> None:
    """Puts FHIR lines of another sender beside the chain's own."""
    day = date.fromisoformat(GOOD_DAY)
    folder = Layout(lakehouse).fhir_folder("ZqxSender", day, "ImagingStudy")
    folder.mkdir(parents=True)
    study = {
        "resourceType": "ImagingStudy",
        "id": "zqx-id",
        "status": "available",
        "subject": {"reference": "Patient/zqx", "display": "Zqx Doe"},
        "description": "Zqx report: Zqx Doe has nothing",
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">Zqx</div>',
        },
    }
    lines = [
        json.dumps(study),
        json.dumps(study | {"status": "zqx-status"}),
        json.dumps(study | {"zqxElement": "zqx", "started": "zqx"}),
        '{"resourceType": "Zqx", "id": "zqx"}',
        '{"zqx broken',
        '"Zqx text"',
    ]
    (folder / "zqx.ndjson").write_text("\n".join(lines))
    report = {
        "resourceType": "DiagnosticReport",
        "id": "zqx-report",
        "status": "final",
        "code": {"text": "Zqx code"},
        "imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": STUDY}}],
        "conclusion": "Zqx Doe, born 1937-06-29, has nothing",
    }
    drop = Layout(lakehouse).fhir_drop_folder / "ZqxRis"
    drop.mkdir(parents=True)
    invalid = report | {"id": "zqx-2", "zqxElement": "zqx", "status": "zqx", "code": "Zqx"}
    (drop / "ZqxDoe.ndjson").write_text(f"{json.dumps(report)}\n{json.dumps(invalid)}\n{{zqx")
    entries = [{"resource": each} for each in (report, {"resourceType": "Patient", "id": "zqx"})]
    bundle = {"resourceType": "Bundle", "entry": [*entries, {"resource": {"zqx": "Zqx"}}]}
    (drop / "ZqxBundle.json").write_text(json.dumps(bundle))
    (drop / "zqx text").write_text("Zqx")
    others = Layout(lakehouse).fhir_folder("ZqxRis", day, "ZqxType")
    others.mkdir(parents=True)
    (others / "zqx.json").write_text("{}")


class Watched:
    """A lakehouse and the Dagster instance that watches it."""

    def __init__(self, folder: Path) -> None:
        self.lakehouse, self.home = folder / "lakehouse", folder / "dagster"
        self.drop = Layout(self.lakehouse).drop_folder
        self.drop.mkdir(parents=True)
        self.home.mkdir()
        chosen = (REPOSITORY / "dagster.yaml").read_text()
        before, without_logs = chosen.split("compute_logs:")
        assert "NoOp" in without_logs
        (self.home / "dagster.yaml").write_text(before)

    def stored(self) -> bytes:
        """Everything that Dagster keeps: each file, and each value of each row of each table."""
        files = [path for path in self.home.rglob("*") if path.is_file()]
        found = [b" ".join(bytes(path) + b" " + path.read_bytes() for path in files)]
        tables = 0
        for path in files:
            if path.suffix == ".db":
                with contextlib.closing(sqlite3.connect(path)) as database:
                    names = database.execute("select name from sqlite_master where type = 'table'")
                    for (name,) in names.fetchall():
                        rows = database.execute(f'select * from "{name}"').fetchall()  # noqa: S608
                        tables += bool(rows)
                        found.append(repr(rows).encode())
        assert tables > 5
        return b"\n".join(found)

    def run(self, day: str) -> int:
        with (
            warnings.catch_warnings(record=True) as given,
            pytest.raises(SystemExit) as ended,
        ):
            main(["run", "--date", day], standalone_mode=False)
        assert leaks(" ".join(str(each.message) for each in given).encode()) == []
        return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("watched"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(watched.home))
        patch.setenv("DICOM_ASSETS_LAKEHOUSE", str(watched.lakehouse))
        patch.setenv("DICOM_ASSETS_SETTLE_SECONDS", "0")
        patch.setenv("DICOM_ASSETS_WORKERS", "2")
        patch.setenv("DICOM_ASSETS_SOURCE_SYSTEMS", "*")
        yield watched


def leaks(said: bytes) -> list[bytes]:
    """Returns what stands around each planted value, in whatever case."""
    low, found = said.lower(), []
    for value in PLANTED:
        at = low.find(value.lower())
        if at >= 0:
            found.append(said[max(at - 300, 0) : at + 60])
    return found


def everything(watched: Watched, capfd: pytest.CaptureFixture[str]) -> bytes:
    out, err = capfd.readouterr()
    said = watched.stored() + out.encode() + err.encode()
    # three letters stand in any picture now and then
    return _PICTURE.sub(b"", said)


def test_a_run_over_marked_files_tells_nothing_of_them(watched, capfd):
    fill(watched.drop)
    fill_fhir(watched.lakehouse)
    code = watched.run(GOOD_DAY)
    with pytest.raises(SystemExit):
        main(["status"])
    said = everything(watched, capfd)
    assert leaks(said) == []
    assert b"every_series_has_one_row" in said
    assert b"data:image/png" in said, "pixels may be shown, see dicom_assets.dicom.thumbnails"
    assert code == 1, "the delivery's manifest declares more"


def test_the_marks_are_in_the_tables(watched):
    engine = LocalEngine(Layout(watched.lakehouse))
    metastore, failures = catalog.metastore(), catalog.INGESTION_FAILURES
    rows = engine.read(metastore, metastore.schema.names).to_pylist()
    assert {row["patientId"] for row in rows} == {"ZQXID7"}
    systems = {row["sourceSystem"] for row in rows}
    assert systems == {"ZqxArchive", "ZqxClinic", "default"}
    assert "ZQXMODAL" in {row["modality"] for row in rows}
    failed = engine.read(failures, ["reasonCode", "message", "sourcePath"]).to_pylist()
    reasons = {row["reasonCode"] for row in failed}
    assert reasons >= {
        "not_dicom",
        "not_a_file",
        "no_series_uid",
        "archive_damaged",
        "archive_member_unsafe",
        "invalid_json",
        "truncated",
        "shortcut_unusable",
        "invalid_operation",
    }
    assert leaks(" ".join(row["message"] for row in failed).encode()) == []


def test_an_error_of_the_file_system_names_no_file_and_any_other_tells_no_value(watched, capfd):
    marked(watched.drop / "ZqxOnce^Again.dcm", 9, StudyInstanceUID=f"{UIDS}.2")
    blocked = Layout(watched.lakehouse).process_root / "2026/05"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.touch()
    assert watched.run(BROKEN_DAY) == 1
    said = everything(watched, capfd)
    assert leaks(said) == []
    assert b"the storage failed: Not a directory" in said
    assert b"run the date again" in said
    blocked.unlink()
    manifests = watched.lakehouse / "bronze/Files/Process/Manifests/2026/05/05"
    manifests.mkdir(parents=True)
    (manifests / "ZqxDoe.json").write_text('{"expected": {}}')
    assert watched.run(BROKEN_DAY) == 1
    assert len(list(blocked.rglob("*.dcm*"))) == 1, "nothing was lost"
    said = everything(watched, capfd)
    assert b"ValueError at dicom_assets/steps/reconcile.py" in said
    assert leaks(said) == []
    (manifests / "ZqxDoe.json").unlink()
    watched.run(BROKEN_DAY)
    assert len(list(blocked.rglob("*.zip"))) == 1
    assert leaks(everything(watched, capfd)) == []


def test_the_sensor_keeps_nothing_of_what_it_saw(watched):
    marked(watched.drop / "ZqxNew/ZqxDoe.dcm", 10)
    with dg.DagsterInstance.from_config(str(watched.home)) as instance:
        resource = Lakehouse(root=str(watched.lakehouse))
        with dg.build_sensor_context(
            instance=instance,
            repository_def=defs().get_repository_def(),
            sensor_name="drop_folder_sensor",
            resources={"lakehouse": resource},
        ) as context:
            tick = drop_folder_sensor.evaluate_tick(context)
    assert len(tick.run_requests or ()) == 1
    assert leaks(repr(tick).encode()) == []


@pytest.mark.parametrize("words", [["verify", "--hashes"], ["failures", "retry"]], ids=" ".join)
def test_who_asks_for_files_is_answered_and_nobody_else(watched, capfd, words):
    with pytest.raises(SystemExit):
        main(words)
    said = capfd.readouterr()
    assert said.out
    assert leaks(said.err.encode()) == [], "what is logged, and progress"
    assert leaks(_PICTURE.sub(b"", watched.stored())) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/drop/ZqxDoe.dcm"),
        PermissionError(13, "Permission denied", "/drop/Zqx", None, "/process/Zqx"),
        OSError("Failed to open ZqxDoe.dcm"),
        KeyError("ZqxDoe"),
        UnicodeDecodeError("utf-8", b"Zqx\xff", 3, 4, "invalid start byte"),
    ],
)
def test_an_error_is_told_without_its_words_and_its_causes(error):
    def broken() -> None:
        try:
            int("Zqx")
        except ValueError as cause:
            error.add_note("Zqx note")
            raise error from cause

    with pytest.raises((StepError, StorageError)) as told, told_plainly():
        broken()
    kept = SerializableErrorInfo.from_traceback(TracebackException.from_exception(told.value))
    assert leaks(str(kept).encode()) == []


def test_words_of_our_own_are_told(tmp_path):
    with pytest.raises(PlainError, match="choose another"), told_plainly():
        raise PlainError("choose another") from ValueError("Zqx")

"""Reports and resources of other types, from the drop folder to gold."""

import base64
import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from dicom_assets.defs.checks import RULES
from dicom_assets.lakehouse.operations import operation
from dicom_assets.steps import catalog
from dicom_assets.steps.ask import ask
from dicom_assets.steps.flatten import flatten as flatten_step
from dicom_assets.steps.ingest_fhir import ingest_fhir
from dicom_assets.steps.organise_fhir import organise_fhir
from dicom_assets.steps.reconcile import Day
from dicom_assets_tests.conftest import DAY, interrupting

SHARED_FHIR = Path(__file__).parents[3] / "shared/data/fhir"
NEXT = DAY + timedelta(days=1)
UID = "1.2.3.4"
REPORTS = catalog.silver_fhir("DiagnosticReport")


def report(own_id: str = "r", *, study: dict | None = None, **elements) -> dict:
    found = {
        "resourceType": "DiagnosticReport",
        "id": own_id,
        "status": "final",
        "code": {"text": "CT chest", "coding": [{"code": "24627-2"}]},
        "issued": "2026-03-14T23:30:00-05:00",
        "conclusion": "Nothing found.",
    }
    if study:
        found["imagingStudy"] = [study]
    return found | elements


def by_uid(value: str, system: str | None = "urn:dicom:uid") -> dict:
    identifier = {"value": value} | ({"system": system} if system else {})
    return {"identifier": identifier}


def drop(house, *resources: dict, name: str = "r.ndjson", under: str = "") -> None:
    folder = house.run.engine.layout.fhir_drop_folder / under
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, resources)))


def silver(house, kind: str = "DiagnosticReport") -> dict[str, dict]:
    return {row["idOrig"]: row for row in house.rows(catalog.silver_fhir(kind))}


def studies(house) -> dict[tuple[str, str], str]:
    """Source system and own id of each study in silver → its silver id."""
    rows = house.rows(catalog.silver_imaging_study())
    return {(row["sourceSystem"], row["idOrig"]): row["id"] for row in rows}


def of_type(house, kind: str, day: date = DAY) -> None:
    run = house.on(day)
    organise_fhir(run)
    ingest_fhir(run, catalog.bronze_fhir(kind))
    flatten_step(run, bronze=catalog.bronze_fhir(kind), silver=catalog.silver_fhir(kind))


def broken(house, day: date = DAY, *, blocking: bool = True) -> set[str]:
    counts = Day(house.on(day))
    return {r.name for r in RULES if r.blocking == blocking and not r.evaluate(counts)[0]}


def test_the_sample_s_six_reports_are_joined_to_their_studies(house, sample):
    shutil.copytree(sample / "Imaging/DICOM", house.drop, dirs_exist_ok=True)
    to = house.run.engine.layout.fhir_drop_folder
    shutil.copytree(sample / "Clinical/FHIR NDJSON", to)
    house.chain()
    assert len(house.rows(catalog.bronze_fhir("DiagnosticReport"))) == 6
    reports = house.rows(REPORTS)
    assert len(reports) == 6
    known = set(studies(house).values())
    assert all(len(row["imagingStudyIds"]) == 1 for row in reports)
    assert {row["imagingStudyIds"][0] for row in reports} <= known
    notes = house.rows(catalog.NOTE)
    procedures = {
        row["procedure_occurrence_id"] for row in house.rows(catalog.PROCEDURE_OCCURRENCE)
    }
    people = {row["person_id"] for row in house.rows(catalog.PERSON)}
    assert len({note["note_event_id"] for note in notes} & procedures) == 6
    assert {note["person_id"] for note in notes} <= people
    (german,) = (note for note in notes if note["note_title"] == "CT Schädel nativ")
    assert "Kalottenfraktur" in german["note_text"]
    assert "Klinik: Sturz" in german["note_text"]
    assert broken(house) == broken(house, blocking=False) == set()
    before = house.everything()
    house.chain()
    assert house.everything() == before


REFERENCES = [
    by_uid(UID),
    by_uid(f"urn:oid:{UID}"),
    by_uid(f"urn:oid:{UID}", "urn:ietf:rfc:3986"),
    {"reference": f"ImagingStudy/{UID}"},
    {"reference": f"https://fhir.example/r4/ImagingStudy/{UID}/_history/3"},
    {"reference": f"urn:oid:{UID}"},
    {"reference": "ImagingStudy/unknown", **by_uid(UID)},
]


@pytest.mark.parametrize("study_comes", ["before", "with it", "after"])
def test_a_report_finds_its_study_whichever_comes_first(house, write_dicom, study_comes):
    if study_comes == "before":
        write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID)
        house.chain()
    drop(house, report(imagingStudy=REFERENCES))
    if study_comes == "with it":
        write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID)
    house.chain(NEXT)
    if study_comes == "after":
        assert set(silver(house)["r"]["imagingStudyIds"]) == {None}
        assert house.rows(catalog.NOTE) == []
        assert broken(house, NEXT, blocking=False) == {"studies_are_known"}
        write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID)
        house.chain(NEXT + timedelta(days=1))
    study = studies(house)["default", UID]
    assert silver(house)["r"]["imagingStudyIds"] == [study] * len(REFERENCES)
    (note,) = house.rows(catalog.NOTE)
    (procedure,) = house.rows(catalog.PROCEDURE_OCCURRENCE)
    assert note["note_event_id"] == procedure["procedure_occurrence_id"]
    assert note["note_date"] == date(2026, 3, 14)
    assert broken(house, NEXT) == broken(house, NEXT, blocking=False) == set()


def test_the_study_of_the_same_source_system_comes_first_else_the_only_one(make_house, write_dicom):
    house = make_house(source_systems="*")
    drop(house, report(study=by_uid(UID)), under="A")
    write_dicom(house.drop / "B/x.dcm", StudyInstanceUID=UID)
    house.chain()
    assert silver(house)["r"]["imagingStudyIds"] == [studies(house)["B", UID]]
    write_dicom(house.drop / "C/x.dcm", StudyInstanceUID=UID)
    house.chain(NEXT)
    assert silver(house)["r"]["imagingStudyIds"] == [None]
    assert house.rows(catalog.NOTE) == []
    write_dicom(house.drop / "A/x.dcm", StudyInstanceUID=UID)
    house.chain(NEXT)
    assert silver(house)["r"]["imagingStudyIds"] == [studies(house)["A", UID]]
    assert len(house.rows(catalog.NOTE)) == 1
    assert broken(house) == broken(house, NEXT) == set()


@pytest.mark.parametrize("study_first", [True, False])
def test_a_study_that_others_have_written_is_found_by_its_uid(house, study_first):
    study = {
        "resourceType": "ImagingStudy",
        "id": "theirs",
        "status": "available",
        "subject": {"reference": "Patient/p"},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{UID}"}],
    }
    first, second = (study, report(study=by_uid(UID)))[:: 1 if study_first else -1]
    drop(house, first)
    house.chain()
    drop(house, second)
    house.chain(NEXT)
    assert silver(house)["r"]["imagingStudyIds"] == [studies(house)["default", "theirs"]]
    assert broken(house) == broken(house, NEXT) == set()


def test_a_report_of_several_studies_has_a_note_for_each(house, write_dicom):
    for uid in ("1.2.1", "1.2.2"):
        write_dicom(house.drop / f"{uid}.dcm", StudyInstanceUID=uid)
    both = [by_uid("1.2.1"), by_uid("1.2.2"), by_uid("1.2.1")]
    drop(house, report(imagingStudy=both))
    house.chain()
    assert len(house.rows(catalog.NOTE)) == 2
    drop(house, report(imagingStudy=both[:1]))
    house.chain(NEXT)
    assert len(house.rows(catalog.NOTE)) == 1
    drop(house, report(imagingStudy=both, status="entered-in-error"))
    house.chain(NEXT)
    assert house.rows(catalog.NOTE) == []
    assert broken(house) == broken(house, NEXT) == set()


def test_a_patient_who_becomes_known_later_is_the_one_of_the_note(house, write_dicom):
    write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID, PatientID=None)
    drop(house, report(study=by_uid(UID)))
    house.chain()
    write_dicom(house.drop / "y.dcm", StudyInstanceUID=UID)
    house.chain(NEXT)
    (note,), (person,) = house.rows(catalog.NOTE), house.rows(catalog.PERSON)
    assert note["person_id"] == person["person_id"]
    assert broken(house) == broken(house, NEXT) == set()


def test_a_deleted_study_is_pointed_to_no_more_and_a_restored_one_again(house, write_dicom):
    write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID)
    drop(house, report(study=by_uid(UID)))
    house.chain()
    (note,) = house.rows(catalog.NOTE)
    asked = {"studyInstanceUid": UID, "requestedBy": "Dr. Moll", "reason": "wrong patient"}
    for number, (kind, ids) in enumerate(
        [("delete", [None]), ("restore", [studies(house)["default", UID]])], start=1
    ):
        day = DAY + timedelta(days=number)
        said = operation(operation=kind, id=kind, **asked)
        ask(house.run.engine, said, source_system="default")
        house.chain(day)
        assert silver(house)["r"]["imagingStudyIds"] == ids
        notes = house.rows(catalog.NOTE)
        assert [each["note_id"] for each in notes] == [note["note_id"]] * (kind == "restore")
        is_open = {"studies_are_known"} if kind == "delete" else set()
        assert broken(house, blocking=False) == is_open
        assert broken(house) == broken(house, day) == set()


def test_an_older_report_never_replaces_a_newer_one(house):
    for updated, said in (("2026-02-02", "new"), ("2026-01-01", "old")):
        meta = {"lastUpdated": f"{updated}T00:00:00Z"}
        drop(house, report(meta=meta, conclusion=said))
        of_type(house, "DiagnosticReport")
    assert silver(house)["r"]["conclusion"] == "new"


def test_bad_lines_fail_alone_with_file_line_and_reason(house):
    folder = house.run.engine.layout.fhir_folder("default", DAY, "DiagnosticReport")
    folder.mkdir(parents=True)
    lines = [json.dumps(report("a")), "{oops", json.dumps({"resourceType": "Patient"})]
    (folder / "theirs.json").write_text("\n".join([*lines, json.dumps(report("b"))]))
    (folder / ".being.ndjson").write_text("{")
    house.chain()
    assert set(silver(house)) == {"a", "b"}
    rows = house.rows(catalog.INGESTION_FAILURES)
    address = house.run.engine.layout.relative(folder / "theirs.json")
    assert [(r["sourcePath"], r["line"], r["reasonCode"]) for r in rows] == [
        (address, 2, "invalid_json"),
        (address, 3, "wrong_resource_type"),
    ]
    kept = house.run.engine.layout.absolute(rows[0]["failedPath"])
    assert kept.read_text() == "\n".join([*lines[1:], ""])
    assert broken(house) == set()


def test_a_file_that_others_are_still_writing_is_left_alone(make_house, monkeypatch):
    house = make_house(settle_seconds=0.2)
    folder = house.run.engine.layout.fhir_folder("default", DAY, "DiagnosticReport")
    folder.mkdir(parents=True)
    path = folder / "theirs.ndjson"
    path.write_text(json.dumps(report("a")) + "\n")

    def meanwhile(seconds: float) -> None:
        with path.open("a") as stream:
            stream.write(json.dumps(report("b")) + "\n")

    with monkeypatch.context() as patch:
        patch.setattr("dicom_assets.lakehouse.drop_folder.time.sleep", meanwhile)
        done = ingest_fhir(house.run, catalog.bronze_fhir("DiagnosticReport"))
    assert (done.rows, done.counts["still_changing"]) == (0, 1)
    assert ingest_fhir(house.run, catalog.bronze_fhir("DiagnosticReport")).rows == 2


def test_many_small_files_share_a_commit(house):
    for n in range(40):
        drop(house, report(f"r{n}"), name=f"{n}.json")
    of_type(house, "DiagnosticReport")
    assert len(silver(house)) == 40
    assert house.run.engine.version(catalog.bronze_fhir("DiagnosticReport")) <= 2


def test_an_invalid_report_is_kept_with_what_is_wrong(house):
    wrong = report(category={"text": "RAD"}, status=None, effectiveDateTime="yesterday", Jane=1)
    del wrong["code"]
    drop(house, wrong)
    of_type(house, "DiagnosticReport")
    row = silver(house)["r"]
    errors = row["validationErrors"]
    assert {each.partition(":")[0] for each in errors} >= {"code", "category", "effectiveDateTime"}
    assert not any("Jane" in each or "yesterday" in each for each in errors)
    assert row["category"][0]["text"] == "RAD"
    assert (row["effectiveDateTime"], row["effectiveDateTime_date"]) == ("yesterday", None)
    assert "resources_are_valid" in broken(house, blocking=False)
    drop(house, report())
    of_type(house, "DiagnosticReport", NEXT)
    assert silver(house)["r"]["validationErrors"] is None


def test_an_invalid_report_is_a_failure_where_the_site_is_strict(make_house):
    house = make_house(fhir_validation="strict")
    drop(house, report("bad", status=5), report("good"))
    of_type(house, "DiagnosticReport")
    assert set(silver(house)) == {"good"}
    (failure,) = house.rows(catalog.INGESTION_FAILURES)
    assert (failure["step"], failure["reasonCode"]) == ("flatten", "invalid_resource")
    assert broken(house) == set()


def test_a_resource_without_id_is_a_failure_in_either_case(house):
    anonymous = report()
    del anonymous["id"]
    drop(house, anonymous)
    of_type(house, "DiagnosticReport")
    assert list(house.failures().values()) == ["invalid_resource"]
    assert broken(house) == set()


def test_any_type_gets_its_tables_by_the_same_mechanism(house):
    patient = {
        "resourceType": "Patient",
        "id": "p",
        "name": [{"family": "Doe"}],
        "birthDate": "1970-05-01",
        "multipleBirthInteger": 2,
    }
    observation = {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"text": "Glucose"},
        "subject": {"reference": "Patient/p"},
        "valueQuantity": {"value": 6.30, "unit": "mmol/l"},
    }
    drop(
        house,
        {"resourceType": "Bundle", "entry": [{"resource": r} for r in (patient, observation)]},
    )
    for kind in ("Patient", "Observation"):
        of_type(house, kind)
    someone, glucose = silver(house, "Patient")["p"], silver(house, "Observation")["o"]
    assert str(someone["birthDate_date"]) == "1970-05-01"
    assert someone["name"][0]["family"] == "Doe"
    assert glucose["subject"]["id"] == someone["id"]
    assert glucose["valueQuantity"]["value"] == 6.3
    assert someone["validationErrors"] is glucose["validationErrors"] is None


def _likeness(house) -> list:
    tables = (catalog.STUDY_NAMES, catalog.bronze_fhir("DiagnosticReport"), REPORTS, catalog.NOTE)
    volatile = {"modifiedAt", "createdAt", "sourceModifiedAt", "ingestedAt", "filePath"}
    volatile |= {"sourceFilePath"}
    return [
        sorted(
            json.dumps({k: v for k, v in row.items() if k not in volatile}, default=str)
            for row in house.rows(table)
        )
        for table in tables
    ]


def test_a_chain_killed_between_any_commits_ends_like_an_undisturbed_one(
    tmp_path, house_class, write_dicom, monkeypatch
):
    houses = [house_class(tmp_path / name) for name in ("undisturbed", "killed")]
    for house in houses:
        drop(house, report("early", study=by_uid(UID)), name="early.json")
        house.chain()
        write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID, SOPInstanceUID="1.2.9")
        drop(house, report("late", study=by_uid(UID)), report("alone"), name="late.json")
    undisturbed, killed = houses
    undisturbed.chain(NEXT)
    struck = 0
    while struck < 99:
        with monkeypatch.context() as patch:
            interrupted = interrupting(1)  # each run gets one commit further
            for name in ("append", "upsert"):
                commit = getattr(type(killed.run.engine), name)
                patch.setattr(type(killed.run.engine), name, interrupted(commit))
            try:
                killed.chain(NEXT)
                break
            except KeyboardInterrupt:
                struck += 1
    assert 10 < struck < 99
    assert _likeness(killed) == _likeness(undisturbed)
    assert broken(killed, NEXT) == set()


def test_every_file_from_the_field_is_taken(make_house):
    house = make_house(fhir_resource_types="DiagnosticReport,Observation", source_systems="*")
    if not SHARED_FHIR.is_dir():
        pytest.skip("../shared/data/fhir is not beside this checkout")
    shutil.copytree(SHARED_FHIR, house.run.engine.layout.fhir_drop_folder)
    house.chain()
    of_type(house, "Observation")
    assert len(house.rows(catalog.bronze_fhir("DiagnosticReport"))) == 217
    assert len(house.rows(REPORTS)) == 217
    assert len(house.rows(catalog.silver_imaging_study())) == 207
    assert len(house.rows(catalog.silver_fhir("Observation"))) == 34
    invalid = [row["idOrig"] for row in house.rows(REPORTS) if row["validationErrors"]]
    assert invalid == ["a5748109426316800"]
    reasons = sorted(house.failures().values())
    assert reasons == ["invalid_json"] * 2 + ["wrong_resource_type"] * 2
    assert broken(house) == set()


def test_text_in_html_is_what_a_person_sees(house, write_dicom):
    write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID)
    html = "<html><style>p{}</style><p>Befund: gr\u00f6\u00dfer</p><p>als 3&nbsp;cm</p></html>"
    form = {
        "contentType": "text/html; charset=iso-8859-1",
        "data": base64.b64encode(html.encode("latin-1")).decode(),
    }
    drop(house, report(study=by_uid(UID), presentedForm=[form], conclusion=None))
    house.chain()
    (note,) = house.rows(catalog.NOTE)
    assert note["note_text"] == "Befund: größer\nals 3 cm"


def test_steps_that_have_nothing_to_do_make_no_table(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    house.chain()
    for table in (catalog.STUDY_NAMES, catalog.NOTE, REPORTS, catalog.FHIR_FILES):
        assert house.run.engine.open(table) is None


def test_bad_lines_of_files_with_names_alike_lie_apart(house):
    layout = house.run.engine.layout
    reports = layout.fhir_folder("default", DAY, "DiagnosticReport")
    reports.mkdir(parents=True)
    names = ("a.json", "a.json.ndjson", "a.json.ndjson.ndjson", "a.ndjson")
    for name in names:
        (reports / name).write_text(f"no JSON in {name}")
    house.chain()
    rows = house.rows(catalog.INGESTION_FAILURES)
    kept = {row["sourcePath"].rpartition("/")[2]: row["failedPath"] for row in rows}
    texts = {name: layout.absolute(path).read_text().strip() for name, path in kept.items()}
    assert texts == {name: f"no JSON in {name}" for name in names}

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
from dicom_assets.steps import ingest_fhir as ingesting
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


def study_of(uid: str) -> dict[str, str]:
    """The UIDs of a study and of a series of its own."""
    return {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1"}


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


def references(uid: str) -> list[dict]:
    """All ways to say of which study a report is."""
    return [
        by_uid(uid),
        by_uid(f"urn:oid:{uid}"),
        by_uid(f"urn:oid:{uid}", "urn:ietf:rfc:3986"),
        {"reference": f"ImagingStudy/{uid}"},
        {"reference": f"https://fhir.example/r4/ImagingStudy/{uid}/_history/3"},
        {"reference": f"urn:oid:{uid}"},
        {"reference": "ImagingStudy/unknown", **by_uid(uid)},
    ]


def noted(house) -> list[tuple[str, str]]:
    """Own ids of report and study of each note, found by its procedure."""
    reports = {row["id"]: own_id for own_id, row in silver(house).items()}
    procedures = {
        row["procedure_occurrence_id"]: row["sourceRecordId"]
        for row in house.rows(catalog.PROCEDURE_OCCURRENCE)
    }
    own_ids = {study: own_id for (_, own_id), study in studies(house).items()}
    return sorted(
        (reports[note["sourceRecordId"]], own_ids[procedures[note["note_event_id"]]])
        for note in house.rows(catalog.NOTE)
    )


def test_a_report_finds_its_study_whichever_comes_first_and_whoever_has_written_it(
    house, write_dicom
):
    """Studies come before their report, with it and after it; of what others write, by its UID."""
    before, at_once, after = "1.2.1", "1.2.2", "1.2.3"

    def theirs(own_id: str, uid: str) -> dict:
        return {
            "resourceType": "ImagingStudy",
            "id": own_id,
            "status": "available",
            "subject": {"reference": "Patient/p"},
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        }

    write_dicom(house.drop / "x.dcm", **study_of(before))
    drop(house, theirs("a", "1.2.4"), report("of-b", study=by_uid("1.2.5")))
    house.chain()
    write_dicom(house.drop / "x.dcm", **study_of(at_once))
    drop(
        house,
        *(report(uid, imagingStudy=references(uid)) for uid in (before, at_once, after)),
        report("of-a", study=by_uid("1.2.4")),
        theirs("b", "1.2.5"),
    )
    house.chain(NEXT)
    assert set(silver(house)[after]["imagingStudyIds"]) == {None}
    dicom_notes = [(before, before), (at_once, at_once)]
    assert noted(house) == [*dicom_notes, ("of-a", "a"), ("of-b", "b")]
    assert broken(house, NEXT, blocking=False) == {"studies_are_known"}
    write_dicom(house.drop / "x.dcm", **study_of(after))
    house.chain(NEXT + timedelta(days=1))
    found = studies(house)
    assert {own_id: row["imagingStudyIds"] for own_id, row in silver(house).items()} == {
        **{uid: [found["default", uid]] * 7 for uid in (before, at_once, after)},
        "of-a": [found["default", "a"]],
        "of-b": [found["default", "b"]],
    }
    assert noted(house) == [*dicom_notes, (after, after), ("of-a", "a"), ("of-b", "b")]
    assert {note["note_date"] for note in house.rows(catalog.NOTE)} == {date(2026, 3, 14)}
    assert broken(house) == broken(house, NEXT) == broken(house, NEXT, blocking=False) == set()


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


def test_a_report_has_a_note_for_each_of_its_studies_that_is_there(house, write_dicom):
    """Of one report fewer studies are said, then none; a study is deleted and restored; and a
    patient becomes known, of a study with a report in HTML.
    """
    html = "<html><style>p{}</style><p>Befund: gr\u00f6\u00dfer</p><p>als 3&nbsp;cm</p></html>"
    form = {
        "contentType": "text/html; charset=iso-8859-1",
        "data": base64.b64encode(html.encode("latin-1")).decode(),
    }
    both = [by_uid("1.2.1"), by_uid("1.2.2"), by_uid("1.2.1")]
    for uid in ("1.2.1", "1.2.2", "1.2.3"):
        write_dicom(house.drop / f"{uid}.dcm", **study_of(uid))
    write_dicom(house.drop / "x.dcm", **study_of("1.2.4"), PatientID=None)
    drop(
        house,
        report("r", imagingStudy=both),
        report("s", study=by_uid("1.2.3")),
        report("t", study=by_uid("1.2.4"), presentedForm=[form], conclusion=None),
    )
    house.chain()
    first = {note["note_id"]: note["note_text"] for note in house.rows(catalog.NOTE)}
    assert noted(house) == [("r", "1.2.1"), ("r", "1.2.2"), ("s", "1.2.3"), ("t", "1.2.4")]
    assert "Befund: größer\nals 3 cm" in first.values()

    def asked(day: date, kind: str) -> None:
        said = {"studyInstanceUid": "1.2.3", "requestedBy": "Dr. Moll", "reason": "wrong patient"}
        ask(house.run.engine, operation(operation=kind, id=kind, **said), source_system="default")
        house.chain(day)

    drop(house, report("r", imagingStudy=both[:1]))
    write_dicom(house.drop / "y.dcm", **study_of("1.2.4"), PatientID="P4")
    asked(NEXT, "delete")
    assert noted(house) == [("r", "1.2.1"), ("t", "1.2.4")]
    assert silver(house)["s"]["imagingStudyIds"] == [None]
    people = {row["person_source_value"]: row["person_id"] for row in house.rows(catalog.PERSON)}
    assert set(people) == {"P1", "P4"}
    (note,) = (row for row in house.rows(catalog.NOTE) if row["person_id"] == people["P4"])
    assert first[note["note_id"]] == note["note_text"]
    assert broken(house, blocking=False) == {"studies_are_known"}
    assert broken(house) == broken(house, NEXT) == set()

    drop(house, report("r", imagingStudy=both, status="entered-in-error"))
    asked(NEXT + timedelta(days=1), "restore")
    assert noted(house) == [("s", "1.2.3"), ("t", "1.2.4")]
    assert {row["note_id"] for row in house.rows(catalog.NOTE)} <= set(first)
    assert silver(house)["s"]["imagingStudyIds"] == [studies(house)["default", "1.2.3"]]
    assert broken(house, blocking=False) == set()
    assert broken(house) == broken(house, NEXT) == broken(house, NEXT + timedelta(days=1)) == set()


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


def test_files_with_many_bad_lines_share_no_commit_and_those_are_let_go_of(house, monkeypatch):
    monkeypatch.setattr(ingesting, "_BAD_LINES_PER_COMMIT", 3)
    for number in range(6):
        folder = house.run.engine.layout.fhir_folder("default", DAY, "DiagnosticReport")
        folder.mkdir(parents=True, exist_ok=True)
        bad = "{}\n" * (number % 3)
        (folder / f"{number}.ndjson").write_text(bad + json.dumps(report(f"{number}")))
    held: list[list[int]] = []
    original = ingesting._keep_bad_lines

    def keep(run, table, files, bad_texts):
        held.append([len(file.bad) for file in files])
        kept.extend(files)
        return original(run, table, files, bad_texts)

    kept: list = []
    monkeypatch.setattr(ingesting, "_keep_bad_lines", keep)
    table = catalog.bronze_fhir("DiagnosticReport")
    done = ingest_fhir(house.run, table)
    assert (done.rows, done.counts["files"], done.counts["failures"]) == (6, 6, 6)
    assert held == [[0, 1, 2], [0, 1, 2]]
    assert [file.bad for file in kept] == [[]] * 6
    assert sorted(row["id"] for row in house.rows(table)) == [f"{number}" for number in range(6)]
    assert len({row["ingestedAt"] for row in house.rows(table)}) == 6
    assert [(row["line"]) for row in house.rows(catalog.INGESTION_FAILURES)] == [1, 1, 2] * 2
    assert ingest_fhir(house.run, table).rows == 0


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

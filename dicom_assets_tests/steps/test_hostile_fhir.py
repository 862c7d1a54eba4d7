"""FHIR of any wrong kind, value or file: each is a row or a failure, and none stops a day."""

import base64
import copy
import itertools
import json
import os
from datetime import timedelta

import pytest

from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Kind
from dicom_assets.steps.repair import verify_and_repair
from dicom_assets_tests.conftest import DAY
from dicom_assets_tests.steps.test_reports import UID, broken, by_uid, drop, report, silver

WRONG = [
    *(None, 1, -(2**62), 1.5, True, "", " ", "x", "\0", "1" * 70_000, "9999-99-99T99:99:99Z"),
    *("2026-03-14T10:00:00+99:99", 20260101000000, [], {}, [[]], [None], [1], ["x"], [{}]),
    *([{"x": 1}], {"x": {"y": [1]}}, {"value": 5}, [{"value": {"a": 1}}], [{"coding": "x"}]),
    *({"coding": [None, 1, {"code": 5}]}, {"reference": 7}, {"lastUpdated": 7}),
    *(
        [{"system": ["urn:dicom:uid"], "value": ["1"]}],
        {"identifier": {"value": [1], "system": {}}},
    ),
    *([{"reference": "ImagingStudy/" + "1" * 500}], {"start": 5, "end": "x"}),
]
STUDY = {
    "resourceType": "ImagingStudy",
    "status": "available",
    "subject": {"identifier": {"value": "P"}},
    "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.77"}],
    "series": [
        {
            "uid": "1.2.77.1",
            "modality": {"code": "CT"},
            "instance": [{"uid": "1.2.77.1.1", "sopClass": {"code": "x"}}],
        }
    ],
}
OF_STUDY = [
    "meta",
    "subject",
    "status",
    "identifier",
    "series",
    "started",
    "procedureCode",
    "description",
    "numberOfSeries",
    "endpoint",
    "contained",
    "extension",
    "note",
    "modality",
    "_started",
]
OF_SERIES = [
    "uid",
    "modality",
    "bodySite",
    "started",
    "extension",
    "instance",
    "number",
    "description",
    "_uid",
]
OF_INSTANCE = ["uid", "sopClass", "number", "title", "extension"]
OF_REPORT = [
    "meta",
    "subject",
    "code",
    "status",
    "issued",
    "conclusion",
    "presentedForm",
    "text",
    "effectiveDateTime",
    "effectivePeriod",
    "imagingStudy",
    "identifier",
    "language",
    "extension",
    "contained",
    "category",
    "_issued",
]
DEEP = f'{{"resourceType":"%s","id":"deep","extension":{"[" * 300}{"]" * 300}}}'


def studies():
    for key, wrong in itertools.product(OF_STUDY, WRONG):
        yield STUDY | {key: wrong}
    for key, wrong in itertools.product(OF_SERIES, WRONG):
        study = copy.deepcopy(STUDY)
        study["series"][0][key] = wrong
        yield study
    for key, wrong in itertools.product(OF_INSTANCE, WRONG):
        study = copy.deepcopy(STUDY)
        study["series"][0]["instance"][0][key] = wrong
        yield study


def reports():
    for key, wrong in itertools.product(OF_REPORT, WRONG):
        yield report(study=by_uid(UID)) | {key: wrong}
    for charset in ("undefined", "utf-7", "unicode_escape", "hex", "idna", "utf-16"):
        data = base64.b64encode(b"+2AA- \\ud800 \xff").decode()
        form = {"contentType": f"text/plain; charset={charset}", "data": data}
        yield report(study=by_uid(UID), presentedForm=[form])
    html = base64.b64encode(b"<![x[y]]>&#xD800;").decode()
    yield report(study=by_uid(UID), presentedForm=[{"contentType": "text/html", "data": html}])


@pytest.mark.parametrize("validation", ["strict", "lenient"])
def test_no_wrong_value_in_a_resource_stops_a_date(make_house, write_dicom, validation):
    house = make_house(fhir_validation=validation)
    write_dicom(house.drop / "x.dcm", StudyInstanceUID=UID)
    made = [each | {"id": f"w{n}"} for n, each in enumerate([*studies(), *reports()])]
    drop(house, *made, report("good", study=by_uid(UID)))
    folder = house.run.engine.layout.fhir_drop_folder
    for kind in ("ImagingStudy", "DiagnosticReport"):
        (folder / f"{kind}.ndjson").write_text(DEEP % kind + "\n")
    house.chain()
    rows = house.rows(catalog.silver_imaging_study())
    rows += house.rows(catalog.silver_fhir("DiagnosticReport"))
    failures = house.rows(catalog.INGESTION_FAILURES)
    own = {row["idOrig"] for row in rows} - {UID}
    assert len(own) + len(failures) == len(made) + 3
    assert "good" in own and {"nested_too_deep"} <= {row["reasonCode"] for row in failures}
    good = house.rows(catalog.silver_fhir("DiagnosticReport"))
    (silver_id,) = (row["id"] for row in good if row["idOrig"] == "good")
    assert silver_id in {note["sourceRecordId"] for note in house.rows(catalog.NOTE)}


def test_what_lies_among_the_files_and_is_none_is_a_failure_and_is_never_followed(house, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.ndjson").write_text(json.dumps(report("outside")))
    layout = house.run.engine.layout
    reports = layout.fhir_folder("default", DAY, "DiagnosticReport")
    reports.mkdir(parents=True)
    (reports / "good.ndjson").write_text(json.dumps(report("good")))
    os.mkfifo(reports / "pipe.ndjson")
    (reports / "folder.ndjson").mkdir()
    (reports / "link.ndjson").symlink_to(outside / "o.ndjson")
    of_others = layout.fhir_folder("PACS9", DAY, "DiagnosticReport")
    of_others.parent.mkdir(parents=True)
    of_others.symlink_to(outside)
    strays = [reports / name for name in ("folder.ndjson", "link.ndjson", "pipe.ndjson")]
    for name in ("a", "b"):  # folders without end, for who follows
        (layout.fhir_root / name).symlink_to(layout.fhir_root)
        strays.append(layout.fhir_root / name)
    house.chain()
    assert set(silver(house)) == {"good"}
    assert house.failures() == {layout.relative(s): "not_a_file" for s in [*strays, of_others]}
    assert broken(house) == set()
    before = house.everything()
    house.chain()
    house.chain(DAY + timedelta(days=1))
    found, _ = verify_and_repair(house.settings)
    assert set(found.counts) == {Kind.ORPHAN}, "the links among folders"
    assert house.everything() == before


def test_a_file_in_the_place_of_a_link_is_taken_and_its_bad_lines_are_told(house, tmp_path):
    reports = house.run.engine.layout.fhir_folder("default", DAY, "DiagnosticReport")
    reports.mkdir(parents=True)
    path = reports / "r.ndjson"
    path.symlink_to(tmp_path)
    house.chain()
    path.unlink()
    path.write_text(f"{json.dumps(report('r'))}\n{{broken\n")
    house.chain()
    rows = house.rows(catalog.INGESTION_FAILURES)
    assert {row["reasonCode"]: row["line"] for row in rows} == {
        "not_a_file": None,
        "invalid_json": 2,
    }
    assert len(rows) == 2
    assert set(silver(house)) == {"r"} and broken(house) == set()

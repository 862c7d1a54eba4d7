"""What silver holds of invalid resources, and what it says of them."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from dicom_assets.fhir.flatten import Sourced, flatten_known, resource_columns, resource_of
from dicom_assets.fhir.lenient import fitting
from dicom_assets.fhir.model import elements, problems
from dicom_assets.fhir.silver import upserts

NOW = datetime(2026, 3, 14, tzinfo=UTC)
WRONG = [None, True, 7, -3, 2**40, 1.5, "Jane", "", {}, {"Jane": 1}, [], [[]], [None], ["x", 2, {}]]


@pytest.mark.parametrize("kind", ["DiagnosticReport", "Patient", "Observation"])
def test_whatever_stands_in_an_element_the_row_is_written_and_reads_back(kind):
    for element in elements(kind):
        if element.name == "id":
            continue
        for value in WRONG:
            sent = {"resourceType": kind, "id": "a", element.name: value}
            kept = fitting(sent)
            row = flatten_known(kind, [Sourced(kept, "default", None, NOW, NOW)]).to_pylist()[0]
            assert resource_of(kind, row) == kept
            assert fitting(kept) == kept


def test_of_a_valid_resource_all_is_kept():
    report = {
        "resourceType": "DiagnosticReport",
        "id": "a",
        "status": "final",
        "_status": {"id": "x"},
        "code": {"text": "CT"},
        "identifier": [{"value": "1", "assigner": {"display": "RIS"}}],
        "imagingStudy": [{"reference": "ImagingStudy/1"}],
        "extension": [{"url": "http://x", "valueInteger": 1}],
    }
    assert problems(report) == []
    assert fitting(report) == report


def test_values_that_only_stand_one_level_off_are_kept():
    sent = {
        "resourceType": "DiagnosticReport",
        "id": "a",
        "status": ["final"],
        "category": {"text": "RAD"},
        "conclusion": 5,
    }
    assert fitting(sent) == sent | {
        "status": "final",
        "category": [{"text": "RAD"}],
        "conclusion": "5",
    }


def test_what_is_wrong_is_said_without_what_was_written_there():
    sent = {"resourceType": "Patient", "id": "a", "Jane": {"Doe": 1}, "gender": {"Jane": 2}}
    said = problems(sent)
    assert len(said) == 2
    assert not any("Jane" in each or "Doe" in each for each in said)


def bronze(*resources: dict) -> pa.Table:
    rows = [
        {
            "sourceSystem": "default",
            "id": each.get("id"),
            "lastUpdated": None,
            "resource": json.dumps(each),
            "filePath": "f",
            "lineNumber": number,
            "ingestedAt": NOW,
        }
        for number, each in enumerate(resources, start=1)
    ]
    from dicom_assets.lakehouse.schemas import RAW_FHIR

    schema = pa.schema([RAW_FHIR.field(name) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)


def test_the_same_invalid_resource_again_changes_nothing_and_other_errors_do():
    kind = "DiagnosticReport"
    sent = {"resourceType": kind, "id": "a", "status": "final", "code": "CT", "issued": "soon"}
    nothing = pa.table({name: pa.array([], pa.string()) for name in resource_columns(kind)})
    rows, bad, _ = upserts(kind, bronze(sent), nothing, now=NOW, lenient=True)
    assert (rows.num_rows, bad) == (1, [])
    again, _, _ = upserts(kind, bronze(sent), rows, now=NOW, lenient=True)
    assert again.num_rows == 0
    mended, _, _ = upserts(kind, bronze(sent | {"code": {"text": 5}}), rows, now=NOW, lenient=True)
    assert mended["validationErrors"].to_pylist() != rows["validationErrors"].to_pylist()


def test_an_imaging_study_must_be_valid_in_either_case():
    sent = {"resourceType": "ImagingStudy", "id": "a", "status": "Jane"}
    nothing = pa.table({n: pa.array([], pa.string()) for n in resource_columns("ImagingStudy")})
    rows, bad, _ = upserts("ImagingStudy", bronze(sent), nothing, now=NOW, lenient=True)
    assert (rows.num_rows, len(bad)) == (0, 1)

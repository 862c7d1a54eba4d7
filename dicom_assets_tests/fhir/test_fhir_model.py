"""The R4B model: elements, and what is said about an invalid resource."""

import subprocess
import sys

import pytest

from dicom_assets.fhir.model import elements, known_elements, problem

PATIENT = {"resourceType": "Patient", "id": "a"}


def test_fhir_and_omop_need_neither_dagster_nor_delta_nor_dicom_nor_each_other():
    code = (
        "import sys, {};"
        "print([m for m in sys.modules if m.partition('.')[0] in ('dagster', 'deltalake',"
        " 'pydicom') or m.startswith(('dicom_assets.dicom', 'dicom_assets.{}'))])"
    )
    fhir = ("imaging_study", "instances", "ndjson", "silver")
    omop = ("image_occurrence", "procedure_occurrence", "person")
    for room, names, other in (("fhir", fhir, "omop"), ("omop", omop, "fhir")):
        modules = ", ".join(f"dicom_assets.{room}.{name}" for name in names)
        command = [sys.executable, "-c", code.format(modules, other)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"


def test_elements_are_in_the_order_of_fhir():
    names = [element.name for element in elements("ImagingStudy")]
    assert names[:3] == ["id", "meta", "implicitRules"]
    assert names[-1] == "series"
    assert len(names) == len(set(names)) == 28


def test_recursion_is_cut():
    (identifier,) = [e for e in elements("ImagingStudy") if e.name == "identifier"]
    (assigner,) = [e for e in identifier.fields if e.name == "assigner"]
    assert assigner.as_text
    (item,) = [e for e in elements("Questionnaire") if e.name == "item"]
    assert [e.as_text for e in item.fields if e.name == "item"] == [True]


def test_a_type_that_fhir_does_not_have_is_an_error():
    for name in ("Foo", "HumanName", "Extension"):
        with pytest.raises(ValueError, match="no FHIR R4B resource type"):
            elements(name)


def test_the_examples_of_hl7_and_synthea_are_valid(examples):
    found = examples("hl7-r4b-4.3.0/*.json") + examples("smart-synthea-r4/*.ndjson")
    assert {problem(resource) for resource in found} == {None}


def test_reports_from_the_field_that_are_not_r4_are_invalid(examples):
    for resource in examples("siim-hackathon/diagnostic_report.*.json"):
        assert "performer" in (problem(resource) or "")


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"gender": ["Jane"]}, "gender"),
        ({"name": {"family": "Jane"}}, "name"),
        ({"name": [{"family": 5}]}, "name.0.family"),
        ({"birthDate": "Jane"}, "birthDate"),
        ({"multipleBirthBoolean": True, "multipleBirthInteger": 2}, "multipleBirth"),
        ({"deceasedBoolean": "Jane"}, "deceasedBoolean"),
        ({"id": "Jane Roe"}, "id"),
    ],
)
def test_a_problem_names_the_place_and_not_the_value(wrong, place):
    told = problem(PATIENT | wrong)
    assert told is not None
    assert place in told
    assert "Jane" not in told


@pytest.mark.parametrize("kind", [None, 5, [], {}, "Foo", "HumanName"])
def test_what_is_no_resource_type_is_a_problem(kind):
    assert problem({"resourceType": kind})


def test_a_date_that_is_a_number_is_a_problem():
    instant = {"meta": {"lastUpdated": 1577836800.5}}
    named = {"name": [{"period": {"start": "2020"}}, {"period": {"start": 20260101000000}}]}
    assert problem(PATIENT | instant) == "meta.lastUpdated: string_type"
    assert problem(PATIENT | named) == "name.1.period.start: string_type"
    assert problem(PATIENT | {"birthDate": 0}) == "birthDate: string_type"
    assert problem(PATIENT | {"birthDate": True}) == "birthDate: date_type"


def test_many_problems_are_counted():
    told = problem(PATIENT | {"name": [{"family": 5}] * 9})
    assert told is not None
    assert told.endswith("and 4 more")


def test_unknown_elements_do_not_hide_other_problems():
    unknown = PATIENT | {"favouriteColour": "blue"}
    assert problem(unknown)
    assert problem(unknown, known_only=True) is None
    assert "gender" in (problem(unknown | {"gender": []}, known_only=True) or "")
    nested = PATIENT | {"extension": [{"url": "urn:x", "valueString": "a", "odd": 1}]}
    assert problem(nested, known_only=True) is None


def test_known_elements_leave_out_what_r4b_does_not_know():
    resource = PATIENT | {
        "favouriteColour": "blue",
        "active": None,
        "_birthDate": {"extension": []},
        "name": [{"family": "A", "_family": {"id": "x"}, "odd": 1}, None],
    }
    assert known_elements(resource) == PATIENT | {
        "_birthDate": {"extension": []},
        "name": [{"family": "A", "_family": {"id": "x"}}, None],
    }

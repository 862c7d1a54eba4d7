"""FHIR resource ↔ silver row."""

from datetime import UTC, date, datetime

import orjson
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from dicom_assets.fhir.flatten import (
    Sourced,
    flatten,
    resource_columns,
    resource_of,
    silver_id,
    silver_schema,
)
from dicom_assets.fhir.model import elements, known_elements
from dicom_assets.lakehouse.keys import hex_key

TYPES = ("ImagingStudy", "DiagnosticReport", "Patient", "Observation")


@pytest.fixture
def silver(now):
    def run(*resources, source_system="default"):
        sourced = [Sourced(r, source_system, "a.ndjson", now, now) for r in resources]
        return flatten(resources[0]["resourceType"], sourced)

    return run


@pytest.mark.parametrize("resource_type", TYPES)
def test_every_element_of_r4b_has_a_column_with_a_description(resource_type):
    schema = silver_schema(resource_type)
    assert {e.name for e in elements(resource_type)} <= set(schema.names)
    for column in schema:
        assert column.metadata[b"comment"], column.name
    for element in elements(resource_type):
        assert (f"{element.name}_string" in schema.names) == bool(element.fields)
    assert len({name.lower() for name in schema.names}) == len(schema.names)


def test_the_audit_columns_stand_where_every_table_has_them():
    names = silver_schema("ImagingStudy").names
    assert names[:4] == ["id", "idOrig", "sourceSystem", "meta_lastUpdated"]
    assert names[-3:] == ["createdAt", "modifiedAt", "sourceFilePath"]


def test_elements_are_typed():
    schema = silver_schema("ImagingStudy")
    assert schema.field("status").type == pa.string()
    assert schema.field("numberOfSeries").type == pa.int32()
    assert schema.field("started").type == pa.string()
    assert schema.field("started_timestamp").type == pa.timestamp("us", tz="UTC")
    assert schema.field("started_date").type == pa.date32()
    assert schema.field("extension").type == pa.string()
    assert schema.field("contained").type == pa.string()
    series = schema.field("series").type.value_type
    instance = series.field("instance").type.value_type
    assert instance.field("sopClass").type.field("code").type == pa.string()
    assert instance.field("number").type == pa.int32()
    patient = silver_schema("Patient")
    assert patient.field("deceasedBoolean").type == pa.bool_()
    assert patient.field("birthDate_date").type == pa.date32()
    assert "birthDate_timestamp" not in patient.names
    observation = silver_schema("Observation")
    assert observation.field("valueQuantity").type.field("value").type == pa.float64()
    assert observation.field("issued_timestamp").type == pa.timestamp("us", tz="UTC")
    assert silver_schema("ChargeItem").field("factorOverride").type == pa.float64()


def test_every_resource_type_of_r4b_has_a_schema():
    import fhir.resources.R4B.fhirtypes  # noqa: F401  # fills the map of types
    from fhir_core.constraints import FHIR_TYPES_MAPS

    known = {name.rpartition(".")[2].removesuffix("Type") for name in FHIR_TYPES_MAPS}
    resource_types = []
    for name in sorted(known):
        try:
            names = [column.lower() for column in silver_schema(name).names]
        except ValueError:
            continue
        resource_types.append(name)
        assert len(names) == len(set(names)), name
    assert len(resource_types) > 140


def test_hl7_and_synthea_examples_come_back_as_they_were(examples, silver):
    for pattern in (
        "hl7-r4b-4.3.0/%s*.json",
        "hl7-r4-4.0.1/%s*.json",
        "smart-synthea-r4/%s.ndjson",
    ):
        for kind in ("ImagingStudy", "DiagnosticReport"):
            resources = [r for r in examples(pattern % kind) if r["resourceType"] == kind]
            rows = silver(*resources).to_pylist()
            for resource, row in zip(resources, rows, strict=True):
                assert resource_of(kind, row) == resource == known_elements(resource)


def test_converted_studies_come_back_as_they_were(real_rows, convert, silver):
    resources = [orjson.loads(study.line) for study in convert(real_rows)]
    table = silver(*resources).select(resource_columns("ImagingStudy"))
    rows = table.to_pylist()
    assert [resource_of("ImagingStudy", row) for row in rows] == resources


def test_the_key_is_made_of_source_system_type_and_id(silver):
    patient = {"resourceType": "Patient", "id": "a"}
    (here,) = silver(patient).to_pylist()
    (there,) = silver(patient, source_system="PACS_B").to_pylist()
    assert here["id"] == hex_key("default", "Patient", "a") != there["id"]
    assert (here["idOrig"], there["sourceSystem"]) == ("a", "PACS_B")


@pytest.mark.parametrize(
    ("text", "day", "moment"),
    [
        ("2011-01-01T01:01:20+03:00", date(2011, 1, 1), datetime(2010, 12, 31, 22, 1, 20, 0, UTC)),
        ("2011-01-01", date(2011, 1, 1), None),
        ("2011-01", None, None),
        ("2011", None, None),
    ],
)
def test_a_partial_date_is_text_and_not_typed(silver, text, day, moment):
    study = {"resourceType": "Observation", "id": "a", "effectiveDateTime": text}
    (row,) = silver(study).to_pylist()
    assert row["effectiveDateTime"] == text
    assert row["effectiveDateTime_date"] == day
    assert row["effectiveDateTime_timestamp"] == moment


def test_last_updated_is_flattened_from_meta(silver):
    (row,) = silver(
        {"resourceType": "Patient", "id": "a", "meta": {"lastUpdated": "2024-05-01T00:00:00.5Z"}}
    ).to_pylist()
    assert row["meta_lastUpdated"] == datetime(2024, 5, 1, 0, 0, 0, 500_000, UTC)
    assert row["meta"]["lastUpdated"] == "2024-05-01T00:00:00.5Z"


@pytest.mark.parametrize(
    ("reference", "kind", "bare"),
    [
        ({"reference": "Patient/1"}, "Patient", "1"),
        ({"reference": "http://a.org/fhir/Patient/1"}, "Patient", "1"),
        ({"reference": "Patient/1/_history/2"}, "Patient", "1"),
        ({"reference": "urn:uuid:0-1", "type": "Patient"}, "Patient", "0-1"),
        ({"reference": "urn:uuid:0-1"}, None, "0-1"),
        ({"reference": "#p"}, None, None),
        ({"reference": "Patient?identifier=1"}, None, None),
        ({"type": "Patient", "identifier": {"value": "1"}}, None, None),
        ({"display": "somebody"}, None, None),
    ],
)
def test_a_reference_names_the_silver_row_it_points_to(silver, reference, kind, bare):
    (row,) = silver({"resourceType": "ImagingStudy", "id": "a", "subject": reference}).to_pylist()
    subject = row["subject"]
    assert subject["idOrig"] == bare
    assert subject["id"] == (silver_id("default", kind, bare) if kind and bare else None)
    assert subject.get("reference") == reference.get("reference")
    assert orjson.loads(row["subject_string"]) == reference


def test_a_urn_points_to_the_only_type_that_can_stand_there(silver):
    (row,) = silver(
        {"resourceType": "ImagingStudy", "id": "a", "encounter": {"reference": "urn:uuid:0-1"}}
    ).to_pylist()
    assert row["encounter"]["id"] == silver_id("default", "Encounter", "0-1")


def test_recursive_parts_are_json_text(silver):
    resource = {
        "resourceType": "Patient",
        "id": "a",
        "contained": [{"resourceType": "Organization", "id": "o"}],
        "extension": [{"url": "urn:x", "valueString": "y"}],
        "identifier": [{"value": "1", "assigner": {"display": "A"}}],
    }
    table = silver(resource)
    (row,) = table.to_pylist()
    assert orjson.loads(row["extension"]) == resource["extension"]
    assert orjson.loads(row["contained"]) == resource["contained"]
    assert orjson.loads(row["identifier"][0]["assigner"]) == {"display": "A"}
    assert resource_of("Patient", row) == resource


def test_extensions_of_primitives_are_kept(silver):
    resource = {
        "resourceType": "Patient",
        "id": "a",
        "birthDate": "1970",
        "_birthDate": {"extension": [{"url": "urn:x", "valueString": "about"}]},
        "_gender": {"extension": [{"url": "urn:x", "valueCode": "unknown"}]},
    }
    (row,) = silver(resource).to_pylist()
    assert resource_of("Patient", row) == resource


def test_unknown_elements_have_no_column_and_break_nothing(silver):
    resource = {"resourceType": "Patient", "id": "a", "odd": {"a": 1}, "name": [{"odd": 1}]}
    (row,) = silver(resource).to_pylist()
    assert resource_of("Patient", row) == {"resourceType": "Patient", "id": "a", "name": [{}]}


def test_values_that_the_validator_takes_are_taken(silver):
    (row,) = silver(
        {
            "resourceType": "Patient",
            "id": "a",
            "active": "true",
            "multipleBirthInteger": "2",
            "birthDate": 0,
        }
    ).to_pylist()
    assert (row["active"], row["multipleBirthInteger"], row["birthDate"]) == (True, 2, "0")


def test_no_resources_are_no_rows():
    assert flatten("Patient", []).schema == silver_schema("Patient")


@pytest.mark.parametrize("resource_type", TYPES)
def test_a_delta_table_takes_the_schema(tmp_path, resource_type):
    write_deltalake(tmp_path, silver_schema(resource_type).empty_table())
    names = [field.name for field in DeltaTable(tmp_path).schema().fields]
    assert names == silver_schema(resource_type).names


def test_a_delta_table_gives_back_rows_and_descriptions(tmp_path, silver, real_rows, convert):
    resources = [orjson.loads(study.line) for study in convert(real_rows)]
    table = silver(*resources)
    write_deltalake(tmp_path, table)
    delta = DeltaTable(tmp_path)
    found = pa.table(delta.to_pyarrow_table()).sort_by("id")
    assert found.to_pylist() == table.sort_by("id").to_pylist()
    rows = found.to_pylist()
    expected = sorted(resources, key=lambda r: silver_id("default", "ImagingStudy", r["id"]))
    assert [resource_of("ImagingStudy", row) for row in rows] == expected
    (series,) = [field for field in delta.schema().fields if field.name == "series"]
    assert series.metadata["comment"].startswith("Each study has one or more series")

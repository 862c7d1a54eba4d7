"""Studies of thousands of instances, and thousands of studies: what holds for one holds for all."""

import io
from datetime import UTC, date, datetime, timedelta

import orjson
import pyarrow as pa
import pytest

from dicom_assets.fhir.dates import date_of, instant_of
from dicom_assets.fhir.flatten import (
    Sourced,
    flatten,
    resource_columns,
    resource_of,
    silver_id,
    silver_schema,
)
from dicom_assets.fhir.imaging_study import Study
from dicom_assets.fhir.model import elements, known_elements, problem
from dicom_assets.fhir.ndjson import Line, read_lines
from dicom_assets.fhir.silver import upserts

INSTANCES = 2000
ODD = 'Müller\u2028山田 "x" \\ \x7f\x01 🩻 <&> \t\n é\u0301'


@pytest.fixture(scope="module")
def large(row, convert):
    """One study of 2,000 instances in 20 series, with odd characters in its texts."""
    rows = [
        row(
            {"00081070": {"vr": "PN", "Value": [{"Alphabetic": ODD}]}},
            sopInstanceUid=f"1.9.{n}",
            seriesInstanceUid=f"1.8.{n % 20}",
            seriesNumber=str(n % 20),
            instanceNumber=str(n // 20 + 1),
            seriesDescription=ODD,
            studyDescription=ODD,
            patientId=ODD,
            referringPhysicianName=ODD,
            bodyPartExamined=ODD,
            documentTitle=ODD if n % 2 else None,
            filePath=f"Process/{ODD}/{n}.dcm",
            studyDate="20240229",
            seriesDate="20240229",
            seriesTime="0930",
        )
        for n in range(INSTANCES)
    ]
    (study,) = convert(rows, site_timezone="Europe/Zurich")
    return study


@pytest.fixture(scope="module")
def many(row, convert):
    """2,000 studies of one instance."""
    uids = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
    return convert(
        row(**{uid: f"1.{number}.{n}" for number, uid in enumerate(uids)}, patientId=f"{ODD}{n}")
        for n in range(INSTANCES)
    )


def _empty(kind="ImagingStudy"):
    return silver_schema(kind).empty_table().select(resource_columns(kind))


def test_a_large_study_counts_its_instances_and_is_valid(large):
    assert isinstance(large, Study)
    resource = orjson.loads(large.line)
    assert problem(resource) is None
    assert (large.series, large.instances) == (20, INSTANCES)
    assert [series["number"] for series in resource["series"]] == list(range(20))
    for series in resource["series"]:
        assert [i["number"] for i in series["instance"]] == list(range(1, 101))
    found = {i["uid"] for series in resource["series"] for i in series["instance"]}
    assert len(found) == INSTANCES


def test_odd_characters_survive_from_row_to_silver(large, bronze, now):
    (line,) = read_lines(io.BytesIO(large.line + b"\n"), resource_type="ImagingStudy")
    assert isinstance(line, Line)
    rows, failures, _ = upserts("ImagingStudy", bronze(line.text), _empty(), now=now)
    assert failures == []
    (held,) = rows.to_pylist()
    said = ODD.replace("\x7f", "").replace("\x01", "")
    assert held["description"] == said
    assert held["subject"]["identifier"]["value"] == said
    assert held["series"][0]["bodySite"]["display"] == said
    assert held["series"][0]["performer"][0]["actor"]["display"] == said
    assert held["series"][1]["instance"][0]["title"] == said
    folder = orjson.loads(held["series"][0]["extension"])[0]["valueString"]
    assert folder == f"Process/{ODD}"
    assert resource_of("ImagingStudy", held) == orjson.loads(large.line)


def test_one_late_instance_is_added_to_a_large_study(large, row, resource, bronze, now):
    held, _, _ = upserts("ImagingStudy", bronze(large.line.decode()), _empty(), now=now)
    late = resource(
        row(sopInstanceUid="1.9.9999", seriesInstanceUid="1.8.7", ingestedAt=now + timedelta(1))
    )
    rows, failures, _ = upserts(
        "ImagingStudy", bronze(late), held.select(resource_columns("ImagingStudy")), now=now
    )
    assert failures == []
    (merged,) = rows.to_pylist()
    assert (merged["numberOfSeries"], merged["numberOfInstances"]) == (20, INSTANCES + 1)
    assert problem(resource_of("ImagingStudy", merged)) is None


def test_many_studies_are_as_many_rows_and_valid(many, bronze, now):
    assert [type(study) for study in many] == [Study] * INSTANCES
    assert {problem(orjson.loads(study.line)) for study in many[::100]} == {None}
    lines = bronze(*(study.line.decode() for study in many))
    rows, failures, _ = upserts("ImagingStudy", lines, _empty(), now=now)
    assert failures == []
    assert rows.num_rows == INSTANCES
    assert rows["idOrig"].to_pylist() == [study.id for study in many]
    held = rows.select(resource_columns("ImagingStudy"))
    again, _, _ = upserts("ImagingStudy", lines, held, now=now)
    assert again.num_rows == 0


# -- silver rows against a plain reading of the rules ----------------------------------------------


def _plain(resource, sourced):
    """Returns the silver row of a resource, element by element, as `flatten` says it."""
    kind, system = resource["resourceType"], sourced.source_system
    row = dict.fromkeys(silver_schema(kind).names)
    row |= {
        "id": silver_id(system, kind, resource["id"]),
        "idOrig": resource["id"],
        "sourceSystem": system,
        "meta_lastUpdated": instant_of(resource.get("meta", {}).get("lastUpdated")),
        "createdAt": sourced.created_at,
        "modifiedAt": sourced.modified_at,
        "sourceFilePath": sourced.source_file_path,
    }
    known = known_elements(resource)
    if extensions := {name: value for name, value in known.items() if name[0] == "_"}:
        row["primitiveExtension"] = orjson.dumps(extensions).decode()
    for element in elements(kind):
        value = known.get(element.name)
        if element.name != "id" and value is not None:
            row[element.name] = _part(value, element, system)
            if element.fields:
                row[f"{element.name}_string"] = orjson.dumps(value).decode()
            if element.fhir_type in ("dateTime", "instant"):
                row[f"{element.name}_timestamp"] = instant_of(value)
            if element.fhir_type in ("date", "dateTime"):
                row[f"{element.name}_date"] = date_of(value)
    return row


def _part(value, element, system):
    if value is None:
        return None
    if element.as_text:
        return orjson.dumps(value).decode()
    if element.many and isinstance(value, list):
        return [_part(each, element, system) for each in value]
    if not element.fields:
        return float(value) if element.fhir_type == "decimal" else value
    struct = {each.name: _part(value.get(each.name), each, system) for each in element.fields}
    if element.fhir_type == "Reference":
        kind, bare = _pointed_to(value, element.targets)
        struct["id"] = silver_id(system, kind, bare) if kind and bare else None
        struct["idOrig"] = bare
    return struct


def _pointed_to(reference, targets):
    text = reference.get("reference", "")
    if text.startswith("urn:"):
        return reference.get("type") or (targets[0] if len(targets) == 1 else None), text.split(
            ":"
        )[2]
    if "/" not in text or "?" in text:
        return None, None
    return text.split("/")[-2:]


def _same(resources):
    now = datetime(2024, 5, 17, tzinfo=UTC)
    sourced = [Sourced(each, "default", "a.ndjson", now, now) for each in resources]
    rows = flatten(resources[0]["resourceType"], sourced)
    plain = [_plain(each.resource, each) for each in sourced]
    assert rows.to_pylist() == pa.Table.from_pylist(plain, schema=rows.schema).to_pylist()


@pytest.mark.parametrize("kind", ["ImagingStudy", "DiagnosticReport"])
def test_every_example_of_r4b_is_the_row_that_the_rules_make(examples, kind):
    found = [
        resource
        for pattern in ("*/*.json", "smart-synthea-r4/*.ndjson")
        for resource in examples(pattern)
        if resource.get("resourceType") == kind and problem(resource) is None
    ]
    assert len(found) > 10
    _same(found)


def test_what_we_write_is_the_row_that_the_rules_make(real_rows, convert, large, many):
    studies = [*convert(real_rows, dicomweb_base_address="https://p/x"), large, *many[:50]]
    _same([orjson.loads(study.line) for study in studies])


def test_a_leap_day_is_a_day(large):
    (series, *_) = orjson.loads(large.line)["series"]
    assert date_of(series["started"]) == date(2024, 2, 29)

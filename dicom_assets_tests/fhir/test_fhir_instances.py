"""What is taken out of a metastore row for the conversion."""

import json

import orjson
import pyarrow as pa
import pytest

from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.schemas import dicomimagingmetastore


def _code(code, scheme, meaning):
    return {
        "00080100": {"vr": "SH", "Value": [code]},
        "00080102": {"vr": "SH", "Value": [scheme]},
        "00080104": {"vr": "LO", "Value": [meaning]},
    }


@pytest.fixture
def projected(table, row):
    def run(metadata=None, **columns):
        (batch,) = table([row(metadata, **columns)]).to_batches()
        return project(batch).to_pylist()[0]

    return run


def test_the_columns_read_are_columns_of_the_metastore():
    assert set(COLUMNS) <= set(dicomimagingmetastore().names)


def test_every_real_header_is_projected(real_rows, table):
    batches = [project(batch) for batch in table(real_rows).to_batches()]
    assert pa.Table.from_batches(batches).schema == INSTANCES
    assert sum(batch.num_rows for batch in batches) == len(real_rows) > 100


def test_code_sequences_become_codes(projected):
    sequence = {"vr": "SQ", "Value": [_code("24627-2", "LN", "CT Chest")]}
    found = projected({"00081032": sequence, "00082218": sequence, "0040100A": sequence})
    for column in ("procedureCodes", "anatomicRegion", "reasonCodes"):
        assert orjson.loads(found[column]) == [["24627-2", "LN", "CT Chest"]]


def test_long_and_urn_code_values_are_codes(projected):
    items = [{"00080119": {"Value": ["a-long-code"]}}, {"00080120": {"Value": ["urn:oid:1.2"]}}]
    found = projected({"00081032": {"vr": "SQ", "Value": items}})
    assert [code for code, _, _ in orjson.loads(found["procedureCodes"])] == [
        "a-long-code",
        "urn:oid:1.2",
    ]


def test_the_reason_is_found_inside_request_attributes(projected):
    request = {
        "00401002": {"vr": "LO", "Value": ["cough"]},
        "0040100A": {"vr": "SQ", "Value": [_code("49727002", "SCT", "Cough")]},
    }
    found = projected({"00400275": {"vr": "SQ", "Value": [request]}})
    assert found["reasonText"] == "cough"
    assert "49727002" in found["reasonCodes"]


def test_operators_then_performing_physicians_are_performers(projected):
    found = projected(
        {
            "00081050": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
            "00081070": {"vr": "PN", "Value": [{"Ideographic": "山田^太郎"}, None, {}]},
        }
    )
    assert found["performers"] == ["山田^太郎", "Doe^Jane"]


def test_the_title_is_the_document_title_then_concept_name_then_content_label(projected):
    concept = {"vr": "SQ", "Value": [_code("11528-7", "LN", "Radiology Report")]}
    metadata = {"0040A043": concept, "00700080": {"vr": "CS", "Value": ["LABEL"]}}
    assert projected(metadata, documentTitle="Letter")["title"] == "Letter"
    assert projected(metadata)["title"] == "Radiology Report"
    assert projected({"00700080": metadata["00700080"]})["title"] == "LABEL"


def test_the_folder_is_the_parent_of_the_file(projected):
    found = projected(filePath="External/PACS/a/b.dcm")
    assert (found["folder"], found["fileName"]) == ("External/PACS/a", "b.dcm")
    found = projected(filePath="b.dcm")
    assert (found["folder"], found["fileName"]) == (None, "b.dcm")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "no JSON",
        "[1]",
        '{"00081032": 5}',
        '{"00081032": {"vr": "SQ"}}',
        '{"00081032": {"Value": {}}}',
        '{"00081032": {"vr": "SQ", "Value": [null, 5, "x", {}]}}',
        '{"00100021": {"vr": "LO", "Value": [{}]}}',
    ],
)
def test_odd_metadata_states_nothing_and_loses_no_row(projected, text):
    found = projected(metadata_string=text)
    assert found["procedureCodes"] is None
    assert found["modality"] == "CT"


def test_not_a_number_and_half_a_surrogate_do_not_hide_other_elements(projected):
    text = '{"00189073": {"vr": "FD", "Value": [NaN]}, "00401002": {"Value": ["a\\ud800b"]}}'
    assert projected(metadata_string=text)["reasonText"] == "a?b"


def test_string_views_are_taken_for_strings(row, table):
    (batch,) = table([row()]).to_batches()
    views = pa.schema(
        [f.with_type(pa.string_view()) if f.type == pa.string() else f for f in batch.schema]
    )
    found = project(batch.cast(views))
    assert found.schema == INSTANCES


def test_an_issuer_is_kept_with_its_universal_id(projected):
    found = projected(
        {
            "00080051": {
                "vr": "SQ",
                "Value": [{"00400032": {"Value": ["1.2.3"]}, "00400033": {"Value": ["ISO"]}}],
            },
            "00100021": {"vr": "LO", "Value": ["HOSPITAL"]},
        }
    )
    assert json.loads(found["accessionIssuer"]) == [None, "1.2.3", "ISO"]
    assert json.loads(found["patientIdIssuer"]) == ["HOSPITAL", None, None]
    assert projected({"00100021": {"vr": "LO"}})["patientIdIssuer"] is None


def test_an_element_inside_a_sequence_is_not_the_one_at_the_top(projected):
    inside = {"00081032": {"vr": "SQ", "Value": [_code("1", "LN", "inside")]}}
    found = projected(
        {"00081140": {"vr": "SQ", "Value": [inside]}, "00400275": {"Value": [inside]}}
    )
    assert found["procedureCodes"] is None


def test_rows_with_the_same_elements_say_the_same_and_others_their_own(table, row):
    rows = [
        row({"00401002": {"Value": [reason]}, "00181310": {"Value": [n]}})
        for n, reason in enumerate(["cough", "cough", "fall", "cough"])
    ]
    (batch,) = table(rows).to_batches()
    assert project(batch)["reasonText"].to_pylist() == ["cough", "cough", "fall", "cough"]

"""The compiled check: it knows what we write, and never accepts what the model does not."""

import copy
from typing import get_args

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_assets.fhir import compiled
from dicom_assets.fhir.compiled import surely_valid
from dicom_assets.fhir.model import problem

UNKNOWN = {
    "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
    "valueCode": "unknown",
}
STUDY = {
    "resourceType": "ImagingStudy",
    "id": "1.2.840.1",
    "meta": {"lastUpdated": "2024-02-29T12:00:00.000000Z", "source": "urn:dicom-assets:source:a"},
    "contained": [
        {
            "resourceType": "Endpoint",
            "id": "dicomweb",
            "status": "active",
            "connectionType": {"system": "urn:x", "code": "dicom-wado-rs"},
            "payloadType": [{"text": "DICOM"}],
            "address": "https://pacs.example.org/dicomweb",
        }
    ],
    "identifier": [
        {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1"},
        {
            "type": {"coding": [{"system": "urn:v2", "code": "ACSN"}]},
            "system": "urn:oid:1.2",
            "value": "A1",
            "assigner": {"display": "Ward 7"},
        },
    ],
    "status": "available",
    "modality": [{"system": "urn:dcm", "code": "CT"}],
    "subject": {"type": "Patient", "identifier": {"system": "urn:oid:1.3", "value": "P1"}},
    "started": "2024-02-29T09:30:00.5+01:00",
    "referrer": {"display": "山田^太郎"},
    "endpoint": [{"reference": "#dicomweb"}],
    "numberOfSeries": 2,
    "numberOfInstances": 2,
    "procedureCode": [{"coding": [{"system": "urn:x", "code": "CT a", "display": "CT"}]}],
    "reasonCode": [{"text": "cough\tand\nfever"}],
    "description": "CT chest",
    "series": [
        {
            "extension": [{"url": "urn:dicom-assets:folder", "valueString": "External/a"}],
            "uid": "1.2.1",
            "number": 1,
            "modality": {"system": "urn:dcm", "code": "CT"},
            "description": "axial",
            "numberOfInstances": 1,
            "bodySite": {"display": "Chest"},
            "laterality": {"system": "urn:sct", "code": "24028007", "display": "Right"},
            "started": "2024-02-29",
            "performer": [{"actor": {"display": "Doe^Jane"}}],
            "instance": [
                {
                    "uid": "1.2.1.1",
                    "sopClass": {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.3"},
                    "number": 0,
                    "title": "Letter",
                }
            ],
        },
        {
            "uid": "1.2.2",
            "modality": {
                "extension": [{"url": "urn:source-value", "extension": [UNKNOWN]}],
                "code": "OT",
            },
            "numberOfInstances": 1,
            "instance": [{"uid": "1.2.2.1", "sopClass": {"extension": [UNKNOWN]}}],
        },
    ],
}


def _text(resource):
    return orjson.dumps(resource)


def test_a_study_of_all_elements_that_we_write_is_accepted():
    assert surely_valid(_text(STUDY))
    assert surely_valid(_text(STUDY).decode())
    assert problem(STUDY) is None


def test_all_that_we_write_is_accepted_without_the_model(real_rows, convert):
    for options in ({}, {"dicomweb_base_address": "https://p/x", "site_timezone": "Asia/Tokyo"}):
        studies = convert(real_rows, **options)
        assert all(surely_valid(study.line) for study in studies)


@pytest.mark.parametrize(
    "change",
    [
        {"status": None},
        {"status": "ill"},
        {"subject": None},
        {"id": "a_b"},
        {"id": "1" * 65},
        {"id": "a\n"},
        {"description": ""},
        {"description": " \t"},
        {"description": 5},
        {"numberOfSeries": -1},
        {"numberOfSeries": 2**31},
        {"numberOfSeries": 1.5},
        {"numberOfSeries": True},
        {"numberOfSeries": "1"},
        {"started": "2023-02-29"},
        {"started": "2100-02-29"},
        {"started": "2024-04-31"},
        {"started": "2024-13-01"},
        {"started": "0000-01-01"},
        {"started": "2024-01-01T09:30Z"},
        {"started": "2024-01-01T09:30:00"},
        {"started": "2024-01-01T24:00:00Z"},
        {"started": "2024-01-01T09:30:00+14:30"},
        {"started": "2024-01-01\n"},
        {"started": "٢٠٢٤-01-01"},
        {"meta": {"lastUpdated": "2024-01-01", "source": "urn:x"}},
        {"meta": {"lastUpdated": "2024-01-01T00:00:00Z", "source": "a b"}},
        {"modality": []},
        {"modality": {}},
        {"modality": [{"code": " CT"}]},
        {"modality": [{"code": "C  T"}]},
        {"modality": [{"code": "CT", "odd": 1}]},
        {"series": [None]},
        {"series": [{"uid": "1"}]},
        {"subject": {"extension": [{"url": "urn:x", "valueString": "a", "valueCode": "b"}]}},
        {"subject": {"extension": [{"url": "urn:x"}]}},
        {"subject": {"extension": [{"valueCode": "unknown"}]}},
        {"contained": [{"resourceType": "Endpoint", "id": "dicomweb"}]},
        {"contained": ["Endpoint"]},
        {"odd": 1},
        {"resourceType": "Patient"},
    ],
)
def test_what_is_wrong_is_not_accepted(change):
    assert not surely_valid(_text(STUDY | change))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"resourceType"', b"\xff", '"\\ud800"'])
def test_what_is_no_object_is_not_accepted(text):
    assert not surely_valid(text)


def test_what_it_does_not_know_is_left_to_the_model():
    study = STUDY | {"note": [{"text": "said"}]}
    assert not surely_valid(_text(study))
    assert problem(study) is None


def _places(value, path=()):
    """Yields the path of each part of a resource."""
    yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from _places(value[key], (*path, key))


PLACES = [path for path in _places(STUDY) if path]
NAMES = sorted({key for path in PLACES for key in path if isinstance(key, str)})
VALUES = st.one_of(
    st.sampled_from(
        [
            *(
                None,
                True,
                0,
                -1,
                1.5,
                2**31,
                "",
                " ",
                "\x0b",
                "\x1c",
                "\x85",
                "a\x00",
                "a b",
                "a\n",
            ),
            *("2024-02-30", "2024-02", "9999-12-31T23:59:60Z", "0001-01-01T00:00:00+14:00", [], {}),
            *("http://x/y", "urn:oid:1.2", UNKNOWN, [UNKNOWN], [None], {"id": "a"}, ["a"]),
        ]
    ),
    st.text(max_size=8),
    st.integers(-(2**33), 2**33),
    st.from_regex(get_args(compiled.DateTime)[1].pattern),
    st.from_regex(get_args(compiled.Code)[1].pattern),
    st.from_regex(get_args(compiled.Uri)[1].pattern),
    st.sampled_from(PLACES).map(lambda path: copy.deepcopy(_at(STUDY, path))),
)


def _at(value, path):
    for key in path:
        value = value[key]
    return value


@st.composite
def mutants(draw):
    """Draws studies of which one to three parts are others, gone, added, or written twice."""
    study = copy.deepcopy(STUDY)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES))
        try:
            parent = _at(study, path[:-1])
            _at(parent, path[-1:])
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if isinstance(parent, str):
            continue
        how = draw(st.sampled_from(["put", "put", "drop", "add", "twice"]))
        if how == "put":
            parent[path[-1]] = draw(VALUES)
        elif how == "drop":
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(draw(VALUES) if how == "add" else parent[path[-1]]))
        else:
            parent[draw(st.sampled_from(NAMES))] = draw(VALUES)
    return study


@settings(max_examples=300, deadline=None)
@given(study=mutants())
def test_what_it_accepts_the_model_accepts(study):
    if surely_valid(_text(study)):
        assert problem(study) is None

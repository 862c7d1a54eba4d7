"""Late arrivals: two statements about one study become one."""

import copy
import itertools
from datetime import timedelta

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_assets.fhir.codes import DCM, modality
from dicom_assets.fhir.merge import merge_studies
from dicom_assets.fhir.model import problem
from dicom_assets.lakehouse.uris import FOLDER_URL

at_ease = settings(deadline=None)

UIDS = [f"1.{n}" for n in range(4)]
TEXTS = st.sampled_from(["a", "b"])


def _optional(**strategies):
    return st.fixed_dictionaries({}, optional=strategies)


INSTANCES = st.builds(
    lambda uid, rest: {"uid": uid, "sopClass": {"code": "urn:oid:1.2"}, **rest},
    st.sampled_from(UIDS),
    _optional(number=st.integers(0, 3), title=TEXTS),
)
SERIES = st.builds(
    lambda uid, stated, instances, rest: {
        "uid": uid,
        "modality": modality(stated),
        "numberOfInstances": len(instances),
        "instance": instances,
        **rest,
    },
    st.sampled_from(UIDS),
    st.sampled_from(["CT", "SR", None]),
    st.lists(INSTANCES, min_size=1, max_size=3, unique_by=lambda i: i["uid"]),
    _optional(
        number=st.integers(0, 3),
        description=TEXTS,
        extension=TEXTS.map(lambda t: [{"url": FOLDER_URL, "valueString": t}]),
    ),
)
STUDIES = st.builds(
    lambda series, second, rest: {
        "resourceType": "ImagingStudy",
        "id": "1",
        "meta": {"lastUpdated": f"2024-01-01T00:00:{second:02}Z"},
        "status": "available",
        "subject": {"identifier": {"value": "P"}},
        "series": series,
        **rest,
    },
    st.lists(SERIES, min_size=1, max_size=3, unique_by=lambda s: s["uid"]),
    st.integers(0, 59),
    _optional(description=TEXTS, started=st.sampled_from(["2024", "2024-01-01"])),
)


def _instances(study):
    return {(series["uid"], i["uid"]) for series in study["series"] for i in series["instance"]}


def _uids(study):
    return {uid for _, uid in _instances(study)}


@at_ease
@given(STUDIES, STUDIES)
def test_no_instance_is_ever_lost_and_none_is_counted_twice(older, newer):
    merged = merge_studies(older, newer)
    found = [i["uid"] for series in merged["series"] for i in series["instance"]]
    assert len(found) == len(set(found)) == merged["numberOfInstances"]
    assert set(found) == _uids(older) | _uids(newer)
    assert merged["numberOfSeries"] == len(merged["series"])
    for series in merged["series"]:
        assert series["numberOfInstances"] == len(series["instance"]) > 0
    assert merged["meta"] == newer["meta"]


@at_ease
@given(STUDIES, STUDIES)
def test_what_is_merged_is_valid_and_leaves_its_sources_alone(older, newer):
    before = copy.deepcopy((older, newer))
    assert problem(merge_studies(older, newer)) is None
    assert (older, newer) == before


@at_ease
@given(STUDIES)
def test_merging_a_study_with_itself_changes_nothing(study):
    once = merge_studies(study, study)
    assert merge_studies(once, once) == once
    assert _uids(once) == _uids(study)


@at_ease
@given(STUDIES, STUDIES)
def test_merging_either_of_two_again_changes_nothing_more(older, newer):
    once = merge_studies(older, newer)
    assert merge_studies(once, newer) == once
    assert merge_studies(older, once) == once


@at_ease
@given(STUDIES, STUDIES, STUDIES)
def test_it_does_not_matter_which_two_are_merged_first(a, b, c):
    left = merge_studies(merge_studies(a, b), c)
    right = merge_studies(a, merge_studies(b, c))
    assert _instances(left) == _instances(right)
    assert (
        left["description" if "description" in left else "id"]
        == (right["description" if "description" in right else "id"])
    )


ROWS = st.lists(
    st.tuples(
        st.sampled_from(UIDS),
        _optional(
            seriesNumber=st.sampled_from(["1", "2", "-1"]),
            instanceNumber=st.sampled_from(["1", "2", "x"]),
            modality=st.sampled_from(["CT", "SR", None]),
            bodyPartExamined=st.sampled_from(["CHEST", "toe", None]),
            laterality=st.sampled_from(["L", "R"]),
            studyDescription=TEXTS,
            seriesDescription=TEXTS,
            documentTitle=TEXTS,
            patientId=st.sampled_from(["P", None]),
            accessionNumber=TEXTS,
            studyDate=st.sampled_from(["20240101", "2024"]),
            sopClassUid=st.sampled_from(["1.2", None]),
            filePath=st.sampled_from(["x/1", "y/1"]),
        ),
    ),
    min_size=1,
    max_size=6,
)


@at_ease
@given(ROWS, st.integers(1, 5))
def test_studies_that_arrive_in_two_parts_are_as_if_they_had_come_at_once(
    row, resource, now, arrivals, cut
):
    # an instance's series is fixed here; see the test below for one that moves
    rows = [
        row(
            sopInstanceUid=uid,
            seriesInstanceUid=f"2.{uid[-1] in '01'}",
            ingestedAt=now + timedelta(seconds=second),
            **columns,
        )
        for second, (uid, columns) in enumerate(arrivals)
    ]
    first, second = rows[:cut], rows[cut:]
    if second:
        assert merge_studies(resource(*first), resource(*second)) == resource(*rows)


def test_an_instance_is_where_the_newer_statement_has_it(row, resource):
    older = resource(row(seriesInstanceUid="1.1", sopInstanceUid="1.9"))
    newer = resource(row(seriesInstanceUid="1.2", sopInstanceUid="1.9", seriesDescription="moved"))
    merged = merge_studies(older, newer)
    assert [(s["uid"], s["description"]) for s in merged["series"]] == [("1.2", "moved")]


def test_an_unknown_patient_or_modality_does_not_hide_a_known_one(row, resource):
    known = resource(row(studyDescription="x"))
    unknown = resource(row(patientId=None, modality=None, sopClassUid=None))
    merged = merge_studies(known, unknown)
    assert merged["subject"]["identifier"]["value"] == "P1"
    assert merged["series"][0]["modality"] == {"system": DCM, "code": "CT"}
    assert merged["modality"] == [{"system": DCM, "code": "CT"}]
    assert merged["series"][0]["instance"][0]["sopClass"]["code"].startswith("urn:oid:")
    assert merge_studies(unknown, known) == merged


def test_modalities_are_those_of_all_series(row, resource):
    studies = [
        resource(row(seriesInstanceUid=f"1.{n}", sopInstanceUid=f"1.{n}.1", modality=code))
        for n, code in enumerate(("MR", "SR", "CT"))
    ]
    for order in itertools.permutations(studies):
        merged = merge_studies(merge_studies(*order[:2]), order[2])
        assert [each["code"] for each in merged["modality"]] == ["CT", "MR"]
        assert merged["numberOfSeries"] == 3


def test_identifiers_are_united_by_system_and_type(row, resource):
    older = resource(row(accessionNumber="A1"), accession_number_system="urn:a")
    corrected = resource(row(accessionNumber="A2"), accession_number_system="urn:a")
    other = resource(row(accessionNumber="B1"), accession_number_system="urn:b")
    bare = resource(row())
    values = lambda study: [i["value"] for i in study["identifier"]]  # noqa: E731
    assert values(merge_studies(older, corrected)) == ["urn:oid:1.2.840.1", "A2"]
    assert values(merge_studies(older, other)) == ["urn:oid:1.2.840.1", "B1", "A1"]
    assert values(merge_studies(older, bare)) == ["urn:oid:1.2.840.1", "A1"]


def test_studies_of_others_without_series_or_uids_are_merged_too(examples):
    (study,) = examples("siim-hackathon/imaging*.json")
    assert merge_studies(study, study) == study
    odd = {**study, "series": [{"_uid": {"id": "x"}, "number": "3", "modality": {"code": "CT"}}]}
    assert len(merge_studies(odd, odd)["series"]) == 1


def test_real_studies_that_arrive_one_by_one_are_whole_at_the_end(real_rows, convert):
    whole = {study.id: orjson.loads(study.line) for study in convert(real_rows)}
    held = {}
    for each in real_rows:
        (study,) = convert([each])
        arrived = orjson.loads(study.line)
        held[study.id] = merge_studies(held.get(study.id, arrived), arrived)
    assert {k: _uids(v) for k, v in held.items()} == {k: _uids(v) for k, v in whole.items()}

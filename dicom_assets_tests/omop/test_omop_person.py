"""Silver studies and metastore rows → person, one per patient and source system."""

from datetime import timedelta

import pyarrow as pa
import pytest

from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.schemas import PERSON, dicomimagingmetastore
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.image_occurrence import image_occurrences
from dicom_assets.omop.person import METASTORE_COLUMNS, persons
from dicom_assets.omop.vocabulary import Vocabulary


@pytest.fixture
def gold(now, silver):
    schema = dicomimagingmetastore()
    columns = pa.schema([schema.field(name) for name in METASTORE_COLUMNS])

    def run(*rows, crosswalks=None, existing=None, studies=None):
        return persons(
            pa.Table.from_pylist(list(rows), schema=columns),
            silver(*(studies or rows)),
            known=lambda _: PERSON.empty_table() if existing is None else existing,
            crosswalks=crosswalks or Crosswalks(),
            now=now,
        )

    return run


def test_every_image_occurrence_finds_its_person(real_rows, silver, gold, now):
    found = gold(*real_rows)
    assert found.schema == PERSON
    ids = found["person_id"].to_pylist()
    assert len(ids) == len(set(ids))
    images = image_occurrences(
        silver(*real_rows),
        vocabulary=Vocabulary.default(),
        crosswalks=Crosswalks(),
        dicomweb_base_address=None,
        now=now,
    )
    assert set(images["person_id"].to_pylist()) == set(ids)


@pytest.mark.parametrize(
    ("sex", "concept"), [("M", 8507), ("F", 8532), ("f ", 8532), ("O", 0), (None, 0), ("", 0)]
)
def test_sex_becomes_a_gender_concept(row, gold, sex, concept):
    (found,) = gold(row(patientSex=sex)).to_pylist()
    assert found["gender_concept_id"] == concept


@pytest.mark.parametrize(
    ("born", "year"),
    [
        ("19600229", 1960),
        ("19600000", 1960),
        ("1960", 1960),
        ("1960.01.02", 1960),
        ("00000000", None),
        ("60", None),
        ("19600101-19610101", None),
        ("", None),
        (None, None),
    ],
)
def test_the_year_of_birth_is_taken_from_what_is_a_date(row, gold, born, year):
    (found,) = gold(row(patientBirthDate=born)).to_pylist()
    assert found["year_of_birth"] == year


def test_a_patient_of_many_studies_is_one_person(row, gold, now):
    rows = [row(studyInstanceUid=f"1.{n}", sopInstanceUid=f"1.{n}.1") for n in range(3)]
    (found,) = gold(*rows).to_pylist()
    assert found["person_id"] == int_key("default", "P1")
    assert found["person_source_value"] == "P1"
    assert (found["race_concept_id"], found["ethnicity_concept_id"]) == (0, 0)
    assert (found["sourceTable"], found["sourceModifiedAt"]) == ("dicomimagingmetastore", now)


def test_the_newest_row_that_states_something_is_taken(row, gold, now):
    rows = [
        row(patientSex="M", patientBirthDate="1960", ingestedAt=now - timedelta(2)),
        row(patientSex="F", patientBirthDate="odd", ingestedAt=now - timedelta(1)),
        row(patientSex=None, patientBirthDate=" ", ingestedAt=now),
    ]
    for order in (rows, rows[::-1]):
        (found,) = gold(*order).to_pylist()
        assert (found["gender_concept_id"], found["year_of_birth"]) == (8532, 1960)
        assert found["sourceModifiedAt"] == now


def test_what_gold_knows_is_not_lost_when_new_rows_do_not_say(row, gold):
    known = gold(row(patientSex="F", patientBirthDate="1960"))
    (found,) = gold(row(), existing=known).to_pylist()
    assert (found["gender_concept_id"], found["year_of_birth"]) == (8532, 1960)
    (found,) = gold(row(patientSex="M"), existing=known).to_pylist()
    assert (found["gender_concept_id"], found["year_of_birth"]) == (8507, 1960)


def test_an_older_row_that_is_read_later_does_not_win(row, gold, now):
    known = gold(row(patientSex="F", patientBirthDate="1960", ingestedAt=now))
    older = row(patientSex="M", patientBirthDate="1950", ingestedAt=now - timedelta(1))
    (found,) = gold(older, existing=known).to_pylist()
    assert (found["gender_concept_id"], found["year_of_birth"]) == (8532, 1960)
    assert found["sourceModifiedAt"] == now


def test_a_file_without_patient_id_makes_nobody_when_its_study_has_one(row, gold):
    rows = [row(), row(patientId=None, patientSex="F", sopInstanceUid="1.9")]
    (found,) = gold(*rows).to_pylist()
    assert found["person_id"] == int_key("default", "P1")
    assert found["gender_concept_id"] == 8532


def test_a_patient_whom_only_silver_knows_has_a_row_all_the_same(row, gold):
    late = row(patientId=None, sopInstanceUid="1.9")
    (found,) = gold(late, studies=[row(), late]).to_pylist()
    assert (found["person_id"], found["gender_concept_id"]) == (int_key("default", "P1"), 0)


def test_a_crosswalk_that_swaps_two_patients_swaps_what_is_known_of_them(row, gold):
    a = row(patientId="A", patientSex="M", patientBirthDate="1960")
    b = row(patientId="B", patientSex="F", patientBirthDate="1970", studyInstanceUid="1.9")
    before = Crosswalks(persons={("default", "A"): 1, ("default", "B"): 2})
    after = Crosswalks(persons={("default", "A"): 2, ("default", "B"): 1})
    known = gold(a, b, crosswalks=before)
    found = gold(a, crosswalks=after, existing=known.slice(1)).to_pylist()
    assert [(p["person_id"], p["person_source_value"], p["year_of_birth"]) for p in found] == [
        (2, "A", 1960)
    ]
    assert found[0]["gender_concept_id"] == 8507


def test_two_unknown_patients_are_never_one_person(row, gold):
    rows = [
        row(patientId=nothing, studyInstanceUid=f"1.{n}", sopInstanceUid=f"1.{n}.1")
        for n, nothing in enumerate((None, "", " "))
    ]
    found = gold(*rows, *rows).to_pylist()
    assert {each["person_id"] for each in found} == {
        int_key("default", "study", f"1.{n}") for n in range(3)
    }
    assert [each["person_source_value"] for each in found] == [None] * 3


def test_an_odd_patient_id_gives_the_same_person_in_every_table(row, gold, silver, now):
    odd = row(patientId=" P\x00é1\x1b ")
    images = image_occurrences(
        silver(odd),
        vocabulary=Vocabulary.default(),
        crosswalks=Crosswalks(),
        dicomweb_base_address=None,
        now=now,
    )
    assert gold(odd)["person_id"] == images["person_id"]


def test_a_crosswalk_can_make_one_person_of_two_ids(row, gold):
    walks = Crosswalks(persons={("default", "P1"): 42, ("default", "P2"): 42})
    rows = [row(patientId=f"P{n}", studyInstanceUid=f"1.{n}") for n in (1, 2, 3)]
    found = gold(*rows, crosswalks=walks)
    assert sorted(found["person_id"].to_pylist()) == sorted([42, int_key("default", "P3")])


def test_no_rows_are_no_persons(gold):
    assert gold().schema == PERSON


@pytest.mark.parametrize("first", ["M", "F"])
def test_of_files_that_came_at_once_the_last_modified_says_who_somebody_is(row, gold, now, first):
    uids = {"M": "1.2.1", "F": "1.2.2"}
    other = "F" if first == "M" else "M"
    (found,) = gold(
        *(
            row(sopInstanceUid=uids[sex], patientSex=sex, ingestedAt=now, sourceModifiedAt=at)
            for sex, at in ((first, now - timedelta(days=1)), (other, now))
        )
    ).to_pylist()
    assert found["gender_concept_id"] == {"M": 8507, "F": 8532}[other]

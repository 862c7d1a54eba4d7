"""Silver ImagingStudy → image_occurrence, one row per series."""

from collections import Counter
from datetime import date

import orjson
import pyarrow as pa
import pytest

from dicom_assets.fhir.codes import DCM
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.schemas import IMAGE_OCCURRENCE
from dicom_assets.lakehouse.uris import SCT
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.image_occurrence import image_occurrences, unmapped
from dicom_assets.omop.studies import STUDY_COLUMNS
from dicom_assets.omop.vocabulary import Vocabulary


@pytest.fixture
def gold(now):
    def run(silver, *, crosswalks=None, base=None):
        return image_occurrences(
            silver.select(list(STUDY_COLUMNS)),
            vocabulary=Vocabulary.default(),
            crosswalks=crosswalks or Crosswalks(),
            dicomweb_base_address=base,
            now=now,
        )

    return run


def test_real_files_give_one_row_per_series(real_rows, silver, gold):
    table = gold(silver(*real_rows))
    assert table.schema == IMAGE_OCCURRENCE
    files = {(r["studyInstanceUid"], r["seriesInstanceUid"]) for r in real_rows}
    studies, uids = table["image_study_uid"].to_pylist(), table["image_series_uid"].to_pylist()
    assert Counter(zip(studies, uids, strict=True)) == Counter(files)
    assert len(set(table["image_occurrence_id"].to_pylist())) == len(files)
    for row in table.to_pylist():
        assert 0 <= row["image_occurrence_id"] < 2**63
        assert row["modality_concept_id"] or not row["modality_source_value"]


def test_thousands_of_instances_say_nothing_more_about_their_series(row, silver, gold):
    one = row(bodyPartExamined="CHEST", seriesDate="20240130")
    large = [one | {"sopInstanceUid": f"1.9.{n}"} for n in range(2000)]
    (found,) = gold(silver(*large)).to_pylist()
    assert [found] == gold(silver(one)).to_pylist()


def test_a_series_of_other_elements_than_gold_reads_is_read(silver_of, gold):
    series = {
        "uid": "1.2.3",
        "modality": {"system": DCM, "code": "CT"},
        "endpoint": [{"reference": "#e"}],
        "instance": [{"uid": "1.2.3.4", "sopClass": {"code": "x"}, "odd": [{"uid": "1"}]}],
    }
    study = {
        "resourceType": "ImagingStudy",
        "id": "a",
        "status": "available",
        "subject": {"reference": "Patient/7"},
        "series": [{"_uid": {"extension": []}, "modality": {"code": "MR"}}, series],
    }
    rows = gold(silver_of([study])).to_pylist()
    assert [row["image_series_uid"] for row in rows] == ["", "1.2.3"]
    assert [row["modality_source_value"] for row in rows] == ["MR", "CT"]
    assert {row["person_id"] for row in rows} == {int_key("default", "7")}


def test_a_row_says_what_its_series_says(row, silver, gold, now):
    table = silver(
        row(
            bodyPartExamined="chest",
            seriesDate="20240130",
            studyDate="20240129",
            studyTime="2330",
        )
    )
    (found,) = gold(table, base="https://pacs.example/dicom-web/").to_pylist()
    assert found == {
        "image_occurrence_id": int_key("default", "1.2.840.1", "1.2.840.1.1"),
        "person_id": int_key("default", "P1"),
        "procedure_occurrence_id": int_key("default", "1.2.840.1"),
        "visit_occurrence_id": None,
        "anatomic_site_concept_id": 4184181,
        "wadors_uri": "https://pacs.example/dicom-web/studies/1.2.840.1",
        "local_path": "External/PACS/a",
        "image_occurrence_date": date(2024, 1, 30),
        "image_study_uid": "1.2.840.1",
        "image_series_uid": "1.2.840.1.1",
        "modality_concept_id": 2128009190,
        "modality_source_value": "CT",
        "modality_source_concept_id": 2128009190,
        "anatomic_site_source_value": "chest",
        "sourceSystem": "default",
        "sourceTable": "ImagingStudy",
        "sourceRecordId": table["id"][0].as_py(),
        "sourceModifiedAt": now,
        "modifiedAt": now,
    }


def test_the_date_is_the_series_else_the_studys_else_none(row, silver, gold):
    dates = {
        uid: columns
        for uid, columns in (
            ("1.1", {"seriesDate": "20240102"}),
            ("1.2", {}),
            ("1.3", {"seriesDate": "2024"}),
        )
    }
    rows = [row(seriesInstanceUid=u, sopInstanceUid=f"{u}.1", **c) for u, c in dates.items()]
    rows = [each | {"studyDate": "20240101"} for each in rows]
    found = gold(silver(*rows)).to_pylist()
    assert [each["image_occurrence_date"].day for each in found] == [2, 1, 1]
    (found,) = gold(silver(row())).to_pylist()
    assert found["image_occurrence_date"] is None


def test_the_date_is_that_of_the_place_not_of_utc(row, silver, gold):
    early = row(studyDate="20240131", studyTime="0015", timezoneOffsetFromUtc="+0900")
    (found,) = gold(silver(early)).to_pylist()
    assert found["image_occurrence_date"] == date(2024, 1, 31)


def test_an_empty_modality_has_no_source_value_and_no_concept(row, silver, gold):
    (found,) = gold(silver(row(modality=None))).to_pylist()
    assert found["modality_source_value"] is None
    assert (found["modality_concept_id"], found["modality_source_concept_id"]) == (0, 0)
    (other,) = gold(silver(row(modality="OT"))).to_pylist()
    assert (other["modality_source_value"], other["modality_concept_id"]) == ("OT", 2128009246)


def test_a_lower_case_modality_is_mapped_and_kept_as_it_came(row, silver, gold):
    (found,) = gold(silver(row(modality="ct"))).to_pylist()
    assert (found["modality_source_value"], found["modality_concept_id"]) == ("ct", 2128009190)


@pytest.mark.parametrize(
    ("scheme", "code", "concept"),
    [("SCT", "43799004", 4184181), ("99X", "43799004", 0), ("SRT", "T-A0100", 4133034)],
)
def test_a_coded_site_is_mapped_when_it_is_snomed(row, silver, gold, *, scheme, code, concept):
    metadata = (
        '{"00082218":{"vr":"SQ","Value":[{"00080100":{"vr":"SH","Value":["%s"]},'
        '"00080102":{"vr":"SH","Value":["%s"]}}]}}'
    )
    (found,) = gold(silver(row(metadata_string=metadata % (code, scheme)))).to_pylist()
    assert found["anatomic_site_source_value"] == code
    assert found["anatomic_site_concept_id"] == concept


def test_unknown_patients_are_never_one_person(row, silver, gold):
    rows = [row(patientId=None, studyInstanceUid=f"1.{n}") for n in range(2)]
    persons = gold(silver(*rows))["person_id"].to_pylist()
    assert persons == [int_key("", "default", f"1.{n}") for n in range(2)]


def test_the_same_patient_id_in_two_systems_is_two_persons(row, silver, gold):
    rows = [row(sourceSystem=system) for system in ("A", "B")]
    assert len(set(gold(silver(*rows))["person_id"].to_pylist())) == 2


def test_a_crosswalk_gives_persons_and_visits(row, silver, gold):
    walks = Crosswalks(
        persons={("default", "P1"): 42},
        visits_by_study={("default", "1.1"): 7},
        visits_by_accession={("default", "A1"): 8},
    )
    rows = [
        row(studyInstanceUid="1.1", accessionNumber="A1"),
        row(studyInstanceUid="1.2", accessionNumber="A1"),
        row(studyInstanceUid="1.3", accessionNumber="A2", patientId="P2"),
    ]
    found = gold(silver(*rows), crosswalks=walks).sort_by("image_study_uid").to_pylist()
    assert [each["visit_occurrence_id"] for each in found] == [7, 8, None]
    assert [each["person_id"] for each in found] == [42, 42, int_key("default", "P2")]


def test_unmapped_codes_are_counted(row, silver, gold):
    rows = [
        row(seriesInstanceUid=f"1.{n}", sopInstanceUid=f"1.{n}.1", **columns)
        for n, columns in enumerate(
            (
                {"modality": "XX", "bodyPartExamined": "TOE 3"},
                {"modality": "XX", "bodyPartExamined": "CHEST"},
                {"modality": None, "bodyPartExamined": "FETALARM"},
                {"modality": "MR"},
            )
        )
    ]
    found = unmapped(gold(silver(*rows)))
    assert found == {"modality": {"XX": 2}, "anatomic_site": {"FETALARM": 1, "TOE 3": 1}}


def test_studies_of_others_are_mapped_too(silver_of, gold):
    study = {
        "resourceType": "ImagingStudy",
        "id": "example",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.3"}],
        "subject": {"reference": "urn:uuid:0-1"},
        "status": "available",
        "series": [
            {
                "uid": "1.2.3.4",
                "modality": {"system": DCM, "code": "DX", "display": "Digital Radiography"},
                "bodySite": {"system": SCT, "code": "72696002", "display": "Knee"},
            }
        ],
    }
    (found,) = gold(silver_of([study])).to_pylist()
    assert found["image_study_uid"] == "1.2.3"
    assert found["person_id"] == int_key("default", "0-1")
    assert found["anatomic_site_concept_id"] == 4217806
    assert found["local_path"] is None
    bare = study | {"identifier": [{"system": "urn:dicom:uid", "value": "1.9"}]}
    assert gold(silver_of([bare]))["image_study_uid"].to_pylist() == ["1.9"]
    no_series = {name: value for name, value in study.items() if name != "series"}
    assert gold(silver_of([no_series])).num_rows == 0


def test_two_statements_about_one_series_give_one_row(silver_of, gold, row, silver):
    table = silver(row())
    resource = {
        "resourceType": "ImagingStudy",
        "id": "other-id",
        "identifier": orjson.loads(table["identifier_string"][0].as_py()),
        "status": "available",
        "subject": {"identifier": {"value": "P1"}},
        "series": orjson.loads(table["series_string"][0].as_py()),
    }
    assert gold(pa.concat_tables([table, silver_of([resource])])).num_rows == 1


def test_no_studies_are_no_rows(silver_of, gold):
    assert gold(silver_of([])).schema == IMAGE_OCCURRENCE

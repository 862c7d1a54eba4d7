"""Metastore rows → ImagingStudy: the contract's table, and the known faults of other converters."""

import random
from datetime import timedelta

import orjson
import pytest
from fhir.resources.R4B.imagingstudy import ImagingStudy

from dicom_assets.fhir.codes import DATA_ABSENT_URL, DCM, SCT
from dicom_assets.fhir.imaging_study import Study
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.lakehouse.uris import FOLDER_URL


def _sequence(code, scheme, meaning):
    item = {
        "00080100": {"vr": "SH", "Value": [code]},
        "00080102": {"vr": "SH", "Value": [scheme]},
        "00080104": {"vr": "LO", "Value": [meaning]},
    }
    return {"vr": "SQ", "Value": [item]}


def test_real_files_make_valid_resources_that_agree_with_themselves(real_rows, convert):
    studies = convert(real_rows, site_timezone="Europe/Zurich", dicomweb_base_address="https://p/x")
    assert all(isinstance(study, Study) for study in studies)
    expected = {row["studyInstanceUid"] for row in real_rows}
    assert {study.id for study in studies} == expected
    for study in studies:
        resource = orjson.loads(study.line)
        ImagingStudy.model_validate(resource)
        assert b"\n" not in study.line
        series = resource["series"]
        assert resource["numberOfSeries"] == len(series) == study.series >= 1
        counted = [len(each["instance"]) for each in series]
        assert counted == [each["numberOfInstances"] for each in series]
        assert resource["numberOfInstances"] == sum(counted) == study.instances
        uids = [i for i in resource["identifier"] if i.get("system") == "urn:dicom:uid"]
        assert [uid["value"] for uid in uids] == [f"urn:oid:{study.id}"]
    instances = {row["sopInstanceUid"] for row in real_rows}
    assert sum(study.instances for study in studies) == len(instances) < len(real_rows)


def test_the_same_rows_in_any_order_give_the_same_bytes(real_rows, convert):
    lines = [study.line for study in convert(real_rows)]
    for seed in range(3):
        shuffled = list(real_rows)
        random.Random(seed).shuffle(shuffled)  # noqa: S311
        assert [study.line for study in convert(shuffled)] == lines


def test_a_study_was_last_updated_when_its_newest_file_was_taken_in(row, resource, now):
    later = row(sopInstanceUid="1.9", ingestedAt=now + timedelta(seconds=1))
    assert resource(row())["meta"]["lastUpdated"] == "2024-05-17T12:00:00.000000Z"
    assert resource(row(), later)["meta"]["lastUpdated"] == "2024-05-17T12:00:01.000000Z"


# -- known faults ---------------------------------------------------------------------------------


def test_two_studies_of_one_patient_are_not_merged(row, convert):
    studies = convert([row(), row(studyInstanceUid="1.2.840.2")])
    assert [study.id for study in studies] == ["1.2.840.1", "1.2.840.2"]


def test_one_study_uid_in_two_source_systems_is_two_studies(row, convert):
    studies = convert([row(sourceSystem="PACS_B"), row(sourceSystem="PACS_A")])
    assert [study.source_system for study in studies] == ["PACS_A", "PACS_B"]
    assert {orjson.loads(s.line)["meta"]["source"] for s in studies} == {
        "urn:dicom-assets:source:PACS_A",
        "urn:dicom-assets:source:PACS_B",
    }


def test_a_repeated_instance_is_counted_once_and_the_newest_wins(row, resource, now):
    study = resource(
        row(instanceNumber="2", ingestedAt=now + timedelta(seconds=1)),
        row(instanceNumber="1"),
        row(instanceNumber="3", ingestedAt=now - timedelta(days=1)),
    )
    assert study["numberOfInstances"] == 1
    assert study["series"][0]["instance"][0]["number"] == 2


def test_rows_ingested_at_once_are_ordered_by_modification_then_content(row, resource, now):
    older = {"instanceNumber": "1", "sourceModifiedAt": now, "contentHash": "ff"}
    newer = {"instanceNumber": "2", "sourceModifiedAt": now + timedelta(1), "contentHash": "00"}
    for rows in ([older, newer], [newer, older]):
        study = resource(*(row(**each) for each in rows))
        assert study["series"][0]["instance"][0]["number"] == 2
    tied = [{"instanceNumber": "1", "contentHash": "aa"}, {"instanceNumber": "2"}]
    for rows in (tied, tied[::-1]):
        study = resource(*(row(**each) for each in rows))
        assert study["series"][0]["instance"][0]["number"] == 1


def test_half_past_nine_is_not_midnight(row, resource):
    study = resource(row(studyDate="20240131", studyTime="0930", timezoneOffsetFromUtc="+0100"))
    assert study["started"] == "2024-01-31T09:30:00+01:00"


def test_a_time_zone_is_not_invented(row, resource):
    stated = row(
        studyDate="20240131", studyTime="0930", seriesDate="20240131", seriesTime="093000.25"
    )
    study = resource(stated)
    assert (study["started"], study["series"][0]["started"]) == ("2024-01-31", "2024-01-31")
    study = resource(stated, site_timezone="America/New_York")
    assert study["started"] == "2024-01-31T09:30:00-05:00"
    assert study["series"][0]["started"] == "2024-01-31T09:30:00.25-05:00"


def test_a_procedure_code_keeps_its_value(row, resource):
    study = resource(row({"00081032": _sequence("24627-2", "LN", "CT Chest")}))
    assert study["procedureCode"] == [
        {"coding": [{"system": "http://loinc.org", "code": "24627-2", "display": "CT Chest"}]}
    ]


def test_the_study_uid_is_an_identifier_beside_the_accession_number(row, resource):
    study = resource(row(accessionNumber="A1"), accession_number_system="urn:site:accession")
    assert study["identifier"] == [
        {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1"},
        {
            "type": {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}
                ]
            },
            "value": "A1",
            "system": "urn:site:accession",
        },
    ]


def test_an_accession_number_has_the_system_of_its_issuer_or_none(row, resource):
    issuer = {"00400032": {"Value": ["1.2.3"]}, "00400033": {"Value": ["ISO"]}}
    stated = row({"00080051": {"vr": "SQ", "Value": [issuer]}}, accessionNumber="A1")
    assert resource(stated)["identifier"][1]["system"] == "urn:oid:1.2.3"
    assert "system" not in resource(row(accessionNumber="A1"))["identifier"][1]
    assert len(resource(row(accessionNumber=" "))["identifier"]) == 1


def test_resource_ids_are_not_random(row, resource):
    assert resource(row())["id"] == resource(row())["id"] == "1.2.840.1"
    odd = resource(row(studyInstanceUid="1.2_3"))
    assert odd["id"] == resource(row(studyInstanceUid="1.2_3"))["id"]
    assert len(odd["id"]) == 64
    assert odd["identifier"][0]["value"] == "urn:oid:1.2_3"


def test_laterality_and_body_site_have_a_system(row, resource):
    (series,) = resource(row(laterality="L", bodyPartExamined="knee"))["series"]
    assert (series["laterality"]["system"], series["laterality"]["code"]) == (SCT, "7771000")
    assert (series["bodySite"]["system"], series["bodySite"]["code"]) == (SCT, "72696002")


@pytest.mark.parametrize("number", ["-1", "2147483648", "1.5", "one", "", "1e3", "٣"])
def test_a_bad_number_does_not_fail_the_study(row, resource, number):
    (series,) = resource(row(seriesNumber=number, instanceNumber=number))["series"]
    assert "number" not in series
    assert "number" not in series["instance"][0]


@pytest.mark.parametrize(
    ("number", "said"), [("0", 0), ("+7", 7), ("007", 7), ("2147483647", 2**31 - 1), (" 5 ", 5)]
)
def test_a_good_number_is_kept(row, resource, number, said):
    assert resource(row(seriesNumber=number))["series"][0]["number"] == said


# -- the table of elements ------------------------------------------------------------------------


def test_only_acquisition_modalities_are_the_studys(row, resource):
    rows = [
        row(seriesInstanceUid=f"1.{n}", sopInstanceUid=f"1.{n}.1", modality=modality)
        for n, modality in enumerate(("MR", "SR", "CT", "KO", "MR"))
    ]
    study = resource(*rows)
    assert study["modality"] == [{"system": DCM, "code": "CT"}, {"system": DCM, "code": "MR"}]
    assert study["numberOfSeries"] == 5


def test_a_study_of_reports_has_no_modality(real_rows, convert):
    studies = [orjson.loads(study.line) for study in convert(real_rows)]
    reports = [s for s in studies if {x["modality"]["code"] for x in s["series"]} == {"SR"}]
    assert reports
    for study in reports:
        assert "modality" not in study
        assert all(i["title"] for each in study["series"] for i in each["instance"])


def test_the_subject_is_a_logical_reference(row, resource):
    assert resource(row(), patient_id_system="urn:site:patients")["subject"] == {
        "type": "Patient",
        "identifier": {"value": "P1", "system": "urn:site:patients"},
    }


@pytest.mark.parametrize("patient_id", [None, "", "  "])
def test_a_study_without_patient_id_is_written_all_the_same(row, resource, patient_id):
    subject = resource(row(patientId=patient_id))["subject"]
    assert subject["extension"] == [{"url": DATA_ABSENT_URL, "valueCode": "unknown"}]
    assert "identifier" not in subject


def test_the_counts_of_query_attributes_are_not_trusted(real_rows, row, resource):
    study = resource(row({"00201206": {"vr": "IS", "Value": [99]}}))
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (1, 1)


def test_referrer_reason_description_and_performers(row, resource):
    study = resource(
        row(
            {
                "0040100A": _sequence("49727002", "SCT", "Cough"),
                "00401002": {"vr": "LO", "Value": ["cough since May"]},
                "00081070": {"vr": "PN", "Value": [{"Alphabetic": "Roe^Rita^^"}]},
            },
            referringPhysicianName="Doe^John^^^",
            studyDescription="Chest \x00CT",
            seriesDescription="axial",
        )
    )
    assert study["referrer"] == {"display": "Doe^John"}
    assert study["description"] == "Chest CT"
    assert study["reasonCode"] == [
        {"coding": [{"system": SCT, "code": "49727002", "display": "Cough"}]},
        {"text": "cough since May"},
    ]
    (series,) = study["series"]
    assert series["description"] == "axial"
    assert series["performer"] == [{"actor": {"display": "Roe^Rita"}}]


def test_the_endpoint_is_contained_when_one_is_configured(row, resource):
    study = resource(row(), dicomweb_base_address="https://pacs.example/dicom-web/studies/")
    (endpoint,) = study["contained"]
    assert endpoint["address"] == "https://pacs.example/dicom-web"
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"
    assert study["endpoint"] == [{"reference": f"#{endpoint['id']}"}]
    assert "contained" not in resource(row())


def test_an_empty_modality_is_other_with_the_original_in_an_extension(row, resource):
    study = resource(row(modality=None))
    (series,) = study["series"]
    assert (series["modality"]["system"], series["modality"]["code"]) == (DCM, "OT")
    assert series["modality"]["extension"][0]["url"] == "urn:dicom-assets:source-value"
    assert "modality" not in study


def test_instances_have_their_sop_class_and_title(row, resource):
    (series,) = resource(row(documentTitle="Letter"))["series"]
    assert series["instance"] == [
        {
            "uid": "1.2.840.1.1.1",
            "sopClass": {
                "system": "urn:ietf:rfc:3986",
                "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2",
            },
            "title": "Letter",
        }
    ]
    (series,) = resource(row(sopClassUid=None))["series"]
    assert series["instance"][0]["sopClass"]["extension"][0]["url"] == DATA_ABSENT_URL


def test_series_and_instances_are_in_order_of_number_then_uid(row, resource):
    rows = [
        row(
            seriesInstanceUid=f"1.{series}",
            sopInstanceUid=f"1.{series}.{instance}",
            seriesNumber=number,
            instanceNumber=str(10 - instance) if instance else None,
        )
        for series, number in ((1, None), (2, "10"), (3, "9"), (4, "9"))
        for instance in range(3)
    ]
    study = resource(*rows)
    assert [s["uid"] for s in study["series"]] == ["1.3", "1.4", "1.2", "1.1"]
    assert [i["uid"] for i in study["series"][0]["instance"]] == ["1.3.2", "1.3.1", "1.3.0"]


def test_an_attribute_comes_from_the_newest_row_that_states_it(row, resource, now):
    study = resource(
        row(sopInstanceUid="1.1", studyDescription="old", seriesDescription="old", patientId=None),
        row(sopInstanceUid="1.2", studyDescription="new", ingestedAt=now + timedelta(1)),
        row(sopInstanceUid="1.3", modality=None, patientId=None, ingestedAt=now + timedelta(2)),
    )
    assert study["description"] == "new"
    assert study["subject"]["identifier"]["value"] == "P1"
    (series,) = study["series"]
    assert series["description"] == "old"
    assert series["modality"]["code"] == "CT"


def test_the_folder_is_that_of_the_newest_instance(row, resource, now):
    study = resource(
        row(filePath="External/a/1.dcm"),
        row(sopInstanceUid="1.2", filePath="External/b/2.dcm", ingestedAt=now + timedelta(1)),
    )
    assert study["series"][0]["extension"] == [{"url": FOLDER_URL, "valueString": "External/b"}]


def test_an_instance_that_moved_to_another_series_is_counted_there_only(row, resource, now):
    study = resource(
        row(seriesInstanceUid="1.1", sopInstanceUid="1.9"),
        row(seriesInstanceUid="1.2", sopInstanceUid="1.9", ingestedAt=now + timedelta(1)),
    )
    assert [series["uid"] for series in study["series"]] == ["1.2"]
    assert study["numberOfInstances"] == 1


def test_the_laterality_of_images_counts_where_they_agree(row, resource):
    def image(side, uid, **columns):
        return row({"00200062": {"vr": "CS", "Value": [side]}}, sopInstanceUid=uid, **columns)

    (series,) = resource(image("R", "1.1"), image("R", "1.2"))["series"]
    assert series["laterality"]["code"] == "24028007"
    (series,) = resource(image("R", "1.1"), image("L", "1.2"))["series"]
    assert "laterality" not in series
    (series,) = resource(image("R", "1.1", laterality="L"))["series"]
    assert series["laterality"]["code"] == "7771000"


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "tag"), [("seriesInstanceUid", "0020000E"), ("sopInstanceUid", "00080018")]
)
@pytest.mark.parametrize("uid", ["1.2 3", "1.2_3", "1" * 65, ""])
def test_a_uid_that_fhir_cannot_hold_fails_its_row_not_the_study(row, convert, column, tag, uid):
    bad = row(filePath="Process/1_bad.dcm.zip", sourcePath="a.zip!/bad.dcm", **{column: uid})
    failure, study = convert([bad, row()])
    assert isinstance(failure, Failure)
    assert isinstance(study, Study)
    assert (failure.step, failure.reason) == ("convert", Reason.INVALID_RESOURCE)
    assert (failure.tags, failure.source_path) == ((tag,), "a.zip!/bad.dcm")
    assert failure.failed_path == "Process/1_bad.dcm.zip"
    assert study.instances == 1
    assert [type(each) for each in convert([bad])] == [Failure]


def test_a_study_that_cannot_be_made_valid_fails_and_the_others_are_written(
    row, convert, monkeypatch
):
    from dicom_assets.fhir import imaging_study

    real = imaging_study._resource

    def broken(system, uid, *rest):
        resource = real(system, uid, *rest)
        return (
            resource | {"status": "P1 is ill"} | {"started": ["P1"]} if uid == "1.2" else resource
        )

    monkeypatch.setattr(imaging_study, "_resource", broken)
    failure, study = convert([row(), row(studyInstanceUid="1.2")])
    assert isinstance(failure, Failure)
    assert isinstance(study, Study)
    assert "started" in failure.message
    assert "P1" not in failure.message


def test_no_rows_are_no_studies(convert):
    assert convert([]) == []

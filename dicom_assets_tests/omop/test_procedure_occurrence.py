"""Silver ImagingStudy → procedure_occurrence, one row per study."""

from datetime import UTC, date, datetime

import pytest

from dicom_assets.lakehouse.schemas import PROCEDURE_OCCURRENCE
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.image_occurrence import image_occurrences
from dicom_assets.omop.procedure_occurrence import procedure_occurrences
from dicom_assets.omop.studies import STUDY_COLUMNS
from dicom_assets.omop.vocabulary import Vocabulary


@pytest.fixture
def gold(now):
    def run(silver):
        columns = silver.select(list(STUDY_COLUMNS))
        return procedure_occurrences(columns, crosswalks=Crosswalks(), now=now)

    return run


def test_every_image_occurrence_finds_its_procedure_and_person(real_rows, silver, gold, now):
    table = silver(*real_rows)
    procedures = gold(table)
    assert procedures.schema == PROCEDURE_OCCURRENCE
    assert procedures.num_rows == len({row["studyInstanceUid"] for row in real_rows})
    images = image_occurrences(
        table,
        vocabulary=Vocabulary.default(),
        crosswalks=Crosswalks(),
        dicomweb_base_address=None,
        now=now,
    )
    keys = ("procedure_occurrence_id", "person_id")
    pairs = {tuple(row[key] for key in keys) for row in procedures.to_pylist()}
    assert {tuple(row[key] for key in keys) for row in images.to_pylist()} == pairs


def test_a_row_says_when_and_what(row, silver, gold):
    stated = row(studyDate="20240131", studyTime="0015", studyDescription="CT chest")
    (found,) = gold(silver(stated)).to_pylist()
    assert found["procedure_date"] == date(2024, 1, 31)
    assert found["procedure_datetime"] == datetime(2024, 1, 30, 23, 15, tzinfo=UTC)
    assert (found["procedure_concept_id"], found["procedure_type_concept_id"]) == (0, 32817)
    assert found["procedure_source_value"] == "CT chest"


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ('"00080100":{"Value":["24627-2"]},"00080102":{"Value":["LN"]}', "24627-2"),
        ('"00080104":{"Value":["as before"]}', "as before"),
    ],
)
def test_the_procedure_code_goes_before_the_description(row, silver, gold, item, said):
    metadata = f'{{"00081032":{{"vr":"SQ","Value":[{{{item}}}]}}}}'
    stated = row(metadata_string=metadata, studyDescription="CT chest")
    (found,) = gold(silver(stated)).to_pylist()
    assert found["procedure_source_value"] == said


def test_what_is_not_known_is_null(row, silver, gold):
    (found,) = gold(silver(row())).to_pylist()
    for column in ("procedure_date", "procedure_datetime", "procedure_source_value"):
        assert found[column] is None

"""Code → OMOP concept id: the defaults, and a site's Athena download."""

import pytest

from dicom_assets.omop.vocabulary import Vocabulary

HEADER = (
    "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\t"
    "concept_code\tvalid_start_date\tvalid_end_date\tinvalid_reason"
)


@pytest.fixture
def athena(tmp_path):
    def write(*concepts, header=HEADER):
        lines = [
            f"{number}\t{name}\tD\t{vocabulary}\tC\t{standard}\t{code}\t19700101\t20991231\t{reason}"
            for number, name, vocabulary, standard, code, reason in concepts
        ]
        (tmp_path / "CONCEPT.csv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path

    return write


def test_the_defaults_are_the_terminology():
    vocabulary = Vocabulary.default()
    assert vocabulary.modality("CT") == 2128009190
    assert vocabulary.snomed_concept("43799004") == 4184181


@pytest.mark.parametrize("code", [None, "", "XX", "ct"])
def test_what_is_unknown_is_zero(code):
    assert Vocabulary.default().modality(code) == 0
    assert Vocabulary.default().snomed_concept(code) == 0


def test_an_athena_download_overrides_the_codes_it_has(athena):
    folder = athena(
        (1, "CT", "DICOM", "", "CT", ""),
        (2, 'Chest "thorax', "SNOMED", "S", "43799004", ""),
        (3, "Not standard", "SNOMED", "", "69536005", ""),
        (4, "Retired", "SNOMED", "S", "818981001", "D"),
        (5, "Other vocabulary", "LOINC", "S", "12738006", ""),
        (6, "New", "SNOMED", "S", "999", ""),
    )
    vocabulary = Vocabulary.from_athena(folder)
    assert vocabulary.modality("CT") == 1
    assert vocabulary.modality("MR") == 2128009230
    assert vocabulary.snomed_concept("43799004") == 2
    assert vocabulary.snomed_concept("999") == 6
    default = Vocabulary.default()
    for code in ("69536005", "818981001", "12738006"):
        assert vocabulary.snomed_concept(code) == default.snomed_concept(code) != 0


def test_of_several_concepts_with_one_code_it_is_always_the_same(athena):
    concepts = [(7, "a", "DICOM", "", "CT", ""), (5, "b", "DICOM", "", "CT", "")]
    assert Vocabulary.from_athena(athena(*concepts)).modality("CT") == 5
    assert Vocabulary.from_athena(athena(*concepts[::-1])).modality("CT") == 5


def test_a_folder_that_is_no_athena_download_is_an_error(athena, tmp_path):
    with pytest.raises(ValueError, match=r"athena_vocabulary.*CONCEPT\.csv"):
        Vocabulary.from_athena(tmp_path)
    with pytest.raises(ValueError, match="concept_code"):
        Vocabulary.from_athena(athena(header=HEADER.replace("concept_code", "code")))

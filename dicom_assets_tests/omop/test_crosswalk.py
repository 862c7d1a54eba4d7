"""A site's own OMOP ids."""

import pytest

from dicom_assets.omop.crosswalk import Crosswalks


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "crosswalk.csv"
        path.write_bytes(text.encode())
        return path

    return write


def test_without_files_there_is_nothing():
    walks = Crosswalks.read()
    assert walks == Crosswalks()
    assert walks.visit("default", "1.2", "A1") is None


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_persons_are_read(file, start, end):
    lines = [
        "source_system,person_source_value,person_id,note",
        'PACS," P,1 ",42,x',
        "",
        ",P2,43",
        ",,,",
    ]
    walks = Crosswalks.read(person=file(start + end.join(lines)))
    assert walks.persons == {("PACS", "P,1"): 42, ("default", "P2"): 43}


def test_visits_are_read_by_study_and_accession_number(file):
    walks = Crosswalks.read(
        visit=file(
            "source_system,accession_number,study_uid,visit_occurrence_id\n"
            "default,A1,,1\ndefault,,1.2,2\n"
        )
    )
    assert walks.visit("default", "1.2", "A1") == 2
    assert walks.visit("default", "1.3", "A1") == 1
    assert walks.visit("default", "1.3", None) is None
    assert walks.visit("PACS", "1.2", "A1") is None


@pytest.mark.parametrize(
    "columns",
    [
        "source_system,study_uid,visit_occurrence_id",
        "source_system,accession_number,visit_occurrence_id",
    ],
)
def test_one_of_the_two_is_enough(file, columns):
    walks = Crosswalks.read(visit=file(f"{columns}\ndefault,1.2,5\n"))
    assert walks.visit("default", "1.2", "1.2") == 5


@pytest.mark.parametrize("missing", ["source_system", "person_source_value", "person_id"])
def test_a_missing_column_is_named(file, missing):
    columns = [c for c in ("source_system", "person_source_value", "person_id") if c != missing]
    with pytest.raises(ValueError, match=f"person_crosswalk.*no column {missing}"):
        Crosswalks.read(person=file(",".join(columns) + "\na,b\n"))


@pytest.mark.parametrize("text", ["", "source_system,visit_occurrence_id\ndefault,1\n"])
def test_a_visit_file_without_its_columns_is_an_error(file, text):
    with pytest.raises(ValueError, match=r"visit_crosswalk.*no column"):
        Crosswalks.read(visit=file(text))


@pytest.mark.parametrize("wrong", ["Jane", "-1", "1" * 20, "9223372036854775808", "1.5", "²"])
def test_an_id_that_omop_cannot_hold_is_an_error(file, wrong):
    with pytest.raises(ValueError, match="line 2: person_id is no whole number from 0"):
        Crosswalks.read(
            person=file(f"source_system,person_source_value,person_id\ndefault,P1,{wrong}\n")
        )


def test_two_lines_that_contradict_each_other_are_an_error(file):
    text = "source_system,person_source_value,person_id\ndefault,P1,1\ndefault,P1,1\n"
    assert Crosswalks.read(person=file(text)).persons == {("default", "P1"): 1}
    with pytest.raises(ValueError, match="line 4: another person_id than in a line before"):
        Crosswalks.read(person=file(text + "default,P1,2\n"))


def test_a_file_in_another_encoding_is_an_error_that_shows_nothing_of_it(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes(
        "source_system,person_source_value,person_id\ndefault,Müller,1\n".encode("latin-1")
    )
    with pytest.raises(ValueError, match="is not UTF-8") as told:
        Crosswalks.read(person=path)
    assert "ller" not in str(told.value)


def test_an_id_that_is_no_number_is_told_by_its_line(file):
    text = "source_system,person_source_value,person_id\ndefault,P1,1\ndefault,P2,Jane\n"
    with pytest.raises(ValueError, match="line 3: person_id is no whole number") as told:
        Crosswalks.read(person=file(text))
    assert "Jane" not in str(told.value)

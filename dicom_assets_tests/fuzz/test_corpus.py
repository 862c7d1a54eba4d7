"""What fuzzing has found, and the seeds it starts from, are tried again by every run."""

import pytest
from oracles import CORPUS, check_archive, check_header


@pytest.mark.parametrize("path", sorted((CORPUS / "header").iterdir()), ids=lambda path: path.name)
def test_a_header_is_read_or_refused_and_nothing_else_happens(path):
    data = path.read_bytes()
    assert check_header(data) == check_header(data)


@pytest.mark.parametrize("path", sorted((CORPUS / "archive").iterdir()), ids=lambda path: path.name)
def test_an_archive_gives_its_members_or_a_reason_and_nothing_else_happens(path, tmp_path):
    data = path.read_bytes()
    assert check_archive(data, tmp_path) == check_archive(data, tmp_path)


def test_the_seeds_reach_what_is_good_and_what_is_bad(tmp_path):
    headers = {check_header(path.read_bytes()) for path in (CORPUS / "header").iterdir()}
    assert {"row", "row as pydicom reads it"} <= headers
    paths = (CORPUS / "archive").iterdir()
    archives = {check_archive(path.read_bytes(), tmp_path) for path in paths}
    assert {"members", "archive_member_unsafe, members", "member_damaged"} <= archives

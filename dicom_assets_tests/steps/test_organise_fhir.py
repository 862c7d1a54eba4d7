"""Dropped FHIR files are moved to the folder of what is in them, once, and nothing is lost."""

import gzip
import json
from pathlib import Path

import pytest

from dicom_assets.lakehouse import drop_folder
from dicom_assets.lakehouse import journal as journals
from dicom_assets.steps import catalog
from dicom_assets.steps.organise_fhir import organise_fhir
from dicom_assets.steps.retry import retry
from dicom_assets.steps.verify import verify
from dicom_assets_tests.conftest import interrupting

PACKED = gzip.compress(b'{"resourceType":"Patient"}', mtime=0)
PROCESS, FAILED = (f"bronze/Files/{each}/Clinical/FHIR NDJSON" for each in ("Process", "Failed"))


def resource(kind: str, own_id: str = "a") -> dict:
    return {"resourceType": kind, "id": own_id}


def bundle(*resources: dict) -> dict:
    return {"resourceType": "Bundle", "id": "b", "entry": [{"resource": r} for r in resources]}


@pytest.fixture
def drop(house):
    def drop(name: str, content: object) -> bytes:
        path = house.run.engine.layout.fhir_drop_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(data)
        return data

    return drop


def lying(house, below: str) -> dict[str, bytes]:
    """Folder behind the date, and original name, of each file → its bytes."""
    root = house.settings.lakehouse / below
    return {
        "/".join([*path.relative_to(root).parts[:-1], path.name.partition("_")[2]]): (
            path.read_bytes()
        )
        for path in house.files(below)
    }


def left(house) -> list[Path]:
    folder = house.run.engine.layout.fhir_drop_folder
    return list(folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize(
    ("name", "content", "kept_as"),
    [
        ("a.json", b'{\n "resourceType": "Patient",\n "id": "a"\n}', "a.json"),
        ("deep/er/a.NDJSON", b'{"resourceType":"Patient","id":"a"}\n', "a.NDJSON"),
        ("noextension", b'[{"resourceType":"Patient"},{"resourceType":"Patient"}]', ".ndjson"),
        ("x.txt", json.dumps(bundle(resource("Patient"))).encode(), "x.txt.ndjson"),
        ("a.json", PACKED, "a.json.gz"),
        ("a.json.gz", PACKED, "a.json.gz"),
        ("a.json.gz", b'{"resourceType":"Patient"}', "a.json"),
    ],
)
def test_a_file_of_one_type_is_moved_as_it_is(house, drop, name, content, kept_as):
    drop(name, content)
    assert organise_fhir(house.run).rows == 1
    ((address, data),) = lying(house, PROCESS).items()
    assert address.startswith("2026/03/14/Patient/")
    assert address.endswith(kept_as)
    assert data == content
    assert left(house) == []
    (row,) = house.rows(catalog.FHIR_FILES)
    assert (row["sourcePath"], row["resourceType"]) == (name, "Patient")
    assert house.run.engine.layout.absolute(row["filePath"]).exists()
    assert row["fileSize"] == len(content)


def test_a_bundle_of_several_types_goes_to_the_folder_of_each(house, drop):
    whole = drop("all.json", bundle(resource("Patient"), resource("Observation"), {"x": "Jane"}))
    report = organise_fhir(house.run)
    assert (report.rows, report.counts["failures"], report.counts["taken_apart"]) == (2, 1, 1)
    assert lying(house, PROCESS) == {
        "2026/03/14/Mixed/all.json": whole,
        "2026/03/14/Observation/all.ndjson": b'{"resourceType":"Observation","id":"a"}\n',
        "2026/03/14/Patient/all.ndjson": b'{"resourceType":"Patient","id":"a"}\n',
    }
    assert lying(house, FAILED) == {"2026/03/14/Unknown/all.ndjson": b'{"x":"Jane"}\n'}
    (failure,) = house.rows(catalog.INGESTION_FAILURES)
    assert (failure["reasonCode"], failure["line"]) == ("wrong_resource_type", 3)
    assert "Jane" not in failure["message"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"%PDF-1.7\n\xff\xfe", "invalid_json"),
        (b'{"resourceType": "Patient"', "invalid_json"),
        (b'{"resourceType": "Jane"}', "wrong_resource_type"),
        (PACKED[:-12], "gzip_damaged"),
    ],
)
def test_a_file_without_a_resource_fails_with_the_reason(house, drop, content, reason):
    drop("in/a.json", content)
    drop("b.json", resource("Patient"))
    assert organise_fhir(house.run).rows == 1
    assert house.failures() == {"in/a.json": reason}
    assert lying(house, FAILED) == {"2026/03/14/Unknown/a.json": content}
    assert left(house) == []


def test_a_gzip_file_that_is_damaged_keeps_what_it_expands_to(house, drop):
    reports = b"".join(
        json.dumps(resource("DiagnosticReport", own_id)).encode() + b"\n" for own_id in "ab"
    )
    drop("cut.gz", gzip.compress(reports)[:-6])
    drop("trailing.gz", gzip.compress(reports.replace(b'"a"', b'"c"')) + b"trailing")
    drop("mixed.gz", gzip.compress(reports + json.dumps(resource("Patient")).encode())[:-6])
    house.chain()
    rows = house.rows(catalog.bronze_fhir("DiagnosticReport"))
    assert sorted(row["id"] for row in rows) == ["a", "a", "b", "b", "b", "c"]
    failures = house.rows(catalog.INGESTION_FAILURES)
    assert {(each["reasonCode"], each["line"]) for each in failures} == {
        ("gzip_damaged", 3),  # in place of a line behind the last one
        ("gzip_damaged", 4),
    }
    assert len(failures) == 3
    assert verify(house.settings).counts == {}


def test_a_link_is_never_followed(house, drop, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(resource("Patient")))
    drop("x/b.json", resource("Patient"))
    folder = house.run.engine.layout.fhir_drop_folder
    (folder / "a.json").symlink_to(secret)
    organise_fhir(house.run)
    assert house.failures() == {"a.json": "not_a_file"}
    assert secret.exists()


def test_a_first_level_folder_is_a_namespace_unless_it_names_a_type(make_house):
    house = make_house(source_systems="*")
    for name in ("RIS/x/a.json", "Patient/b.json", "c.json"):
        path = house.run.engine.layout.fhir_drop_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(resource("Patient")))
    organise_fhir(house.run)
    found = {row["sourcePath"]: row["sourceSystem"] for row in house.rows(catalog.FHIR_FILES)}
    assert found == {"RIS/x/a.json": "RIS", "Patient/b.json": "default", "c.json": "default"}
    assert len(house.files(f"{PROCESS}/RIS/2026/03/14/Patient")) == 1
    assert [path.name for path in left(house)] == ["RIS"]


@pytest.mark.parametrize("done", range(4))
def test_a_killed_run_is_finished_by_the_next(house, drop, monkeypatch, done):
    for n in range(3):
        drop(f"{n}.json", bundle(resource("Patient", f"{n}"), resource("Observation", f"{n}")))
    with monkeypatch.context() as patch:
        interrupted = interrupting(done)
        patch.setattr(journals, "transfer", interrupted(journals.transfer))
        patch.setattr(journals.Journal, "_commit", interrupted(journals.Journal._commit))
        with pytest.raises(KeyboardInterrupt):
            organise_fhir(house.run)
    organise_fhir(house.run)
    assert left(house) == []
    assert len(house.rows(catalog.FHIR_FILES)) == 6
    assert len(lying(house, PROCESS)) == 9
    assert not house.run.engine.layout.fhir_organise_folder.exists()
    before = house.everything()
    organise_fhir(house.run)
    assert house.everything() == before


def test_nothing_waits_in_staging_of_what_was_carried_out(house, drop, monkeypatch):
    monkeypatch.setattr("dicom_assets.steps.organise_fhir.STAGED_PER_COMMIT", 1)
    for n in range(3):
        drop(f"{n}.json", bundle(resource("Patient"), resource("Observation")))
    original, left_behind = journals.Journal.carry_out, []

    def carry_out(self, *args, **kwargs):
        done = original(self, *args, **kwargs)
        left_behind.append(list(self.staging.iterdir()))
        return done

    monkeypatch.setattr(journals.Journal, "carry_out", carry_out)
    assert organise_fhir(house.run).rows == 6
    assert left_behind == [[]] * 4


def test_many_files_are_taken_in_parts(house, drop, monkeypatch):
    for n in range(5):
        drop(f"{n % 2}/{n}.json", resource("Patient", f"{n}"))
    monkeypatch.setattr("dicom_assets.lakehouse.drop_folder._ENTRIES_AT_ONCE", 2)
    original, parts = drop_folder.without_changing, []

    def without_changing(entries, *args, **kwargs):
        parts.append(len(entries))
        return original(entries, *args, **kwargs)

    monkeypatch.setattr(drop_folder, "without_changing", without_changing)
    report = organise_fhir(house.run)
    assert parts == [2, 2, 1]
    assert (report.rows, report.counts) == (5, {"failures": 0, "still_changing": 0})
    assert len(lying(house, PROCESS)) == 5
    assert left(house) == []


def test_names_that_come_again_are_two_files(house, drop):
    for _ in range(2):
        drop("a.json", resource("Patient"))
        organise_fhir(house.run)
    assert len(house.files(f"{PROCESS}/2026/03/14/Patient")) == 2


def test_what_failed_is_dropped_again_where_it_came_from(house, drop):
    drop("in/a.json", b"{nonsense}")
    organise_fhir(house.run)
    assert retry(house.run.engine, house.settings).files == 1
    assert [path.name for path in left(house)] == ["in", "a.json"]
    assert house.files("bronze/Files/Failed") == []

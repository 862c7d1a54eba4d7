"""Bronze FHIR rows → silver rows to upsert."""

from datetime import timedelta

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dicom_assets.fhir.flatten import resource_columns, resource_of, silver_id, silver_schema
from dicom_assets.fhir.silver import silver_ids, upserts
from dicom_assets.lakehouse.reasons import Reason

REPORT = {
    "resourceType": "DiagnosticReport",
    "id": "r",
    "status": "final",
    "code": {"text": "CT chest"},
}

_DEEP = orjson.dumps(REPORT).decode()[:-1] + f', "extension": {"[" * 300}{"]" * 300}}}'


def _at(second, **elements):
    return REPORT | {"meta": {"lastUpdated": f"2024-01-01T00:00:{second:02}Z"}} | elements


def _is_in(ids):
    return pc.field("id").isin(pa.array(ids, pa.string()))


@pytest.fixture
def settle(now, bronze):
    """Runs arrivals one after the other against what silver holds, as the step does."""

    def run(*arrivals, kind="DiagnosticReport"):
        held = silver_schema(kind).empty_table()
        failures = []
        for turn, arrival in enumerate(arrivals):
            rows = bronze(*arrival)
            known = held.filter(_is_in(silver_ids(kind, rows))).select(resource_columns(kind))
            changed, bad, _ = upserts(kind, rows, known, now=now + timedelta(hours=turn))
            failures += bad
            ids = changed["id"].to_pylist()
            assert len(ids) == len(set(ids))
            rest = held.filter(~_is_in(ids))
            held = pa.concat_tables([rest, changed])
        return held.to_pylist(), failures

    return run


def test_a_new_resource_is_inserted(settle, now):
    (row,), failures = settle([_at(0)])
    assert failures == []
    assert row["id"] == silver_id("default", "DiagnosticReport", "r")
    assert (row["createdAt"], row["modifiedAt"]) == (now, now)
    assert row["sourceFilePath"] == "drop/a.ndjson"


def test_the_same_again_changes_nothing(settle, now, bronze):
    (row,), _ = settle([_at(0)], [_at(0)])
    assert row["modifiedAt"] == now
    existing = pa.Table.from_pylist([row], schema=silver_schema("DiagnosticReport"))
    changed, failures, _ = upserts("DiagnosticReport", bronze(_at(0)), existing, now=now)
    assert (changed.num_rows, failures) == (0, [])
    assert changed.schema == silver_schema("DiagnosticReport")


def test_a_newer_statement_replaces_the_row_whole(settle, now):
    (row,), _ = settle([_at(0, conclusion="x")], [_at(1, status="amended")])
    assert row["status"] == "amended"
    assert row["conclusion"] is None
    assert (row["createdAt"], row["modifiedAt"]) == (now, now + timedelta(hours=1))


def test_an_older_statement_never_overwrites_a_newer_one(settle):
    (row,), _ = settle([_at(5, status="final")], [_at(4, status="preliminary")])
    assert row["status"] == "final"
    (row,), _ = settle([_at(5, status="final"), _at(4, status="preliminary")])
    assert row["status"] == "final"


def test_without_instants_the_last_to_arrive_holds(settle):
    (row,), _ = settle([REPORT, REPORT | {"status": "amended"}])
    assert row["status"] == "amended"
    (row,), _ = settle([REPORT | {"status": "amended"}], [REPORT])
    assert row["status"] == "final"
    (row,), _ = settle([_at(5)], [REPORT | {"status": "amended"}])
    assert row["status"] == "amended"


def test_resources_of_different_systems_are_different_rows(bronze, now):
    rows = pa.concat_tables([bronze(_at(0)), bronze(_at(0), source_system="RIS")])
    empty = silver_schema("DiagnosticReport").empty_table()
    changed, _, _ = upserts("DiagnosticReport", rows, empty, now=now)
    assert sorted(changed["sourceSystem"].to_pylist()) == ["RIS", "default"]
    assert silver_ids("DiagnosticReport", rows) == sorted(changed["id"].to_pylist())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"resourceType":"DiagnosticReport","id":"r","status":"final"}', Reason.INVALID_RESOURCE),
        (orjson.dumps(REPORT | {"performer": {}}).decode(), Reason.INVALID_RESOURCE),
        (orjson.dumps({k: REPORT[k] for k in REPORT if k != "id"}), Reason.INVALID_RESOURCE),
        ('{"resourceType":"Patient","id":"r"}', Reason.WRONG_RESOURCE_TYPE),
        ('["Jane"]', Reason.WRONG_RESOURCE_TYPE),
        (_DEEP, Reason.NESTED_TOO_DEEP),
    ],
)
def test_an_invalid_resource_is_a_failure_and_the_others_are_kept(bronze, now, line, reason):
    good = bronze(_at(0), _at(1, id="s"))
    text = line if isinstance(line, str) else line.decode()
    parsed = orjson.loads(text)
    bad = {**good.to_pylist()[0], "resource": text, "lineNumber": 7, "filePath": "drop/b.ndjson"}
    bad["id"] = parsed.get("id") if isinstance(parsed, dict) else "r"
    rows = pa.concat_tables([pa.Table.from_pylist([bad], schema=good.schema), good])
    empty = silver_schema("DiagnosticReport").empty_table()
    changed, (failure,), _ = upserts("DiagnosticReport", rows, empty, now=now)
    assert sorted(changed["idOrig"].to_pylist()) == ["r", "s"]
    assert (failure.step, failure.reason) == ("flatten", reason)
    assert (failure.source_path, failure.line) == ("drop/b.ndjson", 7)
    assert "Jane" not in failure.message


def test_elements_of_another_release_do_not_fail_a_resource(settle):
    (row,), failures = settle([_at(0, note=[{"text": "R5"}])])
    assert failures == []
    assert "note" not in resource_of("DiagnosticReport", row)


def test_studies_of_one_batch_are_merged_into_one_row(settle, row, resource, now):
    parts = [
        resource(
            row(
                sopInstanceUid=f"1.{n}",
                seriesInstanceUid=f"2.{n % 2}",
                ingestedAt=now + timedelta(minutes=n),
            )
        )
        for n in range(4)
    ]
    (merged,), failures = settle([parts[2], parts[0], parts[3], parts[1]], kind="ImagingStudy")
    assert failures == []
    assert (merged["numberOfSeries"], merged["numberOfInstances"]) == (2, 4)
    assert [len(series["instance"]) for series in merged["series"]] == [2, 2]
    assert merged["meta_lastUpdated"] == now + timedelta(minutes=3)


def test_late_arrivals_are_merged_whatever_the_order(settle, row, resource, now):
    def part(n, **columns):
        later = now + timedelta(minutes=n)
        return resource(row(sopInstanceUid=f"1.{n}", ingestedAt=later, **columns))

    early, late = part(0, studyDescription="early"), part(1, studyDescription="late")
    for order in ([early, late], [late, early]):
        (held,), _ = settle(*([each] for each in order), kind="ImagingStudy")
        assert held["description"] == "late"
        assert held["numberOfInstances"] == 2
        assert held["meta_lastUpdated"] == now + timedelta(minutes=1)
        assert held["createdAt"] == now


def test_the_same_study_again_changes_nothing(settle, row, resource, now):
    study = resource(row())
    (held,), _ = settle([study], [study], [study, study], kind="ImagingStudy")
    assert held["modifiedAt"] == now


def test_real_studies_that_arrive_in_parts_are_as_if_they_had_come_at_once(
    settle, real_rows, convert, now
):
    stamped = [r | {"ingestedAt": now + timedelta(seconds=n)} for n, r in enumerate(real_rows)]
    whole = {study.id: orjson.loads(study.line) for study in convert(stamped)}
    arrivals = [
        [orjson.loads(study.line) for study in convert(stamped[start : start + 30])]
        for start in range(0, len(stamped), 30)
    ]
    rows, failures = settle(*arrivals, kind="ImagingStudy")
    assert failures == []
    assert {row["idOrig"]: resource_of("ImagingStudy", row) for row in rows} == whole


def test_hl7_and_synthea_examples_become_silver(settle, examples):
    for kind in ("ImagingStudy", "DiagnosticReport"):
        found = examples(f"hl7-r4b-4.3.0/{kind}*.json") + examples(
            f"smart-synthea-r4/{kind}.ndjson"
        )
        rows, failures = settle(found, kind=kind)
        assert failures == []
        assert len(rows) == len({each["id"] for each in found})


def test_reports_from_the_field_that_are_not_r4_are_failures(settle, examples):
    found = examples("siim-hackathon/diagnostic_report.*.json")
    rows, failures = settle(found)
    assert rows == []
    assert [failure.reason for failure in failures] == [Reason.INVALID_RESOURCE] * len(found)


def test_more_rows_than_are_held_at_a_time(bronze, now):
    rows = bronze(*(_at(0, id=f"r{n}") for n in range(1100)))
    empty = silver_schema("DiagnosticReport").empty_table()
    changed, failures, _ = upserts("DiagnosticReport", rows, empty, now=now)
    assert (changed.num_rows, failures) == (1100, [])
    assert len(silver_ids("DiagnosticReport", rows)) == 1100


def test_a_study_sent_again_is_left_as_it_is_even_if_its_counts_are_its_own(
    settle, row, resource, now
):
    study = resource(row()) | {"numberOfInstances": 40}
    (held,), _ = settle([study], [study, study], kind="ImagingStudy")
    assert (held["numberOfInstances"], held["modifiedAt"]) == (40, now)


def test_a_study_of_elements_that_we_do_not_write_is_taken_by_the_model(settle, row, resource):
    study = resource(row()) | {"note": [{"text": "said"}], "odd": 1, "interpreter": None}
    (held,), failures = settle([study], kind="ImagingStudy")
    assert failures == []
    assert held["note"][0]["text"] == "said"
    assert resource_of("ImagingStudy", held) == resource(row()) | {"note": [{"text": "said"}]}

"""The assets as Dagster runs them, in process, on a real lakehouse."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from dicom_assets.definitions import defs
from dicom_assets.defs.automation import JOB_NAME
from dicom_assets.defs.checks import RULES
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog

_OF_A_PATIENT = [
    "patientName",
    "patientId",
    "patientBirthDate",
    "accessionNumber",
    "referringPhysicianName",
    "studyDescription",
    "studyInstanceUid",
    "sopInstanceUid",
    "sourcePath",
    "filePath",
]
DAY = "2026-03-14"
ASSETS = {
    "bronze/external_files",
    "bronze/process_files",
    "bronze/dicomimagingmetastore",
    "silver/current_files",
    "bronze/ImagingStudy_ndjson",
    "bronze/ImagingStudy",
    "silver/ImagingStudy",
    "gold/Image_Occurrence",
    "gold/person",
    "gold/procedure_occurrence",
    "bronze/fhir_files",
    "bronze/DiagnosticReport",
    "silver/DiagnosticReport",
    "gold/note",
}


@pytest.fixture(scope="module")
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def execute(instance):
    job = defs().resolve_job_def(JOB_NAME)

    def run(root: Path, day: str) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            instance=instance,
            partition_key=day,
            resources={"lakehouse": Lakehouse(root=str(root))},
            raise_on_error=False,
        )

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory, sample) -> Path:
    root = tmp_path_factory.mktemp("assets") / "lakehouse"
    drop = root / "bronze/Files/Ingest/Imaging/DICOM"
    shutil.copytree(sample / "Imaging/DICOM", drop)
    shutil.copyfile(sample / "dicom_assets_manifest.json", drop / "dicom_assets_manifest.json")
    shutil.copytree(sample / "Clinical/FHIR NDJSON", Layout(root).fhir_drop_folder)
    return root


@pytest.fixture(scope="module")
def result(execute, root) -> dg.ExecuteInProcessResult:
    return execute(root, DAY)


@pytest.fixture(scope="module")
def metadata(result) -> dict[str, dict]:
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string(): dict(event.metadata) for event in events}


def test_all_definitions_load():
    dg.Definitions.validate_loadable(defs())


def test_today_is_a_partition():
    import datetime

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    assert ingest_date.get_last_partition_key() == today


def test_one_run_materializes_the_whole_chain_for_its_date(result):
    events = [event.materialization for event in result.get_asset_materialization_events()]
    assert result.success
    assert {event.asset_key.to_user_string() for event in events} == ASSETS
    assert {event.partition for event in events} == {DAY}


def test_every_rule_is_evaluated_for_the_date_and_holds(result):
    checks = result.get_asset_check_evaluations()
    assert {(c.asset_key.to_user_string(), c.check_name) for c in checks} == {
        (rule.asset, rule.name) for rule in RULES
    }
    assert {check.partition for check in checks} == {DAY}
    assert [check.check_name for check in checks if not check.passed] == []


def test_row_counts_are_shown(metadata):
    rows = {name: each["dagster/partition_row_count"].value for name, each in metadata.items()}
    assert rows == {
        "bronze/process_files": 96,
        "bronze/external_files": 0,
        "bronze/dicomimagingmetastore": 96,
        "silver/current_files": 96,
        "bronze/ImagingStudy_ndjson": 9,
        "bronze/ImagingStudy": 9,
        "silver/ImagingStudy": 9,
        "gold/Image_Occurrence": 24,
        "gold/person": 7,
        "gold/procedure_occurrence": 9,
        "bronze/fhir_files": 6,
        "bronze/DiagnosticReport": 6,
        "silver/DiagnosticReport": 6,
        "gold/note": 6,
    }
    assert metadata["gold/Image_Occurrence"]["dagster/row_count"].value == 24


@pytest.mark.parametrize(
    "asset", sorted(ASSETS - {"bronze/ImagingStudy_ndjson", "bronze/external_files"})
)
def test_a_table_shows_its_schema_address_and_throughput(metadata, asset):
    shown = metadata[asset]
    columns = shown["dagster/column_schema"].value.columns
    assert all(column.description for column in columns)
    assert Path(shown["dagster/uri"].value, "_delta_log").is_dir()
    assert shown["dagster/table_name"].value == asset.replace("/", ".")
    assert {"duration_seconds", "rows_per_second", "preview"} <= set(shown)


def test_columns_of_bronze_silver_and_gold_are_linked(metadata):
    def sources(asset: str, column: str) -> set[str]:
        deps = metadata[asset]["dagster/column_lineage"].value.deps_by_column[column]
        return {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps}

    assert "bronze/dicomimagingmetastore.studyDate" in sources("bronze/ImagingStudy", "resource")
    assert sources("silver/ImagingStudy", "started") == {"bronze/ImagingStudy.resource"}
    assert sources("gold/Image_Occurrence", "image_series_uid") == {"silver/ImagingStudy.series"}
    assert sources("gold/person", "year_of_birth") == {
        "bronze/dicomimagingmetastore.patientBirthDate"
    }


def test_lineage_names_only_columns_that_exist(metadata):
    schemas = {
        name: {column.name for column in each["dagster/column_schema"].value.columns}
        for name, each in metadata.items()
        if "dagster/column_schema" in each
    }
    for name, each in metadata.items():
        lineage = each.get("dagster/column_lineage")
        for column, deps in lineage.value.deps_by_column.items() if lineage else ():
            assert column in schemas[name]
            for dep in deps:
                assert dep.column_name in schemas[dep.asset_key.to_user_string()]


def test_the_contact_sheet_is_a_picture_with_a_tile_for_each_series(metadata):
    text = metadata["bronze/dicomimagingmetastore"]["contact_sheet"].value
    assert "24 new series" in text
    found = re.search(r"data:image/png;base64,([^)]+)", text)
    assert found
    picture = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert min(picture.size) > 300
    assert len(picture.convert("L").getcolors(256) or []) > 50


def test_previews_show_nothing_of_a_patient(metadata, root):
    rows = LocalEngine(Layout(root)).read(catalog.metastore(), _OF_A_PATIENT).to_pylist()
    words = {word for row in rows for word in row.values() if word}
    assert len(words) > 96
    shown = json.dumps({name: str(each) for name, each in metadata.items()})
    there = [word for word in words if word in shown]
    assert [word for word in there if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", shown)] == []


def test_files_of_external_storage_are_read_in_place_and_every_check_holds(
    execute, tmp_path, write_dicom
):
    files = tmp_path / "lakehouse/bronze/Files"
    write_dicom(files / "Ingest/Imaging/DICOM/a.dcm")
    for number in range(3):
        write_dicom(files / f"External/Imaging/DICOM/PACS1/{number}.dcm")
    (files / "External/Imaging/DICOM/PACS1/notes.txt").write_text("no DICOM file")
    write_dicom(files / "External/Imaging/DICOM/PACS1/bad.dcm", StudyInstanceUID=None)
    old = time.time() - 60
    for path in files.rglob("*.*"):
        os.utime(path, (old, old))
    result = execute(tmp_path / "lakehouse", DAY)
    assert result.success
    checks = result.get_asset_check_evaluations()
    assert [check.check_name for check in checks if not check.passed] == []
    events = {
        event.materialization.asset_key.path[-1]: event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    listed, read = events["external_files"], events["dicomimagingmetastore"]
    assert listed["rows_written"].value == 5
    names = ("external_rows", "skipped", "requests", "dagster/partition_row_count")
    assert [read[name].value for name in names] == [3, 1, 5, 4]
    assert 0 < int(read["bytes_fetched"].value) < 10_000
    assert events["Image_Occurrence"]["dagster/row_count"].value == 2


def test_a_backfill_takes_each_file_once_is_green_without_any_and_not_blocked_by_a_resent_one(
    execute, tmp_path, write_dicom
):
    drop = tmp_path / "lakehouse/bronze/Files/Ingest/Imaging/DICOM"
    before = execute(tmp_path / "lakehouse", "2025-01-03")
    write_dicom(drop / "x.dcm")
    shutil.copyfile(drop / "x.dcm", drop / "again.dcm")
    results = [before, *(execute(tmp_path / "lakehouse", f"2025-01-0{day}") for day in (1, 2))]
    assert all(result.success for result in results)
    written = [
        event.materialization.metadata["rows_written"].value
        for result in results
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key.path[-1] == "Image_Occurrence"
    ]
    assert written == [0, 1, 0]
    failed = [
        [check for check in result.get_asset_check_evaluations() if not check.passed]
        for result in results
    ]
    assert [len(checks) for checks in failed] == [0, 1, 0]
    (resent,) = failed[1]
    assert resent.check_name == "instances_sent_once"
    assert not resent.blocking
    assert {name: value.value for name, value in resent.metadata.items()} == {
        "resent": 1,
        "conflicting": 0,
    }


def test_the_site_chooses_which_types_have_tables(monkeypatch):
    monkeypatch.setenv("DICOM_ASSETS_FHIR_RESOURCE_TYPES", "Patient,ImagingStudy")
    code = "from dicom_assets.definitions import defs; g = defs().resolve_asset_graph()\n"
    code += "print(*(key.to_user_string() for key in g.materializable_asset_keys))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown = set(ran.stdout.split())
    assert shown >= {"bronze/Patient", "silver/Patient", "silver/ImagingStudy"}
    assert not shown & {"silver/DiagnosticReport", "gold/note"}

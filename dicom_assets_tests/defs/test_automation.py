"""What automation asks for when something upstream has news."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.definitions import defs
from dicom_assets.defs.automation import JOB_NAME
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.lakehouse.manifest import NAME as MANIFEST_NAME

TODAY = ingest_date.get_last_partition_key() or ""
LATE = "2024-01-05"
DROP_FOLDER, PROCESS_FILES = "bronze/drop_folder", "bronze/process_files"
METASTORE = "bronze/dicomimagingmetastore"
EXTERNAL_FILES = "bronze/external_files"
CHAIN = {
    PROCESS_FILES,
    METASTORE,
    "silver/current_files",
    "bronze/ImagingStudy_ndjson",
    "bronze/ImagingStudy",
    "silver/ImagingStudy",
    "gold/person",
    "gold/procedure_occurrence",
    "gold/Image_Occurrence",
}


pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def key(asset: str) -> dg.AssetKey:
    return dg.AssetKey(asset.split("/"))


class Automation:
    """The definitions on an instance and a lakehouse of their own, looked at tick by tick."""

    def __init__(self, instance: dg.DagsterInstance, root: Path) -> None:
        self._instance = instance
        self._definitions = defs()
        self._cursor = None
        self.drop = root / "bronze/Files/Ingest/Imaging/DICOM"
        self.tick()

    def tick(self) -> set[tuple[str, str]]:
        """Evaluates all conditions and returns what is asked for: (asset, date)."""
        result = dg.evaluate_automation_conditions(
            self._definitions, self._instance, cursor=self._cursor
        )
        self._cursor = result.cursor
        asked = {
            (asset, str(partition))
            for asset in CHAIN | {EXTERNAL_FILES}
            for partition in result.get_requested_partitions(key(asset)) or ()
        }
        assert len(asked) == result.total_requested
        return asked

    def report(
        self,
        event: type[dg.AssetMaterialization | dg.AssetObservation],
        day: str,
        *,
        asset: str = DROP_FOLDER,
    ) -> None:
        """Reports something about the drop folder, or another asset."""
        self._instance.report_runless_asset_event(event(key(asset), partition=day))

    def run(self, *assets: str, day: str = TODAY) -> None:
        """Runs assets as a person would by hand: whatever their checks say."""
        self._definitions.resolve_job_def(JOB_NAME).execute_in_process(
            instance=self._instance,
            asset_selection=[key(asset) for asset in assets],
            partition_key=day,
            raise_on_error=False,
        )

    def declare(self, **counts: int) -> None:
        """Drops a manifest."""
        self.drop.mkdir(parents=True, exist_ok=True)
        (self.drop / MANIFEST_NAME).write_text(json.dumps({"expected": counts}))


@pytest.fixture
def automation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    monkeypatch.setenv("DICOM_ASSETS_LAKEHOUSE", str(tmp_path))
    monkeypatch.setenv("DICOM_ASSETS_SETTLE_SECONDS", "0")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Automation(instance, tmp_path)


def test_news_from_the_drop_folder_ask_for_the_whole_chain_of_their_date_once(automation):
    assert automation.tick() == set(), "without news"
    automation.report(dg.AssetObservation, TODAY)
    assert automation.tick() == set(), "what the sensor sees is left to the run it asks for"
    for day in (TODAY, LATE):
        automation.report(dg.AssetMaterialization, day)
        assert automation.tick() == {(asset, day) for asset in CHAIN}
        assert automation.tick() == set()


def test_a_run_of_the_whole_chain_asks_for_nothing_more_but_news_from_external_storage_do(
    automation, write_dicom
):
    write_dicom(automation.drop / "a.dcm")
    automation.run(*CHAIN)
    assert automation.tick() == set()
    automation.report(dg.AssetMaterialization, TODAY, asset=EXTERNAL_FILES)
    assert automation.tick() == {(asset, TODAY) for asset in CHAIN - {PROCESS_FILES}}


def test_a_failed_blocking_check_stops_what_follows_on_its_date_and_on_no_other(
    automation, write_dicom
):
    write_dicom(automation.drop / "a.dcm")
    automation.declare(process_files=5)
    automation.run(PROCESS_FILES, day=LATE)
    assert automation.tick() == set()
    write_dicom(automation.drop / "b.dcm")
    automation.run(PROCESS_FILES)
    assert automation.tick() == {(asset, TODAY) for asset in CHAIN - {PROCESS_FILES}}


def test_a_table_made_anew_asks_for_what_follows_it_on_its_date_though_a_check_warns(
    automation, write_dicom
):
    write_dicom(automation.drop / "a.dcm")
    automation.run(PROCESS_FILES, day=LATE)
    assert automation.tick() == {(asset, LATE) for asset in CHAIN - {PROCESS_FILES}}
    sent = write_dicom(automation.drop / "b.dcm")
    write_dicom(automation.drop / "again.dcm", SOPInstanceUID=sent.SOPInstanceUID)
    automation.run(PROCESS_FILES, METASTORE)
    assert ("silver/current_files", TODAY) in automation.tick()

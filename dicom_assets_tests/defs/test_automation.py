"""What automation asks for when something upstream has news."""

from collections.abc import Iterator

import dagster as dg
import pytest

from dicom_assets.definitions import defs
from dicom_assets.defs.checks import RULES
from dicom_assets.defs.partitions import ingest_date

TODAY = ingest_date.get_last_partition_key() or ""
LATE = "2024-01-05"
DROP_FOLDER = "bronze/drop_folder"
CHAIN = {
    "bronze/process_files",
    "bronze/dicomimagingmetastore",
    "bronze/ImagingStudy_ndjson",
    "bronze/ImagingStudy",
    "silver/ImagingStudy",
    "gold/person",
    "gold/procedure_occurrence",
    "gold/Image_Occurrence",
}


class Automation:
    """The definitions with an event log of their own, looked at tick by tick."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._definitions = defs()
        self._cursor = None
        self.tick()

    def tick(self) -> set[tuple[str, str]]:
        """Evaluates all conditions and returns what is asked for: (asset, date)."""
        result = dg.evaluate_automation_conditions(
            self._definitions, self._instance, cursor=self._cursor
        )
        self._cursor = result.cursor
        asked = {
            (asset, partition)
            for asset in (*CHAIN, DROP_FOLDER)
            for partition in result.get_requested_partitions(dg.AssetKey(asset.split("/"))) or ()
        }
        assert len(asked) == result.total_requested
        return {(asset, str(partition)) for asset, partition in asked}

    def report(self, *assets: str, day: str = TODAY) -> None:
        for asset in assets:
            key = dg.AssetKey(asset.split("/"))
            self._instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))

    def observe(self, asset: str, *, day: str = TODAY) -> None:
        key = dg.AssetKey(asset.split("/"))
        self._instance.report_runless_asset_event(dg.AssetObservation(key, partition=day))

    def check(self, asset: str, *, failed: str = "", day: str = TODAY) -> None:
        """Reports the outcome of an asset's checks: all hold but one."""
        for rule in RULES:
            if rule.asset == asset:
                self._instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(
                        asset_key=dg.AssetKey(asset.split("/")),
                        check_name=rule.name,
                        passed=rule.name != failed,
                        metadata={},
                        blocking=rule.blocking,
                        partition=day,
                    )
                )


@pytest.fixture
def automation() -> Iterator[Automation]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Automation(instance)


def test_nothing_is_asked_for_without_news(automation):
    assert automation.tick() == set()


@pytest.mark.parametrize("day", [TODAY, LATE])
def test_an_arrival_asks_for_the_whole_chain_of_its_date(automation, day):
    automation.report(DROP_FOLDER, day=day)
    assert automation.tick() == {(asset, day) for asset in CHAIN}
    assert automation.tick() == set(), "and only once"


def test_what_the_drop_folder_sensor_sees_is_left_to_its_own_run(automation):
    automation.observe(DROP_FOLDER)
    assert automation.tick() == set()


def test_a_table_mended_by_hand_asks_for_what_follows_it_on_its_date(automation):
    automation.report("silver/ImagingStudy", day=LATE)
    automation.check("silver/ImagingStudy", day=LATE)
    assert automation.tick() == set(), "gold waits while other things it depends on are missing"

    automation.report("bronze/dicomimagingmetastore", "gold/person", day=LATE)
    automation.check("bronze/dicomimagingmetastore", day=LATE)
    asked = automation.tick()
    assert {("gold/procedure_occurrence", LATE), ("gold/Image_Occurrence", LATE)} <= asked


def test_a_failed_blocking_check_stops_what_follows(automation):
    automation.report("bronze/process_files")
    automation.check("bronze/process_files", failed="files_match_rows")
    assert automation.tick() == set()


def test_checks_that_hold_let_what_follows_go_on(automation):
    automation.report("bronze/process_files")
    automation.check("bronze/process_files")
    assert ("bronze/dicomimagingmetastore", TODAY) in automation.tick()


def test_a_failed_check_of_one_date_does_not_stop_another(automation):
    automation.report("bronze/process_files", day=LATE)
    automation.check("bronze/process_files", failed="files_match_rows", day=LATE)
    automation.report("bronze/process_files")
    automation.check("bronze/process_files")
    asked = automation.tick()
    assert ("bronze/dicomimagingmetastore", TODAY) in asked
    assert LATE not in {day for _, day in asked}


def test_a_failed_warning_stops_nothing(automation):
    automation.report("bronze/dicomimagingmetastore")
    automation.check("bronze/dicomimagingmetastore", failed="instances_sent_once")
    assert ("bronze/ImagingStudy_ndjson", TODAY) in automation.tick()

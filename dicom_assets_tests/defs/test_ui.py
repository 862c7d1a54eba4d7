"""Dagster's UI as a person uses it: a real server, its GraphQL, a real Chromium.

`make screenshots` keeps the pictures taken here in `docs/`.
"""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from PIL import Image

from dicom_assets.defs.checks import RULES

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
GRAPH = "asset-groups/?expanded=" + ",".join(
    f"global@global:{group}" for group in ("bronze", "silver", "gold")
)
LOCATION = {"repositoryLocationName": "dicom_assets", "repositoryName": "__repository__"}
DAY = datetime.now(UTC).date().isoformat()
PAST = ("2025-05-01", "2025-05-02")
SECONDS = 90
GRAPH_WIDTH = 2000
NODES = {
    "drop_folder",
    "fhir_drop_folder",
    "external_storage",
    "pulled_files",
    "process_files",
    "external_files",
    "fhir_files",
    "dicomimagingmetastore",
    "current_files",
    "ImagingStudy_ndjson",
    "ImagingStudy",
    "DiagnosticReport",
    "person",
    "procedure_occurrence",
    "Image_Occurrence",
    "note",
}
TWICE = {"ImagingStudy", "DiagnosticReport"}
"""Bronze and silver."""

pytestmark = pytest.mark.browser


@dataclass
class Dagster:
    """A running `dagster dev` over a lakehouse of its own."""

    lakehouse: Path
    address: str

    @property
    def drop(self) -> Path:
        return self.lakehouse / "bronze/Files/Ingest/Imaging/DICOM"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Sends GraphQL, as the UI does."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(  # noqa: S310
            f"{self.address}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def runs(self) -> list[dict[str, Any]]:
        query = "{runsOrError{... on Runs{results{runId status tags{key value}}}}}"
        return self.ask(query)["runsOrError"]["results"]

    def assets(self) -> list[dict[str, Any]]:
        """Keys of the assets that can be materialized, as the UI's dialog sends them."""
        found = self.ask("{assetNodes{isMaterializable assetKey{path}}}")["assetNodes"]
        return [{"path": a["assetKey"]["path"]} for a in found if a["isMaterializable"]]

    def gold_rows(self) -> int:
        table = str(self.lakehouse / "gold/Tables/Image_Occurrence")
        return DeltaTable(table).count() if DeltaTable.is_deltatable(table) else 0

    def sensors(self) -> list[dict[str, Any]]:
        query = """query($r: RepositorySelector!){
            sensorsOrError(repositorySelector: $r){
                ... on Sensors{results{name sensorState{id ticks(limit: 1){status}}}}}}"""
        return self.ask(query, r=LOCATION)["sensorsOrError"]["results"]

    def stop_sensors(self) -> None:
        """Turns the sensors off, so that a test alone says what runs."""
        for sensor in self.sensors():
            state = sensor["sensorState"]["id"]
            self.ask("mutation($id: String!){stopSensor(id: $id){__typename}}", id=state)
        # the drop-folder sensor may be in the midst of watching
        wait_for(lambda: not any(self.is_ticking(sensor) for sensor in self.sensors()))

    def is_ticking(self, sensor: dict[str, Any]) -> bool:
        return any(tick["status"] == "STARTED" for tick in sensor["sensorState"]["ticks"])

    def start_sensors(self) -> None:
        query = "mutation($s: SensorSelector!){startSensor(sensorSelector: $s){__typename}}"
        for sensor in self.sensors():
            self.ask(query, s={**LOCATION, "sensorName": sensor["name"]})


def wait_for(what: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """Waits until something is true and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.5)  # each look is work for the server
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    home = tmp_path_factory.mktemp("ui")
    shutil.copyfile(REPOSITORY / "dagster.yaml", home / "dagster.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = Dagster(home / "lakehouse", f"http://127.0.0.1:{port}")
    served.drop.mkdir(parents=True)
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "DICOM_ASSETS_LAKEHOUSE": str(served.lakehouse),
    }
    program = Path(sys.executable).with_name("dagster")
    arguments = ["dev", "-w", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        # a session of its own: dagster dev ends only when all its processes are told to
        process = subprocess.Popen(
            [str(program), *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: is_loaded(served))
        served.ask("mutation{setNuxSeen}")
        yield served
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # told to end, they take their time
        process.wait()


def is_loaded(served: Dagster) -> bool:
    try:
        found = served.ask("{assetNodes{id}}")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return len(found["assetNodes"]) == len(NODES) + len(TWICE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Makes tabs that share what was loaded before."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        # nobody looks at pictures that are not kept
        tabs = chromium.new_context(device_scale_factor=1 if "SCREENSHOTS" in os.environ else 0.25)
        tabs.add_init_script(
            """localStorage.setItem("dagster-nav-collapsed", "true");
            localStorage.setItem("asset-node-facets", '["latest-event", "checks", "kind-tag"]')"""
        )
        yield tabs


def pictures(tmp_path: Path) -> Path:
    """Returns where pictures are kept: in `docs/` when that is asked for."""
    return Path(os.environ.get("SCREENSHOTS", tmp_path))


def launch(dagster: Dagster, day: str) -> None:
    """Materializes the whole chain for one date, as the UI's dialog does."""
    answer = dagster.ask(
        """mutation($p: ExecutionParams!){
            launchPipelineExecution(executionParams: $p){__typename}
        }""",
        p={
            "mode": "default",
            "runConfigData": "{}",
            "selector": LOCATION
            | {"pipelineName": "__ASSET_JOB", "assetSelection": dagster.assets()},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
        },
    )
    assert answer["launchPipelineExecution"]["__typename"] == "LaunchRunSuccess"


def backfill(dagster: Dagster, *days: str) -> None:
    """Materializes the whole chain for several dates, as the same dialog does."""
    answer = dagster.ask(
        """mutation($p: LaunchBackfillParams!){
            launchPartitionBackfill(backfillParams: $p){__typename}
        }""",
        p={"partitionNames": list(days), "assetSelection": dagster.assets()},
    )
    assert answer["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"


def succeeded(dagster: Dagster, day: str) -> bool:
    """Whether a date's run is through; a failed one ends the wait."""
    tag = {"key": "dagster/partition", "value": day}
    found = [run["status"] for run in dagster.runs() if tag in run["tags"]]
    assert "FAILURE" not in found
    return "SUCCESS" in found


@pytest.fixture(scope="module")
def materialized(dagster, sample) -> Dagster:
    """The sample dropped, and today materialized through the UI's own GraphQL."""
    dagster.stop_sensors()
    shutil.copytree(sample / "Imaging/DICOM", dagster.drop, dirs_exist_ok=True)
    launch(dagster, DAY)
    wait_for(lambda: succeeded(dagster, DAY))
    return dagster


def test_materializing_a_date_in_the_ui_brings_the_sample_to_gold(materialized):
    rows = "{assetOrError(assetKey: {path: %s}){... on Asset{assetMaterializations(limit: 1){%s}}}}"
    entries = "metadataEntries{label ... on IntMetadataEntry{intValue}}"
    path = json.dumps(["gold", "Image_Occurrence"])
    (event,) = materialized.ask(rows % (path, entries))["assetOrError"]["assetMaterializations"]
    counts = {entry["label"]: entry.get("intValue") for entry in event["metadataEntries"]}
    assert counts["rows_written"] == 24


def test_the_graph_shows_all_assets_with_passed_checks(materialized, browser, tmp_path):
    # wide enough for Dagster to draw the nodes with their checks
    page = browser.new_page()
    page.set_viewport_size({"width": 3900, "height": 2000})
    page.goto(f"{materialized.address}/{GRAPH}")
    page.locator("[aria-label=panel_show_right]").first.click()
    page.wait_for_timeout(500)
    page.mouse.dblclick(1700, 1980)  # on nothing: fits the graph to the window
    for count in Counter(rule.asset for rule in RULES).values():
        page.get_by_text(f"{count} / {count} Passed").first.wait_for()
    page.wait_for_timeout(1000)
    shown = page.inner_text("body").splitlines()
    keep_graph(page, pictures(tmp_path) / "asset_graph.png")
    page.close()
    assert set(shown) >= NODES
    assert {name: shown.count(name) for name in TWICE} == dict.fromkeys(TWICE, 2)
    assert not [line for line in shown if "Failed" in line]


def keep_graph(page: Any, path: Path) -> None:
    """Takes a picture of the graph alone."""
    boxes = [node.bounding_box() for node in page.locator("svg foreignObject").all()]
    left, top = (min(box[side] for box in boxes) - 20 for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + 20
    bottom = max(box["y"] + box["height"] for box in boxes) + 20
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    picture.thumbnail((GRAPH_WIDTH, GRAPH_WIDTH), Image.Resampling.LANCZOS)
    picture.save(path, optimize=True)


def test_every_check_of_the_date_has_passed(materialized):
    found = materialized.ask(
        """{assetNodes{assetKey{path} assetChecksOrError{... on AssetChecks{checks{
            name executionForLatestMaterialization{status}}}}}}"""
    )["assetNodes"]
    checks = [
        (check["name"], (check["executionForLatestMaterialization"] or {}).get("status"))
        for node in found
        for check in node["assetChecksOrError"].get("checks", [])
    ]
    assert len(checks) >= 20
    assert {status for _, status in checks} == {"SUCCEEDED"}


def test_the_contact_sheet_opens_as_a_picture(materialized, browser, tmp_path):
    page = browser.new_page()
    page.set_viewport_size({"width": 1600, "height": 1000})
    metastore = "assets/bronze/dicomimagingmetastore"
    page.goto(f"{materialized.address}/{metastore}?view=partitions&partition={DAY}")
    page.locator("tr", has_text="contact_sheet").get_by_text("[Show Markdown]").first.click()
    page.get_by_text("24 new series").wait_for()
    sheet = page.get_by_alt_text("contact sheet")
    assert sheet.evaluate("image => image.naturalWidth") > 500, "drawn, not broken"
    content = sheet.get_attribute("src").partition("base64,")[2]
    (pictures(tmp_path) / "contact_sheet.png").write_bytes(base64.b64decode(content))
    page.close()


def test_a_backfill_over_past_dates_runs_each(materialized, write_dicom):
    before = materialized.gold_rows()
    materialized.stop_sensors()
    write_dicom(materialized.drop / "late.dcm", StudyInstanceUID="1.2.77")
    backfill(materialized, *PAST)
    for day in PAST:
        wait_for(lambda day=day: succeeded(materialized, day))
    assert materialized.gold_rows() == before + 1


def test_many_dropped_files_reach_gold_by_themselves_in_one_run(
    dagster, write_dicom, tmp_path, record_property
):
    """Seven to nine seconds on a quiet machine; the bound here is for a noisy one."""
    before, runs = dagster.gold_rows(), len(dagster.runs())
    for number in range(300):
        write_dicom(tmp_path / f"{number}.dcm", StudyInstanceUID="1.2.88", InstanceNumber=number)
    dagster.start_sensors()
    wait_for(lambda: any(dagster.is_ticking(sensor) for sensor in dagster.sensors()))
    begin = time.monotonic()
    for path in tmp_path.glob("*.dcm"):
        path.rename(dagster.drop / path.name)
    wait_for(lambda: dagster.gold_rows() == before + 1)
    record_property("seconds_from_drop_to_gold", time.monotonic() - begin)
    wait_for(lambda: {run["status"] for run in dagster.runs()} == {"SUCCESS"})
    assert len(dagster.runs()) - runs <= 2

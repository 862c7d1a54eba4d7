"""The command line as a user calls it: real processes, a real Dagster instance.

Where the process is not the point a verb runs in this one, which has loaded Dagster already.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from dicom_assets.cli import main
from dicom_assets.demo import _MARK, clear
from dicom_assets.lakehouse.lock import locked
from dicom_assets_tests.conftest import as_nobody

COMMAND = str(Path(sys.executable).with_name("dicom-assets"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


def places(root: Path) -> dict[str, str]:
    return {
        "DAGSTER_HOME": str(root / "dagster"),
        "DICOM_ASSETS_LAKEHOUSE": str(root / "lakehouse"),
    }


@pytest.fixture(scope="module")
def environment(workplace) -> dict[str, str]:
    return places(workplace) | {"DICOM_ASSETS_SETTLE_SECONDS": "0"}


@pytest.fixture(scope="module")
def call(environment):
    """Runs a verb in a process of its own."""
    others = {name: value for name, value in os.environ.items() if "DICOM_ASSETS" not in name}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            capture_output=True,
            text=True,
            env=others | environment | more,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def call_here(environment):
    """Runs a verb in this process."""

    def run(*arguments: str, **more: str) -> Result:
        return CliRunner().invoke(main, arguments, env=environment | more)

    return run


def told(done: Result) -> str:
    """Returns what a verb has said, on one line."""
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def broken_off(workplace, environment, sample) -> list[tuple[int, str]]:
    """The sample dropped, one run interrupted and one killed: their exit status and last words."""
    (workplace / "dagster").mkdir()
    shutil.copyfile(Path(__file__).parents[1] / "dagster.yaml", workplace / "dagster/dagster.yaml")
    lakehouse = workplace / "lakehouse"
    drop = lakehouse / "bronze/Files/Ingest/Imaging/DICOM"
    shutil.copytree(sample / "Imaging/DICOM", drop)
    shutil.copyfile(sample / "dicom_assets_manifest.json", drop / "dicom_assets_manifest.json")
    (drop / "secret-patient-name.txt").write_text("not DICOM")

    def ended(how: signal.Signals, once: str) -> tuple[int, str]:
        command = [COMMAND, "run", "--date", "2026-03-14"]
        run = subprocess.Popen(
            command, env=os.environ | environment, stderr=subprocess.PIPE, text=True
        )
        while not (lakehouse / once / "_delta_log").exists():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(how)
        said = run.communicate(timeout=60)[1]
        return run.returncode, said

    return [
        ended(signal.SIGINT, once="bronze/Tables/process_files"),
        ended(signal.SIGKILL, once="bronze/Tables/dicomimagingmetastore"),
    ]


@pytest.fixture(scope="module")
def ingested(workplace, broken_off, call) -> Path:
    """The lakehouse, once a run has got through."""
    done = call("run", "--date", "2026-03-14")
    assert done.returncode == 0, done.stderr
    assert re.search(r"gold/Image_Occurrence +24 +[\d.]+ +all hold", done.stdout)
    return workplace / "lakehouse"


def test_help_is_there_in_half_a_second(call):
    begin = time.perf_counter()
    shown = call("--help").stdout
    seconds = time.perf_counter() - begin
    assert all(verb in shown for verb in ("sample", "demo", "run", "status", "failures"))
    assert seconds < 2, "0.05 s when measured; the bound only catches a heavy import"


def test_a_run_that_is_interrupted_or_killed_is_finished_by_the_next_and_nothing_waits_for_it(
    broken_off, ingested, workplace, monkeypatch
):
    (status, said), (killed, _) = broken_off
    assert status == 1
    assert "interrupted; run it again" in said
    assert "Traceback" not in said
    assert killed == -signal.SIGKILL
    monkeypatch.setenv("DAGSTER_HOME", str(workplace / "dagster"))
    with dg.DagsterInstance.get() as instance:
        runs = sorted(instance.get_runs(), key=lambda run: run.status.value)
    assert [run.status.value for run in runs] == ["FAILURE", "FAILURE", "SUCCESS"]
    assert {run.tags["dagster/partition"] for run in runs} == {"2026-03-14"}


def test_nothing_of_a_patient_is_in_the_event_log(ingested, workplace):
    planted = (b"secret-patient-name", b"Yamada", b"case7_000", b"M\xc3\xbcller")
    stored = b"".join(p.read_bytes() for p in (workplace / "dagster").rglob("*") if p.is_file())
    assert b"every_series_has_one_row" in stored
    assert [word for word in planted if word in stored] == []


def test_upkeep_tells_what_it_did_to_each_table(ingested, call_here):
    shown = call_here("maintain").stdout
    assert "old files removed" in shown
    assert re.search(r"gold\.Image_Occurrence +1 +1 +0 +0", shown)


def test_a_second_run_adds_nothing(ingested, call_here):
    before = sorted(ingested.rglob("*"))
    done = call_here("run", "--date", "2026-03-14")
    assert done.exit_code == 0
    assert sorted(ingested.rglob("*")) == before


def test_status_shows_files_rows_and_failures(ingested, call_here):
    shown = call_here("status").stdout
    assert re.search(r"2026-03-14 +96 +96 +96 +9 +9 +24 +0 +1", shown)
    assert re.search(r"gold/Image_Occurrence +24", shown)


def test_failures_shows_what_failed_and_why(ingested, call_here):
    shown = call_here("failures", "--reason", "not_dicom").stdout
    assert "secret-patient-name.txt" in shown
    assert "bronze/Files/Failed/Imaging/DICOM/2026/03/14" in shown
    assert call_here("failures", "--date", "2020-01-02").stdout.strip() == "no failures"


def test_a_blocking_check_that_does_not_hold_gives_exit_code_1(call_here, workplace, write_dicom):
    lakehouse = workplace / "short"
    drop = lakehouse / "bronze/Files/Ingest/Imaging/DICOM"
    write_dicom(drop / "x.dcm")
    (drop / "dicom_assets_manifest.json").write_text('{"expected": {"process_files": 2}}')
    done = call_here("run", "--date", "2026-03-14", "--lakehouse", str(lakehouse))
    assert done.exit_code == 1
    assert "counts_as_declared" in done.stdout
    assert "blocking check" in done.stderr
    assert "not run" in done.stdout
    assert not (lakehouse / "bronze/Tables/dicomimagingmetastore").exists()


def test_the_demo_makes_its_lakehouse_anew_and_shows_expected_and_actual_side_by_side(
    ingested, call_here, workplace
):
    folder = workplace / "demo"
    shutil.copytree(ingested, folder)
    (folder / _MARK).touch()  # as an earlier one has left it
    done = call_here("demo", "--to", str(folder))
    assert done.exit_code == 0, done.stderr
    assert re.search(r"rows in gold/Image_Occurrence +24 +24 +ok", done.stdout)
    assert " NO" not in done.stdout
    for line in done.stdout.splitlines():
        if " -c '" in line:
            exec(line.split(" -c '")[1].rstrip("'"), {})  # noqa: S102 what a user copies
    assert list(folder.rglob("secret-patient-name.txt")) == []


def test_a_demo_s_folder_may_be_made_anew_by_the_next(workplace):
    folder = workplace / "new/demo"
    for _ in range(2):
        clear(folder)
        assert not (folder / "bronze").exists()
        (folder / "bronze").mkdir()


def test_the_demo_never_deletes_what_it_did_not_make(call_here, workplace):
    mine = workplace / "mine"
    mine.mkdir()
    (mine / "precious").touch()
    done = call_here("demo", "--to", str(mine))
    assert done.exit_code == 2
    assert "no demo lakehouse" in done.stderr
    assert (mine / "precious").exists()


def test_a_run_that_waits_for_another_says_so_and_can_be_interrupted(workplace):
    lakehouse = workplace / "waiting"
    environment = os.environ | {"DAGSTER_HOME": str(workplace / "dagster")}
    command = [COMMAND, "run", "--date", "2026-03-14", "--lakehouse", str(lakehouse)]
    with locked(lakehouse):
        run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert run.stderr
        assert "another run is working on this lakehouse" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert "interrupted; run it again" in said


def test_wrong_options_and_settings_are_named(call, call_here):
    assert "choose a day from" in call_here("run", "--date", "1999-01-01").stderr
    wrong = call("status", DICOM_ASSETS_WORKERS="many")
    assert (wrong.returncode, "workers" in wrong.stderr) == (2, True)
    assert "Traceback" not in wrong.stderr


def test_a_lakehouse_that_may_not_be_read_is_told_in_a_sentence(call_here, tmp_path):
    verbs = ("run", "status", "failures", "delete --study 1.2 --reason x")

    def called() -> list[Result]:
        return [call_here(*verb.split(), **places(tmp_path)) for verb in verbs]

    called()  # loads what is loaded when first used
    with as_nobody(tmp_path):
        (tmp_path / "lakehouse").chmod(0)
        ends = called()
    says = "the storage failed: Permission denied. First give this process the right to read and"
    for done in ends:
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit), "and no traceback"
        assert says in told(done)
        assert f"'{tmp_path}" not in done.output


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (lambda home: (home / "history/runs.db").mkdir(parents=True), "unable to open"),
        (lambda home: (home / "history/runs/index.db").mkdir(parents=True), "unable to open"),
        (lambda home: (home / "history").touch(), "File exists"),
    ],
)
def test_a_dagster_home_that_cannot_be_written_is_named_in_a_sentence(
    call_here, tmp_path, spoilt, why
):
    home = tmp_path / "dagster"
    home.mkdir()
    spoilt(home)
    done = call_here("run", **places(tmp_path))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), "and no traceback"
    says = f"DAGSTER_HOME: what Dagster keeps in {home} cannot be read and written: {why}"
    assert says in told(done)


def test_status_of_an_empty_lakehouse_says_what_to_do(call_here, workplace):
    shown = call_here("status", "--lakehouse", str(workplace / "nothing")).stdout
    assert "dicom-assets run" in shown

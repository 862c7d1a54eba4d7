"""Work is shared out over threads and processes, a bounded number of tasks ahead."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from dicom_assets.lakehouse.pool import MANY_TASKS, over_threads, shared_out


def double(number: int) -> int:
    return 2 * number


def process_of(_: int) -> int:
    return os.getpid()


def has_pandas_for_a_list(_: int) -> bool:
    pa.array(["a", None])
    return "pandas" in sys.modules


def sleep_and_name(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def write_down_and_sleep(folder: str) -> None:
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(60)


@pytest.mark.parametrize("count", [1, 40])
def test_threads_give_results_in_the_order_of_the_tasks(count):
    results = over_threads(double, range(count), workers=2, count=count)
    assert list(results) == [2 * n for n in range(count)]


@pytest.mark.parametrize("count", [1, MANY_TASKS - 1, MANY_TASKS + 1])
def test_every_task_gives_its_result_once(count):
    results = shared_out(double, range(count), workers=2, count=count)
    assert sorted(results) == [2 * n for n in range(count)]


def test_a_few_tasks_stay_in_this_process_and_many_go_to_others():
    few, many = (
        set(shared_out(process_of, range(count), workers=2, count=count))
        for count in (MANY_TASKS - 1, MANY_TASKS)
    )
    assert few == {os.getpid()}
    assert os.getpid() not in many


def test_worker_processes_do_not_load_what_pyarrow_only_looks_for(tmp_path):
    process = begin(
        tmp_path,
        "    get_ready(has_pandas_for_a_list)\n"
        "    tasks = range(3)\n"
        "    found = shared_out(has_pandas_for_a_list, tasks, workers=2, count=MANY_TASKS)\n"
        "    print(set(found))\n",
    )
    assert process.communicate()[0] == "{False}\n"


def test_a_script_need_not_ask_whether_it_is_the_main_program(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dicom_assets.lakehouse.pool import shared_out\n"
        f"print(sorted(shared_out(abs, range({MANY_TASKS}), workers=2, count={MANY_TASKS})))\n"
    )
    command = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{[*range(MANY_TASKS)]}\n"
    assert done.stderr == ""


def test_a_thread_that_takes_long_holds_up_no_other():
    ended = []

    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        ended.append(seconds)
        return seconds

    seconds = [1.0, *([0.001] * 50)]
    assert list(over_threads(sleep, seconds, workers=2, count=51)) == seconds
    assert ended[-1] == 1.0


@pytest.mark.parametrize("count", [21, MANY_TASKS])
def test_a_task_that_takes_long_holds_up_no_other(count):
    seconds = [1.0, *([0.01] * 20)]
    results = list(shared_out(sleep_and_name, seconds, workers=2, count=count))
    assert results[-1] == 1.0


def test_tasks_are_made_as_they_are_needed_and_not_all_at_once():
    made = 0

    def tasks() -> Iterator[int]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield number

    results = shared_out(double, tasks(), workers=2, count=1000)
    next(results)
    del results
    assert made < 20


def test_an_exception_of_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="sleep"):
        list(shared_out(sleep_and_name, [-1.0] * 9, workers=2, count=MANY_TASKS))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process = begin(
        tmp_path,
        "    tasks = [sys.argv[1]] * 9\n"
        "    list(shared_out(write_down_and_sleep, tasks, workers=2, count=MANY_TASKS))\n",
    )
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_running(worker) for worker in workers))


def begin(folder: Path, lines: str) -> subprocess.Popen[str]:
    """Begins a process of its own: what workers are forked from has loaded nothing for others."""
    script = folder / "main.py"
    script.write_text(
        "import sys\n"
        "from dicom_assets.lakehouse.pool import MANY_TASKS, get_ready, shared_out\n"
        "from dicom_assets_tests.lakehouse.test_pool import *\n"
        f"if __name__ == '__main__':\n{lines}"
    )
    return subprocess.Popen(
        [sys.executable, script, folder],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)

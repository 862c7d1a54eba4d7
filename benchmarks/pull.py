"""Measures pulling from an Orthanc beside plain loops over WADO-RS.

A real Orthanc holds CT instances of 0.5 MB, in series of 100. Each contestant brings all of them
into a fresh folder: ours with its feed, files made durable, and its place in the feed committed;
the loops one instance after another, with the list of what there is given to them. The last one
asks Orthanc for whole series over two connections and throws away what comes: what Orthanc can
give.

    python -m benchmarks.pull [--quick] [--rounds N]
"""

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks import data
from benchmarks.results import OURS, Results, Row
from dicom_assets.dicomweb.client import Client, Instance
from dicom_assets.dicomweb.connection import Connection
from dicom_assets.dicomweb.multipart import boundary_of, parts
from dicom_assets.settings import load_settings
from dicom_assets.steps.pull import pull
from dicom_assets.steps.run import Run
from dicom_assets_tests import orthanc

PART = "pull"
ROUNDS = 3
INSTANCES, QUICK = 600, 60
_ACCEPT = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
_DAY = "2026-03-14"


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Runs every contestant once."""
    count = QUICK if quick else INSTANCES
    case = f"{count} CT instances of 0.5 MB out of Orthanc"
    if not orthanc.IS_INSTALLED:
        return [Row(PART, case, OURS, None, "ms an instance", "Orthanc is not installed")]
    work = folder / PART
    with orthanc.running(work / "orthanc") as server:
        instances = _stored(server, work / "made", count)
        contestants: dict[str, Callable[[Path], int]] = {
            OURS: lambda into: _ours(server, into),
            "plain loop over WADO-RS": lambda into: _loop(server, instances, into, {}),
            "the same, uncompressed": lambda into: _loop(
                server, instances, into, {"Accept-Encoding": "identity"}
            ),
            "Orthanc alone: whole series, thrown away": lambda _: _thrown_away(server, instances),
        }
        rows = []
        for name, act in contestants.items():
            into = work / "into"
            begin = time.perf_counter()
            brought = act(into)
            seconds = time.perf_counter() - begin
            if brought != count:
                raise SystemExit(f"{name} brought {brought} of {count} instances")
            rows.append(Row(PART, case, name, seconds / count * 1000, "ms an instance"))
            shutil.rmtree(into, ignore_errors=True)
    shutil.rmtree(work)
    return rows


def _stored(server: orthanc.Orthanc, folder: Path, count: int) -> list[Instance]:
    """Stores instances, a hundred at a time, and returns them."""
    found = []
    files = data.ct_files(count)
    with Client.of("orthanc", server.service) as client:
        while some := list(itertools.islice(files, 100)):
            for file in some:
                file.write(folder)
            client.store([(p, p.stat().st_size) for p in folder.rglob("*.dcm")])
            shutil.rmtree(folder)
        tags = ("0020000D", "0020000E", "00080018")
        found += [
            Instance(*(item[tag]["Value"][0] for tag in tags))
            for item in client.search("/instances", {})
        ]
    if len(set(found)) != count:
        raise SystemExit(f"Orthanc holds {len(set(found))} instances, not {count}")
    return found


def _ours(server: orthanc.Orthanc, into: Path) -> int:
    settings = load_settings(lakehouse=into, dicom_services={"orthanc": server.with_changes})
    return pull(Run.of(settings, _DAY), "orthanc").rows


def _loop(
    server: orthanc.Orthanc, instances: Sequence[Instance], into: Path, headers: dict[str, str]
) -> int:
    """What one writes first: a request, its answer cut at the boundary, a file; and the next."""
    into.mkdir(parents=True)
    auth = (orthanc.USER, orthanc.PASSWORD)
    with httpx.Client(auth=auth, timeout=60, headers=_ACCEPT | headers) as client:
        for instance in instances:
            answer = client.get(server.service.address + instance.path)
            boundary = boundary_of(answer.headers["Content-Type"])
            for content in parts(iter([answer.content]), boundary):
                (into / f"{instance.sop}.dcm").write_bytes(b"".join(content))
    return len(list(into.iterdir()))


def _thrown_away(server: orthanc.Orthanc, instances: Sequence[Instance]) -> int:
    connection = Connection("orthanc", server.service)

    def read(series: tuple[str, str]) -> int:
        found = 0
        address = f"{server.service.address}/studies/{series[0]}/series/{series[1]}"
        with connection.answer("GET", address, headers=_ACCEPT) as answer:
            for content in parts(answer.iter_bytes(), boundary_of(answer.headers["Content-Type"])):
                found += any(True for _ in content)
        return found

    series = sorted({(instance.study, instance.series) for instance in instances})
    with ThreadPoolExecutor(2) as threads:
        found = sum(threads.map(read, series))
    connection.close()
    return found


def main() -> None:
    """Runs it alone, round by round, and prints rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few instances")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        for _ in itertools.repeat(None, arguments.rounds):
            results.add(measure(Path(folder), quick=arguments.quick))
    print(results.table(PART))


if __name__ == "__main__":
    main()

"""`make demo-options`: the sample by every way in, on real servers, counted side by side.

An Orthanc and an Azurite are started and ended here. Of each way in there is a lakehouse of its
own, and the whole chain runs on it in Dagster: the drop folder (Option 1), a container read in
place with a credential that may only read and list (Option 2), an Orthanc into which the sample was
stored over DICOMweb, its storage folder read in place and its instances pulled (Option 3). The
reports (Option 4) are dropped into each. Decided here: what each way is, and what must come out.

    python -m dicom_assets_tests.demo_options [--to FOLDER]
"""

import argparse
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_assets.demo import (
    DAGSTER_FOLDER,
    OF_REPORTS,
    PROCESS,
    ZIPS,
    clear,
    counts,
    drop_images,
    drop_reports,
    expectation,
)
from dicom_assets.dicomweb.client import Client
from dicom_assets.lakehouse.query import values_of
from dicom_assets.sample import write_sample
from dicom_assets.settings import Settings, load_settings
from dicom_assets.steps.external import SKIPPED, TO_READ
from dicom_assets.steps.pull import pull
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run
from dicom_assets.steps.store import compare, store
from dicom_assets_tests import object_stores, orthanc

SERVICE = "orthanc"
CLOUD = "CLOUD"
EXTERNAL, SAME = "objects in External", "instances that Option 1 has, too"


@dataclass(frozen=True)
class Sources:
    """The sample, and the servers that hold it.

    Attributes:
        sample: Its folder.
        place: A container of Azurite.
        reader: Options for it that let nobody write.
        orthanc: The Orthanc.
    """

    sample: Path
    place: object_stores.Place
    reader: dict[str, str]
    orthanc: orthanc.Orthanc

    def choices(self) -> dict[str, dict]:
        """Settings that tell of the servers, as a site would state them."""
        service = {
            "address": self.orthanc.service.address,
            "orthanc_address": self.orthanc.address,
            "user": orthanc.USER,
            "password": orthanc.PASSWORD,
        }
        return {"storage": {self.place.address: self.reader}, "dicom_services": {SERVICE: service}}


def flat(folder: Path) -> dict[str, bytes]:
    """The sample's 96 files as they lie in a storage: no ZIPs, nested folders."""
    found: dict[str, bytes] = {}

    def add(name: str, content: bytes) -> None:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.namelist():
                    add(f"{name.removesuffix('.zip')}/{member}", archive.read(member))
        else:
            found[name] = content

    for path in sorted(folder.rglob("*")):
        if path.is_file():
            add(path.relative_to(folder).as_posix(), path.read_bytes())
    return found


def dropped(sources: Sources, run: Run) -> None:
    drop_images(sources.sample, run.settings)


def in_a_container(sources: Sources, run: Run) -> None:
    shortcut = run.engine.layout.external_root / CLOUD / "images.json"
    shortcut.parent.mkdir(parents=True)
    shortcut.write_text(json.dumps({"address": sources.place.address}))


def in_orthanc_s_storage(sources: Sources, run: Run) -> None:
    shortcut = run.engine.layout.external_root / SERVICE / "storage"
    shortcut.parent.mkdir(parents=True)
    shortcut.symlink_to(sources.orthanc.storage)


def pulled(sources: Sources, run: Run) -> None:
    assert pull(run, SERVICE).rows == sources.orthanc.count()


WAYS: Mapping[str, tuple[str, Callable[[Sources, Run], None]]] = {
    "drop_folder": ("1: dropped", dropped),
    "container": ("2: container in place", in_a_container),
    "orthanc_storage": ("3: Orthanc's storage in place", in_orthanc_s_storage),
    "orthanc_pulled": ("3: Orthanc pulled", pulled),
}
"""Folder of the lakehouse → what the way is called, and what brings the sample in."""


def expected(declared: Mapping[str, int], *, is_dropped: bool) -> dict[str, int]:
    """What must come out; of files that stay where they are there is none in Process."""
    files = declared["process_files"]
    elsewhere = {} if is_dropped else {PROCESS: 0, ZIPS: 0}
    own = {EXTERNAL: 0 if is_dropped else files, SAME: files}
    return own | expectation(declared, compress=True) | elsewhere


def found(run: Run, first: Run) -> dict[str, int]:
    """What came out, and how much of it the first way has as well."""
    day = Day(run)
    states = day.external["state"]
    objects = int(states.isin(TO_READ).sum() - (states == SKIPPED).sum())
    return {EXTERNAL: objects, SAME: len(instances(run) & instances(first))} | counts(day)


def instances(run: Run) -> set[tuple[str, ...]]:
    """The date's instances, whatever source system they came from: their UIDs."""
    uids = ["studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"]
    rows = run.engine.read(run.metastore, uids, ingest_date=run.ingest_date)
    return set(values_of(rows, *uids))


@contextmanager
def served(folder: Path, sample: Path) -> Iterator[Sources]:
    """The servers, and the sample in them; what they hold lies in a folder."""
    (folder / "azurite").mkdir()
    with (
        object_stores.azurite(folder / "azurite") as azurite,
        orthanc.running(folder / "orthanc") as server,
    ):
        place = azurite.place("images")
        for name, content in flat(sample / "Imaging/DICOM").items():
            place.put(name, content)
        yield Sources(sample, place, azurite.read_only(place), server)


def store_and_compare(sources: Sources) -> tuple[int, int]:
    """Stores the sample in Orthanc; how many it took, and how many came back the same."""
    with tempfile.TemporaryDirectory() as nothing:
        settings = load_settings(lakehouse=Path(nothing), **sources.choices())
        with Client.of(SERVICE, settings.dicom_services[SERVICE]) as client:
            images = [sources.sample / "Imaging/DICOM"]
            stored = store(client, images, settings).counts["stored"]
            return stored, compare(client, images, settings).counts["the same"]


def _configure(root: Path, sources: Sources) -> None:
    """Writes settings of the demo's own, which also sensors and another process would read."""
    lines = ["settle_seconds = 0"]
    for setting, sections in sources.choices().items():
        for name, values in sections.items():
            lines.append(f"\n[{setting}.{json.dumps(name)}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    file = root / "dicom_assets.toml"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")
    for name in [name for name in os.environ if name.startswith("DICOM_ASSETS_")]:
        del os.environ[name]
    os.environ |= {"DICOM_ASSETS_CONFIG": str(file), "DAGSTER_HOME": str(root / DAGSTER_FOLDER)}


def _chain(settings: Settings, day: str) -> bool:
    from dicom_assets.console import print_outcome
    from dicom_assets.runner import run_chain

    outcome = run_chain(lakehouse=settings.lakehouse, partition_key=day)
    if not outcome.succeeded:
        print_outcome(outcome)
    return outcome.succeeded


def shown(rows: Mapping[str, tuple[dict[str, int], dict[str, int]]]) -> bool:
    """Prints what came out of each way, and of what else had to; whether all is as it had to be."""
    from dicom_assets.console import print_table

    lines = []
    first = (PROCESS, ZIPS, EXTERNAL)
    for what in dict.fromkeys((*first, *next(iter(rows.values()))[0])):
        cells = [
            f"{is_}" if is_ == should else f"{is_}, NOT {should}"
            for is_, should in ((actual[what], wanted[what]) for actual, wanted in rows.values())
        ]
        lines.append([f"4: {what}" if what in OF_REPORTS else what, *cells])
    print_table(["Option", *(WAYS[way][0] for way in rows)], lines)
    return all(actual == wanted for actual, wanted in rows.values())


def demo(root: Path) -> bool:
    """Makes a lakehouse for each way, and shows what came out; whether all is as it had to be."""
    from dicom_assets.defs.partitions import ingest_date

    clear(root)
    servers = root / "servers"
    servers.mkdir()
    print("starting Orthanc and Azurite, and putting the sample into them")
    write_sample(servers / "sample")
    with served(servers, servers / "sample") as sources:
        _configure(root, sources)
        stored, same = store_and_compare(sources)
        print(f"Orthanc: {stored} instances stored (STOW-RS), {same} came back the same (WADO-RS)")
        declared = json.loads((sources.sample / "dicom_assets_manifest.json").read_text())
        total = declared["expected"]["process_files"]
        holds = stored == same == total
        day = ingest_date.get_last_partition_key() or ""
        runs: dict[str, Run] = {}
        for folder, (name, bring) in WAYS.items():
            print(name, flush=True)
            run = runs[folder] = Run.of(load_settings(lakehouse=root / folder), day)
            bring(sources, run)
            drop_reports(sources.sample, run.settings)
            holds &= _chain(run.settings, day)
    rows = {}
    for folder, run in runs.items():
        wanted = expected(declared["expected"], is_dropped=folder == "drop_folder")
        rows[folder] = (found(run, runs["drop_folder"]), wanted)
    holds &= shown(rows)
    where = os.path.relpath(root)
    print("all are equal, and as they have to be" if holds else "SOMETHING IS NOT AS IT HAS TO BE")
    print(f"Each lakehouse lies below {where}, its settings in {where}/dicom_assets.toml.")
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dicom_assets_tests.demo_options",
        description="Runs the sample through every way in, on servers that it starts itself.",
    )
    parser.add_argument(
        "--to", type=Path, default=Path("data/demo-options"), help="folder of the lakehouses"
    )
    root = parser.parse_args().to.absolute()
    missing = []
    if not orthanc.IS_INSTALLED:
        missing.append("Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    if not object_stores.AZURITE_IS_INSTALLED:
        missing.append("Azurite (Node.js and npm, then `make demo-options` installs it)")
    if missing:
        parser.exit(1, f"not installed: {'; '.join(missing)}\n")
    try:
        holds = demo(root)
    except FileExistsError as error:
        parser.error(str(error))
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()

"""The demo: a fresh lakehouse with the sample dropped into it, and what must come out.

Decided here: what the demo drops and counts. It only ever deletes a folder that it made itself.
Dagster's history of the demo lies beside its tables, and stays: the UI may be open on it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicom_assets.lakehouse import manifest
from dicom_assets.lakehouse.drop_folder import dropped
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.settings import Settings
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

DAGSTER_FOLDER = ".dagster"
PROCESS, ZIPS = "files in Process", "of these, ZIPs"
OF_REPORTS = (
    "rows in bronze/DiagnosticReport",
    "rows in silver/DiagnosticReport",
    "of these, joined to their study",
    "rows in gold/note",
)
_MARK = ".dicom_assets_demo"


@dataclass(frozen=True, slots=True)
class Count:
    """One line of what came out: what was counted, how many there should be and are."""

    what: str
    expected: int
    actual: int


def fresh(settings: Settings) -> str:
    """Makes the demo lakehouse anew and drops the sample.

    Returns:
        The ingest date, yyyy-mm-dd: today.

    Raises:
        FileExistsError: The folder holds something that the demo did not make.
    """
    from dicom_assets.defs.partitions import ingest_date
    from dicom_assets.sample import write_sample

    root = settings.lakehouse
    clear(root)
    sample = root / "sample"
    write_sample(sample)
    drop_images(sample, settings)
    drop_reports(sample, settings)
    return ingest_date.get_last_partition_key() or ""


def clear(root: Path) -> None:
    """Empties a folder that a demo made, but for Dagster's history; makes it where there is none.

    Raises:
        FileExistsError: The folder holds something that no demo made.
    """
    if root.exists() and any(root.iterdir()) and not (root / _MARK).exists():
        raise FileExistsError(f"{root} is no demo lakehouse; choose another folder with --to")
    root.mkdir(parents=True, exist_ok=True)
    (root / _MARK).touch()
    for path in root.iterdir():
        if path.is_dir() and path.name != DAGSTER_FOLDER:
            shutil.rmtree(path)


def drop_images(sample: Path, settings: Settings) -> None:
    """Drops the sample's images, loose and in ZIPs, with their manifest."""
    drop = Layout(settings.lakehouse).drop_folder
    shutil.copytree(sample / "Imaging/DICOM", drop)
    shutil.copyfile(sample / manifest.NAME, drop / manifest.NAME)


def drop_reports(sample: Path, settings: Settings) -> None:
    """Drops the sample's reports."""
    shutil.copytree(sample / "Clinical/FHIR NDJSON", Layout(settings.lakehouse).fhir_drop_folder)


def counted(settings: Settings, partition_key: str) -> list[Count]:
    """Counts what the chain made of the dropped sample, beside what it should."""
    day = Day(Run.of(settings, partition_key))
    ((declared,),) = day.manifests.values()
    expected = expectation(declared, compress=settings.compress)
    return [Count(what, expected[what], actual) for what, actual in counts(day).items()]


def expectation(declared: Mapping[str, int], *, compress: bool) -> dict[str, int]:
    """Returns what `counts` should be, once the sample was dropped.

    Args:
        declared: What the sample's manifest says.
        compress: Whether each file becomes a ZIP.
    """
    files, studies = declared["process_files"], declared["ImagingStudy"]
    reports = declared["DiagnosticReport"]
    return {
        PROCESS: files,
        ZIPS: files * compress,
        "rows in bronze/dicomimagingmetastore": declared["dicomimagingmetastore"],
        "ImagingStudy NDJSON files": 1,
        "rows in bronze/ImagingStudy": studies,
        "rows in silver/ImagingStudy": studies,
        "rows in gold/Image_Occurrence": declared["Image_Occurrence"],
        **dict.fromkeys(OF_REPORTS, reports),
        "rows in bronze/ingestion_failures": 0,
        "files left in Ingest": 0,
    }


def counts(day: Day) -> dict[str, int]:
    """Returns how many files and rows there are of an ingest date, layer by layer."""
    layout = day.run.engine.layout
    reports = day.resources("DiagnosticReport")
    joined = [row for row in reports.silver if any(row["imagingStudyIds"] or ())]
    of_reports = map(len, (reports.bronze, reports.silver, joined, reports.notes))
    left = [*dropped(layout.drop_folder), *dropped(layout.fhir_drop_folder)]
    return {
        PROCESS: day.files["total"],
        ZIPS: day.files["zips"],
        "rows in bronze/dicomimagingmetastore": len(day.instances),
        "ImagingStudy NDJSON files": len(layout.fhir_files(day.run.ingest_date, "ImagingStudy")),
        "rows in bronze/ImagingStudy": len(day.bronze),
        "rows in silver/ImagingStudy": len(day.silver.studies),
        "rows in gold/Image_Occurrence": len(day.gold),
        **dict(zip(OF_REPORTS, of_reports, strict=True)),
        "rows in bronze/ingestion_failures": len(day.failures),
        "files left in Ingest": len(left),
    }

"""The demo: a fresh lakehouse with the sample dropped into it, and what must come out.

Decided here: what the demo drops and counts. It only ever deletes a folder that it made itself.
Dagster's history of the demo lies beside its tables, and stays: the UI may be open on it.
"""

import shutil
from dataclasses import dataclass

from dicom_assets.lakehouse import manifest
from dicom_assets.lakehouse.drop_folder import dropped
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.settings import Settings
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

DAGSTER_FOLDER = ".dagster"
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
    if root.exists() and any(root.iterdir()) and not (root / _MARK).exists():
        raise FileExistsError(f"{root} is no demo lakehouse; choose another folder with --to")
    for path in root.iterdir() if root.exists() else ():
        if path.name not in (_MARK, DAGSTER_FOLDER):
            shutil.rmtree(path)
    drop = Layout(root).drop_folder
    sample = root / "sample"
    write_sample(sample)
    shutil.copytree(sample / "Imaging/DICOM", drop)
    shutil.copytree(sample / "Clinical/FHIR NDJSON", Layout(root).fhir_drop_folder)
    shutil.copyfile(sample / manifest.NAME, drop / manifest.NAME)
    (root / _MARK).touch()
    return ingest_date.get_last_partition_key() or ""


def counted(settings: Settings, partition_key: str) -> list[Count]:
    """Counts what the chain made of the sample."""
    day = Day(Run.of(settings, partition_key))
    layout = day.run.engine.layout
    ((expected,),) = day.manifests.values()
    instances, studies = expected["dicomimagingmetastore"], expected["ImagingStudy"]
    ndjson = layout.fhir_files(day.run.ingest_date, "ImagingStudy")
    left = [*dropped(layout.drop_folder), *dropped(layout.fhir_drop_folder)]
    return [
        Count("files in Process", expected["process_files"], day.files["total"]),
        Count("of these, ZIPs", expected["process_files"] * settings.compress, day.files["zips"]),
        Count("rows in bronze/dicomimagingmetastore", instances, len(day.instances)),
        Count("ImagingStudy NDJSON files", 1, len(ndjson)),
        Count("rows in bronze/ImagingStudy", studies, len(day.bronze)),
        Count("rows in silver/ImagingStudy", studies, day.silver.num_rows),
        Count("rows in gold/Image_Occurrence", expected["Image_Occurrence"], len(day.gold)),
        *_of_reports(day, expected["DiagnosticReport"]),
        Count("rows in bronze/ingestion_failures", 0, len(day.failures)),
        Count("files left in Ingest", 0, len(left)),
    ]


def _of_reports(day: Day, expected: int) -> list[Count]:
    reports = day.resources("DiagnosticReport")
    joined = [row for row in reports.silver if any(row["imagingStudyIds"] or ())]
    return [
        Count("rows in bronze/DiagnosticReport", expected, len(reports.bronze)),
        Count("rows in silver/DiagnosticReport", expected, len(reports.silver)),
        Count("of these, joined to their study", expected, len(joined)),
        Count("rows in gold/note", expected, len(reports.notes)),
    ]

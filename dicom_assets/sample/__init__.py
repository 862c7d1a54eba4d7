"""The sample that everyone can run: 96 small DICOM files of nine studies, and six reports.

Decided here: what lands where below the chosen folder. Everything is drawn and made up, nothing
comes from a person, and the same seed gives the same bytes. Importing this package is light:
numpy and pydicom are loaded when the sample is written.
"""

from pathlib import Path
from typing import Any

from dicom_assets.lakehouse.manifest import NAME as MANIFEST_NAME

DICOM_FOLDER = "Imaging/DICOM"
REPORT_FOLDER = "Clinical/FHIR NDJSON/DiagnosticReport"
DEFAULT_SEED = 7


def write_sample(to: Path, *, seed: int = DEFAULT_SEED) -> dict[str, Any]:
    """Write the sample, and say what a pipeline should find in it.

    Files of the same names are overwritten; others are left alone and not counted.

    Args:
        to: The folder to write into; made if it is not there.
        seed: Decides all UIDs and the noise in all pictures.

    Returns:
        The manifest, which is also written to `dicom_assets_manifest.json`: the counts that the
        pipeline should reach, and one entry per study, both read back from the written files.
    """
    from dicom_assets.lakehouse.allocator import keep_memory
    from dicom_assets.sample.arrangement import packed, write_all
    from dicom_assets.sample.cases import studies
    from dicom_assets.sample.instances import instances
    from dicom_assets.sample.manifest import manifest, readable
    from dicom_assets.sample.reports import reports

    keep_memory()  # pictures are drawn in arrays that are let go at once
    cases = studies()
    files = {made.place: made.content for case in cases for made in instances(case, seed=seed)}
    written = write_all(to / DICOM_FOLDER, packed(files))
    written_reports = write_all(
        to / REPORT_FOLDER,
        {name: readable(report) for name, report in reports(cases, seed=seed).items()},
    )
    result = manifest(written, written_reports, seed=seed)
    write_all(to, {MANIFEST_NAME: readable(result)})
    return result

"""What the written sample holds, found by reading it back.

Decided here: the manifest's form. Its numbers are counted, so that they stay true when the
sample changes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

from pydicom import dcmread
from pydicom.dataset import Dataset

NAME = "dicom_assets sample"
TAGS = [
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "AccessionNumber",
    "StudyDescription",
]


def readable(value: Mapping[str, Any]) -> bytes:
    """JSON that people read: indented, and every script as it is written."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def contents(content: bytes) -> Iterator[bytes]:
    """The file itself, or all files of an archive and of the archives in it."""
    if is_zipfile(BytesIO(content)):
        with ZipFile(BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from contents(archive.read(name))
    else:
        yield content


def manifest(dicom: Iterable[Path], reports: Iterable[Path], *, seed: int) -> dict[str, Any]:
    """Count instances, studies, series and reports, and describe each study.

    Args:
        dicom: DICOM files and ZIPs.
        reports: FHIR resources as JSON.
        seed: What the sample was made from; only recorded.

    Returns:
        name, seed, expected rows by table, and the studies ordered by accession and UID.
    """
    studies: dict[str, list[Dataset]] = defaultdict(list)
    for path in dicom:
        for content in contents(path.read_bytes()):
            header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=TAGS)
            studies[header.StudyInstanceUID].append(header)
    described = [_described(uid, headers) for uid, headers in studies.items()]
    resources = [json.loads(path.read_bytes()) for path in reports]
    instances = sum(study["instances"] for study in described)
    return {
        "name": NAME,
        "seed": seed,
        "expected": {
            "process_files": instances,
            "dicomimagingmetastore": instances,
            "ImagingStudy": len(described),
            "Image_Occurrence": sum(study["series"] for study in described),
            "DiagnosticReport": sum(
                resource["resourceType"] == "DiagnosticReport" for resource in resources
            ),
        },
        "studies": sorted(described, key=lambda study: (study["accession"], study["uid"])),
    }


def _described(uid: str, headers: list[Dataset]) -> dict[str, Any]:
    first = headers[0]
    return {
        "uid": str(uid),
        "accession": str(first.AccessionNumber),
        "modalities": sorted({str(header.Modality) for header in headers}),
        "series": len({header.SeriesInstanceUID for header in headers}),
        "instances": len({header.SOPInstanceUID for header in headers}),
        "description": str(first.StudyDescription),
    }

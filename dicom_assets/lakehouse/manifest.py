"""A delivery's manifest: the counts that its sender declares.

Decided here: what a manifest is called, what it says and what it is about: the files of its own
folder, or archive, and of all below, on its ingest date. Not decided here: how things are counted
(`dicom_assets.steps.reconcile`).
"""

import json

NAME = "dicom_assets_manifest.json"
_ABOUT = "about"
COUNTED = ("process_files", "dicomimagingmetastore", "ImagingStudy", "Image_Occurrence")
"""Tables whose rows are counted; `DiagnosticReport` may be declared, too."""

_KNOWN = (*COUNTED, "DiagnosticReport")


def declared(content: bytes) -> dict[str, int]:
    """Returns table → rows.

    Args:
        content: The manifest, JSON: `{"expected": {"dicomimagingmetastore": 96, …}, …}`.

    Raises:
        ValueError: It declares no counts, or for something that has none.
    """
    try:
        expected = json.loads(content)["expected"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError('a manifest is JSON with counts: {"expected": {…}}') from error
    if not isinstance(expected, dict) or not set(expected) <= set(_KNOWN):
        raise ValueError(f"a manifest declares counts of {', '.join(_KNOWN)} only")
    if not all(type(count) is int and count >= 0 for count in expected.values()):
        raise ValueError("a manifest's counts are whole numbers from 0")
    return expected


def kept(content: bytes, *, folder: str) -> bytes:
    """Returns a manifest as the lakehouse keeps it: with the folder or archive it is about.

    Raises:
        ValueError: As `declared`.
    """
    declared(content)
    return json.dumps(json.loads(content) | {_ABOUT: folder}).encode()


def about(content: bytes) -> str:
    """Returns what a kept manifest is about: a folder of the drop folder, empty for all of it."""
    return json.loads(content)[_ABOUT]

"""The data dictionaries that come with pydicom: tag → VR.

Decided here: that the two tables are loaded without pydicom around them, whose loading takes a
sixth of a second in every worker process; and how a tag finds its row, which is pydicom's way.
Not decided here: what is done with what is found (`vr`).
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def standard_vr(tag: int) -> str | None:
    """Returns the VR of a standard element (PS3.6), repeating groups too; None if unknown."""
    entry = _module("_dicom_dict").DicomDictionary.get(tag)
    if entry is None and not tag >> 16 & 1:
        entry = next((row for value, mask, row in _repeaters() if tag & mask == value), None)
    return entry[0] if entry else None


def private_vr(tag: int, creator: str) -> str | None:
    """Returns the VR of a private element of a private creator; None if unknown.

    Most rows leave the block open (PS3.5 section 7.8.1), some the group, too.
    """
    rows: Mapping[str, tuple[str, ...]]
    rows = _module("_private_dict").private_dictionaries.get(creator, {})
    text = f"{tag:08X}"
    keys = (text, f"{text[:4]}xx{text[6:]}", f"{text[:2]}xxxx{text[6:]}")
    return next((rows[key][0] for key in keys if key in rows), None)


@cache
def _repeaters() -> list[tuple[int, int, tuple[str, ...]]]:
    """Returns value, mask and row of each repeating group, in the dictionary's order."""
    return [
        (
            int(text.replace("x", "0"), 16),
            int("".join("0" if digit == "x" else "F" for digit in text), 16),
            row,
        )
        for text, row in _module("_dicom_dict").RepeatersDictionary.items()
    ]


@cache
def _module(name: str) -> ModuleType:
    """Returns a module of pydicom, which it need not load for it."""
    if f"pydicom.{name}" in sys.modules:
        # not what stands there: while another thread loads pydicom, that is still empty
        return import_module(f"pydicom.{name}")
    package = find_spec("pydicom")  # finds it, and loads nothing
    (folder, *_) = (package and package.submodule_search_locations) or [""]
    spec = spec_from_file_location(f"{__name__}.{name}", Path(folder) / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"pydicom has no {name}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

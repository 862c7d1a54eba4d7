"""Header of a DICOM file: the one function behind which headers are read.

Decided here: what a header is to the rest of the product. Not decided here: what stands around a
dataset in a file (`part10`), how it is cut into elements (`elements`), what values become
(`values`). A faster reader has to give the same headers and raise the same errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from dicom_assets.dicom.part10 import DicomFile, HeaderError, read_file
from dicom_assets.dicom.values import Converter, promoted_text
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag
from dicom_assets.lakehouse.reasons import Reason

_REQUIRED = (
    ("0020000D", Reason.NO_STUDY_UID),
    ("0020000E", Reason.NO_SERIES_UID),
    ("00080018", Reason.NO_SOP_UID),
)

__all__ = ["Header", "HeaderError", "read_header"]


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a DICOM file without its pixels.

    Attributes:
        json: The dataset in the DICOM JSON Model (PS3.18 Annex F): eight upper-case hex digits →
            `vr` and `Value` or `InlineBinary`, in tag order.
        promoted: Column → value as it stands in the file, trimmed; None where empty or absent.
        transfer_syntax_uid: (0002,0010); None where the file does not state it.
        decode_notes: `TAG reason` for each element that had to be kept raw or could not be
            followed, never the value; tags of nested elements are joined with dots.
    """

    json: dict[str, dict[str, Any]]
    promoted: dict[str, str | None]
    transfer_syntax_uid: str | None
    decode_notes: list[str]


def read_header(stream: BinaryIO, *, tags: Sequence[PromotedTag] = PROMOTED_TAGS) -> Header:
    """Reads everything but the pixels of a DICOM file, or of a bare dataset that proves itself one.

    What is read: all elements but pixel data and its offset tables, palettes, ICC profiles,
    overlay and waveform data, at every level; those behind the pixel data too (private elements,
    digital signatures): pixel data are seeked past, encapsulated ones fragment by fragment. Only
    behind damaged fragments nothing more is read. Of binary values longer than 1 KiB the `vr`
    alone stays.

    What is damaged: a value that does not decode is kept as text or as base64 with `vr` UN, and
    noted. Where the file ends inside an element, that element keeps its `vr` but no value, for
    half a value would be a wrong one; the header is good if the three UIDs are known by then.

    Args:
        stream: A binary file at its start. It is read forward only; a member of an archive will
            do. No length in the file makes this allocate more than the file holds.
        tags: The attributes to promote.

    Raises:
        HeaderError: With reason `not_dicom`, `dicomdir`, `truncated` (the file ends before the
            three UIDs are known), `no_study_uid`, `no_series_uid`, `no_sop_uid`,
            `nested_too_deep` or `unreadable`.
        OSError: The stream cannot be read: a broken machine, not a broken file.
    """
    try:
        return _header(read_file(stream), tags)
    except (HeaderError, OSError, MemoryError):
        raise
    except RecursionError:
        error = HeaderError(Reason.NESTED_TOO_DEEP)
    except Exception as unforeseen:
        kind = type(unforeseen).__name__
        error = HeaderError(Reason.UNREADABLE, f"the header cannot be read ({kind})")
    raise error


def _header(file: DicomFile, tags: Sequence[PromotedTag]) -> Header:
    converter = Converter(little_endian=file.little_endian)
    encodings = converter.encodings(file.dataset)
    json = converter.json(file.dataset)
    if file.command.elements:
        json = Converter(little_endian=True).json(file.command) | json

    def text(key: str, vr: str) -> str | None:
        element = file.dataset.elements.get(int(key, 16))
        return promoted_text(element, json.get(key, {}), vr, encodings)

    for key, reason in _REQUIRED:
        if text(key, "UI") is None:
            raise _missing(file, key, reason)
    promoted = {tag.column: text(tag.tag, tag.vr) for tag in tags}
    notes = list(dict.fromkeys(file.notes + converter.notes))
    return Header(json, promoted, file.transfer_syntax_uid, notes)


def _missing(file: DicomFile, key: str, reason: Reason) -> HeaderError:
    where = f"({key[:4]},{key[4:]})"
    if file.damaged:
        return HeaderError(Reason.UNREADABLE, f"the data are damaged before {where} is known")
    if not file.whole:
        return HeaderError(Reason.TRUNCATED, f"the file ends before {where} is known")
    return HeaderError(reason)

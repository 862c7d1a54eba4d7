"""Header of a DICOM file: the one function behind which headers are read.

Decided here: that the fast reader (`fast`) has the first go, that the careful one (`careful`) reads
what is not plain, and that nothing but a HeaderError says that a file is bad. Not decided here: how
either reads. Both give the same headers.
"""

from collections.abc import Sequence

from dicom_assets.dicom.attributes import Header
from dicom_assets.dicom.careful import careful_header
from dicom_assets.dicom.fast import NotPlain, fast_header
from dicom_assets.dicom.part10 import HeaderError, read_file
from dicom_assets.dicom.source import ReadableStream, Source, TooLong
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag
from dicom_assets.lakehouse.reasons import Reason

__all__ = ["Header", "HeaderError", "read_header"]


MAX_HEADER_BYTES = 1 << 26
"""Default of what may be kept of a header: values, and 32 bytes for each element and item."""


def read_header(
    stream: ReadableStream,
    *,
    tags: Sequence[PromotedTag] = PROMOTED_TAGS,
    most: int = MAX_HEADER_BYTES,
    is_far: bool = False,
) -> Header:
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
        most: Longest header, in bytes that are kept: its values, and 32 for each element and item.
        is_far: Each read behind a jump costs a request. Where the last 4 KiB end encapsulated pixel
            data, and hold no other such end, nothing is taken to lie behind those: their fragments
            are not followed one by one.

    Raises:
        HeaderError: With reason `not_dicom`, `dicomdir`, `truncated` (the file ends before the
            three UIDs are known), `no_study_uid`, `no_series_uid`, `no_sop_uid`,
            `nested_too_deep`, `too_large` or `unreadable`.
        OSError: The stream cannot be read: a broken machine, not a broken file.
    """
    try:
        return _header(Source(stream, most=most), tags, is_far=is_far)
    except (HeaderError, OSError, MemoryError):
        raise
    except TooLong:
        error = HeaderError(Reason.TOO_LARGE, "the header is longer than max_header_bytes")
    except RecursionError:
        error = HeaderError(Reason.NESTED_TOO_DEEP)
    except Exception as unforeseen:
        kind = type(unforeseen).__name__
        error = HeaderError(Reason.UNREADABLE, f"the header cannot be read ({kind})")
    raise error


def _header(source: Source, tags: Sequence[PromotedTag], *, is_far: bool) -> Header:
    try:
        return fast_header(source, tags, is_far=is_far)
    except NotPlain:
        return careful_header(read_file(source), tags)

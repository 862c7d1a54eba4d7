"""The careful reader: headers of whatever a file holds, damaged ones too.

Decided here: when a file is a row, and what is said when it is none. Not decided here: how it is
read (`part10`, `elements`, `values`). The fast reader (`fast`) gives the same headers.
"""

from collections.abc import Sequence

from dicom_assets.dicom.attributes import Header, attribute_of
from dicom_assets.dicom.part10 import DicomFile, HeaderError
from dicom_assets.dicom.values import Converter, promoted_text
from dicom_assets.lakehouse.promoted import PromotedTag
from dicom_assets.lakehouse.reasons import Reason

_REQUIRED = (
    ("0020000D", Reason.NO_STUDY_UID),
    ("0020000E", Reason.NO_SERIES_UID),
    ("00080018", Reason.NO_SOP_UID),
)


def careful_header(file: DicomFile, tags: Sequence[PromotedTag]) -> Header:
    """Returns the header of a file that was read with care.

    Args:
        file: Its elements.
        tags: The attributes to promote.

    Raises:
        HeaderError: One of the three UIDs is not there.
    """
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
    notes = list(dict.fromkeys([*file.notes, *converter.notes]))
    attributes = [attribute_of(key, attribute) for key, attribute in json.items()]
    return Header(attributes, promoted, file.transfer_syntax_uid, notes, slow=True)


def _missing(file: DicomFile, key: str, reason: Reason) -> HeaderError:
    where = f"({key[:4]},{key[4:]})"
    if file.damaged:
        return HeaderError(Reason.UNREADABLE, f"the data are damaged before {where} is known")
    if not file.whole:
        return HeaderError(Reason.TRUNCATED, f"the file ends before {where} is known")
    return HeaderError(reason)

"""A header, and each element of it: its text in the DICOM JSON Model, and its values.

Decided here: what a header is to the rest of the product, and how an element becomes JSON text and
the texts of the `metadata` map. Not decided here: what its values are (`values`), how headers are
read (`header`) or how columns are built of them (`columns`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dicom_assets.dicom.vr import names

_NO_TEXTS = names("DS FD FL IS PN SL SQ SS SV UL US UV")
"""VRs whose values are no strings in the DICOM JSON Model, or not all of them."""


@dataclass(slots=True, eq=False)
class Attribute:
    """One element; never changed. Equal ones of different files are often the same object.

    Attributes:
        key: The tag as eight upper-case hex digits.
        vr: The value representation.
        json: `"00080060":{"vr":"CS","Value":["CT"]}`, as UTF-8.
        texts: The values of the `metadata` map: text values stay text; numbers are their JSON text;
            person names and sequence items are JSON objects as text, or as its UTF-8 bytes;
            InlineBinary is one base64 string. Empty where the element has no value.
    """

    key: str
    vr: str
    json: bytes
    texts: tuple[str | bytes | None, ...]


@dataclass(slots=True, eq=False)
class Header:  # noqa: PLW1641 -- nobody needs its hash
    """What is known of a DICOM file without its pixels.

    Two are equal if they say the same, however they were read.

    Attributes:
        attributes: The elements in tag order.
        promoted: Column → value as it stands in the file, trimmed; None where empty or absent.
        transfer_syntax_uid: (0002,0010); None where the file does not state it.
        decode_notes: `TAG reason` for each element that had to be kept raw or could not be
            followed, never the value; tags of nested elements are joined with dots.
        slow: Whether the careful reader had to read the file.
    """

    attributes: Sequence[Attribute]
    promoted: dict[str, str | None]
    transfer_syntax_uid: str | None
    decode_notes: list[str]
    slow: bool = False

    @property
    def text(self) -> bytes:
        """The dataset in the DICOM JSON Model (PS3.18 Annex F), as UTF-8."""
        return object_of(self.attributes)

    @property
    def json(self) -> dict[str, dict[str, Any]]:
        """The same as an object: eight hex digits → `vr` and `Value` or `InlineBinary`."""
        return orjson.loads(self.text)

    def __eq__(self, other: object) -> bool:
        """Whether the other header says the same."""
        return isinstance(other, Header) and self._said() == other._said()

    def _said(self) -> tuple[object, ...]:
        return self.text, self.promoted, self.transfer_syntax_uid, self.decode_notes


def attribute_of(key: str, attribute: dict[str, Any]) -> Attribute:
    """Returns the attribute that is so in the DICOM JSON Model."""
    json = orjson.dumps({key: attribute})[1:-1]
    vr = attribute["vr"]
    values = attribute.get("Value", ())
    if vr in _NO_TEXTS:
        values = [_text(value) for value in values]
    elif "InlineBinary" in attribute:
        values = (attribute["InlineBinary"],)
    return Attribute(key, vr, json, tuple(values))


def sequence_of(key: str, items: list[bytes]) -> Attribute:
    """Returns the sequence of items that are so in the DICOM JSON Model."""
    json = b'"%b":{"vr":"SQ","Value":[%b]}' % (key.encode(), b",".join(items))
    return Attribute(key, "SQ", json, tuple(items))


def object_of(attributes: Sequence[Attribute]) -> bytes:
    """Returns a dataset or sequence item as a JSON object."""
    return b"{%b}" % b",".join([attribute.json for attribute in attributes])


def _text(value: Any) -> str | None:
    if value is None or type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    return orjson.dumps(value).decode()

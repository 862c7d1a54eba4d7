"""Raw values → the DICOM JSON Model (PS3.18 Annex F), and the text of promoted attributes.

Decided here: what a value of each value representation becomes, and how one that does not decode is
kept: text as text, anything else as base64, with a note that never holds the value. Equal to
pydicom's `Dataset.to_json_dict()` where that yields valid JSON. Not decided here: how a file is cut
into elements (`elements`).
"""

import base64
import math
import struct
from collections.abc import Callable
from typing import Any

import orjson

from dicom_assets.dicom import charset
from dicom_assets.dicom import vr as vrs
from dicom_assets.dicom.elements import BULK_BYTES, Dataset, Element
from dicom_assets.dicom.notes import Notes

Encodings = tuple[str, ...]
CHARACTER_SET = 0x00080005
PIXEL_REPRESENTATION = 0x00280103
_WAVEFORM_BITS_ALLOCATED = 0x54001004
_LUT_DESCRIPTOR = 0x00283002
_LUT_DATA = 0x00283006
DECIDING = frozenset(
    (CHARACTER_SET, PIXEL_REPRESENTATION, _WAVEFORM_BITS_ALLOCATED, _LUT_DESCRIPTOR)
)
"""Elements that decide how others are read; private creators do too."""

_DESCRIPTORS = (0x00281101, 0x00281102, 0x00281103, _LUT_DESCRIPTOR)
_FORMATS = {
    "FD": "d",
    "FL": "f",
    "SL": "l",
    "SS": "h",
    "SV": "q",
    "UL": "L",
    "US": "H",
    "UV": "Q",
}
_ONE_TEXT = vrs.names("LT ST UT UR")
_LATIN = vrs.names("AE AS CS DA DS DT IS TM UI UR")
_TEXT = _LATIN | vrs.names("LO LT PN SH ST UC UT")
_PAD = " \0"


class Undecodable(Exception):
    """The value is not of its value representation; the argument says why, without the value."""


class Converter:
    """Converts one dataset; collects what had to be kept raw in `notes`."""

    def __init__(self, *, little_endian: bool) -> None:
        """Starts with no notes.

        Args:
            little_endian: By the transfer syntax.
        """
        self.notes = Notes()
        self._order = "<" if little_endian else ">"
        self._path: list[int] = []

    def json(
        self, dataset: Dataset, inherited: Encodings = charset.DEFAULT
    ) -> dict[str, dict[str, Any]]:
        """Returns the dataset in the DICOM JSON Model, in tag order.

        Args:
            dataset: A dataset or sequence item.
            inherited: Character set of the enclosing dataset (PS3.5 section 7.5.3).
        """
        encodings = self.encodings(dataset, inherited)
        elements = dataset.elements
        return {
            f"{tag:08X}": self.attribute(elements[tag], dataset, encodings)
            for tag in sorted(elements)
        }

    def encodings(self, dataset: Dataset, inherited: Encodings = charset.DEFAULT) -> Encodings:
        """Returns the codecs of a dataset's Specific Character Set."""
        element = dataset.elements.get(CHARACTER_SET)
        if element is None or not isinstance(element.value, bytes):
            return inherited
        encodings, reason = charset.encodings_of(element.value)
        if reason:
            self._note(CHARACTER_SET, reason)
        return encodings

    def attribute(  # noqa: PLR0911 -- one for each kind of value
        self, element: Element, dataset: Dataset, encodings: Encodings
    ) -> dict[str, Any]:
        """Returns one element in the DICOM JSON Model.

        Args:
            element: The element.
            dataset: Where it stands; elements there decide about ambiguous VRs.
            encodings: Codecs of the dataset's character set.
        """
        value = element.value
        if element.vr in _SHORTCUT and value:
            return _of_texts(element.vr, _SPLIT[element.vr](str(value, "latin-1")))  # type: ignore[arg-type]
        if isinstance(value, list):
            self._path.append(element.tag)
            items = [self.json(item, encodings) for item in value]
            self._path.pop()
            return {"vr": "SQ", "Value": items}
        vr = element.vr
        if vr in vrs.AMBIGUOUS:
            vr = self.decided_vr(element, dataset)
        if not value:
            return {"vr": vr}
        if vr in vrs.BINARY:
            return _inline(vr, value)
        if vr in _SPLIT:
            text, decoded = _decoded(value, vr, encodings)
            if not decoded:
                self._note(element.tag, "text not of the specific character set")
            return _of_texts(vr, _SPLIT[vr](text))
        try:
            values = self._values(element, vr, value)
        except Undecodable as reason:
            self._note(element.tag, str(reason))
            return _inline("UN", value)
        return {"vr": vr, "Value": values} if values else {"vr": vr}

    def _values(self, element: Element, vr: str, raw: bytes) -> list[Any]:
        """Returns the numbers or tags of a non-empty element; none if it holds only padding."""
        if vr in _FORMATS:
            return self._numbers(element, vr, raw)
        if vr == "AT":
            return self._tags(raw)
        return self._decimals(element.tag, vr, raw.decode("latin-1"))

    def _numbers(self, element: Element, vr: str, raw: bytes) -> list[Any]:
        form = _FORMATS[vr]
        count, rest = divmod(len(raw), struct.calcsize("=" + form))
        if rest:
            raise Undecodable(f"a length that is not of {vr}")
        numbers = list(struct.unpack(f"{self._order}{count}{form}", raw))
        if form in "df":
            return [_float_json(number) for number in numbers]
        if element.vr == "SS" and element.tag in _DESCRIPTORS and count > 1 and numbers[0] < 0:
            numbers[0] += 65536  # a count, unsigned whatever the VR (PS3.3 C.11.1.1.1)
        return numbers

    def _tags(self, raw: bytes) -> list[str]:
        if len(raw) % 4:
            raise Undecodable("a length that is not of AT")
        parts = struct.unpack(f"{self._order}{len(raw) // 2}H", raw)
        return [f"{parts[i]:04X}{parts[i + 1]:04X}" for i in range(0, len(parts), 2)]

    def _decimals(self, tag: int, vr: str, text: str) -> list[Any]:
        """Returns DS and IS as numbers, but as text what is none (PS3.18 table F.2.3-1)."""
        terms = (text.strip() if vr == "DS" else text).rstrip(_PAD).split("\\")
        if len(terms) == 1 and not terms[0].strip():
            return []
        number: Callable[[str], Any] = _decimal if vr == "DS" else _integer
        values: list[Any] = []
        for term in terms:
            bare = term.strip()
            try:
                values.append(number(bare) if bare else None)
            except (ValueError, OverflowError):
                self._note(tag, f"not a number of {vr}")
                values.append(bare)
        return values

    def decided_vr(self, element: Element, dataset: Dataset) -> str:
        """Returns the VR where the dictionary names several (PS3.5 Annex A)."""
        if element.vr == "US or SS":
            return "SS" if self._signed(dataset) else "US"
        if element.tag == _LUT_DATA:
            entries = self._integers_of(dataset, _LUT_DESCRIPTOR)
            return "US" if entries and entries[0] == 1 else "OW"
        if element.tag >> 16 == 0x5400 and not dataset.implicit:
            bits = self._integers_of(dataset, _WAVEFORM_BITS_ALLOCATED)
            return "OB" if bits and bits[0] <= 8 else "OW"
        return "OW"

    def _signed(self, dataset: Dataset) -> bool:
        """Whether Pixel Representation (0028,0103), the closest one, says signed."""
        here: Dataset | None = dataset
        while here is not None:
            stated = self._integers_of(here, PIXEL_REPRESENTATION)
            if stated:
                return stated[0] != 0
            here = here.parent
        return False

    def _integers_of(self, dataset: Dataset, tag: int) -> tuple[int, ...]:
        element = dataset.elements.get(tag)
        if element is None or not isinstance(element.value, bytes):
            return ()
        count = len(element.value) // 2
        return struct.unpack_from(f"{self._order}{count}H", element.value)

    def _note(self, tag: int, reason: str) -> None:
        self.notes.add((*self._path, tag), reason)


def promoted_text(
    element: Element | None, attribute: dict[str, Any], vr: str, encodings: Encodings
) -> str | None:
    """Returns a top-level element's value as it stands in the file, or None if it is empty.

    Values are trimmed and joined with backslashes, of a person name the alphabetic group; numbers
    of binary VRs as text, tags as eight digits, sequences as JSON, other binary as base64.

    Args:
        element: The element, if the dataset has it.
        attribute: The same in the DICOM JSON Model.
        vr: Its VR by the data dictionary; used where the file's is binary.
        encodings: Codecs of the dataset's character set.
    """
    if element is None:
        return None
    if element.vr in _TEXT:
        vr = element.vr
    if isinstance(element.value, bytes) and vr in _TEXT and element.vr in _TEXT | vrs.BINARY:
        whole, _ = _decoded(element.value, vr, encodings)
        values = [whole] if vr in _ONE_TEXT else whole.split("\\")
        if vr == "PN":
            values = [value.partition("=")[0] for value in values]
        values = [value.strip(_PAD) for value in values]
        return "\\".join(values) if any(values) else None
    numbers = attribute.get("Value")
    if not numbers:
        return attribute.get("InlineBinary")
    if element.vr == "SQ":
        return orjson.dumps(numbers).decode()
    return "\\".join(map(str, numbers))


def _inline(vr: str, raw: bytes) -> dict[str, Any]:
    if len(raw) > BULK_BYTES:
        return {"vr": vr}
    return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode()}


def _decoded(raw: bytes, vr: str, encodings: Encodings) -> tuple[str, bool]:
    if vr in _LATIN:
        return raw.decode("latin-1"), True
    if vr == "PN":
        raw = raw.rstrip(b" \0")
    return charset.decode(raw, encodings)


def _of_texts(vr: str, values: list[Any]) -> dict[str, Any]:
    """Returns the attribute of a text VR: without a value if only padding stood there."""
    return {"vr": vr, "Value": values} if len(values) > 1 or values[0] else {"vr": vr}


def _name(value: str) -> dict[str, str] | None:
    """Returns a person name's component groups (PS3.18 section F.2.2)."""
    groups = value.rstrip("=").split("=")
    if groups == [""]:
        return None
    return dict(zip(("Alphabetic", "Ideographic", "Phonetic"), groups, strict=False))


# The values of text VRs, trimmed as PS3.5 section 6.2 allows.
_SPLIT: dict[str, Callable[[str], list[Any]]] = {
    **dict.fromkeys(("LT", "ST", "UT"), lambda text: [text.rstrip(_PAD)]),
    "UR": lambda text: [text.rstrip()],
    **dict.fromkeys(
        ("LO", "SH", "UC"), lambda text: [value.rstrip(_PAD) for value in text.split("\\")]
    ),
    "AE": lambda text: [value.strip() for value in text.split("\\")],
    "UI": lambda text: [value.strip() for value in text.rstrip(_PAD).split("\\")],
    "PN": lambda text: [_name(value) for value in text.rstrip(_PAD).split("\\")],
    **dict.fromkeys(("AS", "CS", "DA", "DT", "TM"), lambda text: text.rstrip(_PAD).split("\\")),
}
_SHORTCUT = _SPLIT.keys() & _LATIN


def _float_json(number: float) -> float | str:
    """Returns a number that JSON has, else its name as other DICOM software writes it."""
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _decimal(term: str) -> float:
    number = float(term)
    if not math.isfinite(number):
        raise ValueError
    return number


def _integer(term: str) -> int:
    try:
        number = int(term)
    except ValueError:
        fraction = float(term)
        number = int(fraction)
        if number != fraction:
            raise
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError
    return number

"""Specific Character Set (0008,0005): bytes → text.

Decided here: which Python codecs a Specific Character Set names and how text with and without code
extensions is decoded (PS3.3 C.12.1.1.2, PS3.5 section 6.1). Not decided here: how a value is cut
into components (`values`). Nothing here warns or logs: what does not decode is said to the caller.
"""

import codecs
import re
from functools import lru_cache

DEFAULT = ("iso8859",)
"""The default repertoire, read leniently: ISO-IR 6 with whatever Latin-1 characters are there."""

_USUAL = {"": "iso8859", "ISO_IR 6": "iso8859", "ISO_IR 100": "latin_1", "ISO_IR 192": "UTF8"}
"""What nearly all files name: known without pydicom, which takes a quarter of a second to load."""

_ALONE = ("ISO_IR 192", "GBK", "GB18030")
_UNTRUSTED = ("idna", "punycode", "unicode", "raw", "undefined", "utf_7", "utf-7", "mbcs", "oem")
_LINE_ENDS = re.compile(rb"[\r\n\t\f]")
_FRAGMENTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_KEEPS_ESCAPES = ("iso2022_jp", "iso2022_jp_2", "iso_ir_58")
_UNKNOWN = "unknown character set"


@lru_cache(maxsize=256)
def encodings_of(value: bytes) -> tuple[tuple[str, ...], str | None]:
    """Returns the Python codecs of a Specific Character Set, and what is wrong with it if so."""
    terms = [term.strip() for term in value.decode("latin-1").rstrip(" \0").split("\\")]
    found = [_codec(term) for term in terms]
    reason = _UNKNOWN if None in found else None
    names = [name or DEFAULT[0] for name in found]
    if terms[0] in _ALONE:
        return (names[0],), reason if len(terms) == 1 else "a character set that stands alone"
    paired = zip(terms[1:], names[1:], strict=True)
    return (names[0], *(name for term, name in paired if term not in _ALONE)), reason


def decode(value: bytes, encodings: tuple[str, ...]) -> tuple[str, bool]:
    """Returns the text, and whether it decoded without a replacement character."""
    if b"\x1b" not in value:
        try:
            return value.decode(encodings[0]), True
        except UnicodeError:
            return value.decode(encodings[0], errors="replace"), False
    parts = [_fragment(part, encodings) for part in _FRAGMENTS.findall(value)]
    return "".join(text for text, _ in parts), all(decoded for _, decoded in parts)


def _codec(term: str) -> str | None:
    if term in _USUAL:
        return _USUAL[term]
    from pydicom.charset import python_encoding

    if term in python_encoding:
        return python_encoding[term]
    # Misspelt terms are common: ISO-IR 100, ISO 2022-IR-87.
    if re.match("ISO.2022.IR.", term):
        return python_encoding.get(f"ISO 2022 IR {term[12:]}")
    if re.match("ISO.IR", term):
        return python_encoding.get(f"ISO_IR{term[6:]}")
    try:
        name = codecs.lookup(term).name
        "".encode(name)
    except (LookupError, ValueError):
        return None
    return None if name.startswith(_UNTRUSTED) else name


def _fragment(part: bytes, encodings: tuple[str, ...]) -> tuple[str, bool]:
    """Returns the text up to the next escape sequence (PS3.5 section 6.1.2.5)."""
    try:
        if not part.startswith(b"\x1b"):
            return part.decode(encodings[0]), True
        return _escaped(part, encodings)
    except UnicodeError:
        return part.decode(encodings[0], errors="replace"), False


def _escaped(part: bytes, encodings: tuple[str, ...]) -> tuple[str, bool]:
    from pydicom.charset import CODES_TO_ENCODINGS

    width = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
    name = CODES_TO_ENCODINGS.get(part[:width])
    if name is None or (name not in encodings and name not in DEFAULT):
        return part.decode(encodings[0], errors="replace"), False
    if name in _KEEPS_ESCAPES:
        return part.decode(name), True
    text = part[width:]
    # The end of a line switches back to the first character set.
    end = _LINE_ENDS.search(text)
    if end is None:
        return text.decode(name), True
    return text[: end.start()].decode(name) + text[end.start() :].decode(encodings[0]), True

"""Value representations: which there are, and which one an element has when the file is silent.

Decided here: the VRs of PS3.5 section 6.2, and the look-up of a tag's VR in the data dictionaries
(PS3.6 and pydicom's dictionary of private elements). Not decided here: what a value of a VR means
(`values`). The dictionaries are loaded on the first look-up: importing this module is cheap.
"""

from functools import lru_cache

from dicom_assets.dicom import dictionaries


def names(text: str) -> frozenset[str]:
    """Returns the words of a text as a set."""
    return frozenset(text.split())


LONG = names("OB OD OF OL OV OW SQ SV UC UN UR UT UV")
"""VRs whose length takes four bytes in explicit VR (PS3.5 table 7.1-1)."""

SHORT = names("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US")
"""VRs whose length takes two bytes in explicit VR (PS3.5 table 7.1-2)."""

EXPLICIT: dict[bytes, str] = {name.encode(): name for name in LONG | SHORT}

BINARY = names("OB OD OF OL OV OW UN")
"""VRs that are base64 in the DICOM JSON Model (PS3.18 table F.2.3-1)."""

AMBIGUOUS = frozenset({"US or SS", "OB or OW", "US or OW", "US or SS or OW"})
"""What the dictionary says where another element decides (PS3.5 Annex A.1)."""

BULKY = BINARY | AMBIGUOUS - {"US or SS"}
"""VRs whose values may be bulk data."""


@lru_cache(maxsize=1 << 15)
def dictionary_vr(tag: int) -> str | None:
    """Returns the VR of a standard element by PS3.6, repeating groups too; None if unknown."""
    return dictionaries.standard_vr(tag)


@lru_cache(maxsize=1 << 15)
def private_vr(tag: int, creator: str) -> str | None:
    """Returns the VR of a private element of this private creator; None if unknown."""
    found = dictionaries.private_vr(tag, creator)
    if found is None or found in LONG or found in SHORT or found in AMBIGUOUS:
        return found
    return "OB or OW"

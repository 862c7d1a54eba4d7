"""Stable keys: the same things get the same key on every machine, engine and day.

Decided here: how parts become a key. `sha256(part | part | …)` over UTF-8, joined with `|`, so that
SQL can compute the same; and what of a text counts. Not decided here: which parts identify what.
"""

import hashlib

_CONTROL = {code: None for code in (*range(32), 127) if chr(code) not in "\t\n\r"}


def stated(value: str | None) -> str | None:
    """Returns what a text states: trimmed, without control characters; None if nothing is left.

    FHIR holds no control characters, so a key made of the file's text and one made of FHIR's must
    both be made of this.
    """
    return value.translate(_CONTROL).strip() or None if value else None


def hex_key(*parts: str) -> str:
    """Returns the SHA-256 of the parts as 64 lower-case hex digits (silver ids)."""
    return hashlib.sha256("|".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def int_key(*parts: str) -> int:
    """Returns the first 63 bits of the same hash as a non-negative int64 (OMOP ids)."""
    return int(hex_key(*parts)[:16], 16) >> 1

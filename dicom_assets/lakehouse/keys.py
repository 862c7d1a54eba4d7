"""Stable keys: the same things get the same key on every machine, engine and day.

Decided here: how parts become a key. `sha256(part | part | …)` over UTF-8, joined with `|`, so that
SQL can compute the same. Not decided here: which parts identify what.
"""

import hashlib


def hex_key(*parts: str) -> str:
    """Returns the SHA-256 of the parts as 64 lower-case hex digits (silver ids)."""
    return hashlib.sha256("|".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def int_key(*parts: str) -> int:
    """Returns the first 63 bits of the same hash as a non-negative int64 (OMOP ids)."""
    return int(hex_key(*parts)[:16], 16) >> 1

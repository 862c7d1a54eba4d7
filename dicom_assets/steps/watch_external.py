"""A fingerprint of what lies behind the shortcuts of External: another one when that has changed.

Decided here: what of it counts, and that it takes no longer than it may. It is kept in Dagster's
database, so it names nothing. Not decided here: what is new (`external`), when it is taken
(`dicom_assets.defs.sensors`).
"""

import time
from typing import Any

import numpy as np
import pandas.util
import pyarrow as pa

from dicom_assets.lakehouse.keys import hex_key
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.shortcuts import Shortcut, Skipped, listed, shortcuts
from dicom_assets.lakehouse.storage import ObjectError, Storage, StoreError
from dicom_assets.settings import Settings
from dicom_assets.steps.report import now

_util: Any = pandas.util
NOTHING = hex_key("[]")


def fingerprint(layout: Layout, settings: Settings, *, seconds: float) -> str:
    """Returns the fingerprint; NOTHING where there are neither shortcuts nor files.

    Args:
        layout: Where shortcuts lie.
        settings: How they are read.
        seconds: How long all listings may take. What is left then stands for itself by the hour.
    """
    found = shortcuts(layout)
    end = time.monotonic() + seconds
    seen = [("bad", name, why) for name, why in sorted(found.bad.items())]
    seen += [(each.name, *_listing(each, settings, end)) for each in found.good]
    return hex_key(str([each for each in seen if each[-1]]))


def _listing(shortcut: Shortcut, settings: Settings, end: float) -> tuple[str, str]:
    """Returns how a shortcut was looked at, and what of it counts; nothing for no objects."""
    try:
        if shortcut.inventory:
            return "inventory", str(
                [_version(each, settings.stores) for each in shortcut.inventory]
            )
        skipped, settle = Skipped(), settings.settle_seconds
        count, total = 0, np.uint64(0)
        for batch in listed(shortcut, settings.stores, skipped, now=now(), settle_seconds=settle):
            count += len(batch)
            total += _sum(batch)
            if time.monotonic() > end:
                return "long", f"{now():%Y-%m-%dT%H}"
    except StoreError as error:
        return "broken", str(error)
    return "listed", f"{count} {total}" if count else ""


def _version(address: str, storage: Storage) -> str:
    """Returns what changes when a file of an inventory does, or when one comes to a folder."""
    store, key = storage.find(address)
    if address.endswith("/"):
        return str(sum((_sum(batch) for batch in store.list(key)), np.uint64(0)))
    try:
        return store.get(key, 0, 1).version
    except ObjectError as error:
        raise StoreError(str(error)) from None


def _sum(batch: pa.RecordBatch) -> np.uint64:
    """Returns a sum over entries: their order does not count, and not all need be held."""
    hashes = _util.hash_pandas_object(batch.to_pandas(), index=False)
    return hashes.to_numpy().sum()

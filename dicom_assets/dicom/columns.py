"""Headers → Arrow columns of the metastore.

Decided here: how a header becomes the `metadata` map and the `metadata_string`. Not decided here:
what a header holds (`header`) or what the table looks like (`lakehouse.schemas`).
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from dicom_assets.dicom.header import Header
from dicom_assets.lakehouse.schemas import METADATA_MAP

_VALUE = METADATA_MAP.item_type.field("Value").type


def metadata_string(header: Header) -> str:
    """Returns the header as DICOM JSON text (PS3.18 Annex F)."""
    return orjson.dumps(header.json).decode()


def metadata_column(headers: Sequence[Header]) -> pa.MapArray:
    """Returns the `metadata` map of headers, one row each, of type `METADATA_MAP`.

    Text values stay text; numbers are their JSON text; person names and sequence items are JSON
    objects as text; InlineBinary is one base64 string. An element without a value has a null
    `Value`, an empty value among others is a null in it. Built from flat arrays and offsets:
    tens of microseconds a row. A batch must hold less than 2 GiB of text.

    Args:
        headers: As `read_header` gives them.
    """
    rows = [header.json for header in headers]
    attributes = list(chain.from_iterable(map(dict.values, rows)))
    texts: list[str | None] = []
    ends = [0]
    for attribute in attributes:
        _extend(texts, attribute)
        ends.append(len(texts))
    offsets = np.array(ends, np.int32)
    items = pa.StructArray.from_arrays(
        [
            pa.array([attribute["vr"] for attribute in attributes], pa.string()),
            pa.ListArray.from_arrays(
                pa.array(offsets),
                pa.array(texts, pa.string()),
                type=_VALUE,
                mask=pa.array(offsets[1:] == offsets[:-1]),
            ),
        ],
        fields=list(METADATA_MAP.item_type),
    )
    keys = pa.array(list(chain.from_iterable(rows)), pa.string())
    starts = pa.array(list(accumulate(map(len, rows), initial=0)), pa.int32())
    return pa.MapArray.from_arrays(starts, keys, items, type=METADATA_MAP)


def _extend(texts: list[str | None], attribute: dict[str, Any]) -> None:
    """Adds an attribute's values as texts; nothing if it has no value."""
    values = attribute.get("Value")
    if values is None:
        if "InlineBinary" in attribute:
            texts.append(attribute["InlineBinary"])
        return
    for value in values:
        kind = type(value)
        if kind is str or value is None:
            texts.append(value)
        elif kind is int:
            texts.append(str(value))
        else:
            texts.append(orjson.dumps(value).decode())

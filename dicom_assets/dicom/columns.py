"""Headers → Arrow columns of the metastore.

Decided here: how a header becomes the `metadata` map and the `metadata_string`. Not decided here:
what a header holds (`header`) or what the table looks like (`lakehouse.schemas`).
"""

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
import pyarrow as pa

from dicom_assets.dicom.attributes import Header
from dicom_assets.lakehouse.schemas import METADATA_MAP

_VALUE = METADATA_MAP.item_type.field("Value").type


def metadata_string(header: Header) -> str:
    """Returns the header as DICOM JSON text (PS3.18 Annex F)."""
    return header.text.decode()


def metadata_column(headers: Sequence[Header]) -> pa.MapArray:
    """Returns the `metadata` map of headers, one row each, of type `METADATA_MAP`.

    Text values stay text; numbers are their JSON text; person names and sequence items are JSON
    objects as text; InlineBinary is one base64 string. An element without a value has a null
    `Value`, an empty value among others is a null in it. Built from flat arrays and offsets:
    tens of microseconds a row. A batch must hold less than 2 GiB of text.

    Args:
        headers: As `read_header` gives them.
    """
    rows = [header.attributes for header in headers]
    distinct = list(dict.fromkeys(chain.from_iterable(rows)))
    numbers = dict(zip(distinct, range(len(distinct)), strict=True))
    indices = pa.array(np.fromiter(map(numbers.__getitem__, chain.from_iterable(rows)), np.int32))
    ends = np.cumsum([0, *(len(attribute.texts) for attribute in distinct)], dtype=np.int32)
    texts = list(chain.from_iterable([attribute.texts for attribute in distinct]))
    items = pa.StructArray.from_arrays(
        [
            pa.array([attribute.vr for attribute in distinct], pa.string()),
            pa.ListArray.from_arrays(
                pa.array(ends),
                pa.array(texts, pa.string()),
                type=_VALUE,
                mask=pa.array(ends[1:] == ends[:-1]),
            ),
        ],
        fields=list(METADATA_MAP.item_type),
    )
    keys = pa.array([attribute.key for attribute in distinct], pa.string())
    starts = pa.array(list(accumulate(map(len, rows), initial=0)), pa.int32())
    return pa.MapArray.from_arrays(
        starts, keys.take(indices), items.take(indices), type=METADATA_MAP
    )

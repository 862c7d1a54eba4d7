"""Reconciliation of arrivals: what of an ingest date was sent more than once, late, out of order.

Decided here: an instance of which there are several files, of whatever dates, was sent again; a
study is late when files of an earlier ingest date had been taken in before, and out of order when
files of a later one had: a past date was run after it. A file that is read again does not arrive
again. Not decided here: which files of other dates there are (`reconcile`), whose file counts
(`current_files`), or whether that is wrong (`dicom_assets.defs.checks`).
"""

from collections import Counter

import pandas as pd

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.reconcile_rows import UNKNOWN, micros

_FILE = ["instance", "path", "content"]


def instances_sent_again(instances: pd.DataFrame, others: pd.DataFrame) -> Counter[str]:
    """Counts a date's instances with several files: `resent` and, of those, `conflicting`.

    Args:
        instances: The date's rows (`reconcile_rows.instances`).
        others: Rows of its studies of other dates (`reconcile_rows.instances_of_others`).
    """
    elsewhere = others.loc[others["instance"].isin(instances["instance"]), _FILE]
    rows = pd.concat([elsewhere, instances.loc[:, _FILE]], ignore_index=True)
    copies = rows.loc[rows.duplicated("instance", keep=False)]
    files = copies.groupby("instance")["path"].nunique()
    known = copies.loc[copies["content"] != UNKNOWN]
    contents = known.groupby("instance")["content"].nunique()
    return Counter(resent=int((files > 1).sum()), conflicting=int((contents > 1).sum()))


def studies_in_parts(
    engine: LocalEngine, instances: pd.DataFrame, others: pd.DataFrame
) -> dict[str, int]:
    """Counts studies of which files of other ingest dates were there: `late`, `out_of_order`.

    Args:
        engine: The lakehouse.
        instances: The date's rows (`reconcile_rows.instances`).
        others: Rows of its studies of other dates (`reconcile_rows.instances_of_others`).
    """
    read_again = pd.Series(micros(Corrections.read(engine).reread_at))
    new = instances.loc[~instances["ingestedAt"].isin(read_again)]
    last = new.groupby("study")["ingestedAt"].max()
    others = others.loc[~others["ingestedAt"].isin(read_again)]
    before = others.loc[others["ingestedAt"] < others["study"].map(last)]
    return {
        "late": before.loc[before["isEarlier"], "study"].nunique(),
        "out_of_order": before.loc[~before["isEarlier"], "study"].nunique(),
    }

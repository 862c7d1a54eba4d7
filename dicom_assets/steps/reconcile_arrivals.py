"""Reconciliation of arrivals: what of an ingest date was sent more than once, late, out of order.

Decided here: an instance of which there are several files, of whatever dates, was sent again; a
study is late when files of an earlier ingest date had been taken in before, and out of order when
files of a later one had: a past date was run after it. A file that is read again does not arrive
again. Files of other dates are looked for only where silver knows of some. Not decided here: whose
file counts then (`current_files`), or whether that is wrong (`dicom_assets.defs.checks`).
"""

from collections import Counter

import pandas as pd

from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import study_key_of
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import studies_by_key

_STUDY = ["sourceSystem", "studyInstanceUid"]


def instances_sent_again(run: Run, instances: pd.DataFrame) -> Counter[str]:
    """Counts a date's instances with several files: `resent` and, of those, `conflicting`.

    Of other dates those are read on which lines about studies came that silver knows.

    Args:
        run: The lakehouse and the date.
        instances: The date's metastore rows (`reconcile.Day.instances`).
    """
    earlier = _of_other_dates(run, instances).assign(today=False)
    rows = pd.concat([earlier, instances.assign(today=True)], ignore_index=True)
    copies = rows.groupby(["sourceSystem", "sopInstanceUid"]).agg(
        today=("today", "any"),
        sent=("filePath", "nunique"),
        contents=("contentHash", "nunique"),
    )
    today = copies[copies["today"].astype(bool)]
    return Counter(
        resent=int((today["sent"] > 1).sum()), conflicting=int((today["contents"] > 1).sum())
    )


def _of_other_dates(run: Run, instances: pd.DataFrame) -> pd.DataFrame:
    """Returns other dates' rows of the date's studies that silver knows."""
    engine, silver = run.engine, catalog.silver_imaging_study()
    known = engine.read(silver, ["id", "idOrig"], where={"id": set(instances["study"])})
    seen = instances["study"].isin(known["id"].to_pylist())
    lines = {"id": set(known["idOrig"].to_pylist())}
    dates = engine.read(catalog.BRONZE_IMAGING_STUDY, [INGEST_DATE], where=lines)
    where = {
        INGEST_DATE: set(dates[INGEST_DATE].to_pylist()) - {run.ingest_date},
        "studyInstanceUid": set(instances.loc[seen, "studyInstanceUid"]),
    }
    columns = ["sourceSystem", "sopInstanceUid", "contentHash", "filePath"]
    return engine.read(run.metastore, columns, where=where).to_pandas()


def studies_in_parts(run: Run, instances: pd.DataFrame) -> dict[str, int]:
    """Counts studies of which files of other ingest dates were there: `late`, `out_of_order`.

    Args:
        run: The lakehouse and the date.
        instances: The date's metastore rows: sourceSystem, studyInstanceUid, ingestedAt.
    """
    read_again = list(Corrections.read(run.engine).reread_at)
    new = instances.loc[~instances["ingestedAt"].isin(read_again)]
    last = new.groupby(_STUDY, as_index=False).agg(last=("ingestedAt", "max"))
    keys = {study_key_of(*study) for study in last[_STUDY].itertuples(index=False, name=None)}
    dates = {
        study: set(row["ingestDates"]) - {run.ingest_date}
        for study, row in studies_by_key(run.engine, keys).items()
    }
    where = {
        INGEST_DATE: set().union(*dates.values()),
        "studyInstanceUid": {uid for (_, uid), others in dates.items() if others},
    }
    columns = [INGEST_DATE, *_STUDY, "ingestedAt"]
    others = run.engine.read(run.metastore, columns, where=where).to_pandas()
    others = others.loc[~others["ingestedAt"].isin(read_again)].merge(last, on=_STUDY)
    before = others.loc[others["ingestedAt"] < others["last"]]
    is_earlier = before[INGEST_DATE] < run.ingest_date
    return {
        "late": len(before.loc[is_earlier, _STUDY].drop_duplicates()),
        "out_of_order": len(before.loc[~is_earlier, _STUDY].drop_duplicates()),
    }

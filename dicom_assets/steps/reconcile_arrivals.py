"""Reconciliation of arrivals: which studies of an ingest date had files of other dates before.

Decided here: what is late (files of an earlier ingest date had been taken in before) and what is
out of order (files of a later one had: a past date was run after it). A file that is read again
does not arrive again. Files of other dates are looked for only where `silver/current_files` knows
of some. Not decided here: whose file counts then (`current_files`), or whether that is wrong
(`dicom_assets.defs.checks`).
"""

import pandas as pd

from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import study_key_of
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import studies_by_key

_STUDY = ["sourceSystem", "studyInstanceUid"]


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

"""The metastore against silver/conflicts: who is contradicted, and whether a row says so.

Decided here: which values must occur in a conflict, whatever the order in which files were settled:
each of several that files state of one attribute of an instance, series or study. A row must be
about values that files state, and be there once. Nothing is said of Patient IDs in source systems
where a patient was changed: a conflict is kept with what was said when it was met. Instances and
studies are compared a share at a time. Not decided here: what files contradict each other in
(`current_files`), or how what is found is mended (`repair`).
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa

from dicom_assets.fhir.imaging_study import is_told
from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.keys import stated
from dicom_assets.lakehouse.query import values_of
from dicom_assets.lakehouse.schemas import INGEST_DATE, REQUIRED_TAGS
from dicom_assets.steps import catalog
from dicom_assets.steps.conflicts import UID_OF_LEVEL, about
from dicom_assets.steps.current_files import ATTRIBUTES
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_current import Series

_TABLE = catalog.CONFLICTS
_WHOM = ["sourceSystem", "uid"]
_WHAT = [*_WHOM, "attribute"]
_OF_INSTANCE = ["studyInstanceUid", "seriesInstanceUid", "contentHash"]
_MET = pa.schema(
    [
        ("id", pa.int64()),
        *((name, pa.string()) for name in (*_WHAT, "newerValue", "olderValue")),
    ]
)
_STATED = pa.schema([(name, pa.string()) for name in (*_WHOM, *ATTRIBUTES)])


class ConflictCheck:
    """Compares silver/conflicts with the metastore; each part adds what it finds."""

    def __init__(self, run: Run, found: Findings, changed_in: Collection[str], count: int) -> None:
        """Knows no conflict yet.

        Args:
            run: The run.
            found: Where to add.
            changed_in: Source systems in which a patient was changed.
            count: Among how many shares instances are shared out, by source system and UID.
        """
        self._run, self._found, self._changed_in = run, found, changed_in
        self._count = count
        self._met = {level: self._buckets(_MET) for level in UID_OF_LEVEL}

    def share_out(self) -> None:
        """Reads silver/conflicts."""
        engine = self._run.engine
        columns = _TABLE.upserted.names
        for value in engine.partitions(_TABLE):
            rows = engine.read(_TABLE, columns, where={_TABLE.partition: [value]})
            by_level: dict[str, list[dict[str, Any]]] = {level: [] for level in UID_OF_LEVEL}
            for row in rows.to_pylist():
                _, _, uid, _ = about(row)
                by_level[row["level"]].append(row | {"uid": uid})
            for level, some in by_level.items():
                self._met[level].add(pa.Table.from_pylist(some, schema=_MET))

    def _buckets(self, schema: pa.Schema) -> Buckets:
        return Buckets(schema, _WHOM, count=self._count, folder=self._run.engine.layout.scratch)

    def of_instances(self) -> Iterator[pd.DataFrame]:
        """Yields the conflicts of instances, share by share, for `compare_instances`."""
        return (share.to_pandas() for share in self._met["instance"])

    def compare_instances(
        self, readings: pd.DataFrame, files: pd.DataFrame, met: pd.DataFrame
    ) -> None:
        """Compares what the metastore says of one share of instances with conflicts.

        Args:
            readings: All rows: conflicts may be about what a file was once read to say.
            files: The newest row of each file: none contradicts what itself said before.
            met: The conflicts (`of_instances`).
        """
        readings, files = (
            rows.rename(columns={"sopInstanceUid": "uid"}).loc[:, [*_WHOM, *_OF_INSTANCE]]
            for rows in (readings, files)
        )
        # who came once and is in no conflict need not be looked at
        several = readings.loc[readings.duplicated(subset=_WHOM, keep=False), "uid"]
        looked_at = [*{*several, *met["uid"]}]
        ever, now = (
            rows.loc[rows["uid"].isin(looked_at)]
            .melt(_WHOM, _OF_INSTANCE, "attribute", "value")
            .dropna(subset=["value"])
            for rows in (readings, files)
        )
        # a file without a hash, in External, contradicts none, nor do those before and after it
        nameless = readings.loc[readings["contentHash"].isna(), _WHOM].drop_duplicates()
        unsure = nameless.assign(attribute="contentHash")
        self._compare("instance", now, met, ever=ever, unsure=unsure)

    def compare_series(self, known: Iterable[Series]) -> None:
        """Compares which studies series are in with conflicts."""
        rows = [(system, uid, "studyInstanceUid", study) for system, study, uid in known]
        said = pd.DataFrame.from_records(rows, columns=[*_WHAT, "value"])
        met = pd.concat([share.to_pandas() for share in self._met["series"]])
        self._compare("series", said, met)

    def compare_studies(self, days: Iterable[date]) -> None:
        """Compares what files say of studies with conflicts."""
        for said, met in zip(self._attributes(days), self._met["study"], strict=True):
            rows = said.to_pandas().drop_duplicates()
            for name in ATTRIBUTES:
                rows[name] = rows[name].map(stated)
            changed = rows.loc[rows["sourceSystem"].isin(self._changed_in), _WHOM]
            unsure = changed.drop_duplicates().assign(attribute="patientId")
            told = rows.melt(_WHOM, list(ATTRIBUTES), "attribute", "value").dropna(subset=["value"])
            self._compare("study", told, met.to_pandas(), unsure=unsure)

    def _attributes(self, days: Iterable[date]) -> Buckets:
        engine, shares = self._run.engine, self._buckets(_STATED)
        columns = ["sourceSystem", *REQUIRED_TAGS, *ATTRIBUTES]
        for day in days:
            for batch in engine.stream(self._run.metastore, columns, where={INGEST_DATE: [day]}):
                rows = {
                    (system, study, *said)
                    for system, study, series, instance, *said in values_of(
                        pa.Table.from_batches([batch]), *columns
                    )
                    if is_told(series, instance)
                }
                told = [dict(zip(_STATED.names, row, strict=True)) for row in rows]
                shares.add(pa.Table.from_pylist(told, schema=_STATED))
        return shares

    def _compare(
        self,
        level: str,
        said: pd.DataFrame,
        met: pd.DataFrame,
        *,
        ever: pd.DataFrame | None = None,
        unsure: pd.DataFrame | None = None,
    ) -> None:
        """Compares what is said of whom (_WHAT, value), and was ever, with conflicts (_MET)."""
        said = said.drop_duplicates()
        ever = said if ever is None else ever.drop_duplicates()
        if unsure is not None:
            said, ever, met = (_without(rows, unsure) for rows in (said, ever, met))
        sides = pd.concat(
            [
                met[[*_WHAT, "id"]].assign(value=met[side].to_numpy())
                for side in ("newerValue", "olderValue")
            ]
        )
        several = said.loc[said.duplicated(subset=_WHAT, keep=False)]
        lacking = _without(several, sides.drop(columns="id").drop_duplicates())
        strange = _without(sides, ever)
        twice = met.loc[met.duplicated(subset="id")]
        for rows, why in ((lacking, "lacking"), (twice, "there twice"), (strange, "strange")):
            for row in rows.to_dict("records"):
                whom, own_id = (level, *(row[name] for name in _WHAT)), row.get("id")
                what = f"{_TABLE.full_name}: {' '.join(whom)}, {own_id or 'of files'}"
                self._found.add(Kind.CONFLICT, what, key=(whom, own_id), note=why)


def _without(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Returns those rows that none of the others, which are distinct, is like."""
    names = list(others.columns)
    both = rows.merge(others, on=names, how="left", indicator=True)
    return both.loc[both["_merge"] == "left_only", list(rows.columns)]

"""The metastore against silver/current_files: which file speaks for whom, and who is known at all.

Decided here: that each instance, and its series and study, has one row there, that an instance's
says what its newest file says, and that no row is about what nothing states. Instances are compared
a share at a time; of series and studies UIDs and keys are held. Not decided here: which file is the
newest (`verify_silver`), or how what is found is mended (`repair`).
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.query import values_of
from dicom_assets.steps import catalog
from dicom_assets.steps.current_files import StudyUid, series_key, study_key_of
from dicom_assets.steps.findings import Findings, Kind

_TABLE = catalog.CURRENT_FILES
_INSTANCE = ["sourceSystem", "sopInstanceUid"]
_SERIES = ["sourceSystem", "studyInstanceUid", "seriesInstanceUid"]
_SAID = [*_INSTANCE, "filePath", *_SERIES[1:], "isDeleted"]
CURRENT = pa.schema(
    [
        ("id", pa.int64()),
        *((name, pa.string()) for name in _SAID[:-1]),
        ("isDeleted", pa.bool_()),
    ]
)
"""What is compared of an instance's row."""

Series = tuple[str, str, str]
"""Source system, Study and Series Instance UID."""


class CurrentCheck:
    """Compares silver/current_files with the metastore; each part adds what it finds."""

    def __init__(self, engine: LocalEngine, found: Findings) -> None:
        """Knows nothing yet of series and studies."""
        self._engine, self._found = engine, found
        self._others: dict[int, StudyUid] = {}
        self._known: set[Series] = set()
        self._stated: dict[Series, bool] = {}  # whether the newest file of an instance states it

    def share_out(self, buckets: Buckets) -> Buckets:
        """Shares out the rows of instances (CURRENT); keeps which series and studies have one."""
        columns = [*CURRENT.names[:-1], "level", "arrivedAt", "deletedAt"]
        for value in self._engine.partitions(_TABLE):
            rows = self._engine.read(_TABLE, columns, where={_TABLE.partition: [value]})
            is_instance = pc.call_function("equal", [rows["level"], pa.scalar("instance")])
            others = rows.filter(pc.call_function("invert", [is_instance]))
            for key, *study in values_of(others, "id", *_SERIES[:2]):
                if key in self._others:
                    self._not_current([(study[0], study[1])])
                self._others[key] = study[0], study[1]
            found = rows.filter(is_instance)
            gone = pc.call_function("less", [found["arrivedAt"], found["deletedAt"]])
            found = found.append_column("isDeleted", gone.fill_null(False))
            buckets.add(found.select(CURRENT.names).cast(CURRENT))
        return buckets

    def compare(
        self, should: pd.DataFrame, current: pd.DataFrame, *, known: Iterable[pd.DataFrame]
    ) -> None:
        """Compares the instances of one share, after `known_series` has taken in what files say.

        Args:
            should: What rows should say of instances, by their newest files.
            current: What they say (CURRENT).
            known: Instances that a file or silver speaks of; who is in none of these is strange.
        """
        both = should[_SAID].merge(current[_SAID], on=_SAID, how="left", indicator=True)
        for wrong in (both.loc[both["_merge"] == "left_only"], _twice(current)):
            self._not_current(_distinct(wrong, _SERIES[:2]))
        self._stated.update(dict.fromkeys(_distinct(should, _SERIES), True))
        stated = pd.concat([rows[_INSTANCE] for rows in known]).drop_duplicates()
        rows = current.merge(stated, on=_INSTANCE, how="left", indicator=True)
        is_strange = rows["_merge"] == "left_only"
        self._known.update(set(_distinct(rows.loc[~is_strange], _SERIES)) - self._stated.keys())
        for row in rows.loc[is_strange].to_dict("records"):
            self._strange(row["id"], f"{row['sourceSystem']}, instance {row['sopInstanceUid']}")

    def known_series(self, stated: pd.DataFrame) -> None:
        """Takes in which series and studies files speak of, also such as instances have left."""
        for series in _distinct(stated, _SERIES):
            self._stated.setdefault(series, False)

    @property
    def series(self) -> Collection[Series]:
        """All series that files speak of, in each study in which they do."""
        return self._stated.keys()

    def compare_others(self) -> None:
        """Compares series and studies, once all instances have been."""
        for series, is_newest in self._stated.items():
            if is_newest and not self._others.keys() >= {*_keys(series)}:
                self._not_current([series[:2]])
        known = {key for series in self._stated.keys() | self._known for key in _keys(series)}
        for key in sorted(self._others.keys() - known):
            self._strange(key, " ".join(self._others[key]))

    def _not_current(self, studies: Iterable[StudyUid]) -> None:
        for study in studies:
            what = f"{_TABLE.full_name}: {' '.join(study)}"
            self._found.add(Kind.NOT_CURRENT, what, key=study)

    def _strange(self, key: int, whom: str) -> None:
        what = f"{_TABLE.full_name}: {key}, {whom}"
        self._found.add(Kind.SILVER_WITHOUT_BRONZE, what, key=(_TABLE, key))


def _twice(current: pd.DataFrame) -> pd.DataFrame:
    return current.loc[current.duplicated(_INSTANCE)]


def _distinct(rows: pd.DataFrame, names: list[str]) -> Iterator[Any]:
    return zip(*(rows[names].drop_duplicates()[name] for name in names), strict=True)


def _keys(series: Series) -> tuple[int, int]:
    system, study_uid, series_uid = series
    return study_key_of(system, study_uid), series_key(system, series_uid)

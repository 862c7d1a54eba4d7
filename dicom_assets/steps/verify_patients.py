"""Whose each study is: what its files say, once patients were changed, against silver's subject.

Decided here: the newest file that counts and says a Patient ID says whose a study is. A file counts
where its instance stands in the study it says, and neither was deleted. Only with all dates: a
study's files may have come on any. Not decided here: whom gold points to (`verify_gold`).
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dicom_assets.lakehouse.keys import stated
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.findings import Findings, Kind

_PLACE = ["sourceSystem", "sopInstanceUid", "studyInstanceUid"]
_ORDER = ["arrivedAt", "sourceModifiedAt", "contentHash", "filePath"]
_NEVER = pd.Timestamp(0, tz="UTC")

Study = tuple[str, str]
"""Source system and the resource's own id."""


class Patients:
    """What files say, taken in some instances at a time."""

    def __init__(self, corrections: Corrections) -> None:
        """Starts with no files."""
        self._corrections = corrections
        self._said: dict[Study, tuple[tuple[Any, ...], str, str | None]] = {}

    def take(self, files: pd.DataFrame, instances: pd.DataFrame) -> None:
        """Takes files.

        Args:
            files: The newest row of each (`verify_silver.newest_of_files`).
            instances: Where each of their instances belongs (`verify_silver.belonging`).
        """
        there = instances.loc[~instances["isDeleted"], [*_PLACE, "study"]]
        for system, _, uid, study in there.itertuples(index=False, name=None):
            self._said.setdefault((system, study), ((), uid, None))
        said = files.assign(patientId=files["patientId"].map(stated, na_action="ignore"))
        said = said.dropna(subset=["patientId"]).merge(there[_PLACE], on=_PLACE)
        if self._corrections.has_deletes:
            deleted = [self._corrections.is_deleted(row) for row in said.to_dict("records")]
            said = said.loc[~pd.Series(deleted, index=said.index, dtype=bool)]
        said = said.fillna({"sourceModifiedAt": _NEVER, "contentHash": ""}).sort_values(_ORDER)
        for row in said.drop_duplicates(["sourceSystem", "study"], keep="last").to_dict("records"):
            study = row["sourceSystem"], row["study"]
            new = tuple(row[name] for name in _ORDER), row["studyInstanceUid"], row["patientId"]
            self._said[study] = max(new, self._said[study])

    def compare(self, silver: Mapping[Study, str | None], found: Findings) -> None:
        """Compares what files say with whose silver says that studies are, where there are any."""
        for study in sorted(silver.keys() & self._said.keys()):
            patient_id, (_, uid, said) = silver[study], self._said[study]
            holds = self._corrections.patient_id(study[0], uid, said)
            if stated(holds) != stated(patient_id):
                found.add(Kind.OTHER_PATIENT, " ".join(study), key=study)

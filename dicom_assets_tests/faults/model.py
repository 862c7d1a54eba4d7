"""What the lakehouse must hold after any sequence of events, worked out in the plainest way.

Decided here: what silver, gold and the conflicts must say. Only when something arrived is taken
from the lakehouse; all else is worked out from what was dropped, from every file each time. Not
decided here: what happens (`story`), or what a single policy is for (`steps.test_policies`,
`steps.test_corrections`).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from dicom_assets.defs.checks import RULES
from dicom_assets.steps import catalog
from dicom_assets.steps.conflicts import UID_OF_LEVEL, open_conflicts
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.verify import verify
from dicom_assets_tests.faults.story import File, Played, played, story

GENDERS = {"M": 8507, "F": 8532}
_TOLD = {"studyDescription": "description", "accessionNumber": "accession", "patientSex": "sex"}
_SILVER = ("sourceSystem", "idOrig", "series_string", "subject", "description", "identifier_string")

Conflict = tuple[str, str, str, str]
"""Level, source system, UID, attribute."""


class Model:
    """What a lakehouse must hold after what has happened to it."""

    def __init__(self, played: Played) -> None:
        """Finds out when files and operations came."""
        self.house, self.days = played.house, played.days
        self.files, self.asked = played.files, played.asked
        came = {
            row["sourcePath"].rpartition("/")[2]: row["organisedAt"]
            for row in self.house.rows(catalog.PROCESS_FILES)
        }
        assert came.keys() == self.files.keys(), "every file was taken in"
        taken = {row["operationId"]: row["takenAt"] for row in self.house.rows(catalog.OPERATIONS)}
        assert taken.keys() == self.asked.keys(), "every operation was taken in"
        self._came = came
        self._files = sorted(self.files, key=lambda name: (came[name], name))
        self._asked = sorted((taken[name], name) for name in taken)
        self._newest = {self._key(name): name for name in self._files}

    def _is_deleted(self, name: str) -> bool:
        file, deleted_at = self.files[name], None
        uids = {
            "studyInstanceUid": file.study,
            "seriesInstanceUid": file.series,
            "sopInstanceUid": file.instance,
        }
        for at, number in self._asked:
            ask = self.asked[number]
            is_about = ask.system == file.system and ask.what.items() <= uids.items()
            if is_about and ask.kind in ("delete", "restore"):
                deleted_at = at if ask.kind == "delete" else None
        return deleted_at is not None and self._came[name] < deleted_at

    def _patient(self, file: File) -> str | None:
        """Returns whose a file is, once patients were changed."""
        patient = (file.patient or "").strip() or None
        for _, number in self._asked:
            ask = self.asked[number]
            if ask.kind == "change_patient" and ask.system == file.system:
                is_about = ask.what.get("studyInstanceUid") in (None, file.study)
                if is_about and patient == ask.what["patientId"]:
                    patient = ask.what["newPatientId"]
        return patient

    def differences(self) -> list[str]:
        """Returns in what the lakehouse is not as it must be."""
        deleted = {name for name in self._files if self._is_deleted(name)}
        there = {key: n for key, n in self._newest.items() if n not in deleted}
        undeleted = [
            name for name in self._files if name not in deleted and self._key(name) in there
        ]
        counting = [
            name
            for name in undeleted
            if self.files[self._newest[self._key(name)]].study == self.files[name].study
        ]
        studies = self._studies(counting)
        held = {
            "silver": self._silver(),
            "people": self._people(),
            "series": self._series(),
            "conflicts": self._conflicts(),
        }
        must = {
            "silver": studies,
            "people": self._people_of(studies, counting),
            "series": {
                (system, study, series, said["patient"] or "")
                for (system, study), said in studies.items()
                for series, _, _ in said["instances"]
            },
            "conflicts": self._conflicts_between(counting, undeleted),
        }
        found = [f"{k}: {held[k]} is not {must[k]}" for k in must if held[k] != must[k]]
        for day in sorted(self.days):
            counted = Day(self.house.on(day))
            found += [r.name for r in RULES if r.blocking and not r.evaluate(counted)[0]]
        return found + [f"verify: {kind}" for kind in verify(self.house.settings).counts]

    def _key(self, name: str) -> tuple[str, str]:
        return self.files[name].system, self.files[name].instance

    def _studies(self, counting: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for name in counting:
            file = self.files[name]
            nothing = {"instances": set(), "patient": None, "description": None, "accession": None}
            study = found.setdefault((file.system, file.study), nothing)
            if self._newest[self._key(name)] == name:
                study["instances"].add((file.series, file.instance, int(name[:4])))
            study["patient"] = self._patient(file) or study["patient"]
            study["description"] = file.description or study["description"]
            study["accession"] = file.accession or study["accession"]
        return found

    def _people_of(
        self, studies: dict[tuple[str, str], dict[str, Any]], counting: Sequence[str]
    ) -> dict[tuple[str, str], int]:
        """Source system and Patient ID, or study if nobody knows it → what they are."""
        people = {
            (system, said["patient"] or study): 0 for (system, study), said in studies.items()
        }
        for name in counting:
            file = self.files[name]
            of_study = studies[file.system, file.study]["patient"] or file.study
            person = file.system, self._patient(file) or of_study
            if person in people and file.sex:
                people[person] = GENDERS[file.sex]
        return people

    def _conflicts_between(
        self, counting: Sequence[str], undeleted: Sequence[str]
    ) -> set[Conflict]:
        said: dict[Conflict, set[str]] = {}
        for name in counting:
            file = self.files[name]
            values = {attribute: getattr(file, own) for attribute, own in _TOLD.items()}
            for attribute, value in (values | {"patientId": self._patient(file)}).items():
                if value:
                    key = ("study", file.system, file.study, attribute)
                    said.setdefault(key, set()).add(value)
            key = ("series", file.system, file.series, "studyInstanceUid")
            said.setdefault(key, set()).add(file.study)
        for name in undeleted:
            file = self.files[name]
            about = partial(lambda *of, attribute: (*of, attribute), "instance", *self._key(name))
            said.setdefault(about(attribute="studyInstanceUid"), set()).add(file.study)
            said.setdefault(about(attribute="seriesInstanceUid"), set()).add(file.series)
            said.setdefault(about(attribute="contentHash"), set()).add(name)
        return {about for about, values in said.items() if len(values) > 1}

    def _silver(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {
            (row["sourceSystem"], row["idOrig"]): {
                "instances": {
                    (series["uid"], instance["uid"], instance["number"])
                    for series in orjson.loads(row["series_string"] or "[]")
                    for instance in series["instance"]
                },
                "patient": (row["subject"].get("identifier") or {}).get("value"),
                "description": row["description"],
                "accession": next(
                    (
                        each["value"]
                        for each in orjson.loads(row["identifier_string"])
                        if "type" in each
                    ),
                    None,
                ),
            }
            for row in self.house.run.engine.read(
                catalog.silver_imaging_study(), _SILVER
            ).to_pylist()
        }

    def _people(self) -> dict[tuple[str, str], int]:
        studies = {
            row["person_id"]: row["image_study_uid"]
            for row in self.house.rows(catalog.IMAGE_OCCURRENCE)
        }
        return {
            (
                row["sourceSystem"],
                row["person_source_value"] or studies.get(row["person_id"], "nobody's"),
            ): row["gender_concept_id"]
            for row in self.house.rows(catalog.PERSON)
        }

    def _series(self) -> set[tuple[str, str, str, str | None]]:
        people = {row["person_id"]: row for row in self.house.rows(catalog.PERSON)}
        people_of_studies = {
            row["procedure_occurrence_id"]: row["person_id"]
            for row in self.house.rows(catalog.PROCEDURE_OCCURRENCE)
        }
        found = set()
        for row in self.house.rows(catalog.IMAGE_OCCURRENCE):
            person = people.get(row["person_id"], {"person_source_value": "dangles"})
            if people_of_studies.get(row["procedure_occurrence_id"]) != row["person_id"]:
                person = {"person_source_value": "not the procedure's"}
            of = (row["sourceSystem"], row["image_study_uid"], row["image_series_uid"])
            found.add((*of, person["person_source_value"] or ""))
        return found

    def _conflicts(self) -> set[Conflict]:
        return {
            (
                row["level"],
                row["sourceSystem"],
                row[UID_OF_LEVEL[row["level"]]],
                row["attribute"],
            )
            for row in open_conflicts(self.house.run.engine, self.house.run.metastore)
        }


def tried(root: Path, seed: int, *, rounds: int = 6, kills: bool) -> tuple[int, list[str]]:
    """Plays a sequence in a new lakehouse.

    Returns:
        How often a run was broken off, and in what the lakehouse is not as it must be.
    """
    after = played(root, story(seed, rounds=rounds, kills=kills))
    return after.struck, Model(after).differences()

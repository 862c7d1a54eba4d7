"""Step 7, to_omop: the date's silver studies that changed become OMOP rows.

Decided here: which studies are mapped, and which gold rows go. A study changes when a line about it
arrives, so the date's new bronze lines, as far as silver holds them, name the studies; another
date's, whose checks may not have passed, are left to its own run. When the site's crosswalks or
vocabulary change, a date's studies count as changed. Not decided here: the mapping
(`dicom_assets.omop`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dicom_assets.fhir.silver import silver_ids
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.query import columns_of, values_of
from dicom_assets.lakehouse.reader import New
from dicom_assets.lakehouse.schemas import INGEST_DATE, PERSON
from dicom_assets.omop.image_occurrence import image_occurrences
from dicom_assets.omop.person import (
    METASTORE_COLUMNS,
    doubtful_persons,
    newest_statements,
    person_id,
    persons,
    unknown_persons,
)
from dicom_assets.omop.procedure_occurrence import procedure_occurrences
from dicom_assets.omop.studies import (
    PATIENT_COLUMNS,
    SERIES_COLUMN,
    STUDY_COLUMNS,
    Study,
    patients,
    studies,
)
from dicom_assets.steps import catalog, flatten
from dicom_assets.steps.commits import with_last
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import StudyUid, study_key_of
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import counting, studies_by_key

STEP = "to_omop"
_STUDY = ("sourceSystem", "id")
_PATIENT = ("sourceSystem", "person_source_value")
_PERSON_COLUMNS = tuple(name for name in STUDY_COLUMNS if name != SERIES_COLUMN)
_LINES_AT_ONCE = 100
"""A study's row is as large as its instances are many."""
_ROWS_PER_UPSERT = 20_000


class Mapped(NamedTuple):
    """What gold is to hold of some studies.

    Attributes:
        rows: The rows to upsert.
        gone: Keys of the rows to delete.
        people: To whom rows pointed that no longer do.
        studies: Silver ids of the studies, where there are such people.
    """

    rows: pa.Table
    gone: set[int]
    people: Collection[int] = ()
    studies: Collection[str] = ()


Mapping = Callable[[Run, pa.Table, Collection[str]], Mapped]
"""Maps silver rows of studies, given by their ids."""


def image_occurrence(run: Run, ids: Collection[str] | None = None) -> Report:
    """Upserts one gold/Image_Occurrence row per series of the studies that changed.

    A series that a study no longer has goes, be it that all its instances are in others now or
    that they were deleted; so does a person to whom nothing points since.
    """
    return _from_silver(run, catalog.IMAGE_OCCURRENCE, _image_occurrences, ids)


def series_rows(run: Run, silver: pa.Table) -> pa.Table:
    """Returns what gold/Image_Occurrence is to say of silver studies."""
    return image_occurrences(
        silver,
        vocabulary=run.vocabulary,
        crosswalks=run.crosswalks,
        dicomweb_base_address=run.settings.dicomweb_base_address,
        now=now(),
    )


def procedure_rows(run: Run, silver: pa.Table) -> pa.Table:
    """Returns what gold/procedure_occurrence is to say of silver studies."""
    return procedure_occurrences(silver, crosswalks=run.crosswalks, now=now())


def _image_occurrences(run: Run, silver: pa.Table, ids: Collection[str]) -> Mapped:
    rows = series_rows(run, silver)
    table, columns = catalog.IMAGE_OCCURRENCE, ["image_occurrence_id", "person_id"]
    before = run.engine.read(table, columns, where={"sourceRecordId": ids})
    keys, people = (set(before[name].to_pylist()) - set(rows[name].to_pylist()) for name in columns)
    return Mapped(rows, keys, people, ids if people else ())


def _remove_forsaken(run: Run, people: Collection[int], changed: Collection[str]) -> None:
    """Removes those people from gold/person to whom only studies pointed that no longer do.

    A study of theirs that is in silver, and which another date's run has yet to bring to gold,
    keeps them there: that run may have made their rows already.
    """
    engine, columns = run.engine, ["person_id", "sourceRecordId"]
    pointing = engine.read(catalog.IMAGE_OCCURRENCE, columns, where={"person_id": people})
    ours = set(changed)
    left = set(people) - {key for key, study in values_of(pointing, *columns) if study not in ours}
    if not left:
        return
    left -= {person for person, _ in _studies_of(run, left)}
    if left:
        nothing = catalog.PERSON.upserted.empty_table()
        engine.upsert(
            catalog.PERSON, nothing, progress=None, ingest_date=run.ingest_date, gone=left
        )


def _studies_of(run: Run, people: Collection[int]) -> Iterator[tuple[int, str]]:
    """Yields person and silver id of all studies of some people that are in silver.

    Gold may not know of some yet, and nothing finds a person's studies in silver: it is walked.
    """
    columns, table = ("id", *PATIENT_COLUMNS), catalog.silver_imaging_study()
    for batch in run.engine.stream(table, columns, where={}):
        rows = pa.Table.from_batches([batch])
        for own_id, (system, patient_id, uid) in zip(
            rows["id"].to_pylist(), patients(rows), strict=True
        ):
            key = person_id(system, patient_id, uid, run.crosswalks)
            if key in people:
                yield key, own_id


def _remove_unfinished(run: Run) -> None:
    """Removes people of a run that was killed before it wrote whose the series are.

    Their studies may be others' by now, and no row of gold says that they were theirs. So all of
    gold is looked through, which undisturbed runs need not do.
    """
    engine, gold = run.engine, (catalog.PERSON, catalog.IMAGE_OCCURRENCE)
    written, finished = (engine.progress(each, _app_id(run, each)) for each in gold)
    if written is None or (finished is not None and finished >= written):
        return
    held, pointed = (engine.read(each, ["person_id"])["person_id"].to_numpy() for each in gold)
    if people := np.setdiff1d(held, pointed).tolist():
        _remove_forsaken(run, people, ())


def procedure_occurrence(run: Run, ids: Collection[str] | None = None) -> Report:
    """Upserts one gold/procedure_occurrence row per study that changed; that of one gone goes."""
    return _from_silver(run, catalog.PROCEDURE_OCCURRENCE, _procedures, ids)


def _procedures(run: Run, silver: pa.Table, ids: Collection[str]) -> Mapped:
    rows = procedure_rows(run, silver)
    gone = set(ids) - set(silver["id"].to_pylist())
    return Mapped(rows, _held(run, catalog.PROCEDURE_OCCURRENCE, "sourceRecordId", gone))


def person(run: Run, ids: Collection[str] | None = None) -> Report:
    """Upserts the gold/person rows that the studies that changed point to.

    The unknown person of a study whose patient is known by now goes.
    """
    with locked(run.engine.layout.root):  # who holds the lock mends what a power cut tore
        if ids is None:
            _remove_unfinished(run)
        return _from_silver(run, catalog.PERSON, _people, ids)


def _people(run: Run, silver: pa.Table, ids: Collection[str]) -> Mapped:
    engine, gold = run.engine, catalog.PERSON
    corrections, found = Corrections.read(engine), list(studies(silver))
    keys = {study_key_of(each.source_system, each.uid) for each in found}
    anew = {uid for uid, row in studies_by_key(engine, keys).items() if row["wholeAt"]}
    as_before = {e.row["id"] for e in found if (e.source_system, e.uid) not in anew}
    made_of = _statements(run, corrections, found, anew)

    def known(keys: list[int]) -> pa.Table:
        held = engine.read(gold, PERSON.names, where={"person_id": keys})
        unknown = {person_id(system, None, uid, run.crosswalks) for system, uid in anew}
        # what gold holds of these may have come out of files that count no more
        kept = [
            key not in unknown and (system, patient_id) not in made_of.people
            for key, system, patient_id in values_of(held, "person_id", *_PATIENT)
        ]
        return held.filter(pa.array(kept, pa.bool_()))

    changed = set(ids) - as_before
    again = _left(run, changed, [each for each in found if each.row["id"] in changed])
    again |= doubtful_persons(made_of.rows, silver, known=known, crosswalks=run.crosswalks)
    others = _other_studies(run, made_of.people)
    if again:
        others |= {own_id for _, own_id in _studies_of(run, again)}
    if others:
        # what other studies say counts for these patients no more, or not as gold has it
        where = {"id": others - set(silver["id"].to_pylist())}
        more = engine.read(catalog.silver_imaging_study(), _PERSON_COLUMNS, where=where)
        silver = pa.concat_tables([silver, more])
        found += studies(more)
        anew |= {(each.source_system, each.uid) for each in found if each.row["id"] in others}
        made_of = _statements(run, corrections, found, anew)
    made = persons(made_of.rows, silver, known=known, crosswalks=run.crosswalks, now=now())
    return Mapped(made, _held(run, gold, "person_id", unknown_persons(silver)))


def _other_studies(run: Run, people: Collection[tuple[str, str]]) -> set[str]:
    """Returns the studies of some known patients, as gold has them.

    A file of one that says no Patient ID is found by its study alone.
    """
    if not people:
        return set()
    keys = {person_id(system, patient_id, "", run.crosswalks) for system, patient_id in people}
    column, where = "sourceRecordId", {"person_id": keys}
    return set(run.engine.read(catalog.IMAGE_OCCURRENCE, [column], where=where)[column].to_pylist())


def _left(run: Run, ids: Collection[str], found: Sequence[Study]) -> set[int]:
    """Returns known patients to whom studies belonged, as gold has it, and none does any longer.

    Args:
        run: The run.
        ids: Silver ids of the studies.
        found: Those of them that silver holds.
    """
    columns = ["person_id", "sourceSystem", "image_study_uid"]
    before = run.engine.read(catalog.IMAGE_OCCURRENCE, columns, where={"sourceRecordId": ids})
    # an unknown patient has no other study
    people = {
        key
        for key, system, uid in values_of(before, *columns)
        if key != person_id(system, None, uid, run.crosswalks)
    }
    return people - {
        person_id(each.source_system, each.patient_id, each.uid, run.crosswalks) for each in found
    }


class Statements(NamedTuple):
    """What says who patients are.

    Attributes:
        rows: Of metastore rows that say the same the newest (`newest_statements`).
        people: Source system and Patient ID of those of whom these are all rows that count.
    """

    rows: pa.Table
    people: set[tuple[str, str]]


def _statements(
    run: Run, corrections: Corrections, found: Sequence[Study], anew: Collection[StudyUid]
) -> Statements:
    """Returns what the metastore says of who patients are.

    Of patients with a study that is made anew these are all rows that count, of whatever date.
    """
    engine, columns = run.engine, METASTORE_COLUMNS
    people = {
        (each.source_system, each.patient_id)
        for each in found
        if each.patient_id and (each.source_system, each.uid) in anew
    }
    theirs = {
        each.uid
        for each in found
        if (each.source_system, each.uid) in anew or (each.source_system, each.patient_id) in people
    }
    where = {
        INGEST_DATE: [run.ingest_date],
        "studyInstanceUid": {each.uid for each in found} - theirs,
    }
    # a date's rows may be many, what they say is little
    rows = [
        newest_statements(corrections.with_patients(pa.Table.from_batches([batch])))
        for batch in engine.stream(run.metastore, columns, where=where)
    ]
    if anew:
        columns = (*columns, "seriesInstanceUid", "filePath", "version")
        said = {raw for patient in people for raw in corrections.said_by(*patient)}
        every = [
            engine.read(run.metastore, columns, where={"patientId": said}),
            engine.read(run.metastore, columns, where={"studyInstanceUid": theirs}),
        ]
        counted = counting(engine, corrections, pa.concat_tables(every))
        rows.append(newest_statements(corrections.with_patients(counted)))
    nothing = newest_statements(columns_of(run.metastore, METASTORE_COLUMNS).empty_table())
    return Statements(newest_statements(pa.concat_tables([nothing, *rows])), people)


def _from_silver(run: Run, gold: Table, mapping: Mapping, again: Collection[str] | None) -> Report:
    """Upserts what a mapping makes of the studies that changed; deletes what it says is gone.

    With ids of studies to map again it takes these, whatever has been read, and says no progress.
    """
    engine, bronze, silver = (
        run.engine,
        catalog.BRONZE_IMAGING_STUDY,
        catalog.silver_imaging_study(),
    )
    # a person's studies are anybody's, not one worker's, nor one part's
    is_person = gold == catalog.PERSON
    columns = _PERSON_COLUMNS if is_person else STUDY_COLUMNS
    with reporting(STEP, engine.layout.root) as report:
        if again is not None:
            rows = engine.read(silver, columns, where={"id": again})
            found = [mapping(run, rows, again)]
            _upsert(run, gold, found, progress=None)
            report.rows = found[0].rows.num_rows
            return report
        app_id = _app_id(run, gold)
        until = engine.progress(silver, engine.app_id(flatten.STEP, bronze, run.ingest_date))
        if until is None:
            return report
        new = New(
            bronze,
            _STUDY,
            since=engine.progress(gold, app_id),
            until=until,
            ingest_date=run.ingest_date,
            by=_STUDY,
            schema=columns_of(bronze, _STUDY),
        )
        work = partial(mapped, run, mapping, columns)
        parts = engine.parts(
            new, most=None if is_person else _LINES_AT_ONCE, together=True, spread=not is_person
        )
        found: list[Mapped] = []
        for lines, is_last in with_last(parts):
            found += engine.do(work, lines, into=gold, ingest_date=run.ingest_date)
            rows = sum(each.rows.num_rows for each in found)
            if is_last or rows >= _ROWS_PER_UPSERT:
                _upsert(run, gold, found, progress=Progress(app_id, until) if is_last else None)
                report.rows += rows
                report.count({"deleted": sum(len(each.gone) for each in found)})
                found = []
    return report


def _app_id(run: Run, gold: Table) -> str:
    # silver made anew, or other choices: another reading of the same lines
    silver = run.engine.identity(catalog.silver_imaging_study())
    step = f"{STEP}/{gold.name}/{silver}/{run.choices}"
    return run.engine.app_id(step, catalog.BRONZE_IMAGING_STUDY, run.ingest_date)


def mapped(run: Run, mapping: Mapping, columns: Sequence[str], lines: pa.Table) -> Iterator[Mapped]:
    """Maps the studies that new bronze lines are about, as silver holds them."""
    ids = silver_ids(catalog.BRONZE_IMAGING_STUDY.name, lines)
    silver = run.engine.read(catalog.silver_imaging_study(), columns, where={"id": ids})
    yield mapping(run, silver, ids)


def _upsert(run: Run, gold: Table, found: Sequence[Mapped], *, progress: Progress | None) -> None:
    people = {each for some in found for each in some.people}
    # before what pointed to them goes: a run that is killed in between comes here again
    if people and run.settings.omop_person:
        _remove_forsaken(run, people, {each for some in found for each in some.studies})
    run.upsert(gold, found, progress=progress)


def _held(run: Run, gold: Table, column: str, values: Collection[str | int]) -> set[int]:
    """Returns the keys of the gold rows that have one of the values."""
    (key,) = gold.key
    return set(run.engine.read(gold, [key], where={column: values})[key].to_pylist())

"""Silver reports become OMOP notes, linked to the procedure and the person of their studies.

Decided here: which reports are mapped: those of which a line came on the date, and those that speak
of a study that changed on it, since its person or visit may have. When the site's crosswalks
change, a date's reports count as changed. Not decided here: the mapping (`dicom_assets.omop.note`).

An upsert of the same reports again changes nothing, so only the last of a run carries progress.
"""

from collections.abc import Collection, Iterator

import pyarrow as pa

from dicom_assets.fhir.silver import silver_ids
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.schemas import NOTE
from dicom_assets.omop.note import REPORT_COLUMNS, SOURCE_TABLE, notes
from dicom_assets.omop.studies import STUDY_COLUMNS
from dicom_assets.steps import catalog, flatten
from dicom_assets.steps.link import speaking_of
from dicom_assets.steps.link_again import new_studies, progress_id
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "to_omop"
_AT_A_TIME = 500


def note(run: Run) -> Report:
    """Upserts the gold/note rows of the reports that changed.

    A note whose report is no longer about that study, or was retracted, goes.
    """
    engine, gold = run.engine, catalog.NOTE
    with reporting(STEP, engine.layout.root) as report:
        report.count({"deleted": 0})
        news = [each for each in (_of_lines(run), _of_studies(run)) if each]
        ids = sorted(set().union(*(some for _, some in news)))
        rows, gone = NOTE.empty_table(), set[int]()
        for start in range(0, len(ids), _AT_A_TIME):
            if start:
                engine.upsert(gold, rows, progress=None, ingest_date=run.ingest_date, gone=gone)
            rows, gone = _mapped(run, ids[start : start + _AT_A_TIME])
            report.rows += rows.num_rows
            report.count({"deleted": len(gone)})
        for progress, _ in news:
            engine.upsert(gold, rows, progress=progress, ingest_date=run.ingest_date, gone=gone)
            rows, gone = NOTE.empty_table(), set()
    return report


def note_again(run: Run, ids: Collection[str]) -> None:
    """Maps some reports again, given by silver id, for `repair`; says no progress."""
    wanted = sorted(ids)
    for start in range(0, len(wanted), _AT_A_TIME):
        rows, gone = _mapped(run, wanted[start : start + _AT_A_TIME])
        run.engine.upsert(catalog.NOTE, rows, progress=None, ingest_date=run.ingest_date, gone=gone)


_News = tuple[Progress, list[str]] | None
"""What is to be said once it is done, and the silver ids of reports."""


def _of_lines(run: Run) -> _News:
    """Returns the reports of which lines came."""
    engine, bronze, silver = (
        run.engine,
        catalog.bronze_fhir(SOURCE_TABLE),
        catalog.silver_fhir(SOURCE_TABLE),
    )
    until = engine.progress(silver, engine.app_id(flatten.STEP, bronze, run.ingest_date))
    if until is None:
        return None
    app_id = engine.app_id(_step(run), bronze, run.ingest_date)
    lines = engine.table_of_new(
        bronze,
        ["sourceSystem", "id"],
        since=engine.progress(catalog.NOTE, app_id),
        until=until,
        ingest_date=run.ingest_date,
    )
    if not lines.num_rows:
        return None
    return Progress(app_id, until), silver_ids(SOURCE_TABLE, lines)


def _of_studies(run: Run) -> _News:
    """Returns the reports that speak of studies that changed."""
    engine, silver = run.engine, catalog.silver_fhir(SOURCE_TABLE)
    if engine.progress(silver, progress_id(run)) is None:
        return None
    app_id = engine.app_id(_step(run), catalog.BRONZE_IMAGING_STUDY, run.ingest_date)
    news = new_studies(run, since=engine.progress(catalog.NOTE, app_id))
    if news is None:
        return None
    return Progress(app_id, news.until), list(speaking_of(engine, SOURCE_TABLE, news.names))


def _step(run: Run) -> str:
    """Returns what this is called: with reports made anew, or other choices, it is another step."""
    reports = run.engine.identity(catalog.silver_fhir(SOURCE_TABLE))
    studies = run.engine.identity(catalog.silver_imaging_study())
    return f"{STEP}/note/{reports}/{studies}/{run.choices}"


def _mapped(run: Run, ids: list[str]) -> tuple[pa.Table, set[int]]:
    """Returns the notes of some reports, and the keys of those that they have no longer."""
    engine, gold = run.engine, catalog.NOTE
    reports = engine.read(catalog.silver_fhir(SOURCE_TABLE), REPORT_COLUMNS, where={"id": ids})
    studies = {each for each in _flat(reports["imagingStudyIds"]) if each}
    silver = engine.read(
        catalog.silver_imaging_study(), STUDY_COLUMNS, where={"id": sorted(studies)}
    )
    rows = notes(reports, silver, crosswalks=run.crosswalks, now=now())
    held = engine.read(gold, ["note_id"], where={"sourceRecordId": ids})
    return rows, set(held["note_id"].to_pylist()) - set(rows["note_id"].to_pylist())


def _flat(lists: pa.ChunkedArray) -> Iterator[str]:
    for each in lists.to_pylist():
        yield from each or ()

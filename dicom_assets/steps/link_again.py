"""Studies find the reports that came before them.

Decided here: which studies are looked at (those of the date that changed), and which reports are
linked anew (those that speak of them by one of their names), so that a report whose study comes
later, or comes again in its own source system, points to it as if it had come in time. Not decided
here: how names and studies are found (`link`).
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import pyarrow as pa

from dicom_assets.fhir.imaging_study import resource_id
from dicom_assets.fhir.links import STUDY_IDS, names_of_study, names_of_uid, uid_of
from dicom_assets.fhir.silver import silver_ids
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.uris import is_written_here
from dicom_assets.omop.studies import STUDY_COLUMNS
from dicom_assets.steps import catalog, flatten
from dicom_assets.steps.link import STUDIES, linked, names_of, speaking_of, write_down
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "link"
_AT_A_TIME = 500


def link_again(run: Run, resource_type: str) -> Report:
    """Links those resources anew that speak of the date's studies that changed.

    Args:
        run: The run.
        resource_type: A type of `links.LINKED`.

    Returns:
        Rows = rows that changed.
    """
    engine, silver = run.engine, catalog.silver_fhir(resource_type)
    with reporting(STEP, engine.layout.root) as report:
        app_id = progress_id(run)
        news = new_studies(run, since=engine.progress(silver, app_id))
        if news is None:
            return report
        write_down(run, STUDIES, _foreign(news.studies))
        rows = _without_partition(silver).empty_table()
        speaking = speaking_of(engine, resource_type, news.names)
        for changed in _changed(run, resource_type, speaking):
            if rows.num_rows:
                engine.upsert(silver, rows, progress=None, ingest_date=run.ingest_date)
            rows = changed
            report.rows += rows.num_rows
        done = Progress(app_id, news.until)
        engine.upsert(silver, rows, progress=done, ingest_date=run.ingest_date)
    return report


def link_those(run: Run, resource_type: str, ids: Collection[str]) -> None:
    """Links some resources anew, given by silver id, for `repair`; says no progress."""
    for rows in _changed(run, resource_type, ids):
        silver = catalog.silver_fhir(resource_type)
        run.engine.upsert(silver, rows, progress=None, ingest_date=run.ingest_date)


def progress_id(run: Run) -> str:
    """Returns the application id under which silver says which studies were looked at."""
    return run.engine.app_id(STEP, catalog.BRONZE_IMAGING_STUDY, run.ingest_date)


class News(NamedTuple):
    """What is new about the studies of a date.

    Attributes:
        until: Version of bronze/ImagingStudy up to which that is so.
        names: All names of the studies, also of those that are in silver no longer.
        studies: Their silver rows.
    """

    until: int
    names: set[str]
    studies: pa.Table


def new_studies(run: Run, *, since: int | None) -> News | None:
    """Returns the date's studies about which lines came after a version of bronze.

    None where there are none, or where nobody speaks of studies, nor these of themselves otherwise
    than by what their silver ids follow from.

    Args:
        run: The run.
        since: A version of bronze/ImagingStudy; None for the beginning.
    """
    engine, bronze, silver = (
        run.engine,
        catalog.BRONZE_IMAGING_STUDY,
        catalog.silver_imaging_study(),
    )
    until = engine.progress(silver, engine.app_id(flatten.STEP, bronze, run.ingest_date))
    if until is None:
        return None
    is_spoken_of = engine.open(catalog.STUDY_NAMES) is not None
    files = engine.layout.fhir_files(run.ingest_date, "ImagingStudy")
    addresses = (engine.layout.relative(path) for _, path in files)
    if not is_spoken_of and all(map(is_written_here, addresses)):
        return None  # nor is there a progress: all of the date's lines would be read each time
    lines = engine.table_of_new(
        bronze,
        ["sourceSystem", "id", "filePath"],
        since=since,
        until=until,
        ingest_date=run.ingest_date,
    )
    paths = lines["filePath"].unique().to_pylist()
    if not paths or not (is_spoken_of or not all(map(is_written_here, paths))):
        return None
    ids = silver_ids(bronze.name, lines)
    studies = engine.read(silver, STUDY_COLUMNS, where={"id": ids})
    names = {name for each in names_of(studies) for name in each}
    for own_id in filter(None, lines["id"].unique().to_pylist()):
        # a study of ours has its UID as its id
        names |= {*names_of_study(own_id, None), *names_of_uid(own_id)}
    return News(until, names, studies)


def _changed(run: Run, resource_type: str, ids: Collection[str]) -> Iterator[pa.Table]:
    """Yields those of some silver rows that now speak of other studies."""
    engine, silver = run.engine, catalog.silver_fhir(resource_type)
    columns, wanted = _without_partition(silver).names, sorted(ids)
    for start in range(0, len(wanted), _AT_A_TIME):
        where = {"id": wanted[start : start + _AT_A_TIME]}
        rows = engine.read(silver, columns, where=where)
        after = linked(run, resource_type, rows)
        pairs = zip(after[STUDY_IDS].to_pylist(), rows[STUDY_IDS].to_pylist(), strict=True)
        after = after.filter(pa.array([a != b for a, b in pairs], pa.bool_()))
        place = after.schema.get_field_index("modifiedAt")
        field = after.schema.field(place)
        yield after.set_column(place, field, pa.array([now()] * after.num_rows, field.type))


def _foreign(studies: pa.Table) -> list[tuple[str, str, str]]:
    """Returns the names from which a study's silver id does not follow."""
    columns = (studies[name].to_pylist() for name in ("sourceSystem", "id", "idOrig"))
    return [
        (name, system, own_id)
        for system, own_id, original, names in zip(*columns, names_of(studies), strict=True)
        for name in names
        if (uid := uid_of(name)) and resource_id(uid) != original
    ]


def _without_partition(table: Table) -> pa.Schema:
    return pa.schema([field for field in table.schema if field.name != table.partition])

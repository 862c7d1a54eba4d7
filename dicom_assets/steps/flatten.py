"""Step 6, flatten: raw bronze FHIR becomes silver, one row per resource and source system.

Decided here: which bronze rows are new and how many are merged at a time. A study to be written
whole (`current_files`) is made anew of all lines about it: a line of before, that a killed run had
not brought here, must not come after the one that took its place. Not decided here: what a silver
row looks like and how a late arrival is merged (`dicom_assets.fhir`), and to which study a report
points (`link`).

An upsert of the same lines again changes nothing, so only the last one of a run carries progress.
"""

from collections.abc import Collection, Iterator
from functools import partial

import pyarrow as pa

from dicom_assets.fhir.flatten import resource_columns, silver_id
from dicom_assets.fhir.links import LINKED
from dicom_assets.fhir.silver import Upserts, gone, silver_ids, upserts
from dicom_assets.lakehouse.engine import LocalEngine, Progress, Table
from dicom_assets.lakehouse.query import values_of
from dicom_assets.lakehouse.reader import New
from dicom_assets.lakehouse.spill import Spill
from dicom_assets.steps import catalog, report
from dicom_assets.steps.commits import with_last
from dicom_assets.steps.current_files import study_key
from dicom_assets.steps.link import linked
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "flatten"
_LINES_PER_UPSERT = 500


def flatten(run: Run, *, bronze: Table, silver: Table) -> Report:
    """Upserts the partition's new bronze lines into silver.

    Args:
        run: The run.
        bronze: Raw resources; the table's name is the resource type.
        silver: The flattened table.

    Returns:
        Rows = silver rows inserted or changed; count `failures`.
    """
    engine = run.engine
    with reporting(STEP, run.engine.layout.root) as done:
        done.count({"failures": 0, "deleted": 0})
        app_id = engine.app_id(STEP, bronze, run.ingest_date)
        until = engine.version(bronze)
        since = engine.progress(silver, app_id)
        failures = Spill(schema=catalog.INGESTION_FAILURES.schema, folder=engine.layout.scratch)
        rows = engine.table_of_new(
            bronze, ["lineNumber"], since=since, until=until, ingest_date=run.ingest_date
        )
        progress = report.Progress(STEP, rows.num_rows, "lines")
        new = New(
            bronze,
            bronze.schema.names,
            since=since,
            until=until,
            ingest_date=run.ingest_date,
            by=("sourceSystem", "id"),
            schema=bronze.schema,
        )
        work = partial(merged, run, bronze, silver)
        # by what names reports speak of studies is written down as it is read
        spread = bronze.name not in LINKED
        parts = engine.parts(new, most=_LINES_PER_UPSERT, spread=spread)
        for lines, is_last in with_last(parts):
            found = list(engine.do(work, lines, into=silver, ingest_date=run.ingest_date))
            for each in found:
                if each.failures:
                    failures.add(run.failure_rows(each.failures))
                done.rows += each.rows.num_rows
                done.count({"deleted": len(each.gone)})
            if is_last:
                run.record(failures, Progress(app_id, until))
            run.upsert(silver, found, progress=Progress(app_id, until) if is_last else None)
            progress.advance(lines.num_rows)
        done.count({"failures": failures.rows})
    return done


def flatten_again(
    run: Run, *, bronze: Table, silver: Table, studies: Collection[tuple[str, str]]
) -> None:
    """Makes some resources anew of all lines about them, for `repair`; says no progress.

    Args:
        run: The run; rows that are new go to its date.
        bronze: Raw resources.
        silver: The flattened table.
        studies: Source system and id of each resource.
    """
    wanted = sorted(studies)
    for start in range(0, len(wanted), _LINES_PER_UPSERT):
        some = set(wanted[start : start + _LINES_PER_UPSERT])
        lines = _all_lines(run.engine, bronze, some)
        ids = silver_ids(bronze.name, lines)
        existing = run.engine.read(silver, resource_columns(bronze.name), where={"id": ids})
        # bad lines have their failure rows already
        found = _upserts(run, bronze, lines, existing, anew=ids)
        run.upsert(silver, [found], progress=None)


def gone_studies(engine: LocalEngine, studies: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns those studies, by source system and id, of which lines say that nothing is left."""
    return gone(_all_lines(engine, catalog.BRONZE_IMAGING_STUDY, set(studies)))


def merged(run: Run, bronze: Table, silver: Table, lines: pa.Table) -> Iterator[Upserts]:
    """Yields what silver is to hold of the resources that new lines are about."""
    engine, ids = run.engine, silver_ids(bronze.name, lines)
    existing = engine.read(silver, resource_columns(bronze.name), where={"id": ids})
    whole = _whole(engine, lines) if bronze == catalog.BRONZE_IMAGING_STUDY else set()
    if not whole:
        yield _upserts(run, bronze, lines, existing)
        return
    known = set(values_of(lines, "filePath", "lineNumber"))
    others = _all_lines(engine, bronze, whole)
    is_other = [line not in known for line in values_of(others, "filePath", "lineNumber")]
    lines = pa.concat_tables([lines, others.filter(pa.array(is_other, pa.bool_()))])
    anew = {silver_id(system, bronze.name, own_id) for system, own_id in whole}
    found = _upserts(run, bronze, lines, existing, anew=anew)
    # those of other lines have their rows already
    new = [each for each in found.failures if (each.source_path, each.line) in known]
    yield found._replace(failures=new)


def _upserts(
    run: Run, bronze: Table, lines: pa.Table, existing: pa.Table, *, anew: Collection[str] = ()
) -> Upserts:
    """Returns what silver is to hold of resources, reports with the studies they point to."""
    lenient = run.settings.fhir_validation == "lenient"
    found = upserts(bronze.name, lines, existing, now=now(), anew=anew, lenient=lenient)
    if bronze.name in LINKED and found.rows.num_rows:
        return found._replace(rows=linked(run, bronze.name, found.rows))
    return found


def _whole(engine: LocalEngine, lines: pa.Table) -> set[tuple[str, str]]:
    """Returns source system and id of the lines' studies that are to be written whole."""
    studies = {each for each in values_of(lines, "sourceSystem", "id") if each[1]}
    keys = {study_key(*study): study for study in studies}
    columns = ["id", "wholeAt"]
    rows = engine.read(catalog.CURRENT_FILES, columns, where={"id": keys}).drop_null()
    return {keys[key] for key in rows["id"].to_pylist()}


def _all_lines(engine: LocalEngine, bronze: Table, resources: set[tuple[str, str]]) -> pa.Table:
    """Returns all lines about some resources, given by source system and id."""
    where = {"id": {own_id for _, own_id in resources}}
    lines = engine.read(bronze, bronze.schema.names, where=where)
    wanted = [each in resources for each in values_of(lines, "sourceSystem", "id")]
    return lines.filter(pa.array(wanted, pa.bool_()))

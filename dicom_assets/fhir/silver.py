"""Bronze FHIR rows → the silver rows to upsert.

Decided here: which statement about a resource holds. Statements are taken in the order of
lastUpdated (of arrival, where they have none), then of arrival. ImagingStudy is merged (`merge`),
but for one of ours that says it is whole: what we said before counts no more, what others said is
still merged, and one without series says that the study is no longer there. Any other type is
replaced whole; an older lastUpdated never overwrites a newer one. Rows that would change nothing
are left out, so that a second run changes nothing. Not decided here: how tables are read and
written.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.fhir.compiled import surely_valid
from dicom_assets.fhir.dates import instant_of
from dicom_assets.fhir.flatten import (
    ALWAYS_VALID,
    ERRORS,
    Sourced,
    flatten_known,
    resource_of,
    silver_id,
)
from dicom_assets.fhir.lenient import fitting
from dicom_assets.fhir.merge import merge_studies
from dicom_assets.fhir.model import known_elements, problems
from dicom_assets.fhir.ndjson import TOO_DEEP, is_too_deep
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.lakehouse.uris import WHOLE_TAG, is_written_here

MERGED_TYPES = frozenset({"ImagingStudy"})
_RESOURCES_AT_A_TIME = 512
_KEY = ("sourceSystem", "id")
_ARRIVAL = ("ingestedAt", "filePath", "lineNumber")
_READ = (*_KEY, "resource", "filePath", "lineNumber")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Statement:
    """What one row says: the resource, as far as silver holds it, and what was invalid about it."""

    resource: Json
    errors: tuple[str, ...] = ()


def silver_ids(resource_type: str, bronze: pa.Table) -> list[str]:
    """Returns the distinct silver ids that bronze rows are about, in order."""
    keys = bronze.select(list(_KEY)).group_by(list(_KEY)).aggregate([]).to_pylist()
    found = (silver_id(k["sourceSystem"], resource_type, k["id"]) for k in keys if k["id"])
    return sorted(found)


class Upserts(NamedTuple):
    """What silver is to hold of some resources.

    Attributes:
        rows: The rows to upsert, one per id.
        failures: The bronze rows that are invalid.
        gone: Ids of the rows to delete.
    """

    rows: pa.Table
    failures: list[Failure]
    gone: list[str]


def upserts(
    resource_type: str,
    bronze: pa.Table,
    existing: pa.Table,
    *,
    now: datetime,
    anew: Collection[str] = (),
    lenient: bool = False,
) -> Upserts:
    """Returns what silver is to hold of the resources that bronze rows are about.

    Args:
        resource_type: The type of all rows.
        bronze: Raw FHIR rows (`schemas.RAW_FHIR`), any number, several for one resource or none.
        existing: Silver rows of `silver_ids`, with at least `flatten.resource_columns`.
        now: The instant that goes into modifiedAt, and into createdAt of new rows.
        anew: Silver ids of resources of which all bronze rows are given: what silver holds of them
            has no say.
        lenient: Whether invalid resources are kept, with what is wrong, if the type may be invalid.
    """
    found = Upserts(pa.table({}), [], [])
    lenient = lenient and resource_type not in ALWAYS_VALID
    changes = _changes(resource_type, bronze, existing, now, anew, found, lenient=lenient)
    tables: list[pa.Table] = []
    while not tables or tables[-1].num_rows:
        tables.append(flatten_known(resource_type, islice(changes, _RESOURCES_AT_A_TIME)))
    return found._replace(rows=pa.concat_tables(tables))


def gone(bronze: pa.Table) -> set[tuple[str, str]]:
    """Returns source system and id of the studies that, by all their rows, are no longer there."""
    last = {(row["sourceSystem"], row["id"]): row for row in _in_order(bronze)}
    statements = {key: _statement("ImagingStudy", row, lenient=False) for key, row in last.items()}
    return {
        key
        for key, said in statements.items()
        if isinstance(said, _Statement) and _is_gone(said.resource)
    }


def _is_gone(resource: Json) -> bool:
    """Says whether an ImagingStudy says that it is no longer there."""
    tags = (resource.get("meta") or {}).get("tag") or ()
    return WHOLE_TAG in tags and not resource.get("series")


def _changes(
    resource_type: str,
    bronze: pa.Table,
    existing: pa.Table,
    now: datetime,
    anew: Collection[str],
    found: Upserts,
    *,
    lenient: bool,
) -> Iterator[Sourced]:
    """Yields what holds of each resource, where that changes something; adds to the rest."""
    known = _by_id(existing)
    for (system, original_id), group in groupby(_in_order(bronze), key=itemgetter(*_KEY)):
        statements = []
        for row in group:
            statement = _statement(resource_type, row, lenient=lenient)
            if isinstance(statement, Failure):
                found.failures.append(statement)
            else:
                statements.append((statement, row["filePath"]))
        if not statements:
            continue
        key = silver_id(system, resource_type, original_id)
        row = known.get(key)
        before = _held(resource_type, row) if row else None
        if row and before and key not in anew:
            statements.insert(0, (before, row["sourceFilePath"]))
        after, path = _settle(resource_type, statements)
        if _is_gone(after.resource):
            found.gone.append(key)
        elif after != before:
            created = row["createdAt"] if row else now
            yield Sourced(after.resource, system, path, created, now, after.errors)


def _held(resource_type: str, row: Json) -> _Statement:
    return _Statement(resource_of(resource_type, row), tuple(row.get(ERRORS) or ()))


def _by_id(existing: pa.Table) -> dict[str, Json]:
    return {row["id"]: row for row in existing.to_pylist()}


def _in_order(bronze: pa.Table) -> Iterator[Json]:
    """Yields rows resource by resource, each resource's statements from oldest to newest."""
    said = pc.call_function("coalesce", [bronze["lastUpdated"], bronze["ingestedAt"]])
    keys = (*_KEY, "said", *_ARRIVAL)
    table = bronze.select([*_KEY, *_ARRIVAL, "resource"]).append_column("said", said)
    table = table.sort_by([(name, "ascending") for name in keys]).select(list(_READ))
    for batch in table.to_batches(max_chunksize=_RESOURCES_AT_A_TIME):
        yield from batch.to_pylist()


def _statement(resource_type: str, row: Json, *, lenient: bool) -> _Statement | Failure:
    """Returns the resource of a bronze row, or why it is none."""
    try:
        resource = orjson.loads(row["resource"])
    except orjson.JSONDecodeError:
        return _failure(row, Reason.INVALID_JSON, "the resource is not JSON")
    if is_too_deep(resource):
        return _failure(row, Reason.NESTED_TOO_DEEP, TOO_DEEP)
    if not isinstance(resource, dict) or resource.get("resourceType") != resource_type:
        message = f"the resourceType is not {resource_type}"
        return _failure(row, Reason.WRONG_RESOURCE_TYPE, message)
    errors: list[str] = []
    if resource_type == "ImagingStudy" and surely_valid(row["resource"]):
        known = resource
    elif not (errors := problems(resource, known_only=not lenient)):
        known = known_elements(resource)
    elif lenient:
        known = fitting(resource)
    else:
        wrong = "; ".join(errors)
        return _failure(row, Reason.INVALID_RESOURCE, f"invalid {resource_type}: {wrong}")
    if not resource.get("id") or resource["id"] != row["id"]:
        message = f"the {resource_type} has no id, so that nothing could ever update it"
        return _failure(row, Reason.INVALID_RESOURCE, message)
    return _Statement(known, tuple(errors))


def _settle(
    resource_type: str, statements: Sequence[tuple[_Statement, str]]
) -> tuple[_Statement, str]:
    """Returns what holds after all statements, and the file of the newest that counts."""
    whole = [place for place, said in enumerate(statements) if _is_whole(*said)]
    if whole:
        statements = _around(statements, whole[-1])
    (now, source), *rest = statements
    for statement, path in rest:
        is_merged = resource_type in MERGED_TYPES and statement != now
        if not _is_older(statement.resource, than=now.resource):
            now, source = _merged(now, statement) if is_merged else statement, path
        elif is_merged:
            now = _merged(statement, now)
    return now, source


def _around(
    statements: Sequence[tuple[_Statement, str]], place: int
) -> Sequence[tuple[_Statement, str]]:
    """Returns a whole statement, what others said before it, and all that was said after it.

    Of what others said those instances are left out that we had said, too, and say no more.
    """
    whole, after = statements[place], statements[place + 1 :]
    if _is_gone(whole[0].resource):
        return [whole, *after]
    before = statements[:place]
    said = {uid for each, path in before if is_written_here(path) for uid in _instances(each)}
    left_out = said - _instances(whole[0])
    others = [
        (_without(each, left_out), path) for each, path in before if not is_written_here(path)
    ]
    return [*others, whole, *after]


def _instances(statement: _Statement) -> set[str]:
    series = statement.resource.get("series") or ()
    return {each.get("uid") or "" for one in series for each in one.get("instance") or ()}


def _without(statement: _Statement, uids: set[str]) -> _Statement:
    """Returns a statement without some instances, and without the series that had no others."""
    series = []
    for one in statement.resource.get("series") or ():
        kept = [each for each in one.get("instance") or () if each.get("uid") not in uids]
        if kept or not one.get("instance"):
            series.append({**one, "instance": kept} if kept else one)
    return _Statement({**statement.resource, "series": series}, statement.errors)


def _is_whole(statement: _Statement, path: str) -> bool:
    tags = (statement.resource.get("meta") or {}).get("tag") or ()
    return is_written_here(path) and WHOLE_TAG in tags


def _merged(older: _Statement, newer: _Statement) -> _Statement:
    return _Statement(merge_studies(older.resource, newer.resource))


def _is_older(statement: Json, *, than: Json) -> bool:
    """Says whether both say when they were updated, and the statement was before."""
    said, held = _last_updated(statement), _last_updated(than)
    return said is not None and held is not None and said < held


def _last_updated(resource: Json) -> datetime | None:
    said = (resource.get("meta") or {}).get("lastUpdated")
    return instant_of(said) if isinstance(said, str) else None  # silver held numbers once


def _failure(row: Json, reason: Reason, message: str) -> Failure:
    return Failure(
        "flatten",
        reason,
        message,
        row["sourceSystem"],
        source_path=row["filePath"],
        line=row["lineNumber"],
    )

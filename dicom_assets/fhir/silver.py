"""Bronze FHIR rows → the silver rows to upsert.

Decided here: which statement about a resource holds. Statements are taken in the order of
lastUpdated (of arrival, where they have none), then of arrival. ImagingStudy is merged (`merge`),
any other type replaced whole; an older lastUpdated never overwrites a newer one. Rows that would
change nothing are left out, so that a second run changes nothing. Not decided here: how tables are
read and written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

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
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.reasons import Reason

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


def upserts(
    resource_type: str,
    bronze: pa.Table,
    existing: pa.Table,
    *,
    now: datetime,
    lenient: bool = False,
) -> tuple[pa.Table, list[Failure]]:
    """Returns the silver rows to upsert, one per id, and the bronze rows that are invalid.

    Args:
        resource_type: The type of all rows.
        bronze: Raw FHIR rows (`schemas.RAW_FHIR`), any number, several for one resource or none.
        existing: Silver rows of `silver_ids`, with at least `flatten.resource_columns`.
        now: The instant that goes into modifiedAt, and into createdAt of new rows.
        lenient: Whether invalid resources are kept, with what is wrong, if the type may be invalid.
    """
    failures: list[Failure] = []
    lenient = lenient and resource_type not in ALWAYS_VALID
    changes = _changes(resource_type, bronze, existing, now, failures, lenient=lenient)
    tables: list[pa.Table] = []
    while not tables or tables[-1].num_rows:
        tables.append(flatten_known(resource_type, islice(changes, _RESOURCES_AT_A_TIME)))
    return pa.concat_tables(tables), failures


def _changes(
    resource_type: str,
    bronze: pa.Table,
    existing: pa.Table,
    now: datetime,
    bad: list[Failure],
    *,
    lenient: bool,
) -> Iterator[Sourced]:
    """Yields what holds of each resource, where that changes something; adds to `bad`."""
    known = _by_id(existing)
    for (system, original_id), group in groupby(_in_order(bronze), key=itemgetter(*_KEY)):
        statements = []
        for row in group:
            statement = _statement(resource_type, row, lenient=lenient)
            if isinstance(statement, Failure):
                bad.append(statement)
            else:
                statements.append((statement, row["filePath"]))
        if not statements:
            continue
        row = known.get(silver_id(system, resource_type, original_id))
        before = _held(resource_type, row) if row else None
        path = row["sourceFilePath"] if row else None
        after, path = _settle(resource_type, before, path, statements)
        if after != before:
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
    resource_type: str,
    before: _Statement | None,
    source_before: str | None,
    statements: Sequence[tuple[_Statement, str]],
) -> tuple[_Statement, str | None]:
    """Returns what holds after all statements, and the file of the newest that counts."""
    rest = list(statements)
    held, source = (before, source_before) if before is not None else rest.pop(0)
    for statement, path in rest:
        if not _is_older(statement.resource, than=held.resource):
            merged = resource_type in MERGED_TYPES and statement != held
            held, source = _merged(held, statement) if merged else statement, path
        elif resource_type in MERGED_TYPES:
            held = _merged(statement, held)
    return held, source


def _merged(older: _Statement, newer: _Statement) -> _Statement:
    return _Statement(merge_studies(older.resource, newer.resource))


def _is_older(statement: Json, *, than: Json) -> bool:
    """Says whether both say when they were updated, and the statement was before."""
    said, held = _last_updated(statement), _last_updated(than)
    return said is not None and held is not None and said < held


def _last_updated(resource: Json) -> datetime | None:
    return instant_of((resource.get("meta") or {}).get("lastUpdated"))


def _failure(row: Json, reason: Reason, message: str) -> Failure:
    return Failure(
        "flatten",
        reason,
        message,
        row["sourceSystem"],
        source_path=row["filePath"],
        line=row["lineNumber"],
    )

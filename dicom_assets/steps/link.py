"""Reports find their studies.

Decided here: how that is found at the same cost however much there is. A study that this pipeline
made of DICOM has a silver id that follows from its UID. Other names, and who speaks of which study,
are kept in `silver/study_names`, which is looked up by name. Names are written before the rows that
say them, and once. Not decided here: what a name is, and which study is meant
(`dicom_assets.fhir.links`), and when it is looked for again (`link_again`).
"""

from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.imaging_study import silver_study_id
from dicom_assets.fhir.links import (
    LINKED,
    STUDY_IDS,
    id_of,
    meant,
    names_in_references,
    names_of_study,
    uid_of,
)
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.steps import catalog
from dicom_assets.steps.run import Run

STUDIES = "ImagingStudy"


def linked(run: Run, resource_type: str, rows: pa.Table) -> pa.Table:
    """Returns silver rows with the ids of the studies that they point to.

    By what names they speak of studies is written down, so that one that comes later finds them.

    Args:
        run: The run.
        resource_type: A type of `links.LINKED`.
        rows: Silver rows of that type.
    """
    systems, ids = rows["sourceSystem"].to_pylist(), rows["id"].to_pylist()
    said = [
        (name, system, own_id)
        for named, system, own_id in zip(_named(resource_type, rows), systems, ids, strict=True)
        for names in named
        for name in names
    ]
    write_down(run, resource_type, said)
    found = studies_meant(run.engine, resource_type, rows)
    place = rows.schema.get_field_index(STUDY_IDS)
    field = rows.schema.field(place)
    return rows.set_column(place, field, pa.array(found, field.type))


def studies_meant(
    engine: LocalEngine, resource_type: str, rows: pa.Table
) -> list[list[str | None] | None]:
    """Returns for each silver row the ids of the studies in silver that its references mean."""
    references, systems = _named(resource_type, rows), rows["sourceSystem"].to_pylist()
    every = {name for named in references for names in named for name in names}
    studies = _studies_named(engine, every)
    return [
        [meant(names, studies, source_system=system) for names in named] or None
        for named, system in zip(references, systems, strict=True)
    ]


def speaking_of(engine: LocalEngine, resource_type: str, names: Collection[str]) -> set[str]:
    """Returns the silver ids of resources of a type that speak of studies by some names."""
    rows = engine.read(
        catalog.STUDY_NAMES, ["resourceType", "silverId"], where={"name": sorted(names)}
    ).to_pylist()
    return {row["silverId"] for row in rows if row["resourceType"] == resource_type}


def names_of(studies: pa.Table) -> list[list[str]]:
    """Returns the names of each of some silver studies."""
    columns = (studies[name].to_pylist() for name in ("idOrig", "identifier_string"))
    return [names_of_study(own_id, text) for own_id, text in zip(*columns, strict=True)]


def _named(resource_type: str, rows: pa.Table) -> list:
    """Returns for each silver row, and each of its references, the names of the study."""
    element = f"{LINKED[resource_type]}_string"
    return [names_in_references(text) for text in rows[element].to_pylist()]


def _studies_named(engine: LocalEngine, names: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """Returns name → source system and silver id of the studies in silver that have it."""
    possible: dict[str, set[str]] = {}
    systems = engine.layout.fhir_source_systems() if names else []
    for name in names:
        for system in systems:
            if uid := uid_of(name):
                possible.setdefault(silver_study_id(system, uid), set()).add(name)
            elif own_id := id_of(name):
                possible.setdefault(silver_id(system, STUDIES, own_id), set()).add(name)
    columns = ["name", "resourceType", "silverId"]
    for row in engine.read(catalog.STUDY_NAMES, columns, where={"name": sorted(names)}).to_pylist():
        if row["resourceType"] == STUDIES:
            possible.setdefault(row["silverId"], set()).add(row["name"])
    found: dict[str, list[tuple[str, str]]] = {}
    there = engine.read(
        catalog.silver_imaging_study(), ["id", "sourceSystem"], where={"id": sorted(possible)}
    )
    for row in there.to_pylist():
        for name in possible[row["id"]]:
            found.setdefault(name, []).append((row["sourceSystem"], row["id"]))
    return found


def write_down(run: Run, resource_type: str, said: Iterable[tuple[str, str, str]]) -> None:
    """Appends the names that resources use, unless that was done before.

    Args:
        run: The run.
        resource_type: Who says them.
        said: Name, source system and silver id of who says it.
    """
    engine, table = run.engine, catalog.STUDY_NAMES
    wanted = dict.fromkeys(said)
    names = sorted({name for name, _, _ in wanted})
    known = engine.read(table, ["name", "silverId"], where={"name": names}).to_pylist()
    written = {(row["name"], row["silverId"]) for row in known}
    rows: list[dict[str, Any]] = [
        {
            "ingestDate": run.ingest_date,
            "sourceSystem": system,
            "name": name,
            "resourceType": resource_type,
            "silverId": own_id,
        }
        for name, system, own_id in wanted
        if (name, own_id) not in written
    ]
    if rows:
        rows_table = pa.Table.from_pylist(rows, schema=table.schema)
        engine.append(table, rows_table, progress=None, ingest_date=run.ingest_date)

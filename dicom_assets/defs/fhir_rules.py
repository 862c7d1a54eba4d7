"""Rules about FHIR files, about each resource type that has tables, and about notes.

Decided here: what must be equal. Not decided here: how things are counted
(`dicom_assets.steps.reconcile_fhir`).
"""

from collections.abc import Iterator, Sequence

from dicom_assets.defs.rule import Rule, equal, none
from dicom_assets.fhir.links import LINKED
from dicom_assets.omop.note import SOURCE_TABLE as REPORT
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.reconcile_fhir import files_by_type, rows_without_file


def rules(resource_types: Sequence[str]) -> Iterator[Rule]:
    """Yields the rules, given the types that have tables beside ImagingStudy."""
    yield Rule(
        "bronze/fhir_files",
        "rows_have_files",
        "Each organised FHIR file lies where its row says",
        lambda day: none(rows_without_file=rows_without_file(day.run)),
    )
    yield Rule(
        "bronze/fhir_files",
        "types_have_tables",
        "How many FHIR files are of a type that has no tables (setting fhir_resource_types)",
        lambda day: _without_tables(day, {"ImagingStudy", *resource_types}),
        blocking=False,
    )
    for resource_type in resource_types:
        yield from _of_type(resource_type)
    if REPORT in resource_types:
        yield from _of_notes()


def _of_type(resource_type: str) -> Iterator[Rule]:
    bronze, silver = f"bronze/{resource_type}", f"silver/{resource_type}"
    yield Rule(
        bronze,
        "every_line_has_a_row",
        "Resources in files = rows + failures",
        lambda day: equal(
            lines=day.resources(resource_type).lines(),
            rows_and_failures=len(day.resources(resource_type).bronze)
            + day.failed_lines(resource_type),
        ),
    )
    yield Rule(
        bronze,
        "unique_lines",
        "No line has two rows",
        lambda day: none(
            duplicates=int(
                day.resources(resource_type).bronze.duplicated(["filePath", "lineNumber"]).sum()
            )
        ),
    )
    yield Rule(
        silver,
        "every_resource_has_one_row",
        "Distinct resources of the date = silver rows",
        lambda day: equal(
            resources=len(day.resources(resource_type).ids),
            rows=len(day.resources(resource_type).silver),
        ),
    )
    yield Rule(
        silver,
        "resources_are_valid",
        "How many resources are invalid FHIR R4B, and were kept",
        lambda day: none(invalid=day.resources(resource_type).invalid()),
        blocking=False,
    )
    if resource_type in LINKED:
        yield Rule(
            silver,
            "studies_are_known",
            "How many references point to no study in silver, or not to one alone",
            lambda day: none(unknown=day.resources(resource_type).unknown_studies()),
            blocking=False,
        )


def _of_notes() -> Iterator[Rule]:
    yield Rule(
        "gold/note",
        "every_report_has_its_notes",
        "Reports with text, times the studies they are about = rows",
        _every_report_has_its_notes,
    )
    yield Rule(
        "gold/note",
        "foreign_keys_resolve",
        "person and procedure_occurrence hold every key that notes point to",
        lambda day: none(**day.resources(REPORT).dangling_notes()),
    )
    yield Rule(
        "gold/note",
        "reports_have_text",
        "How many reports about a known study have no text",
        lambda day: none(
            without_text=sum(
                bool(studies) and not text for _, text, studies in day.resources(REPORT).told
            )
        ),
        blocking=False,
    )


def _every_report_has_its_notes(day: Day) -> tuple[bool, dict[str, int]]:
    reports = day.resources(REPORT)
    expected = sum(len(studies) for _, text, studies in reports.told if text)
    return equal(expected=expected, rows=len(reports.notes))


def _without_tables(day: Day, known: set[str]) -> tuple[bool, dict[str, int]]:
    counts = files_by_type(day.run)
    return none(**{name: count for name, count in counts.items() if name not in known})

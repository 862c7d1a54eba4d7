"""Checks: one table of rules about row counts, keys and what lies between layers.

Decided here: what must be equal, and whether what follows waits for it (`blocking`). Not decided
here: how things are counted (`dicom_assets.steps.reconcile`). A rule looks at one ingest date and
is evaluated by the asset it belongs to, in the same run.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import dagster as dg

from dicom_assets.defs import fhir_rules
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.rule import Rule, equal, none
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.settings import load_settings
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.reconcile_rows import PLACE, SERIES, absent


def _files_match_rows(day: Day) -> tuple[bool, dict[str, int]]:
    return none(**day.unaccounted())


def _every_file_has_a_row(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(
        organised_files=len(day.organised),
        rows_and_failures=len(day.received) + day.failed("extract"),
    )


def _every_object_is_accounted_for(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(**day.external_counts())


def _shortcuts_are_usable(day: Day) -> tuple[bool, dict[str, int]]:
    failed = day.failures_of("external")
    return none(unusable=int((failed["reasonCode"] == Reason.SHORTCUT_UNUSABLE).sum()))


def _one_zip_per_row(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(zips=day.files["zips"], rows=int(day.received["isZip"].sum()))


def _unique_files(day: Day) -> tuple[bool, dict[str, int]]:
    # a file that was read again has a row for each time, with another instant
    return none(duplicates=int(day.instances.duplicated(["path", "ingestedAt"]).sum()))


def _sent_once(day: Day) -> tuple[bool, dict[str, int]]:
    return none(**day.resent())


def _dates_came_in_order(day: Day) -> tuple[bool, dict[str, int]]:
    # that a study's parts come late is ordinary, and shown
    counts = day.in_parts()
    return not counts["out_of_order"], counts


def _namespaces_are_apart(day: Day) -> tuple[bool, dict[str, int]]:
    # they are never merged, which every_instance_in_its_place holds: shown, and no fault
    return True, {"in_other_namespaces": day.in_other_namespaces()}


def _every_instance_is_settled(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(instances=len(day.settled), rows=len(day.current))


def _no_conflicts(day: Day) -> tuple[bool, dict[str, int]]:
    kinds = day.conflicts["level"] + " " + day.conflicts["attribute"]
    return none(**{str(kind): int(count) for kind, count in kinds.value_counts().items()})


def _every_study_is_written(day: Day) -> tuple[bool, dict[str, int]]:
    expected = set(day.belonging["study"])
    # a study that was corrected has its line on the date of that
    return none(missing=len(expected - set(day.lines) - day.written_whole))


def _every_line_has_a_row(day: Day) -> tuple[bool, dict[str, int]]:
    failed = day.failed_lines("ImagingStudy")
    return equal(lines=len(day.lines), rows_and_failures=len(day.bronze) + failed)


def _unique_lines(day: Day) -> tuple[bool, dict[str, int]]:
    return none(duplicates=int(day.bronze.duplicated(["filePath", "lineNumber"]).sum()))


def _every_study_has_one_row(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(studies=len(day.studies) - len(day.gone), rows=len(day.silver.studies))


def _every_instance_in_its_place(day: Day) -> tuple[bool, dict[str, int]]:
    held, in_study = day.silver.instances, ["study", "instance"]
    there = day.belonging.loc[day.belonging["study"].isin(list(day.studies))]
    # where another date's run has yet to write the study anew, its own check will look at it
    gone = day.not_belonging.loc[~day.not_belonging["study"].isin(list(day.waiting))]
    return none(
        lost=len(absent(there, held, on=PLACE)),
        left_behind=len(gone) - len(absent(gone, held, on=in_study)),
    )


def _every_patient_has_one_row(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(patients=len(day.person_ids), rows=len(day.people))


def _every_study_has_one_procedure(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(studies=len(day.procedure_ids), rows=len(day.procedures))


def _every_series_has_one_row(day: Day) -> tuple[bool, dict[str, int]]:
    return equal(series=len(day.silver.series), rows=len(day.gold))


def _no_orphan_series(day: Day) -> tuple[bool, dict[str, int]]:
    silver, gold = day.silver.series, day.gold
    only_in_gold, missing = (absent(*both, on=SERIES) for both in ((gold, silver), (silver, gold)))
    return none(orphans=len(only_in_gold) + len(missing))


def _unique_series(day: Day) -> tuple[bool, dict[str, int]]:
    return none(duplicates=int(day.gold["image_occurrence_id"].duplicated().sum()))


def _foreign_keys_resolve(day: Day) -> tuple[bool, dict[str, int]]:
    return none(**day.dangling())


def _dates_are_known(day: Day) -> tuple[bool, dict[str, int]]:
    return none(without_date=int((~day.gold["isDated"]).sum()))


def _codes_are_mapped(day: Day) -> tuple[bool, dict[str, int]]:
    return none(**day.unmapped())


def _as_declared(name: str) -> Callable[[Day], tuple[bool, dict[str, int]]]:
    def evaluate(day: Day) -> tuple[bool, dict[str, int]]:
        shown, wrong, manifests = {}, 0, 0
        for folder, said in day.manifests.items():
            if name in said[-1]:
                manifests += 1
                declared, actual = said[-1][name], day.counted(name, folder)
                # of several in a folder the newest speaks for all, or the last few each for a part
                is_met = actual in accumulate(each.get(name, 0) for each in reversed(said))
                wrong += not is_met
                if not shown or not is_met:
                    shown = {"declared": declared, "actual": actual}
        return not wrong, {"manifests": manifests, "not_met": wrong, **shown}

    return evaluate


def _declared(asset: str, name: str) -> Rule:
    return Rule(
        asset,
        "counts_as_declared",
        "The count is the one that the date's manifests declare, where there are any",
        _as_declared(name),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "bronze/process_files",
        "files_match_rows",
        "Each organised file lies in Process or in Failed, and Process holds no other",
        _files_match_rows,
    ),
    _declared("bronze/process_files", "process_files"),
    Rule(
        "bronze/dicomimagingmetastore",
        "every_file_has_a_row",
        "Organised files = rows + failures",
        _every_file_has_a_row,
    ),
    Rule(
        "bronze/external_files",
        "shortcuts_are_usable",
        "How many shortcuts could not be listed, or not whole, some time on the date",
        _shortcuts_are_usable,
        blocking=False,
    ),
    Rule(
        "bronze/dicomimagingmetastore",
        "every_object_is_accounted_for",
        "New and changed objects of External = rows + failures + those that are no DICOM files",
        _every_object_is_accounted_for,
    ),
    Rule(
        "bronze/dicomimagingmetastore",
        "one_zip_per_row",
        "Each compressed row has its ZIP in Process",
        _one_zip_per_row,
    ),
    Rule(
        "bronze/dicomimagingmetastore",
        "unique_files",
        "No file has two rows, but for those that were read again",
        _unique_files,
    ),
    Rule(
        "bronze/dicomimagingmetastore",
        "instances_sent_once",
        "How many instances came before, with the same or with other content",
        _sent_once,
        blocking=False,
    ),
    _declared("bronze/dicomimagingmetastore", "dicomimagingmetastore"),
    Rule(
        "silver/current_files",
        "every_instance_is_settled",
        "Each instance of the metastore that FHIR can hold has one row",
        _every_instance_is_settled,
    ),
    Rule(
        "silver/current_files",
        "dates_in_order",
        "How many studies had files of an earlier date before (late), or of a later one",
        _dates_came_in_order,
        blocking=False,
    ),
    Rule(
        "silver/current_files",
        "namespaces_are_apart",
        "How many studies another namespace has, too, by their UID; they are never merged",
        _namespaces_are_apart,
        blocking=False,
    ),
    Rule(
        "silver/current_files",
        "no_conflicts",
        "In what files contradict each other that nobody has decided, and how often",
        _no_conflicts,
        blocking=False,
    ),
    Rule(
        "bronze/ImagingStudy_ndjson",
        "every_study_is_written",
        "Each study of the metastore has a line or a failure",
        _every_study_is_written,
    ),
    Rule(
        "bronze/ImagingStudy",
        "every_line_has_a_row",
        "NDJSON lines = rows + failures",
        _every_line_has_a_row,
    ),
    Rule("bronze/ImagingStudy", "unique_lines", "No line has two rows", _unique_lines),
    Rule(
        "silver/ImagingStudy",
        "every_study_has_one_row",
        "Distinct studies of the date = silver rows",
        _every_study_has_one_row,
    ),
    Rule(
        "silver/ImagingStudy",
        "every_instance_in_its_place",
        "Every instance is in the study and series that its newest file says; no deleted one is",
        _every_instance_in_its_place,
    ),
    _declared("silver/ImagingStudy", "ImagingStudy"),
    Rule(
        "gold/person",
        "every_patient_has_one_row",
        "Distinct patients of the date's studies = rows",
        _every_patient_has_one_row,
    ),
    Rule(
        "gold/procedure_occurrence",
        "every_study_has_one_row",
        "Distinct studies of the date = rows",
        _every_study_has_one_procedure,
    ),
    Rule(
        "gold/Image_Occurrence",
        "every_series_has_one_row",
        "Distinct series of the date's studies = gold rows",
        _every_series_has_one_row,
    ),
    Rule(
        "gold/Image_Occurrence",
        "no_orphan_series",
        "Gold and silver hold the same series",
        _no_orphan_series,
    ),
    Rule(
        "gold/Image_Occurrence",
        "unique_series",
        "No key stands twice",
        _unique_series,
    ),
    _declared("gold/Image_Occurrence", "Image_Occurrence"),
    Rule(
        "gold/Image_Occurrence",
        "foreign_keys_resolve",
        "person and procedure_occurrence hold every key that gold points to",
        _foreign_keys_resolve,
    ),
    Rule(
        "gold/Image_Occurrence",
        "dates_are_known",
        "How many series have neither a series nor a study date",
        _dates_are_known,
        blocking=False,
    ),
    Rule(
        "gold/Image_Occurrence",
        "codes_are_mapped",
        "How many rows carry a modality or body part without a concept",
        _codes_are_mapped,
        blocking=False,
    ),
    *fhir_rules.rules(load_settings().fhir_resource_types),
)


def check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Returns the specs of an asset's rules."""
    return [
        dg.AssetCheckSpec(
            rule.name,
            asset=dg.AssetKey(asset.split("/")),
            description=rule.description,
            blocking=rule.blocking,
            partitions_def=ingest_date,
        )
        for rule in RULES
        if rule.asset == asset
    ]


def check_results(asset: str, day: Day) -> Iterator[dg.AssetCheckResult]:
    """Evaluates an asset's rules for one date."""
    for rule in RULES:
        if rule.asset == asset:
            passed, numbers = rule.evaluate(day)
            metadata: dict[str, Any] = dict(numbers)
            yield dg.AssetCheckResult(
                passed=passed,
                check_name=rule.name,
                severity=(
                    dg.AssetCheckSeverity.ERROR if rule.blocking else dg.AssetCheckSeverity.WARN
                ),
                metadata=metadata,
            )

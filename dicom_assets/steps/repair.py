"""Repair: mends what `verify` found, as far as it can be mended from what is there.

Decided here: what is done about each kind of finding. A file that belongs nowhere is registered or
dropped again; a row that is missing is made again from the layer before it; a row of gold that
belongs to nothing goes. No dropped byte is ever deleted, and a file whose content is not the row's
is never touched. Layers are mended once files and bronze are. Everything may be killed and done
again. Not decided here: what is made of files and lines (the steps, which are called again).
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.links import LINKED
from dicom_assets.lakehouse.durable import put
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM
from dicom_assets.lakehouse.paths import lies, temporary_of
from dicom_assets.lakehouse.placing import NotPlacedError, place
from dicom_assets.omop.note import SOURCE_TABLE as REPORT
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog, organise, organise_fhir, to_omop
from dicom_assets.steps.check_files import digest_of, size_of
from dicom_assets.steps.convert import RESOURCE_TYPE, convert, convert_again
from dicom_assets.steps.extract import extract, extract_again
from dicom_assets.steps.findings import Finding, Findings, Kind
from dicom_assets.steps.flatten import flatten, flatten_again
from dicom_assets.steps.ingest_fhir import ingest_again, ingest_fhir
from dicom_assets.steps.link_again import link_again, link_those
from dicom_assets.steps.read_external import read_external_again
from dicom_assets.steps.report import now, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.settle import meet_again, settle, settle_again
from dicom_assets.steps.to_note import note, note_again
from dicom_assets.steps.verify import verify
from dicom_assets.steps.verify_date import EXTERNAL, ROW

STEP = "repair"
_LOG = logging.getLogger(__name__)
_ROUNDS = 8
Study = tuple[str, str]
"""Source system and resource id."""


def verify_and_repair(
    settings: Settings, *, day: date | None = None, hashes: bool = False
) -> tuple[Findings, Findings]:
    """Compares, mends, and compares again, until nothing is left that has not been tried.

    Returns:
        What was found at first, and what remains.
    """
    with reporting(STEP, settings.lakehouse):
        first = found = verify(settings, day=day, hashes=hashes)
        repair = _Repair(settings)
        for _ in range(_ROUNDS):
            if not repair.mend(found):
                break
            found = verify(settings, day=day)
            for wrong in first.of(Kind.CONTENT):  # every byte is read once, and none is mended
                found.add(wrong.kind, wrong.what, day=wrong.day, note=wrong.note)
    return first, found


class _Repair:
    """Mends round by round; nothing is tried twice."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = Run.of(settings, f"{now().date()}")
        self._engine, self._layout = self._run.engine, self._run.engine.layout
        self._tried: set[tuple[str, Finding]] = set()

    def mend(self, found: Findings) -> bool:
        """Mends what can be; says whether there was anything to do."""
        if found.counts[Kind.DATA_FILE]:
            return False
        # what layers lack may follow from files, what gold lacks from silver, reports from studies
        mend = (
            self._mend_files,
            self._mend_current,
            self._mend_silver,
            self._mend_gold,
            self._mend_resources,
        )
        return any(mend_layer(found) for mend_layer in mend)

    def _untried(self, found: Findings, act: str, *kinds: Kind) -> list[Finding]:
        """Returns what has not been tried to mend so; from now on it has."""
        new = [each for each in found.of(*kinds) if (act, each) not in self._tried]
        self._tried.update((act, each) for each in new)
        return new

    def _on(self, day: date) -> Run:
        return Run.of(self._settings, f"{day}", self._run.id)

    def _mend_files(self, found: Findings) -> bool:
        """Mends files, their rows, and lines; then carries the dates on to gold."""
        one_by_one: dict[Kind, Callable[[Finding], None]] = {
            Kind.LEFTOVER: self._clear,
            Kind.TWIN: self._remove_twin,
            Kind.FAILED_WITHOUT_ROW: self._drop_again,
            Kind.ROW_WITHOUT_LINE: self._write_lines,
        }
        by_date: dict[Kind, Callable[[Run, list[Finding]], None]] = {
            Kind.FILE_WITHOUT_ROW: self._register,
            Kind.ROW_NOT_ORGANISED: self._register_rows,
            Kind.NOT_READ: self._read_again,
            Kind.LINE_WITHOUT_ROW: self._ingest_again,
        }
        anything = False
        for kind, mend_one in one_by_one.items():
            for finding in self._untried(found, kind, kind):
                mend_one(finding)
                anything = True
        days: set[date] = set()
        for kind, mend_date in by_date.items():
            for day, findings in _by_day(self._untried(found, kind, kind)).items():
                mend_date(self._on(day), findings)
                days.add(day)
        for day in sorted(days):
            self._carry_on(day)
        return anything or bool(days)

    def _carry_on(self, day: date) -> None:
        """Takes a date's new rows and lines to gold, as its next run would."""
        run = self._on(day)
        extract(run)
        settle(run)
        convert(run)
        ingest_fhir(run, catalog.BRONZE_IMAGING_STUDY)
        flatten(run, bronze=catalog.BRONZE_IMAGING_STUDY, silver=catalog.silver_imaging_study())
        for step in self._gold_steps():
            step(run)
        for each in self._settings.fhir_resource_types:
            bronze, silver = catalog.bronze_fhir(each), catalog.silver_fhir(each)
            ingest_fhir(run, bronze)
            flatten(run, bronze=bronze, silver=silver)
            if each in LINKED:
                link_again(run, each)
        if REPORT in self._settings.fhir_resource_types:
            note(run)

    def _gold_steps(self) -> list[Callable[..., Any]]:
        settings = self._settings
        return [
            *([to_omop.procedure_occurrence] if settings.omop_procedure_occurrence else []),
            *([to_omop.person] if settings.omop_person else []),
            to_omop.image_occurrence,
        ]

    def _clear(self, leftover: Finding) -> None:
        """Ends a killed run's moves, or removes a temporary file."""
        if leftover.key is None:
            for journal_of in (organise.journal_of, organise_fhir.journal_of):
                with journal_of(self._engine).open():
                    pass
        else:
            leftover.key.unlink(missing_ok=True)

    def _remove_twin(self, twin: Finding) -> None:
        """Removes a plain file once its ZIP is known to hold every byte of it."""
        plain, row = twin.key
        try:
            held = digest_of(self._layout.absolute(row["filePath"]))
        except BadZipFile:
            return
        if held.sha256 == row["contentHash"] and held == digest_of(plain):
            plain.unlink()

    def _drop_again(self, failed: Finding) -> None:
        """Moves a file that failed for a reason that nobody knows back to the drop folder."""
        system, path = failed.key
        is_fhir = path.is_relative_to(self._layout.fhir_failed_root)
        if is_fhir and failed.day and self._keep_again(self._on(failed.day), system, path):
            return
        inside = "" if system == DEFAULT_SOURCE_SYSTEM else system
        folder = self._layout.fhir_drop_folder if is_fhir else self._layout.drop_folder
        try:
            place(path, folder / inside / path.name, within=folder)
        except NotPlacedError as error:  # it stays a finding
            _LOG.warning("a file in Failed cannot be dropped again: %s", error)

    def _keep_again(self, run: Run, system: str, kept: Path) -> bool:
        """Records the bad lines of a FHIR file again; says whether the file is there."""
        kind = kept.parent.name
        folder = self._layout.fhir_folder(system, run.ingest_date, kind)
        lying = [folder / name for name in (kept.name, kept.stem) if lies(folder / name)]
        for path in lying:
            ingest_again(run, catalog.bronze_fhir(kind), system, path)
        return bool(lying)

    def _write_lines(self, missing: Finding) -> None:
        """Writes an NDJSON file anew from its rows, each on its own line."""
        if missing.key is None or missing.day is None:
            return
        where = {"filePath": [missing.key]}
        path = self._layout.absolute(missing.key)
        if lies(path):  # behind a link, say
            return
        table, columns = _bronze_of(path), ["lineNumber", "resource"]
        rows = self._engine.read(table, columns, ingest_date=missing.day, where=where)
        texts = dict(zip(rows["lineNumber"].to_pylist(), rows["resource"].to_pylist(), strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(path)
        with temporary.open("wb") as sink:
            for number in range(1, max(texts) + 1):
                sink.write(texts.get(number, "").encode() + b"\n")
        put(temporary, path)

    def _register(self, run: Run, files: list[Finding]) -> None:
        """Makes `process_files` rows of files that have none, so that they are read."""
        rows = {}
        for (system, name), path in (each.key for each in files):
            stat = path.stat()
            rows[system, name] = {
                "ingestDate": run.ingest_date,
                "sourceSystem": system,
                "filePath": self._layout.relative(path),
                "sourcePath": self._layout.relative(path),
                "fileSize": _size(path),
                "sourceModifiedAt": datetime.fromtimestamp(stat.st_mtime, UTC),
                "organisedAt": now(),
            }
        self._append(catalog.PROCESS_FILES, run, rows.values())

    def _register_rows(self, run: Run, files: list[Finding]) -> None:
        """Makes `process_files` rows of files that have been read already."""
        rows = [
            {name: each.key[name] for name in ROW}
            | {
                "ingestDate": run.ingest_date,
                "sourceModifiedAt": each.key["sourceModifiedAt"],
                "organisedAt": each.key["ingestedAt"],
            }
            for each in files
        ]
        self._append(catalog.PROCESS_FILES, run, rows)

    def _append(self, table: Table, run: Run, rows: Iterable[dict[str, Any]]) -> None:
        found = pa.Table.from_pylist(list(rows), schema=table.schema)
        self._engine.append(table, found, progress=None, ingest_date=run.ingest_date)

    def _read_again(self, run: Run, files: list[Finding]) -> None:
        external = {each.what for each in files if each.key == EXTERNAL}
        if external:
            read_external_again(run, external)
        if kept_here := {each.what for each in files} - external:
            extract_again(run, kept_here)

    def _ingest_again(self, run: Run, lines: list[Finding]) -> None:
        for system, path in {each.key for each in lines}:
            ingest_again(run, _bronze_of(path), system, path)

    def _mend_current(self, found: Findings) -> bool:
        """Settles instances again from the metastore, if it has rows of them; then conflicts."""
        wrong = self._untried(found, "settle", Kind.NOT_CURRENT)
        if wrong:
            settle_again(self._run, {each.key for each in wrong})
            return True
        conflicts = self._untried(found, "meet", Kind.CONFLICT)
        if conflicts:
            gone = {each.key[1] for each in conflicts} - {None}
            meet_again(self._run, {each.key[0] for each in conflicts}, gone)
        return bool(conflicts)

    def _mend_silver(self, found: Findings) -> bool:
        """Makes silver rows, and their gold, again from lines; lines again from the metastore."""
        wrong = self._untried(found, "silver", Kind.DUPLICATE, Kind.OTHER_PATIENT)
        wrong = [each for each in wrong if _is_study(each)]
        ids = {silver_id(each.key[0], RESOURCE_TYPE, each.key[1]) for each in wrong}
        self._delete(catalog.silver_imaging_study(), ids)
        lacking = (Kind.STUDY_NOT_IN_SILVER, Kind.INSTANCE_NOT_IN_SILVER)
        studies = _studies([*self._untried(found, "flatten", *lacking), *wrong])
        self._flatten_again(studies)
        too_much = _studies(self._untried(found, "flatten", Kind.INSTANCE_UNKNOWN))
        self._flatten_again(too_much)
        if studies or too_much:
            return True
        # lines did not help: there are none
        lost = self._untried(found, "convert", Kind.INSTANCE_NOT_IN_SILVER)
        for day, findings in _by_day(lost).items():
            convert_again(self._on(day), _studies(findings))
            self._carry_on(day)
        return bool(lost)

    def _flatten_again(self, studies: Collection[Study]) -> None:
        for day, some in self._dates(studies, first=True).items():
            flatten_again(
                self._on(day),
                bronze=catalog.BRONZE_IMAGING_STUDY,
                silver=catalog.silver_imaging_study(),
                studies=some,
            )
        self._map_again(studies)

    def _dates(self, studies: Collection[Study], *, first: bool) -> dict[date, set[Study]]:
        """Returns ingest date → those of the studies that it has lines about, or had first."""
        columns, where = ["ingestDate", "sourceSystem", "id"], {"id": {own for _, own in studies}}
        lines = self._engine.read(catalog.BRONZE_IMAGING_STUDY, columns, where=where)
        dates: defaultdict[Study, set[date]] = defaultdict(set)
        for row in lines.to_pylist():
            if (study := (row["sourceSystem"], row["id"])) in studies:
                dates[study].add(row["ingestDate"])
        found: defaultdict[date, set[Study]] = defaultdict(set)
        for study, days in dates.items():
            for day in [min(days)] if first else days:
                found[day].add(study)
        return dict(sorted(found.items()))

    def _map_again(self, studies: Collection[Study]) -> None:
        """Makes the gold rows of studies again, on each date that has lines about them."""
        for day, some in self._dates(studies, first=False).items():
            ids = {silver_id(system, RESOURCE_TYPE, own_id) for system, own_id in some}
            for step in self._gold_steps():
                step(self._on(day), ids)

    def _mend_gold(self, found: Findings) -> bool:
        """Makes gold rows again, and removes those that belong to nothing or are there twice.

        Rows of silver/current_files that belong to nothing go with them.
        """
        gone: defaultdict[Table, set[int]] = defaultdict(set)
        too_much = (Kind.GOLD_WITHOUT_SILVER, Kind.SILVER_WITHOUT_BRONZE, Kind.DUPLICATE)
        for each in self._untried(found, "gold", *too_much):
            if each.key and not _is_study(each):
                table, key = each.key
                gone[table].add(key)
        for table, keys in gone.items():
            self._delete(table, keys)
        lacking = self._untried(found, "gold", Kind.NOT_IN_GOLD, Kind.DANGLING, Kind.GOLD_DIFFERS)
        silver, ids = catalog.silver_imaging_study(), {each.key for each in lacking}
        rows = self._engine.read(silver, ["sourceSystem", "idOrig"], where={"id": ids})
        self._map_again({(row["sourceSystem"], row["idOrig"]) for row in rows.to_pylist()})
        return bool(gone or lacking)

    def _mend_resources(self, found: Findings) -> bool:
        """Makes silver rows of reports and the like again from lines, then links, then notes."""
        lacking = self._untried(found, "flatten", Kind.RESOURCE_NOT_IN_SILVER)
        for day, findings in _by_day(lacking).items():
            for kind, some in _by_type(findings).items():
                bronze, silver = catalog.bronze_fhir(kind), catalog.silver_fhir(kind)
                flatten_again(self._on(day), bronze=bronze, silver=silver, studies=some)
        wrong = self._untried(found, "link", Kind.LINK)
        for kind, some in _by_type(wrong).items():
            link_those(self._run, kind, {own_id for (own_id,) in some})
        without = self._untried(found, "note", Kind.NOTE)
        for day, findings in _by_day(without).items():
            note_again(self._on(day), {each.key for each in findings})
        return bool(lacking or wrong or without)

    def _delete(self, table: Table, keys: Collection[Any]) -> None:
        if keys:
            nothing = table.upserted.empty_table()
            self._engine.upsert(
                table, nothing, progress=None, ingest_date=self._run.ingest_date, gone=keys
            )


def _by_day(findings: Iterable[Finding]) -> dict[date, list[Finding]]:
    found: defaultdict[date, list[Finding]] = defaultdict(list)
    for each in findings:
        if each.day:
            found[each.day].append(each)
    return dict(found)


def _by_type(findings: Iterable[Finding]) -> dict[str, set[Any]]:
    """Returns resource type → what else the keys of findings say."""
    found: defaultdict[str, set[Any]] = defaultdict(set)
    for each in findings:
        found[each.key[0]].add(each.key[1:])
    return dict(found)


def _bronze_of(file: Path) -> Table:
    """Returns the bronze table of a FHIR file, which lies in a folder of its type's name."""
    return catalog.bronze_fhir(file.parent.name)


def _studies(findings: Iterable[Finding]) -> set[Study]:
    return {each.key for each in findings}


def _is_study(finding: Finding) -> bool:
    """Says whether it is about a silver row, not one of gold or bronze."""
    return bool(finding.key) and isinstance(finding.key[0], str)


def _size(path: Path) -> int:
    try:
        return size_of(path)
    except BadZipFile:  # reading it will say so
        return path.stat().st_size

"""Dropped FHIR files become files of one resource type each, in the date's folder of that type.

Decided here: what becomes of each dropped file, by what is in it, never by its name. One that holds
resources of one type is moved to the folder of that type as it is. Of one that holds several, a
Bundle for example, each type becomes an NDJSON file of its own, and the file itself is put aside in
`Mixed`, so that no byte is lost. One without any resource goes to Failed, and one that expands to
more than it may. Lines that are no resource fail alone: here, where a file is taken apart; else
where it is read. Moves are carried out exactly once by the journal, like those of DICOM files. Not
decided here: where in a file resources stand (`fhir.ndjson`), which types have tables (the setting
`fhir_resource_types`).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, Final

from dicom_assets.fhir.ndjson import BadLine, Line
from dicom_assets.lakehouse.drop_folder import Dropped, remove_empty_folders, stable_parts
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.journal import ROWS_PER_COMMIT, STAGED_PER_COMMIT, Journal, Plan
from dicom_assets.lakehouse.layout import fhir_name, organised_name
from dicom_assets.lakehouse.opening import open_regular
from dicom_assets.lakehouse.paths import lies, path_of
from dicom_assets.lakehouse.reasons import MEANINGS, Reason
from dicom_assets.steps import catalog
from dicom_assets.steps.fhir_lines import lines_in
from dicom_assets.steps.report import Progress, Report, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.sources import Source

STEP: Final = "organise_fhir"
MIXED, UNKNOWN = "Mixed", "Unknown"
"""Folders beside those of resource types: files of several, and what has none (in Failed)."""


def organise_fhir(run: Run) -> Report:
    """Works through the drop folder of FHIR files; the run's partition takes what is there.

    Returns:
        Rows = files of one resource type; counts `failures`, `still_changing`, and, where there are
        any, `taken_apart` and `not_taken`: files that may not be read or taken away, or have gone.
    """
    layout, settings = run.engine.layout, run.settings
    journal = journal_of(run.engine)
    with reporting(STEP, layout.root) as report:
        report.count({"failures": 0, "still_changing": 0})
        parts = stable_parts(
            layout.fhir_drop_folder,
            settle_seconds=settings.settle_seconds,
            scratch=layout.scratch,
        )
        first = next(parts, None)
        if not first and not layout.fhir_organise_folder.exists():
            run.engine.open(catalog.FHIR_FILES)  # which mends it: no other step would
            return report
        emptied = set[str]()
        with journal.open():
            progress = Progress(STEP, 0, "dropped FHIR files")
            turn = _Turn(run, journal)
            for entries, changing in chain([first] if first else [], parts):
                report.count({"still_changing": changing})
                progress.expect(len(entries))
                emptied |= {entry.folder for entry in entries}
                for entry in entries:
                    try:
                        turn.take(entry)
                    except (PermissionError, FileNotFoundError) as error:
                        if error.filename != entry.address:
                            raise
                        report.count({"not_taken": 1})  # it stays for a later run
                    progress.advance()
                    if turn.is_full():
                        turn.finish(report)
            turn.finish(report)
        if emptied:
            lying = layout.fhir_drop_folder.iterdir()
            remove_empty_folders(
                layout.fhir_drop_folder,
                emptied=set(map(path_of, emptied)),
                kept={path for path in lying if _is_namespace(run, path.name)},
                settle_seconds=settings.settle_seconds,
            )
    return report


def journal_of(engine: LocalEngine) -> Journal:
    """Returns the journal that a killed run's moves, if any, stand in."""
    return Journal(
        engine,
        app_id=STEP,
        folder=engine.layout.fhir_organise_folder,
        files=catalog.FHIR_FILES,
        failures=catalog.INGESTION_FAILURES,
        operations=catalog.OPERATIONS,
    )


class _Turn:
    """Decides about dropped files, a batch at a time, and has the journal carry it out."""

    def __init__(self, run: Run, journal: Journal) -> None:
        self._run, self._layout, self._journal = run, run.engine.layout, journal
        self._day, self._run_id = run.ingest_date, run.id
        self._organised_at = journal.instant()
        # prefixes never repeat within a run; names of earlier runs are looked up on disk
        self._prefixes = count(self._organised_at // 1000)
        self._plans: list[Plan] = []
        self._staged: list[Path] = []
        self._planned = self._written = 0

    def is_full(self) -> bool:
        """Says whether it is time to finish what has been decided."""
        return self._planned >= ROWS_PER_COMMIT or self._written >= STAGED_PER_COMMIT

    def finish(self, report: Report) -> None:
        """Has everything that was decided carried out."""
        done = self._journal.carry_out(
            self._plans,
            staged=self._staged,
            ingest_date=self._day,
            instant=self._organised_at,
        )
        for plan in done:
            report.rows += len(plan.files)
            report.size += plan.entry.size
            report.count({"failures": len(plan.failures)})
            if len(plan.files) > 1:
                report.count({"taken_apart": 1})
        if len(done) < len(self._plans):
            report.count({"not_taken": len(self._plans) - len(done)})
        self._plans, self._staged = [], []
        self._planned = self._written = 0
        self._organised_at = self._journal.instant()

    def take(self, entry: Dropped) -> None:
        """Decides about one dropped file."""
        drop_folder = self._layout.fhir_drop_folder
        source = Source.of(entry, drop_folder, lambda name: _is_namespace(self._run, name))
        plan = Plan(entry)
        if not entry.regular:
            self._fail(plan, source, Reason.NOT_A_FILE, MEANINGS[Reason.NOT_A_FILE])
        else:
            self._take_file(plan, source)
        self._plans.append(plan)
        self._planned += 1 + len(plan.files) + len(plan.failures)

    def _take_file(self, plan: Plan, source: Source) -> None:
        types: set[str] = set()
        bad: BadLine | None = None
        is_bomb = False
        with open_regular(plan.entry.path, within=self._layout.fhir_drop_folder) as stream:
            is_gzip = stream.read(2) == b"\x1f\x8b"
        for line in self._resources(plan):
            if isinstance(line, Line):
                types.add(line.resource_type)
            else:
                bad = bad or line
                is_bomb = line.reason is Reason.ARCHIVE_BOMB
        if is_bomb:
            self._fail(plan, source, Reason.ARCHIVE_BOMB, MEANINGS[Reason.ARCHIVE_BOMB])
        elif not types:
            reason = bad.reason if bad else Reason.INVALID_JSON
            why = f": {bad.message}" if bad else ""
            self._fail(plan, source, reason, f"no FHIR R4B resource in it{why}")
        elif len(types) == 1:
            (resource_type,) = types
            name = self._name(source, (resource_type,), is_gzip=is_gzip)
            target = self._layout.fhir_folder(source.system, self._day, resource_type) / name
            plan.moves.append((plan.entry.path, target))
            self._record(plan, source, resource_type, target, plan.entry.size)
        else:
            self._take_apart(plan, source, sorted(types), is_gzip=is_gzip)

    def _take_apart(self, plan: Plan, source: Source, types: list[str], *, is_gzip: bool) -> None:
        """Writes the resources of each type to a file of their own."""
        layout, system, day = self._layout, source.system, self._day
        name = self._name(source, (*types, MIXED), is_gzip=is_gzip)
        part = f"{name.partition('.')[0]}.ndjson"
        staging = self._journal.new_folder()
        self._staged.append(staging)
        kept = layout.fhir_failed_folder(system, day, UNKNOWN) / part
        with ExitStack() as stack:
            sinks: dict[str, BinaryIO] = {}
            for line in self._resources(plan):
                of = line.resource_type if isinstance(line, Line) else UNKNOWN
                if of not in sinks:
                    sinks[of] = stack.enter_context((staging / of).open("wb"))
                text = line.text if isinstance(line, BadLine) else line.text.encode()
                sinks[of].write(text + b"\n")
                if isinstance(line, BadLine):
                    failure = source.failure(
                        STEP,
                        line.reason,
                        line.message,
                        failed_path=layout.relative(kept),
                        day=day,
                        run_id=self._run_id,
                        line=line.number,
                    )
                    plan.failures.append(failure)
        for of in sorted(sinks):
            size = (staging / of).stat().st_size
            self._written += size
            target = kept if of == UNKNOWN else layout.fhir_folder(system, day, of) / part
            plan.moves.append((staging / of, target))
            if of != UNKNOWN:
                self._record(plan, source, of, target, size)
        plan.moves.append((plan.entry.path, layout.fhir_folder(system, day, MIXED) / name))

    def _record(
        self, plan: Plan, source: Source, resource_type: str, target: Path, size: int
    ) -> None:
        plan.files.append(
            {
                "ingestDate": self._day.isoformat(),
                "sourceSystem": source.system,
                "resourceType": resource_type,
                "filePath": self._layout.relative(target),
                "sourcePath": source.path,
                "fileSize": size,
                "sourceModifiedAt": source.modified_ns // 1000,
                "organisedAt": self._organised_at,
            }
        )

    def _fail(self, plan: Plan, source: Source, reason: Reason, message: str) -> None:
        folder = self._layout.fhir_failed_folder(source.system, self._day, UNKNOWN)
        target = folder / self._name(source, (), is_gzip=None)
        plan.moves.append((plan.entry.path, target))
        failed_path = self._layout.relative(target)
        plan.failures.append(
            source.failure(
                STEP,
                reason,
                message,
                failed_path=failed_path,
                day=self._day,
                run_id=self._run_id,
            )
        )

    def _name(self, source: Source, types: tuple[str, ...], *, is_gzip: bool | None) -> str:
        """Returns a name under which nothing lies in the types' folders, nor in Failed."""
        layout, system = self._layout, source.system
        folders = [layout.fhir_folder(system, self._day, each) for each in types]
        folders.append(layout.fhir_failed_folder(system, self._day, UNKNOWN))
        for prefix in self._prefixes:
            name = organised_name(prefix, source.path)
            name = name if is_gzip is None else fhir_name(name, is_gzip=is_gzip)
            part = f"{name.partition('.')[0]}.ndjson"
            if not any(lies(folder / n) for folder in folders for n in (name, part)):
                return name
        raise AssertionError("count() does not end")

    def _resources(self, plan: Plan) -> Iterator[Line | BadLine]:
        within = self._layout.fhir_drop_folder
        return lines_in(self._run, plan.entry.path, None, within=within)


def _is_namespace(run: Run, folder: str) -> bool:
    """Says whether a first-level folder names a source system, not a resource type."""
    from dicom_assets.fhir.model import is_resource_type

    return run.settings.is_namespace(folder) and not is_resource_type(folder)

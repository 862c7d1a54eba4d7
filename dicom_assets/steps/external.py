"""What is new in External: each shortcut is listed, and compared with what is known of it.

Decided here: what counts as new, changed, gone and back, and how much one run takes in. Nothing is
read of the objects themselves, and nothing is ever written to where they lie. A listing waits on
disk, and is compared share by share, so that memory holds a part of it however long it is; what is
new is committed in the order of the listing. A run that is killed lists again, and takes the rest.
Not decided here: where shortcuts are (`lakehouse.shortcuts`), what is read of an object
(`read_external`).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.paths import is_far
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.shortcuts import Shortcut, Skipped, listed, shortcuts
from dicom_assets.lakehouse.spill import Spill
from dicom_assets.lakehouse.storage import LISTED, StoreError
from dicom_assets.steps import catalog
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

pc: Any = pyarrow.compute  # its functions are made when it is imported

STEP: Final = "external"
NEW, CHANGED, AGAIN, BACK, GONE, SKIPPED = "new", "changed", "again", "back", "gone", "skipped"
TO_READ = (NEW, CHANGED, AGAIN)
_STATES = np.array(["", NEW, CHANGED, AGAIN, BACK])
_TABLE = catalog.EXTERNAL_FILES
# whatever answers in a store's place, a portal's page of HTML too, lists as empty
_EMPTIED = (
    "nothing at all is listed where objects were before: they are `gone` now. Look whether the"
    " address still is that of the store, and its file system mounted; once they are listed again"
    " they are `back`, and what had been read is not read again"
)
_ROWS_PER_COMMIT = 10_000
_MOST_SHARES = 200  # each of them two open files
_KNOWN = ["filePath", "state", "fileSize", "etag", "sourceModifiedAt", "foundAt"]
_KNOWN_SCHEMA = pa.schema([_TABLE.schema.field(name) for name in _KNOWN])
_ENTRY = pa.schema(
    [LISTED.field("key").with_name("filePath"), *list(LISTED)[1:], ("ordinal", pa.int64())]
)


def external_files(run: Run) -> Report:
    """Lists all shortcuts and takes in what is new, changed or gone.

    Returns:
        Rows = objects to be read; counts `shortcuts`, `unusable` ones, `listed` objects, those that
        are `changed`, `gone` or `back`, what was left out (`not_taken_by_name`,
        `being_written`), and `more_to_come`: 1 where `external_max_files` has cut the run short.
    """
    with reporting(STEP, run.engine.layout.root) as report:
        found = shortcuts(run.engine.layout)
        names = ("shortcuts", "listed", CHANGED, GONE, BACK, "not_taken_by_name", "being_written")
        report.count(dict.fromkeys((*names, "more_to_come"), 0))
        report.count({"shortcuts": len(found.good)})
        problems = dict(found.bad)
        for shortcut in found.good:
            problem = _ShortcutListing(run, shortcut, report).take_in()
            if problem:
                problems[shortcut.lies_at] = problem
        _record(run, problems)
        report.count({"unusable": len(problems)})
    return report


class _ShortcutListing:
    """One listing of one shortcut."""

    def __init__(self, run: Run, shortcut: Shortcut, report: Report) -> None:
        self._run, self._shortcut, self._report = run, shortcut, report
        self._folder = run.engine.layout.scratch
        self._when = now()
        self._problem: str | None = None
        self._left_out = 0

    def take_in(self) -> str | None:
        """Commits what is new; returns what is wrong with the listing, if anything."""
        spill = Spill(self._entries(), schema=_ENTRY, folder=self._folder)
        states, gone = self._compared(spill)
        is_cut = self._commit_new(spill, states)
        self._report.count({"listed": spill.rows, "more_to_come": int(is_cut)})
        if not is_cut and self._problem is None:  # else nobody knows what is not there any more
            if gone.rows and not spill.rows and not self._left_out:
                # before they are gone: a run that is killed between says it nevertheless
                _record(self._run, {self._shortcut.lies_at: _EMPTIED})
                self._problem = _EMPTIED
            self._commit_gone(gone)
        return self._problem

    def _entries(self) -> Iterator[pa.RecordBatch]:
        """Yields what is listed, numbered; notes when it breaks off."""
        settings, skipped, count = self._run.settings, Skipped(), 0
        settle = settings.settle_seconds
        batches = listed(
            self._shortcut, settings.stores, skipped, now=self._when, settle_seconds=settle
        )
        try:
            for batch in batches:
                numbers = pa.array(range(count, count + len(batch)), pa.int64())
                count += len(batch)
                yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=_ENTRY)
        except StoreError as error:
            self._problem = str(error)
        self._left_out = skipped.by_name + skipped.being_written
        self._report.count(
            {"not_taken_by_name": skipped.by_name, "being_written": skipped.being_written}
        )

    def _compared(self, spill: Spill) -> tuple[npt.NDArray[np.uint8], Spill]:
        """Returns the new state of each entry, 0 for none, and the known rows that are gone."""
        engine = self._run.engine
        most = max(spill.rows, engine.row_count(_TABLE))
        count = min(Buckets.enough_for(most), _MOST_SHARES)
        found = Buckets(_ENTRY, ["filePath"], count=count, folder=self._folder)
        for batch in spill.read():
            found.add(pa.Table.from_batches([batch]))
        known = Buckets(_KNOWN_SCHEMA, ["filePath"], count=count, folder=self._folder)
        where = {"shortcut": [self._shortcut.name], "sourceSystem": [self._shortcut.source_system]}
        for batch in engine.stream(_TABLE, _KNOWN, where=where):
            known.add(pa.Table.from_batches([batch], schema=_KNOWN_SCHEMA))
        states = np.zeros(spill.rows, np.uint8)
        retried = self._not_fetched()
        is_by_second = is_far(self._shortcut.address)

        def gone() -> Iterator[pa.RecordBatch]:
            for share, before in zip(found, known, strict=True):
                lost = _compare(share, before, states, retried, by_second=is_by_second)
                yield from before.take(pa.array(lost, pa.int64())).to_batches()

        return states, Spill(gone(), schema=_KNOWN_SCHEMA, folder=self._folder)

    def _not_fetched(self) -> dict[str, datetime]:
        """Returns address → when it could not be fetched, for those of other ingest dates."""
        columns = ["sourcePath", "failedAt", INGEST_DATE]
        where = {"reasonCode": [Reason.NOT_FETCHED], "step": [STEP]}
        rows = self._run.engine.read(catalog.INGESTION_FAILURES, columns, where=where).to_pylist()
        return {
            row["sourcePath"]: row["failedAt"]
            for row in sorted(rows, key=lambda row: row["failedAt"])
            if row[INGEST_DATE] != self._run.ingest_date
        }

    def _commit_new(self, spill: Spill, states: npt.NDArray[np.uint8]) -> bool:
        """Commits entries that have a new state; says whether the budget left some out."""
        most = self._run.settings.external_max_files
        waiting: list[pa.RecordBatch] = []
        at = 0
        for batch in spill.read():
            state = states[at : at + len(batch)]
            at += len(batch)
            chosen = np.flatnonzero(state)
            if most is not None:
                is_read = np.isin(_STATES[state[chosen]], TO_READ)
                room = most - self._report.rows - sum(map(_count_to_read, waiting))
                fits = np.cumsum(is_read) <= room
                is_cut = not fits.all()
                chosen = chosen[fits]
            else:
                is_cut = False
            entries = batch.take(pa.array(chosen))
            rows = self._rows(
                entries["filePath"],
                entries["size"],
                entries["etag"],
                entries["modified"],
                pa.array(_STATES[state[chosen]]),
            )
            waiting.append(rows)
            if is_cut or sum(map(len, waiting)) >= _ROWS_PER_COMMIT:
                self._append(waiting)
                waiting = []
            if is_cut:
                return True
        self._append(waiting)
        return False

    def _commit_gone(self, gone: Spill) -> None:
        waiting: list[pa.RecordBatch] = []
        for batch in gone.read():
            state = pa.array([GONE] * len(batch), pa.string())
            paths, sizes, etags = batch["filePath"], batch["fileSize"], batch["etag"]
            waiting.append(self._rows(paths, sizes, etags, batch["sourceModifiedAt"], state))
            if sum(map(len, waiting)) >= _ROWS_PER_COMMIT:
                self._append(waiting)
                waiting = []
        self._append(waiting)

    def _rows(
        self, paths: pa.Array, sizes: pa.Array, etags: pa.Array, times: pa.Array, state: pa.Array
    ) -> pa.RecordBatch:
        count = len(paths)
        alike = {
            INGEST_DATE: self._run.ingest_date,
            "sourceSystem": self._shortcut.source_system,
            "shortcut": self._shortcut.name,
            "foundAt": self._when,
        }
        columns = {"filePath": paths, "state": state, "fileSize": sizes, "etag": etags}
        columns["sourceModifiedAt"] = times
        arrays = [
            columns[f.name].cast(f.type)
            if f.name in columns
            else pa.repeat(pa.scalar(alike[f.name], f.type), count)
            for f in _TABLE.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=_TABLE.schema)

    def _append(self, batches: list[pa.RecordBatch]) -> None:
        rows = pa.Table.from_batches(batches, schema=_TABLE.schema)
        if not rows.num_rows:
            return
        self._run.engine.append(_TABLE, rows, progress=None, ingest_date=self._run.ingest_date)
        for entry in pc.value_counts(rows["state"]).to_pylist():
            if entry["values"] in TO_READ:
                self._report.rows += entry["counts"]
            if entry["values"] in (CHANGED, GONE, BACK):
                self._report.count({entry["values"]: entry["counts"]})


def _count_to_read(rows: pa.RecordBatch) -> int:
    return pc.sum(pc.is_in(rows["state"], pa.array(TO_READ))).as_py() or 0


def _compare(
    share: pa.Table,
    before: pa.Table,
    states: npt.NDArray[np.uint8],
    retried: dict[str, datetime],
    *,
    by_second: bool,
) -> npt.NDArray[np.int64]:
    """Sets the states of entries, and returns which known rows are gone.

    What could not be fetched since it was last to be read is to be read again, whether it was gone
    meanwhile or not.

    Args:
        share: Entries of a listing; of two of one address the newer one counts.
        before: Known rows of the same addresses; the newest of an address counts.
        states: New states, by the entries' ordinals.
        retried: Address → when it could not be fetched.
        by_second: Whether times count by the second: an inventory says no more.
    """
    entries = _frame(share, "modified", by_second=by_second).sort_values(["time", "ordinal"])
    entries = entries.drop_duplicates("filePath", keep="last")
    known = _frame(before, "sourceModifiedAt", by_second=by_second)
    known["row"] = np.arange(len(known))
    asked: Any = known[known["filePath"].isin(list(retried))]
    asked = asked[~asked["state"].isin((GONE, BACK))].groupby("filePath")["foundAt"].max()
    unread = [address for address, at in asked.items() if retried[str(address)] > at]
    known = known.sort_values("foundAt", kind="stable").drop_duplicates("filePath", keep="last")
    both: Any = entries.merge(
        known, on="filePath", how="outer", suffixes=("", "_known"), indicator=True
    )
    is_new, is_lost = both["_merge"] == "left_only", both["_merge"] == "right_only"
    is_same = (
        _agree(both["time"], both["time_known"])
        & _agree(both["size"], both["fileSize"])
        & _agree(both["etag"], both["etag_known"])
    )
    state = np.zeros(len(both), np.uint8)
    state[~is_same] = 2
    state[is_same & (both["state"] == GONE)] = 4
    state[is_same & both["filePath"].isin(unread)] = 3  # though it was gone meanwhile
    state[is_new] = 1
    is_there = ~is_lost
    states[both["ordinal"][is_there].astype(np.int64)] = state[is_there]
    is_lost &= both["state"] != GONE
    return both["row"][is_lost].to_numpy(np.int64)


def _frame(rows: pa.Table, time: str, *, by_second: bool) -> pd.DataFrame:
    times = rows[time].cast(pa.int64())
    if by_second:
        times = pc.floor(pc.divide(times, 1_000_000))
    return rows.drop_columns([time]).append_column("time", times).to_pandas()


def _agree(one: Any, other: Any) -> Any:
    """Whether values are the same, or one of them is not known."""
    return (one == other) | one.isna() | other.isna()


def _record(run: Run, problems: dict[str, str]) -> None:
    """Records shortcuts that cannot be used, once for an ingest date."""
    table, day = catalog.INGESTION_FAILURES, run.ingest_date
    where = {"reasonCode": [Reason.SHORTCUT_UNUSABLE]}
    known = run.engine.read(table, ["sourcePath", "message"], ingest_date=day, where=where)
    said = {(row["sourcePath"], row["message"]) for row in known.to_pylist()}
    root = run.engine.layout.relative(run.engine.layout.external_root)
    failures = [
        Failure(STEP, Reason.SHORTCUT_UNUSABLE, why, name.partition("/")[0], f"{root}/{name}")
        for name, why in sorted(problems.items())
        if (f"{root}/{name}", why) not in said
    ]
    if failures:
        rows = run.failure_rows(failures)
        run.engine.append(table, rows, progress=None, ingest_date=day)

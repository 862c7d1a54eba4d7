"""Failures as rows: what a step hands back for input that did not make it.

Decided here: the shape of a failure and how failures become `ingestion_failures` rows. Not decided
here: which reasons there are (`reasons`) or when one applies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.reasons import Reason, Step
from dicom_assets.lakehouse.schemas import INGESTION_FAILURES

_ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True, slots=True)
class Failure:
    """One file, member or line that did not make it.

    Attributes:
        step: The step that met it.
        reason: The reason code.
        message: What was wrong, in words, without patient data.
        source_system: Namespace of the source.
        source_path: The file, `archive.zip!/member` or NDJSON file it came from.
        failed_path: Where its bytes lie now, relative to the lakehouse root; None for External.
        tags: DICOM tags concerned.
        line: Line number from 1, where it applies.
    """

    step: Step
    reason: Reason
    message: str
    source_system: str
    source_path: str | None = None
    failed_path: str | None = None
    tags: tuple[str, ...] = ()
    line: int | None = None


def failure_rows(
    failures: Sequence[Failure], *, ingest_date: date, failed_at: datetime, run_id: str
) -> pa.Table:
    """Returns the failures as `ingestion_failures` rows."""

    def row(failure: Failure) -> dict[str, Any]:
        return {
            "ingestDate": ingest_date,
            "sourceSystem": failure.source_system,
            "step": failure.step,
            "reasonCode": str(failure.reason),
            "message": failure.message,
            "sourcePath": failure.source_path,
            "failedPath": failure.failed_path,
            "tags": list(failure.tags) or None,
            "line": failure.line,
            "failedAt": failed_at,
            "runId": run_id,
        }

    # as Python's values rows take many times the memory: some at a time
    batches = [
        pa.RecordBatch.from_pylist(
            [row(each) for each in failures[start : start + _ROWS_AT_A_TIME]],
            schema=INGESTION_FAILURES,
        )
        for start in range(0, len(failures), _ROWS_AT_A_TIME)
    ]
    return pa.Table.from_batches(batches, schema=INGESTION_FAILURES)

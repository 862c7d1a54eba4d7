"""What a materialization shows: counts, schema, lineage, address, throughput and a preview.

Decided here: which metadata an asset carries. Everything shown is free of patient data: counts,
codes, concept ids, never names, identifiers or dates of a patient. Text is escaped, so that a value
is never taken for Markdown or HTML.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from dicom_assets.defs.checks import check_results
from dicom_assets.lakehouse.engine import Table
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.report import Report

_PREVIEW_ROWS = 20
_MARKUP = re.compile(r"[^\w .,:;+-]")


def table_metadata(table: Table) -> dict[str, Any]:
    """Returns what is known of a table before it has rows: its name, columns and kind."""
    columns = [
        dg.TableColumn(
            field.name,
            type=str(field.type),
            description=(field.metadata or {}).get(b"comment", b"").decode(),
            constraints=dg.TableColumnConstraints(nullable=field.nullable),
        )
        for field in table.schema
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/table_name": table.full_name,
        "dagster/storage_kind": "delta",
    }


def lineage(upstream: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """Returns column lineage as metadata.

    Args:
        upstream: Upstream asset (`layer/name`) → column → the columns there that it comes from.
    """
    found = {
        column: [dg.TableColumnDep(dg.AssetKey(asset.split("/")), source) for source in sources]
        for asset, columns in upstream.items()
        for column, sources in columns.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(found)}


def result(
    asset: str,
    day: Day,
    report: Report,
    *,
    preview: pd.DataFrame,
    partition_rows: int,
    table: Table | None = None,
    address: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """Makes an asset's result: metadata and the outcome of its checks.

    Args:
        asset: `layer/name`.
        day: Counts of the partition, not yet taken.
        report: What the step did.
        preview: A small table without patient data.
        partition_rows: Rows or files of this partition, as they are now.
        table: The Delta table, when the asset is one.
        address: Where it lies, when the asset is a folder.
        more: Further metadata.
    """
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": partition_rows,
        "rows_written": report.rows,
        **report.counts,
        "duration_seconds": round(report.seconds, 3),
        "rows_per_second": round(report.rows / report.seconds, 1) if report.seconds else 0.0,
        "preview": dg.MetadataValue.md(markdown(preview)),
    }
    if report.size:
        metadata["megabytes"] = round(report.size / 1e6, 1)
        metadata["megabytes_per_second"] = round(report.size / 1e6 / report.seconds, 1)
    if table:
        address = str(day.run.engine.layout.table(table.layer, table.name))
        metadata |= table_metadata(table)
        metadata["dagster/row_count"] = day.run.engine.row_count(table)
    if address:
        metadata["dagster/uri"] = dg.MetadataValue.path(address)
    return dg.MaterializeResult(
        metadata={**metadata, **(more or {})}, check_results=list(check_results(asset, day))
    )


def markdown(rows: pd.DataFrame) -> str:
    """Returns a table as Markdown, cut to some twenty rows."""
    if rows.empty:
        return "nothing new"
    lines = [
        "| " + " | ".join(map(_cell, values)) + " |"
        for values in rows.head(_PREVIEW_ROWS).itertuples(index=False)
    ]
    head = [
        "| " + " | ".join(map(_cell, rows.columns)) + " |",
        "|" + " --- |" * len(rows.columns),
    ]
    left = len(rows) - _PREVIEW_ROWS
    return "\n".join([*head, *lines, *([f"\n… and {left} more"] if left > 0 else [])])


def _cell(value: object) -> str:
    """Returns a value as it reads: nothing in it is a link, a picture, a tag or another cell."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", str(value))

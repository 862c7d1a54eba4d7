"""Names and values as SQL has them.

Decided here: how they are escaped. Not decided here: where SQL is needed (`engine`,
`spark_engine`).
"""

from collections.abc import Collection
from datetime import date


def quoted(name: str) -> str:
    """Returns a column as SQL: quoted, since DataFusion folds bare names to lower case."""
    return '"' + name.replace('"', '""') + '"'


def listed(values: Collection[str | int | date]) -> str:
    """Returns values as SQL lists them behind IN."""
    return ", ".join(map(literal, values))


def literal(value: str | int | date) -> str:
    """Returns a value as SQL."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, date):
        return f"DATE '{value}'"
    return "'" + value.replace("'", "''") + "'"

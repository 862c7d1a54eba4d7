"""What is in a FHIR file of the lakehouse, for all who read one.

Decided here: that files are opened as what they are, behind no link, and may expand as far as
archives may. Not decided here: what a line is (`fhir.ndjson`), nor which files there are
(`Layout.fhir_files`).
"""

from collections.abc import Iterator
from pathlib import Path

from dicom_assets.fhir.ndjson import BadLine, Expansion, Line, read_file
from dicom_assets.lakehouse.opening import open_regular
from dicom_assets.steps.run import Run


def lines_in(
    run: Run, path: Path, resource_type: str | None, *, within: Path | None = None
) -> Iterator[Line | BadLine]:
    """Yields the resources of a file, good and bad, in order.

    Args:
        run: The lakehouse and the settings.
        path: The file.
        resource_type: The type that every resource must have; None takes every type.
        within: The folder below which there may be no link; that of organised FHIR files unless
            told.

    Raises:
        FileNotFoundError: It is gone, or is no regular file, or lies behind a link.
    """
    settings = run.settings
    may_expand = Expansion(settings.archive_max_ratio, settings.archive_max_bytes)
    with open_regular(path, within=within or run.engine.layout.fhir_root) as stream:
        yield from read_file(stream, resource_type=resource_type, may_expand=may_expand)

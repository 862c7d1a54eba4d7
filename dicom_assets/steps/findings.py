"""What `verify` can find: kinds of disagreement, and a list of them that stays small.

Decided here: which kinds there are, what each means, and what can be done about it. Not decided
here: how they are found (`verify`) or mended (`repair`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Any

_MOST_KEPT = 100_000
"""Of one kind; what is beyond is counted, and mended when the first ones are."""


class Kind(StrEnum):
    """One kind of disagreement."""

    DATA_FILE = "table_file_missing"
    LEFTOVER = "leftover"
    ORPHAN = "orphan"
    FILE_WITHOUT_ROW = "file_without_row"
    FILE_MISSING = "file_missing"
    TWIN = "plain_beside_zip"
    CONTENT = "content_differs"
    NOT_READ = "not_read"
    ROW_NOT_ORGANISED = "metastore_without_process_files"
    FAILED_WITHOUT_ROW = "failed_file_without_row"
    FAILED_MISSING = "failed_file_missing"
    LINE_WITHOUT_ROW = "line_without_row"
    ROW_WITHOUT_LINE = "row_without_line"
    OPERATION = "operation_differs"
    DUPLICATE = "duplicate"
    NOT_CURRENT = "not_current"
    CONFLICT = "conflict_differs"
    STUDY_NOT_IN_SILVER = "study_not_in_silver"
    SILVER_WITHOUT_BRONZE = "silver_without_bronze"
    INSTANCE_NOT_IN_SILVER = "instance_not_in_silver"
    INSTANCE_UNKNOWN = "silver_instance_unknown"
    OTHER_PATIENT = "silver_other_patient"
    NOT_IN_GOLD = "not_in_gold"
    GOLD_WITHOUT_SILVER = "gold_without_silver"
    DANGLING = "gold_key_dangles"
    GOLD_DIFFERS = "gold_differs"
    RESOURCE_NOT_IN_SILVER = "resource_not_in_silver"
    LINK = "link_differs"
    NOTE = "note_missing"


MEANINGS = {
    Kind.DATA_FILE: "a data file that a table's log names is missing or of another size",
    Kind.LEFTOVER: "a temporary file, or work that a killed run has left",
    Kind.ORPHAN: "a file where the lakehouse keeps none",
    Kind.FILE_WITHOUT_ROW: "a file in Process that no row names",
    Kind.FILE_MISSING: "a row whose file is not there",
    Kind.TWIN: "a plain file beside the ZIP that holds it",
    Kind.CONTENT: "a file whose size, checksum or hash, or a line whose text, is not the row's",
    Kind.NOT_READ: "an organised file, or an object of External, neither read nor failed",
    Kind.ROW_NOT_ORGANISED: "a metastore row without a process_files row",
    Kind.FAILED_WITHOUT_ROW: "a file in Failed without a failure row",
    Kind.FAILED_MISSING: "a failure row whose file is not in Failed",
    Kind.LINE_WITHOUT_ROW: "an NDJSON line without a bronze row",
    Kind.ROW_WITHOUT_LINE: "a bronze row whose NDJSON line is not there",
    Kind.OPERATION: "an operation whose row or whose file is not there",
    Kind.DUPLICATE: "a row that is there twice",
    Kind.NOT_CURRENT: "silver/current_files lacks something of a study, or has it twice or wrong",
    Kind.CONFLICT: "a conflict of files that silver/conflicts lacks or has twice, or one of none",
    Kind.STUDY_NOT_IN_SILVER: "a bronze study without a silver row",
    Kind.SILVER_WITHOUT_BRONZE: "a silver row without a bronze row",
    Kind.INSTANCE_NOT_IN_SILVER: "an instance that silver does not hold where it belongs",
    Kind.INSTANCE_UNKNOWN: "an instance that silver holds and the metastore does not, or elsewhere",
    Kind.OTHER_PATIENT: "a silver study that is another's than its files and corrections say",
    Kind.NOT_IN_GOLD: "a silver study or series without its gold row",
    Kind.GOLD_WITHOUT_SILVER: "a gold row without its silver study or series, or nobody's person",
    Kind.DANGLING: "a gold row that points to a person or procedure that is not there",
    Kind.GOLD_DIFFERS: "a gold row that says otherwise than its silver study, as settings are now",
    Kind.RESOURCE_NOT_IN_SILVER: "a bronze FHIR resource without a silver row",
    Kind.LINK: "a report that does not point to the studies that it speaks of",
    Kind.NOTE: "a report without its note, or one whose note points nowhere",
}

REMEDIES = {
    Kind.DATA_FILE: "restore the file; or move the table away and run all dates again, unless it is"
    " process_files, external_files, operations or ingestion_failures",
    Kind.ORPHAN: "look whose it is; nothing here touches it",
    Kind.FILE_MISSING: "restore the file, or send it again",
    Kind.CONTENT: "restore the file, or send it again; nothing here touches it",
    Kind.FAILED_MISSING: "restore the file, or send it again",
    Kind.ROW_WITHOUT_LINE: "the row holds all that the line said",
    Kind.OPERATION: "the row holds all that the file said; without one ask again, if it is to hold",
    Kind.SILVER_WITHOUT_BRONZE: "restore the bronze row, or send the study again",
    Kind.INSTANCE_UNKNOWN: (
        "restore the instance's file, or send it again; what lies in External the next run finds"
    ),
    Kind.OTHER_PATIENT: "have the study read again: dicom-assets reread",
    Kind.DUPLICATE: "in bronze it says the same twice; silver and gold count it once",
}
"""What a person can do about what could not be mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement.

    Attributes:
        kind: What it is.
        what: The address of the file or row.
        day: The ingest date, where it has one.
        key: What `repair` needs to know of it.
        note: What else is known.
    """

    kind: Kind
    what: str
    day: date | None = None
    key: Any = field(default=None, compare=False)
    note: str = field(default="", compare=False)


class Findings:
    """All that was found: counted, and kept up to a limit."""

    def __init__(self) -> None:
        """Starts with nothing."""
        self.counts: Counter[Kind] = Counter()
        self._kept: defaultdict[Kind, dict[Finding, None]] = defaultdict(dict)

    def add(
        self, kind: Kind, what: str, *, day: date | None = None, key: Any = None, note: str = ""
    ) -> None:
        """Adds one; the same one again is the same one."""
        finding, kept = Finding(kind, what, day, key, note), self._kept[kind]
        if finding not in kept:
            self.counts[kind] += 1
            if len(kept) < _MOST_KEPT:
                kept[finding] = None

    def note(self, finding: Finding, note: str) -> None:
        """Says more of one that was found."""
        kept = self._kept[finding.kind]
        del kept[finding]
        kept[replace(finding, note=note)] = None

    def of(self, *kinds: Kind) -> Iterator[Finding]:
        """Yields what is kept of some kinds."""
        for kind in kinds:
            yield from self._kept[kind]

    def __bool__(self) -> bool:
        """Says whether anything was found."""
        return bool(self.counts)

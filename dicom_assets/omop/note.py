"""Silver reports and their studies → OMOP note, one row per report and study.

Decided here: what each column holds. The text is what of the report is text: its presented forms,
and its conclusion where these do not hold it; else the narrative. A report without text, one whose
study is not known, and one that was entered in error or cancelled, has no note. Person, procedure
and visit are those of the study, so that every key resolves. Not decided here: which study a report
is about (`dicom_assets.fhir.links`).
"""

import base64
import binascii
import codecs
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.schemas import NOTE
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import Json, Study, day, loads, procedure_occurrence_id, studies

REPORT_COLUMNS = (
    "id",
    "sourceSystem",
    "status",
    "code_string",
    "conclusion",
    "presentedForm_string",
    "text_string",
    "effectiveDateTime",
    "effectivePeriod_string",
    "issued",
    "issued_timestamp",
    "language",
    "imagingStudyIds",
    "modifiedAt",
)
"""Silver columns of DiagnosticReport that `notes` reads."""

SOURCE_TABLE = "DiagnosticReport"
RADIOLOGY_REPORT = 32841
"""OMOP type concept: EHR radiology report."""
UTF_8 = 32678
PROCEDURE_FIELD = 1147082
"""OMOP field concept: procedure_occurrence.procedure_occurrence_id."""
LANGUAGES: Mapping[str, int] = {"en": 4180186}
"""SNOMED concepts of languages; others have no concept, which is better than a wrong one."""
NO_CONCEPT = 0

_RETRACTED = frozenset({"entered-in-error", "cancelled"})
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE | re.ASCII)
_CHARSETS = frozenset(
    [
        *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "ascii"),
        *(f"iso8859-{part}" for part in range(1, 17) if part != 12),
        *(f"cp{page}" for page in (437, 850, 852, 866, 874, 932, 949, 950, *range(1250, 1259))),
        *("tis-620", "koi8-r", "koi8-u", "mac-roman", "shift_jis", "euc_jp", "iso2022_jp"),
        *("gb2312", "gbk", "gb18030", "hz", "big5", "big5hkscs", "euc_kr", "iso2022_kr"),
    ]
)
"""Charsets that are decoded, by Python's names; its other codecs may raise or give anything."""
_BLOCKS = frozenset({"p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table"})
_UNSEEN = frozenset({"script", "style"})


def notes(
    reports: pa.Table, silver: pa.Table, *, crosswalks: Crosswalks, now: datetime
) -> pa.Table:
    """Returns one `schemas.NOTE` row per report and study that it is about.

    Args:
        reports: Silver DiagnosticReport rows with at least REPORT_COLUMNS.
        silver: The silver ImagingStudy rows they point to, with at least `studies.STUDY_COLUMNS`.
        crosswalks: The site's person and visit ids.
        now: The instant that goes into modifiedAt.
    """
    by_id = {study.row["id"]: study for study in studies(silver)}
    rows: list[Json] = []
    for report in reports.select(list(REPORT_COLUMNS)).to_pylist():
        text = text_of(report)
        if text and is_told(report):
            ids = dict.fromkeys(report["imagingStudyIds"] or ())
            found = (by_id[each] for each in ids if each in by_id)
            rows += [_row(report, text, study, crosswalks, now) for study in found]
    return pa.Table.from_pylist(rows, schema=NOTE)


def note_id(report: str, study: str) -> int:
    """Returns the stable key of a note, from the silver ids of report and study."""
    return int_key(report, study)


def is_told(report: Json) -> bool:
    """Says whether a report still says something: it is neither an error nor cancelled."""
    return report["status"] not in _RETRACTED


def text_of(report: Json) -> str | None:
    """Returns the text of a report, from its silver row; None where it has none."""
    forms = filter(None, map(_text_of_form, loads(report["presentedForm_string"])))
    parts = list(dict.fromkeys(forms))
    conclusion = (report["conclusion"] or "").strip()
    if conclusion and not any(conclusion in part for part in parts):
        parts.append(conclusion)
    if not parts:
        parts = [_seen((_one(report["text_string"])).get("div") or "")]
    return "\n\n".join(parts).strip() or None


def _row(
    report: Json, text: str, study: Study, crosswalks: Crosswalks, now: datetime
) -> dict[str, Any]:
    system, uid = study.source_system, study.uid
    code = _one(report["code_string"])
    codings = [coding for coding in code.get("coding") or () if isinstance(coding, dict)]
    language = (report["language"] or "").partition("-")[0].lower()
    return {
        "note_id": note_id(report["id"], study.row["id"]),
        "person_id": person_id(system, study.patient_id, uid, crosswalks),
        "note_date": day(report["issued"]) or _effective(report) or study.date,
        "note_datetime": report["issued_timestamp"],
        "note_type_concept_id": RADIOLOGY_REPORT,
        "note_class_concept_id": NO_CONCEPT,
        "note_title": next(_titles(code, codings), None),
        "note_text": text,
        "encoding_concept_id": UTF_8,
        "language_concept_id": LANGUAGES.get(language, NO_CONCEPT),
        "visit_occurrence_id": crosswalks.visit(system, uid, study.accession_number),
        "note_source_value": next((c["code"] for c in codings if c.get("code")), None),
        "note_event_id": procedure_occurrence_id(system, uid),
        "note_event_field_concept_id": PROCEDURE_FIELD,
        "sourceSystem": report["sourceSystem"],
        "sourceTable": SOURCE_TABLE,
        "sourceRecordId": report["id"],
        "sourceModifiedAt": report["modifiedAt"],
        "modifiedAt": now,
    }


def _titles(code: Json, codings: list[Json]) -> Iterator[str]:
    if code.get("text"):
        yield code["text"]
    yield from (coding["display"] for coding in codings if coding.get("display"))


def _effective(report: Json) -> Any:
    period = _one(report["effectivePeriod_string"])
    said = (report["effectiveDateTime"], period.get("end"), period.get("start"))
    return next(filter(None, map(day, said)), None)


def _one(text: str | None) -> Json:
    """Returns the object of a JSON text column."""
    found: Any = loads(text) or {}
    return found


def _text_of_form(form: Json) -> str:
    """Returns a presented form's text; empty for one that is no text, or lies elsewhere."""
    kind = (form.get("contentType") or "").lower()
    if not kind.startswith(("text/plain", "text/html")) or not form.get("data"):
        return ""
    try:
        data = base64.b64decode(form["data"])
    except (binascii.Error, ValueError):
        return ""
    charset = _CHARSET.search(kind)
    text = _decoded(data, charset[1] if charset else "utf-8")
    return (_seen(text) if kind.startswith("text/html") else text).strip()


def _decoded(data: bytes, charset: str) -> str:
    for name in (charset, "utf-8"):
        try:
            if codecs.lookup(name).name in _CHARSETS:
                return data.decode(name)
        except (UnicodeError, LookupError):
            continue
    return data.decode("latin-1")


def _seen(html: str) -> str:
    """Returns what a person sees of HTML."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        # as browsers: unseen up to the next ">"; the library raises on most of what may be there
        return self.rawdata.find(">", i) + 1 or -1

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._unseen += tag in _UNSEEN
        self.parts.append("\n" if tag in _BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        self.parts.append("\n" if tag in _BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            # a line break in HTML is a blank
            self.parts.append(data.replace("\n", " "))

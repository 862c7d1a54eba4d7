"""The text of a report, as OMOP's note has it."""

import base64

import orjson
import pytest

from dicom_assets.omop.note import is_told, text_of


def form(text: str | bytes, kind: str = "text/plain") -> dict:
    data = text.encode() if isinstance(text, str) else text
    return {"contentType": kind, "data": base64.b64encode(data).decode()}


def row(*forms: dict, conclusion: str | None = None, div: str | None = None) -> dict:
    return {
        "presentedForm_string": orjson.dumps(forms).decode() if forms else None,
        "conclusion": conclusion,
        "text_string": orjson.dumps({"status": "generated", "div": div}).decode() if div else None,
    }


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (row(form("Findings: none")), "Findings: none"),
        (row(form("größer".encode("latin-1"), "text/plain; charset=ISO-8859-1")), "größer"),
        (row(form("größer".encode("latin-1"))), "größer"),
        (row(form("größer", "text/plain; charset=nonsense")), "größer"),
        (row(form("größer".encode("cp1252"), "text/plain; charset=Windows-1252")), "größer"),
        (row(form("größer".encode("utf-16"), 'text/plain; charset="UTF-16"')), "größer"),
        (row(form("所見".encode("iso2022_jp"), "text/plain; charset=ISO-2022-JP")), "所見"),
        (row(form("a", "text/plain; charset=undefined")), "a"),
        (row(form("+2AA-", "text/plain; charset=utf-7")), "+2AA-"),
        (row(form("\\ud800", "text/plain; charset=unicode_escape")), "\\ud800"),
        (row(form("a", f"text/plain; charset={'x' * 5000}")), "a"),
        (
            row(
                form(
                    "a<![x[y]]>b<![ ]>c<![if d]>e<![endif]><!--[if f]>g<![endif]-->h<![",
                    "text/html",
                )
            ),
            "abceh<![",
        ),
        (row(form("&#xD800;a", "text/html")), "\ufffda"),
        (row(form("<p>a<br/>b</p><script>x</script> &lt;c", "text/html")), "a\nb\n<c"),
        (row(form("a"), form("b"), form("a")), "a\n\nb"),
        (row(form("a. The end."), conclusion="The end."), "a. The end."),
        (row(form("a"), conclusion=" The end. "), "a\n\nThe end."),
        (row(form(b"%PDF", "application/pdf"), conclusion="The end."), "The end."),
        (row({"contentType": "text/plain", "url": "http://x"}, conclusion="b"), "b"),
        (row({"contentType": "text/plain", "data": "%%%"}, conclusion="b"), "b"),
        (row(conclusion="b", div="<div>c</div>"), "b"),
        (row(div="<div><h1>c</h1><table><tr><td>d</td></tr></table></div>"), "c\nd"),
        (row(form(b"%PDF", "application/pdf")), None),
        (row(conclusion="  "), None),
        (row(), None),
    ],
)
def test_the_text_is_what_of_the_report_is_text(report, text):
    assert text_of(report) == text


@pytest.mark.parametrize(
    ("status", "told"),
    [("final", True), ("preliminary", True), (None, True), ("entered-in-error", False)],
)
def test_a_report_that_was_an_error_is_told_no_more(status, told):
    assert is_told({"status": status}) is told

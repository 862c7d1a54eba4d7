"""DICOM's coded values in FHIR's words."""

import json

import pytest

from dicom_assets.fhir.codes import (
    ACQUISITION_MODALITIES,
    DCM,
    SCT,
    SOURCE_VALUE_URL,
    acquisition,
    body_site,
    codings,
    concepts,
    is_unknown,
    issuer,
    laterality,
    modality,
    scheme_uri,
    text,
)
from dicom_assets.terminology import body_parts


@pytest.mark.parametrize(
    ("designator", "uri"),
    [
        ("SCT", "http://snomed.info/sct"),
        ("LN", "http://loinc.org"),
        ("DCM", "http://dicom.nema.org/resources/ontology/DCM"),
        ("RADLEX", "http://www.radlex.org"),
        ("UCUM", "http://unitsofmeasure.org"),
        ("99ACME", "urn:dicom-assets:scheme:99ACME"),
        ("99 A/B", "urn:dicom-assets:scheme:99%20A%2FB"),
        ("SRT", "urn:dicom-assets:scheme:SRT"),
        (None, None),
        ("", None),
    ],
)
def test_a_scheme_designator_becomes_a_uri(designator, uri):
    assert scheme_uri(designator, "1") == uri


def test_a_urn_is_a_code_of_its_own_scheme():
    assert codings('[["urn:oid:1.2", null, null]]') == [
        {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2"}
    ]


def test_a_procedure_code_keeps_its_value_and_meaning():
    assert concepts('[["24627-2", "LN", "CT Chest"], [null, null, "as before"]]') == [
        {"coding": [{"system": "http://loinc.org", "code": "24627-2", "display": "CT Chest"}]},
        {"text": "as before"},
    ]


def test_white_space_that_a_fhir_code_cannot_hold_is_left_out():
    (coding,) = codings(json.dumps([[" A  B\x00", "99X", "\x1b m"]]))
    assert (coding["code"], coding["display"]) == ("A B", "m")
    assert codings('[["\\u0000", "99X", null]]') == []


@pytest.mark.parametrize("stated", [None, "", "  ", "\x00"])
def test_an_empty_modality_is_other_and_says_that_it_is_unknown(stated):
    coding = modality(stated)
    assert (coding["system"], coding["code"]) == (DCM, "OT")
    assert is_unknown(coding)


def test_a_modality_of_the_file_is_no_unknown_one():
    assert modality("OT") == {"system": DCM, "code": "OT"}
    assert not is_unknown(modality("OT"))


def test_a_lower_case_modality_keeps_the_value_of_the_file():
    coding = modality("ct")
    assert coding["code"] == "CT"
    assert coding["extension"] == [{"url": SOURCE_VALUE_URL, "valueString": "ct"}]
    assert not is_unknown(coding)


def test_acquisition_modalities_are_those_of_cid_29():
    from pydicom.sr._cid_dict import cid_concepts
    from pydicom.sr._concepts_dict import concepts as dictionary

    names = cid_concepts[29]["DCM"]
    assert {next(iter(dictionary["DCM"][name])) for name in names} == ACQUISITION_MODALITIES


def test_reports_and_segmentations_are_not_acquired():
    found = acquisition([modality(m) for m in ("SR", "MR", "KO", "PR", "SEG", "OT", "CT", "MR")])
    assert [coding["code"] for coding in found] == ["CT", "MR"]


@pytest.mark.parametrize("examined", ["CHEST", "chest", " Chest "])
def test_body_part_examined_is_mapped_in_any_case(examined):
    site = body_site(None, examined)
    assert site is not None
    assert (site["system"], site["code"], site["display"]) == (SCT, "43799004", "Chest")
    assert site["extension"] == [{"url": SOURCE_VALUE_URL, "valueString": examined.strip()}]


def test_every_mapped_body_part_has_a_system():
    for part in body_parts().values():
        site = body_site(None, part.body_part_examined)
        assert site is not None
        assert ("system" in site) == ("code" in site) == bool(part.snomed_code)


def test_an_unmapped_body_part_is_a_display_only():
    assert body_site(None, "LEFT TOE 3") == {"display": "LEFT TOE 3"}


def test_a_coded_region_goes_before_the_text():
    site = body_site('[["69536005", "SCT", "Head"]]', "CHEST")
    assert site == {"system": SCT, "code": "69536005", "display": "Head"}


@pytest.mark.parametrize("scheme", ["SRT", "SNM3", "99SDM"])
def test_a_retired_snomed_code_becomes_todays_and_is_kept(scheme):
    (coding,) = codings(json.dumps([["T-A0100", scheme, "Brain"]]))
    assert (coding["system"], coding["code"], coding["display"]) == (SCT, "12738006", "Brain")
    assert coding["extension"] == [{"url": SOURCE_VALUE_URL, "valueString": "T-A0100"}]
    (unknown,) = codings(json.dumps([["T-ODD", scheme, "Odd"]]))
    assert unknown["system"] == f"urn:dicom-assets:scheme:{scheme}"
    assert unknown["code"] == "T-ODD"


@pytest.mark.parametrize(
    ("stated", "code"),
    [("R", "24028007"), ("L", "7771000"), ("B", "51440002"), ("U", "66459002"), ("r ", "24028007")],
)
def test_laterality_is_snomed_with_its_system(stated, code):
    coding = laterality(stated)
    assert coding is not None
    assert (coding["system"], coding["code"]) == (SCT, code)


@pytest.mark.parametrize("stated", [None, "", "LEFT", "X"])
def test_what_is_no_laterality_is_left_out(stated):
    assert laterality(stated) is None


@pytest.mark.parametrize(
    ("stated", "configured", "found"),
    [
        (None, None, {}),
        (None, "urn:site", {"system": "urn:site"}),
        ('["HOSPITAL", null, null]', None, {"assigner": {"display": "HOSPITAL"}}),
        (
            '["HOSPITAL", null, null]',
            "urn:site",
            {"system": "urn:site", "assigner": {"display": "HOSPITAL"}},
        ),
        ('["1.2.3", null, null]', "urn:site", {"system": "urn:oid:1.2.3"}),
        ('["http://a.org/id", null, null]', None, {"system": "http://a.org/id"}),
        (
            '["WARD", "1.2.3", "ISO"]',
            "urn:site",
            {"system": "urn:oid:1.2.3", "assigner": {"display": "WARD"}},
        ),
        (
            '[null, "C757873D-EC9A-4326-A141-556F43239520", "UUID"]',
            None,
            {"system": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"},
        ),
        ('[null, "a.org", "DNS"]', None, {"assigner": {"display": "a.org"}}),
        ('[null, "tag:a.org", "URI"]', None, {"system": "tag:a.org"}),
    ],
)
def test_an_identifier_system_is_never_invented(stated, configured, found):
    assert issuer(stated, configured=configured) == found


def test_control_characters_are_no_text():
    assert text("a\x00b\x1b\n") == "ab"
    assert text("\x00 ") is None

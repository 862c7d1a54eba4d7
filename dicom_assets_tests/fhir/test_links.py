"""References to studies, as they are written here and there."""

import json

import pytest

from dicom_assets.fhir.links import names_in_references, names_of_study


@pytest.mark.parametrize("begin", ["urn:oid:", "URN:OID:", "Urn:Oid:"])
def test_a_study_is_named_by_its_uid_however_its_urn_is_spelled(begin):
    said = [{"reference": f"{begin}1.2.3"}, {"identifier": {"value": f"{begin}1.2.3"}}]
    assert names_in_references(json.dumps(said)) == [["uid:1.2.3"], ["uid:1.2.3"]]
    identifiers = [{"system": "urn:dicom:uid", "value": f"{begin}1.2.3"}]
    assert names_of_study("a", json.dumps(identifiers)) == ["id:a", "uid:1.2.3"]


def test_a_uid_of_the_dicom_system_may_be_bare_and_a_uuid_is_an_id():
    identifiers = [{"system": "urn:dicom:uid", "value": "1.2.3"}, {"value": "1.2.4"}]
    assert names_of_study("a", json.dumps(identifiers)) == ["id:a", "uid:1.2.3"]
    assert names_in_references('[{"reference": "URN:UUID:0-1"}]') == [["id:0-1"]]
    empty = [{"system": "urn:dicom:uid", "value": begin} for begin in ("urn:oid:", "")]
    assert names_of_study("a", json.dumps(empty)) == ["id:a"]

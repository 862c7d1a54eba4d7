import re
import traceback
from pathlib import Path

import pytest

from dicom_assets.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.setenv("DICOM_ASSETS_CONFIG", str(tmp_path / "dicom_assets.toml"))
    (tmp_path / "dicom_assets.toml").touch()


def test_the_default_lakehouse_lies_in_the_repository():
    assert load_settings().lakehouse.parts[-2:] == ("data", "lakehouse")


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    (tmp_path / "dicom_assets.toml").write_text(
        'site_timezone = "Asia/Tokyo"\nsource_systems = ["A", "B"]\n[promoted_tags]\nKVP = "kvp"\n'
    )
    monkeypatch.setenv("DICOM_ASSETS_SITE_TIMEZONE", "Europe/Zurich")
    settings = load_settings()
    assert settings.site_timezone == "Europe/Zurich"
    assert settings.source_systems == ("A", "B")
    assert settings.promoted[-1].column == "kvp"


def test_a_list_in_the_environment_is_separated_by_commas(monkeypatch):
    monkeypatch.setenv("DICOM_ASSETS_SOURCE_SYSTEMS", "PACS1, VNA")
    assert load_settings().source_systems == ("PACS1", "VNA")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SITE_TIMEZONE", "Mars/Olympus", "site_timezone: must be an IANA time zone"),
        ("COMPRESSION_LEVEL", "12", "compression_level: Input should be less than or equal to 9"),
        ("SOURCE_SYSTEMS", "a/b", "'a/b' cannot be a namespace"),
        ("SOURCE_SYSTEMS", "..", "cannot be a namespace"),
        ("SOURCE_SYSTEMS", "2026", "cannot be a namespace"),
        ("LAKEHOUSE", "ftp://host/x", "an address that begins with az://"),
        ("PROMOTED_TAGS", '{"Nonsense": "x"}', "'Nonsense' is neither a DICOM keyword nor a tag"),
        ("PROMOTED_TAGS", '{"KVP": "modality"}', "the column 'modality' exists already"),
        ("PROMOTED_TAGS", '{"KVP": "filePath"}', "the column 'filePath' exists already"),
        ("PROMOTED_TAGS", "KVP=kvp", "promoted_tags"),
        ("PROMOTED_TAGS", '{"PixelData": "x"}', "PixelData is left out of headers"),
        (
            "PROMOTED_TAGS",
            '{"54001010": "x"}',
            "WaveformData is left out of headers",
        ),
        ("PROMOTED_TAGS", '{"Nonsense": "x"}', "toml.: promoted_tags: 'Nonsense'"),
        ("PERSON_CROSSWALK", "/nowhere.csv", "person_crosswalk: /nowhere.csv is no file"),
        ("VISIT_CROSSWALK", "/usr", "visit_crosswalk: /usr is no file"),
        ("ATHENA_VOCABULARY", "/usr", "athena_vocabulary: /usr has no CONCEPT.csv"),
        ("SPARK_JARS", __file__, "spark_jars: .* is no folder"),
        ("SETTLE_SECONDS", "inf", "settle_seconds: Input should be a finite number"),
        ("ARCHIVE_MAX_RATIO", "inf", "archive_max_ratio: Input should be a finite number"),
        ("DICOMWEB_BASE_ADDRESS", "http://u:p@h/x", "dicomweb_base_address: .* without user"),
        ("LAKEHOUSE", "/" + "x" * 300, "lakehouse: .* cannot be looked at: File name too long"),
        ("PERSON_CROSSWALK", "/" + "x" * 300, "cannot be looked at: File name too long"),
        ("CONFIG", "/usr", "DICOM_ASSETS_CONFIG names /usr, which is no file"),
        ("LAKEHOUSE", __file__, "is a file or lies below one; it must be a folder"),
        ("LAKEHOUSE", f"{__file__}/lake", "is a file or lies below one; it must be a folder"),
        ("LAKEHOUSE", "/data/a%20b", "has a % before two digits"),
        ("LAKEHOUSE", "", "lakehouse: must not be empty"),
        ("PATIENT_ID_SYSTEM", "foo bar", "patient_id_system: must be a URI"),
        ("DICOMWEB_BASE_ADDRESS", "not a url", "dicomweb_base_address: must be an address"),
        ("WORKER", "2", "DICOM_ASSETS_WORKER: no such setting"),
    ],
)
def test_a_wrong_setting_is_named_with_the_reason(monkeypatch, name, value, says):
    monkeypatch.setenv(f"DICOM_ASSETS_{name}", value)
    with pytest.raises(SettingsError, match=says.replace("[", r"\[")):
        load_settings()


def test_a_lakehouse_behind_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "lake").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="must be a folder"):
        load_settings(lakehouse=tmp_path / "lake")


def test_spark_and_a_lakehouse_in_an_object_store_do_not_go_together_yet():
    with pytest.raises(SettingsError, match="not yet one in an object store"):
        load_settings(lakehouse="s3://lake/imaging", engine="spark")


def test_a_misspelt_key_in_the_file_is_named(tmp_path):
    (tmp_path / "dicom_assets.toml").write_text('site_timezon = "Europe/Zurich"')
    with pytest.raises(SettingsError, match="site_timezon"):
        load_settings()


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "dicom_assets.toml").write_bytes(b"# K\xf6ln\n")
    with pytest.raises(SettingsError, match="is not valid TOML: 'utf-8' codec"):
        load_settings()


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "dicom_assets.toml").write_text("site_timezone = ")
    with pytest.raises(SettingsError, match=r"dicom_assets\.toml is not valid TOML"):
        load_settings()


def test_the_configuration_that_the_documentation_gives_to_copy_is_taken(monkeypatch, tmp_path):
    text = (Path(__file__).parents[1] / "docs/dicom_service.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "dicom_assets.toml").write_text("\n".join(blocks))
    for name in re.findall(r"export (DICOM_ASSETS_\w+)=…", text):
        monkeypatch.setenv(name, "a-secret")
    settings = load_settings()
    assert set(settings.dicom_services) == {"orthanc", "ahds"}
    assert settings.is_namespace("orthanc")
    assert settings.shown_namespace("ahds") == "ahds"
    assert "a-secret" not in f"{settings!r}"


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ('address = "pacs.example"', "address: must be an address"),
        ('address = "https://me:hush-hush@pacs.example"', "must be an address without user"),
        ('address = "http://a"\npassword = "hush-hush"', "user goes with password"),
        ('address = "http://a"\nscope = "x"', "scope goes with token_address"),
        ('address = "http://a"\npasswort = "hush-hush"', "passwort: Extra inputs"),
        ('user = "me"', "address: Field required"),
    ],
)
def test_a_wrong_service_is_named_without_its_secret(tmp_path, statements, says):
    (tmp_path / "dicom_assets.toml").write_text(f"[dicom_services.pacs]\n{statements}\n")
    with pytest.raises(SettingsError, match=re.escape(says)) as told:
        load_settings()
    shown = "".join(traceback.format_exception(told.value))
    assert "hush" not in shown


@pytest.mark.parametrize("name", ["PACS", "2pacs", "a__b", "default", "a.b"])
def test_a_service_s_name_can_be_a_namespace_and_part_of_a_variable(tmp_path, name):
    (tmp_path / "dicom_assets.toml").write_text(
        f'[dicom_services."{name}"]\naddress = "http://a"\n'
    )
    with pytest.raises(SettingsError, match="cannot be a service's name"):
        load_settings()

"""What the documentation gives to copy is taken (settings, shortcuts, verbs), and links lead on."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from dicom_assets.cli import main
from dicom_assets.lakehouse.shortcuts import shortcuts
from dicom_assets.settings import load_settings
from dicom_assets.steps.run import Run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [
    *PAGES,
    *(ROOT / name for name in ("SECURITY.md", "CHANGELOG.md", "benchmarks/RESULTS.md")),
]
SECRETS = {
    "DICOM_ASSETS_DICOM_SERVICES__ORTHANC__PASSWORD": "x",
    "DICOM_ASSETS_DICOM_SERVICES__AHDS__CLIENT_SECRET": "x",
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of each block in a language."""
    found = re.compile(rf"^( *)```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    return [(page.name, each[1]) for page in PAGES for each in found.findall(page.read_text())]


TOML = blocks("toml")
SHORTCUTS = [(page, text) for page, text in blocks("json") if '"address"' in text]
SHORTCUTS += [
    (page, text) for page, sh in blocks("sh") for text in re.findall(r"echo '(\{.*?\})'", sh)
]
VERBS = sorted(
    {
        tuple(words)
        for _, text in blocks("sh")
        for line in re.sub(r"\\\n", " ", text).splitlines()
        if (words := line.partition("#")[0].split())
        and words[0].rpartition("/")[2] == "dicom-assets"
    }
)


@pytest.mark.parametrize(("page", "text"), TOML)
def test_settings_of_the_documentation_are_settings(page, text, tmp_path, monkeypatch):
    file = tmp_path / "dicom_assets.toml"
    file.write_text(text.replace("<", "").replace(">", ""))
    monkeypatch.setenv("DICOM_ASSETS_CONFIG", str(file))
    for name, value in SECRETS.items():
        if name.split("__")[1].lower() in text:
            monkeypatch.setenv(name, value)
    settings = load_settings(lakehouse=tmp_path)
    assert settings.storage or settings.dicom_services
    for address in settings.storage:
        if not address.startswith("gs:"):  # of which the file would have to be there
            settings.stores.find(f"{address}/x")  # an unknown option is refused


@pytest.mark.parametrize(("page", "text"), SHORTCUTS)
def test_shortcuts_of_the_documentation_can_be_used(page, text, tmp_path):
    run = Run.of(load_settings(lakehouse=tmp_path), "2026-03-14")
    path = run.engine.layout.external_root / "PACS1/images.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(json.loads(text)))
    found = shortcuts(run.engine.layout)
    assert "PACS1/images" in [each.name for each in found.good]
    assert not found.bad


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_verbs_and_options_of_the_documentation_are_there(words):
    verbs = [word for word in words[1:3] if re.fullmatch(r"[a-z]+(-[a-z]+)*", word)]
    group = verbs[:2] if verbs[:1] in (["dicomweb"], ["failures"]) else verbs[:1]
    said = CliRunner().invoke(main, [*group, "--help"])
    assert said.exit_code == 0, said.output
    for word in words:
        if word.startswith("--"):
            assert word in said.output


def anchors(page: Path) -> set[str]:
    """What a link may lead to within a page, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_of_the_documentation_lead_to_files_and_headings_that_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_there_is_something_of_each_to_be_tried():
    assert len(TOML) >= 6
    assert len(SHORTCUTS) >= 3
    assert len(VERBS) >= 10

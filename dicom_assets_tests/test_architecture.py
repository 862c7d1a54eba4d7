"""The arrows of the house, and what light paths may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dicom_assets"
FORBIDDEN = {
    "dicom": (
        "dagster",
        "deltalake",
        "dicom_assets.fhir",
        "dicom_assets.omop",
        "dicom_assets.defs",
    ),
    "fhir": (
        "dagster",
        "deltalake",
        "dicom_assets.dicom",
        "dicom_assets.omop",
        "dicom_assets.defs",
    ),
    "omop": (
        "dagster",
        "deltalake",
        "dicom_assets.dicom",
        "dicom_assets.fhir",
        "dicom_assets.defs",
    ),
    "dicomweb": (
        "dagster",
        "deltalake",
        "dicom_assets.dicom.",
        "dicom_assets.fhir",
        "dicom_assets.omop",
        "dicom_assets.defs",
        "dicom_assets.steps",
    ),
    "lakehouse": ("dagster", "dicom_assets.defs", "dicom_assets.steps"),
    "steps": ("dagster", "dicom_assets.defs"),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_arrows_point_one_way(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported(path):
            assert not name.startswith(FORBIDDEN[room]), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("dicom_assets.dicom", ("dagster", "deltalake", "fhir", "pydicom")),
        (
            "dicom_assets.cli",
            (
                "dagster",
                "deltalake",
                "fhir",
                "httpx",
                "pandas",
                "pydantic",
                "pydicom",
                "pynetdicom",
            ),
        ),
    ],
)
def test_a_light_path_stays_light(module, unwanted):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {name for name in loaded if name.split(".")[0] in unwanted}

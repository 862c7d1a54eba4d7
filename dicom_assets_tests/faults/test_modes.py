"""Who may see what is written: nobody but the owner and the group."""

import os
import stat
from pathlib import Path

from click.testing import CliRunner

from dicom_assets.cli import main
from dicom_assets_tests.faults.drops import drop
from dicom_assets_tests.faults.scene import DAYS

DAY = DAYS[0]


def test_all_that_a_run_of_the_command_line_leaves_is_private(tmp_path):
    root, home = tmp_path / "lakehouse", tmp_path / "dagster"
    drop(root, DAY, tmp_path / "drops")
    theirs = {path for path in root.rglob("*") if path.is_dir()}
    environment = {
        "DICOM_ASSETS_LAKEHOUSE": str(root),
        "DICOM_ASSETS_SETTLE_SECONDS": "0",
        "DAGSTER_HOME": str(home),
    }
    before = os.umask(0o022)
    try:
        CliRunner().invoke(main, ["run", "--date", DAY], env=environment)
    finally:
        os.umask(before)
    assert list(root.glob("gold/Tables/Image_Occurrence/*/*.parquet"))
    found = {path: mode(path) for path in (*root.rglob("*"), home, *home.rglob("*"))}
    files = {path: bits for path, bits in found.items() if path.is_file() and not path.is_symlink()}
    folders = {path: bits for path, bits in found.items() if path.is_dir() and path not in theirs}
    assert len(files) > 40
    assert {str(path): oct(bits) for path, bits in files.items() if bits != 0o640} == {}
    assert {str(path): oct(bits) for path, bits in folders.items() if bits != 0o750} == {}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)

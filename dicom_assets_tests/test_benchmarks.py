"""What the benchmarks run on is what they say it is."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from benchmarks import data, flame_svg, headers
from benchmarks.readers import READERS, differences
from benchmarks.results import OURS, Results, Row


@pytest.mark.parametrize(("long", "elements"), [(False, 97), (True, 256)])
def test_a_series_varies_as_scanners_make_it_vary(long, elements):
    files = [
        pydicom.dcmread(BytesIO(file.header + file.pixels.element))
        for file in data.ct_files(3, small=True, long=long)
    ]
    assert [file.InstanceNumber for file in files] == [1, 2, 3]
    assert len({file.SOPInstanceUID for file in files}) == 3
    assert len({file.SeriesInstanceUID for file in files}) == 1
    assert {headers.count(file) - 1 for file in files} == {elements}, "pixel data aside"
    assert len({str(file.ImagePositionPatient) for file in files}) == 3
    assert files[0].PatientName.family_name.startswith("Müller")


def test_zips_hold_what_the_loose_files_hold(tmp_path: Path):
    data.write_zips(tmp_path, data.ct_files(5, small=True), 3)
    loose = {f"DICOM/{f.name}": f.header + f.pixels.element for f in data.ct_files(5, small=True)}
    packed = {}
    for path in tmp_path.iterdir():
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            packed |= {name: archive.read(name) for name in archive.namelist()}
    assert packed == loose


def test_a_difference_of_the_readers_is_found(tmp_path: Path):
    file = next(data.ct_files(1, small=True, long=True))
    file.write(tmp_path)
    ours, theirs = (
        json.loads(READERS[each]()(str(tmp_path / file.name))) for each in (OURS, "pydicom")
    )
    assert differences(ours, theirs) == []
    del ours["00100020"]
    ours["00081032"]["Value"][0]["00080100"]["Value"] = ["other"]
    assert differences(ours, theirs) == ["00081032.00080100", "00100020"]


def test_medians_and_ratios_are_those_of_the_rounds():
    results = Results()
    for ours, theirs in ((1.0, 30.0), (2.0, 20.0), (9.0, 10.0)):
        results.add([Row("p", "c", OURS, ours, "s"), Row("p", "c", "theirs", theirs, "s")])
    results.add([Row("p", "c", "absent", None, "s", "why not")])
    assert results.ratio("p", "c", "theirs") == 10
    assert results.ratio("p", "c", "absent") is None
    assert "| not run | " in results.table("p") and "why not" in results.table("p")


def test_a_flame_graph_shows_processes_apart_and_imports_as_one():
    raw = "\n".join(
        [
            'process 1:"python";main (benchmarks/x.py);extract (dicom_assets/steps/extract.py) 3',
            'process 1:"python";process 2:"python -c a; b(1)";read (dicom_assets/dicom/fast.py) 2',
            'process 1:"python";_find_and_load (<frozen importlib._bootstrap>);x (y.py) 5',
        ]
    )
    seen = list(flame_svg.stacks(raw))
    assert seen == [
        (("main process", "extract (dicom_assets/steps/extract.py)"), 3),
        (("worker processes", "read (dicom_assets/dicom/fast.py)"), 2),
        (("main process", "imports"), 5),
    ]
    assert "extract (steps/extract.py) 30.0%" in flame_svg.draw(seen, "title")

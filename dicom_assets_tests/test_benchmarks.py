"""What the benchmarks run on is what they say it is."""

import json
import re
import zipfile
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from benchmarks import data, engines_report, flame_svg, headers, look_up
from benchmarks.readers import READERS, differences
from benchmarks.results import OURS, Results, Row, label
from dicom_assets.steps.chain import STEPS


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


def test_what_is_looked_up_is_found_where_it_stands_else_nothing_is_measured(tmp_path: Path):
    found = {row.contestant for row in look_up.measure(tmp_path, quick=False, keys=[4000])}
    assert {"first look-up", "look-up after an append", "memory"} <= found


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


def engines_of(*sizes: int, gold: float) -> Results:
    """One engine takes 1 s and 2 ms a file, Spark 30 s more, and it shares out most of it."""
    results = Results()
    for size in sizes:
        thousands, case = size / 1000, label(size)
        for step in STEPS:
            took = {"extract": 1 + 1.5 * thousands, "organise": 0.5 * thousands}.get(step, 0.0)
            here = Row(step, case, engines_report.LOCAL, took, "s")
            took = {"extract": 20 + 2 * thousands, "person": gold * thousands}.get(step, 0.0)
            results.add([here, Row(step, case, engines_report.CLUSTER, took, "s")])
        peak = Row(engines_report.PYTHON, case, engines_report.CLUSTER, 300 + thousands, "MiB")
        results.add([Row(engines_report.SESSION, case, engines_report.CLUSTER, 11.0, "s"), peak])
    return results


def test_from_which_size_and_with_how_many_cores_spark_pays_is_reckoned_from_two_sizes():
    results, sizes = engines_of(2000, 200_000, gold=0.25), (2000, 200_000)
    lines = [
        engines_report.line(results, sizes, each)
        for each in (engines_report.LOCAL, engines_report.CLUSTER)
    ]
    local, spark = (each for each in lines if each)
    assert local.fixed == pytest.approx(1) and spark.fixed == pytest.approx(31)
    assert (local.each(2), local.each(6), spark.each(2)) == pytest.approx((2, 1, 2.25))
    assert engines_report.cores_to_pass(spark, local, 2) == 3, "4 : 1.75 is 2.3"
    assert engines_report.files_to_pay(spark, local, spark_cores=8, cores=2) == 24_000
    assert spark.seconds(24_000, 8) == pytest.approx(local.seconds(24_000))
    assert engines_report.files_to_pay(spark, local, spark_cores=2, cores=2) is None
    slow = engines_report.line(engines_of(*sizes, gold=3), sizes, engines_report.CLUSTER)
    assert slow and engines_report.cores_to_pass(slow, local, 2) is None, "its driver is the slower"
    assert engines_report.line(results, (2000,), engines_report.LOCAL) is None


def test_the_report_on_engines_says_where_spark_does_not_pay_and_what_grows():
    sizes, names = (2000, 20_000, 200_000), list(engines_report.LABELS)
    results = engines_of(*sizes, gold=0.25)
    text = engines_report.report(results, sizes, names, heap="1g", minutes=3)
    assert "does not pay at any size measured; 1.2 times" in text
    assert re.search(r"driver's Python *\| 302 *\| 320 *\| 500 *\| 1.56 *\| \*\*grows\*\* \|", text)
    assert "not measured" in text, "nothing is said of an engine that was not run"
    begun = engines_report.report(engines_of(2000, gold=0.25), sizes, names, heap="1g", minutes=1)
    assert "20,000" not in begun.partition("## Seconds")[2], "nothing of sizes to come"

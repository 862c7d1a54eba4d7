"""What is small when dropped stays so: in memory, on disk, and in what is written meanwhile."""

import base64
import gzip
import json
import lzma
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import DEFLATED, IMAGE, deep, deflated, element, file_of, number, uids, zipped

from dicom_assets.dicom.archives import FREE_EXPANSION
from dicom_assets.steps import catalog

MIB = 1 << 20
MOST_MEMORY = 160 * MIB
"""More than a quiet run takes; held whole, most of the inputs below would take more."""
MOST_WRITTEN = FREE_EXPANSION + 40 * MIB
"""One dropped archive may expand so far whatever its size. When it is a bomb, that is gone before
the next one has its turn (`test_organise`)."""

CHILD = """
import json, sys
from pathlib import Path
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.extract import extract
from dicom_assets.steps.flatten import flatten
from dicom_assets.steps.ingest_fhir import ingest_fhir
from dicom_assets.steps.organise import organise
from dicom_assets.steps.organise_fhir import organise_fhir
from dicom_assets.steps.run import Run

def chain(root):
    choices = {"settle_seconds": 0, "workers": 1, "max_header_bytes": 1 << 24}
    run = Run.of(load_settings(lakehouse=root, **choices), "2026-03-14")
    organise(run)
    extract(run)
    bronze, silver = (of("DiagnosticReport") for of in (catalog.bronze_fhir, catalog.silver_fhir))
    organise_fhir(run)
    ingest_fhir(run, bronze)
    flatten(run, bronze=bronze, silver=silver)

def kept(name, key):
    lines = Path(name).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

chain(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = kept("/proc/self/status", "VmRSS"), kept("/proc/self/io", "wchar")
chain(sys.argv[2])
memory = (kept("/proc/self/status", "VmHWM") - before[0]) * 1024
print(json.dumps([memory, kept("/proc/self/io", "wchar") - before[1]]))
"""


def zip_of(name: bytes, data: bytes, method: int, size: int, crc: int, *, times: int = 1) -> bytes:
    """A ZIP of raw data; its directory may name the one member many times."""
    common = struct.pack("<5HL2L2H", 20, 0, method, 0, 33, crc, len(data), size, len(name), 0)
    entry = b"PK\1\2" + b"\x14\0" + common + struct.pack("<3H2L", 0, 0, 0, 0, 0) + name
    local = b"PK\3\4" + common + name + data
    count = min(times, 0xFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entry) * times, len(local), 0)
    return local + entry * times + end


# bz2.compress(bytes(200 * MIB)), packed: more than MOST_MEMORY, and a second's work to compress
ZEROS = (
    "eNpzisqwNHSMVAuO5ON8dJ8xvs+B4QADA4cCg0GDr5vTAtWVXA3T6SP/0bClgOEEj4MDUN4BrOIMq+YyESbdjgWCFbsn"
    "aR5qadJb3nsBAHAsNx0="
)


def bzip2_bomb() -> bytes:
    data = zlib.decompress(base64.b64decode(ZEROS))
    return zip_of(b"x", data, zipfile.ZIP_BZIP2, 1000, 0)


def lzma_dictionary() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}]
    data = lzma.compress(IMAGE, lzma.FORMAT_RAW, filters=filters)
    head = struct.pack("<2B2BL", 9, 4, 5, 0, 0xFFFFFFFF).replace(b"\5\0", b"\5\0\x5d", 1)
    return zip_of(b"x", head + data, zipfile.ZIP_LZMA, len(IMAGE), zlib.crc32(IMAGE))


def of_one_kernel(times: int) -> bytes:
    """Flat and overlapping: all members of the directory are the same data."""
    zeros = bytes(10 * MIB)
    return zip_of(b"x", deflated(zeros), 8, len(zeros), zlib.crc32(zeros), times=times)


def nested_bomb() -> bytes:
    content = zipped({"0": bytes(16 * MIB)})
    for _ in range(4):
        content = zipped({f"{number}.zip": content for number in range(16)})
    return content


def entries_claimed() -> bytes:
    """A directory of four billion entries, by what its end says."""
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 32, 1 << 32, 46 << 32, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    full = b"\xff" * 4
    return end + locator + b"PK\5\6" + bytes(4) + b"\xff" * 4 + full + full + bytes(2)


def notes() -> bytes:
    inside = b"".join(element(0x00110000 + i, "QX", b"") for i in range(0x1100, 0x9000))
    return file_of(uids() + inside)


BOMBS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "200 MiB of bzip2 declared as 1000 bytes": (bzip2_bomb, "member_damaged"),
    "an LZMA dictionary of 4 GiB": (lzma_dictionary, None),
    "one kernel 60,000 times": (lambda: of_one_kernel(60_000), "archive_bomb"),
    "one kernel as often as is free": (lambda: of_one_kernel(100), "not_dicom"),
    "a million entries": (lambda: of_one_kernel(700_000), "archive_bomb"),
    "archives in archives": (nested_bomb, "archive_bomb"),
    "four billion entries claimed": (lambda: b"PK\3\4" + entries_claimed(), "archive_damaged"),
    "sequences 10,000 deep": (lambda: file_of(uids() + deep(10_000)), "nested_too_deep"),
    "a text of 4 GiB claimed": (
        lambda: file_of(uids() + element(0x00204000, "UT", b"x", length=0xFFFFFFF0)),
        None,
    ),
    "an item of 4 GiB claimed": (
        lambda: file_of(
            uids() + element(0x00400275, "SQ", number(0xFFFEE000) + b"\xf0\xff\xff\xff")
        ),
        None,
    ),
    "a header that inflates to 100 MiB": (
        lambda: file_of(deflated(uids() + element(0x00204000, "UT", b"x" * (100 * MIB))), DEFLATED),
        "too_large",
    ),
    "elements that are all noted": (notes, None),
}


REPORT = b'{"resourceType":"DiagnosticReport","id":"r","status":"final","code":{"text":"CT"}%s}\n'
PATIENT = b'{"resourceType":"Patient","id":"p"}\n'
NOTHING = b"{}\n" * 1_000_000

FHIR_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "two million members": (
        lambda: b"{" + b'"":0,' * 2_000_000 + b'"a":1}',
        "wrong_resource_type",
    ),
    "a report and a million lines": (lambda: REPORT % b"" + NOTHING, "wrong_resource_type"),
    "two types and a million lines": (
        lambda: REPORT % b"" + PATIENT + NOTHING,
        "wrong_resource_type",
    ),
    "padded": (lambda: REPORT % (b" " * 2000) * 10_000, "archive_bomb"),
    "two types, padded": (lambda: (REPORT % (b" " * 2000) + PATIENT) * 10_000, "archive_bomb"),
}
"""Each is dropped compressed, by which it becomes some hundredth or thousandth."""

FHIR_LARGE = {"one type, 20 MB": REPORT % b"", "two types, 20 MB": REPORT % b"" + PATIENT}
"""Each is dropped as it is, a hundred thousand bad lines before it and millions after it."""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory, house_class):
    """The lakehouse into which a process of its own has taken them all, and what it took."""
    folder = tmp_path_factory.mktemp("bounds")
    quiet, house = house_class(folder / "quiet"), house_class(folder / "hostile")
    for each in (quiet, house):
        (each.drop / "a.dcm").write_bytes(IMAGE)
        (each.drop / "a.zip").write_bytes(zipped({"a.dcm": IMAGE}))
    for name, (made, _) in BOMBS.items():
        (house.drop / name).write_bytes(made())
    reports = {name: made() for name, (made, _) in FHIR_BOMBS.items()}
    reports |= {name: NOTHING[:300_000] + good + NOTHING * 7 for name, good in FHIR_LARGE.items()}
    for each, files in ((quiet, {}), (house, reports)):
        folder = each.run.engine.layout.fhir_drop_folder
        folder.mkdir(parents=True)
        for name, content in {"good": REPORT % b"", **files}.items():
            packed = content if name in FHIR_LARGE else gzip.compress(content)
            (folder / name).write_bytes(packed)
    dropped = sum(path.stat().st_size for path in house.files("bronze/Files/Ingest"))
    command = [sys.executable, "-c", CHILD, *(str(h.settings.lakehouse) for h in (quiet, house))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    memory, written = json.loads(done.stdout.splitlines()[-1])
    return house, dropped, memory, written


@pytest.fixture(scope="module")
def failures(bounded):
    return bounded[0].rows(catalog.INGESTION_FAILURES)


@pytest.fixture(scope="module")
def metastore(bounded):
    return bounded[0].metastore()


@pytest.fixture(scope="module")
def reports(bounded):
    return bounded[0].rows(catalog.bronze_fhir("DiagnosticReport"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_and_writes_are_bounded_by_what_is_dropped(bounded):
    house, dropped, memory, written = bounded
    assert memory < MOST_MEMORY
    assert written < MOST_WRITTEN
    kept = sum(path.stat().st_size for path in house.files(""))
    assert kept < dropped + 15 * MIB


@pytest.mark.parametrize("name", FHIR_BOMBS)
def test_each_of_fhir_has_its_reason_and_no_more_failures_than_its_bytes_justify(failures, name):
    reasons = [row["reasonCode"] for row in failures if name in (row["sourcePath"] or "")]
    assert set(reasons) == {FHIR_BOMBS[name][1]}
    assert len(reasons) < 1200


@pytest.mark.parametrize("name", FHIR_LARGE)
def test_of_a_large_file_of_bad_lines_some_are_told_and_the_good_ones_behind_are_rows(
    failures, reports, name
):
    messages = [row["message"] for row in failures if name in (row["sourcePath"] or "")]
    assert len(messages) == 10_001
    assert messages[-1].endswith("what follows was not read")
    assert messages[-2].endswith("of bad lines after it none is told, good ones are taken")
    assert sum(name in row["filePath"] for row in reports) == 1


@pytest.mark.parametrize("name", BOMBS)
def test_each_is_a_row_or_has_its_reason(failures, metastore, name):
    reasons = {row["reasonCode"] for row in failures if row["sourcePath"].startswith(name)}
    outcome = BOMBS[name][1]
    if outcome is None:
        assert reasons == set()
        assert any(row["sourcePath"].startswith(name) for row in metastore)
    else:
        assert outcome in reasons


def test_the_good_files_beside_them_are_rows(metastore, reports):
    assert {"a.dcm", "a.zip!/a.dcm"} <= {row["sourcePath"] for row in metastore}
    assert any("good" in row["filePath"] for row in reports)


def test_notes_about_a_file_come_to_an_end(metastore):
    (said,) = (
        row["decodeNotes"]
        for row in metastore
        if row["sourcePath"] == "elements that are all noted"
    )
    assert len(said) == 1001
    assert said[-1].endswith("left out")

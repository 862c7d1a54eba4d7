"""`make fuzz`: tries bytes that coverage says are new, for a while, and keeps what it finds.

Decided here: how inputs are made (atheris, from the corpus) and what becomes of findings: each is
cut down to what is needed for it and written to `corpus`, whence the tests try it again. Not
decided here: what a finding is (`oracles`).

    python -m dicom_assets_tests.fuzz header|archive [seconds]
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_MEMORY_MB = 1500
_SECONDS_PER_INPUT = 10
_LONGEST_INPUT = 6000
_TRIES_TO_CUT = 2000


def main(target: str, seconds: int) -> int:
    """Fuzzes one target in a process of its own, and says what came of it."""
    from dicom_assets_tests.fuzz.oracles import CORPUS

    corpus = CORPUS / target
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "grown").mkdir()
        done = subprocess.run(
            [
                *(sys.executable, "-m", __package__ or "", target, "run", folder),
                *(str(scratch / "grown"), str(corpus)),
                f"-max_total_time={seconds}",
                f"-timeout={_SECONDS_PER_INPUT}",
                f"-rss_limit_mb={_MEMORY_MB}",
                f"-max_len={_LONGEST_INPUT}",
                f"-artifact_prefix={corpus}/",
                "-print_final_stats=1",
            ],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        outcome = json.loads((scratch / "outcome.json").read_text())
        grown = len(list((scratch / "grown").iterdir()))
    units = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    peak = re.search(r"peak_rss_mb: +(\d+)", done.stderr)
    print(f"{target}: {units[1] if units else '?'} inputs in {seconds} s, {grown} kept as new,")
    print(f"at most {peak[1] if peak else '?'} MiB; findings: {len(outcome['found'])}")
    for said, count in sorted(outcome["came"].items(), key=lambda each: -each[1]):
        print(f"  {count:9} {said}")
    for finding in outcome["found"]:
        print(f"FOUND {finding}")
    if done.returncode:
        print(done.stderr[-4000:])
    return int(bool(outcome["found"]) or done.returncode != 0)


def run(target: str, scratch: Path, arguments: list[str]) -> None:
    """Runs libFuzzer; it ends the process itself."""
    import atheris

    instrumented = atheris.instrument_imports  # pyright: ignore[reportAttributeAccessIssue]
    with instrumented(include=["dicom_assets.dicom", "zipfile"]):
        from dicom_assets_tests.fuzz import oracles

    def check_archive(data: bytes) -> str:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return oracles.check_archive(data, Path(folder))

    check = check_archive if target == "archive" else oracles.check_header
    found: dict[str, str] = {}
    came: Counter[str] = Counter()
    written = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal written
        try:
            came[check(data)] += 1
        except Exception as error:
            place = _place(error)
            if place not in found:
                small = _cut_down(check, data, place)
                name = f"found-{hashlib.sha256(small).hexdigest()[:12]}"
                (oracles.CORPUS / target / name).write_bytes(small)
                found[place] = name
        if time.monotonic() - written > 1:
            _write(scratch, found, came)
            written = time.monotonic()

    _write(scratch, found, came)
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def _write(scratch: Path, found: dict[str, str], came: Counter[str]) -> None:
    outcome = {"found": [f"{name}: {place}" for place, name in found.items()], "came": came}
    temporary = scratch / "outcome.tmp"
    temporary.write_text(json.dumps(outcome))
    temporary.replace(scratch / "outcome.json")


def _place(error: Exception) -> str:
    """Returns what tells one finding from another."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error}"[:300]


def _cut_down(check: Callable[[bytes], str], data: bytes, place: str) -> bytes:
    """Returns the least that still fails at the same place, pieces taken out ever smaller."""
    tries, size = 0, len(data) // 2
    while size and tries < _TRIES_TO_CUT:
        at = 0
        while at < len(data) and tries < _TRIES_TO_CUT:
            tries += 1
            shorter = data[:at] + data[at + size :]
            try:
                check(shorter)
            except Exception as error:
                if _place(error) == place:
                    data = shorter
                    continue
            at += size
        size //= 2
    return data


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if rest[:1] == ["run"]:
        run(what, Path(rest[1]), rest[2:])
    else:
        sys.exit(main(what, int(rest[0]) if rest else 180))

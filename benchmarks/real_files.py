"""Files of others for the header benchmark: those of ../shared/data/dicom, where that is at hand.

All kinds of makers and faults, hardly two of a series, so that no cache is flattered. Decided here:
which are timed (those that both ours and pydicom can read) and what share of them ours handed to
its slow path. Run as a program, it writes the list of the former to a file and prints the latter.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.readers import READERS
from benchmarks.results import OURS

FOLDER = Path(__file__).parents[2] / "shared/data/dicom"


def main() -> None:
    """Writes the list of files; prints how many have a header, came by the slow path, in all."""
    paths = sorted(str(path) for path in FOLDER.rglob("*") if path.is_file())
    for reader in (OURS, "pydicom"):
        paths = [path for path in paths if _readable(READERS[reader](), path)]
    Path(sys.argv[1]).write_text("\n".join(paths))
    print(*_slow_path())


def _readable(read: Callable[[str], str], path: str) -> bool:
    """Says whether a reader gets through a file."""
    try:
        read(path)
    except Exception:  # what it says of a file that it cannot read is no matter here
        return False
    return True


def _slow_path() -> tuple[int, ...]:
    from dicom_assets.dicom import HeaderError, read_header

    slow, files = [], 0
    for path in FOLDER.rglob("*"):
        if path.is_file():
            files += 1
            try:
                with path.open("rb") as stream:
                    # a product without a slow path of its own reads every file by it
                    slow.append(getattr(read_header(stream), "slow", True))
            except HeaderError:
                continue
    return len(slow), sum(slow), files


if __name__ == "__main__":
    main()

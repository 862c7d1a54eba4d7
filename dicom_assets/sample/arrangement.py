"""How the sample's files are laid out: folders, ZIPs, and a ZIP in a ZIP.

A place is a path; `archive.zip!/inner/path` is a member of a ZIP, to any depth. Which file goes
where is decided in `cases`.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

INTO = "!/"
UNIX = 3
LEVEL = 3  # higher levels take three times as long and save nothing on noisy pictures
TIMESTAMP = (2024, 8, 1, 12, 0, 0)  # a clock here would make every run's bytes differ


def packed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Fold all places that lead into archives into the archives themselves."""
    plain: dict[str, bytes] = {}
    members: dict[str, dict[str, bytes]] = {}
    for place, content in files.items():
        outer, into, inner = place.partition(INTO)
        if into:
            members.setdefault(outer, {})[inner] = content
        else:
            plain[outer] = content
    return plain | {name: _archive(packed(inner)) for name, inner in members.items()}


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = ZipInfo(name, TIMESTAMP)
            entry.create_system = UNIX  # else it would tell on which system the sample was made
            entry.external_attr = 0o644 << 16
            entry.compress_type = ZIP_STORED if name.endswith(".zip") else ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=LEVEL)
    return buffer.getvalue()


def write_all(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files below a folder and return their paths."""
    paths = []
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths

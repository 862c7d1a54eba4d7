"""What the chain cannot go below: each byte read, packed by ISA-L's level 1 and written, once.

Two processes. A loose file is read, checksummed, deflated, written as a ZIP of one member and
removed. A member of a ZIP is read, inflated to check it, and its deflate stream written as it is.
Nothing is parsed, no table is written, nothing is synced. `hashed` adds the SHA-256 that the tables
hold of every file.
"""

import hashlib
import struct
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from isal import igzip_lib, isal_zlib


def run(drop: Path, lakehouse: Path, *, hashed: bool = False) -> dict[str, float]:
    """Packs every dropped file; returns no stages, for there are none."""
    lakehouse.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in drop.rglob("*") if path.is_file())
    with ProcessPoolExecutor(2) as pool:
        work = partial(_work, lakehouse, hashed)
        for _ in pool.map(work, files, chunksize=16 if len(files) > 100 else 1):
            pass
    return {}


def _work(target: Path, hashed: bool, path: Path) -> None:
    if path.suffix == ".zip":
        _carry_over(target, path, hashed)
    else:
        name = f"{path.parent.name}_{path.name}"
        raw = path.read_bytes()
        if hashed:
            hashlib.sha256(raw).digest()
        packer = isal_zlib.compressobj(1, 8, -15, 9)
        stream = packer.compress(raw) + packer.flush()
        _write(target / f"{name}.zip", name, stream, isal_zlib.crc32(raw), len(raw))
    path.unlink()


def _carry_over(target: Path, path: Path, hashed: bool) -> None:
    with zipfile.ZipFile(path) as archive, path.open("rb") as source:
        for member in archive.infolist():
            source.seek(member.header_offset + 26)
            source.seek(sum(struct.unpack("<HH", source.read(4))), 1)
            stream = source.read(member.compress_size)
            raw = igzip_lib.decompress(stream, flag=igzip_lib.DECOMP_DEFLATE)
            if isal_zlib.crc32(raw) != member.CRC:
                raise ValueError(f"{member.filename} is damaged")
            if hashed:
                hashlib.sha256(raw).digest()
            name = member.filename.replace("/", "_")
            _write(target / f"{name}.zip", name, stream, member.CRC, len(raw))


def _write(path: Path, name: str, stream: bytes, crc: int, size: int) -> None:
    encoded = name.encode()
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(stream), size, len(encoded), 0)
    local = b"PK\x03\x04" + common + encoded
    central = b"PK\x01\x02" + struct.pack("<H", 20) + common + bytes(14) + encoded
    at = len(local) + len(stream)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), at, 0)
    with path.open("wb", buffering=0) as sink:
        sink.write(local + stream + central + end)

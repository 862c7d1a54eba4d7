"""What must hold of any bytes, however bad: the oracles of the fuzz targets and of their corpus.

Decided here: what counts as a finding. Not decided here: which bytes are tried (`__main__`, and
`corpus` for those that are tried again by every run of the tests).
"""

import hashlib
import io
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import orjson
import pydicom
from pydicom import config
from pydicom.tag import BaseTag

from dicom_assets.dicom import Header, HeaderError, read_header
from dicom_assets.dicom.archives import ArchiveError, Budget, Limits, Member, members
from dicom_assets.dicom.careful import careful_header
from dicom_assets.dicom.elements import BULK_BYTES, is_excluded
from dicom_assets.dicom.own_zip import open_organised
from dicom_assets.dicom.part10 import read_file
from dicom_assets.dicom.source import Source
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS
from dicom_assets.lakehouse.reasons import MEANINGS, Reason

CORPUS = Path(__file__).parent / "corpus"

LIMITS = Limits(
    max_file_bytes=1 << 20, max_bytes=4 << 20, max_ratio=250, max_depth=5, max_members=500
)


def check_header(data: bytes) -> str:
    """Holds the header reader to its word.

    It raises HeaderError alone; the fast reader gives what the careful one gives, whatever was
    read before; what it gives is JSON; and it is what pydicom gives where pydicom, set to be
    strict, reads the file, and the reader itself had nothing to note.

    Returns:
        What came of it: a reason code, `row` or `row as pydicom reads it`.
    """
    try:
        header = read_header(io.BytesIO(data))
    except HeaderError as error:
        assert (error.reason, error.message) == _by_care(data), "fast and careful differ"
        assert error.reason in MEANINGS and error.message
        return str(error.reason)
    assert _said(header) == _by_care(data), "fast and careful differ"
    json = orjson.loads(header.text)
    assert all(header.promoted[column] for column in ("studyInstanceUid", "sopInstanceUid"))
    theirs = None if header.decode_notes else _pydicom(data)
    if theirs is None:
        return "row"
    theirs.pop("00000000", None)  # zeros behind the dataset, which pydicom takes for an element
    for tag, attribute in theirs.items():
        if " or " not in attribute["vr"]:  # which is none, of elements of which it asks no other
            ours = json.get(tag) or {"vr": "none"}
            same = _without_padding(ours) == _without_padding(attribute)
            assert same, f"pydicom reads ({tag[:4]},{tag[4:]}) otherwise"
    return "row as pydicom reads it"


def _without_padding(attribute: dict[str, Any]) -> dict[str, Any]:
    """Leaves out zeros that end a part of a person's name: an escape sequence may hide the end."""
    if attribute["vr"] != "PN" or "Value" not in attribute:
        return attribute
    names = [
        {part: plain for part, text in (name or {}).items() if (plain := text.rstrip("\0"))}
        for name in attribute["Value"]
    ]
    return attribute | {"Value": names}


def _by_care(data: bytes) -> object:
    try:
        return _said(careful_header(read_file(Source(io.BytesIO(data))), PROMOTED_TAGS))
    except HeaderError as error:
        return error.reason, error.message


def _said(header: Header) -> object:
    return header.text, header.promoted, header.transfer_syntax_uid, header.decode_notes


def _pydicom(data: bytes) -> dict[str, dict[str, Any]] | None:
    """Returns what pydicom reads without a word of doubt, but for sequences; else None.

    It is asked for the elements before the pixel data. Of one that stands again behind them, which
    no writer may do, whoever reads on, as we do, has the second. Where (0002,0010) has another VR
    than UI, it takes the transfer syntax for none that it knows, and the dataset for little endian.
    """
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            before = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            if not isinstance(before.file_meta.get("TransferSyntaxUID", ""), str):
                return None
            dataset = pydicom.dcmread(io.BytesIO(data))
            return {
                f"{tag:08X}": dataset[tag].to_json_dict(None, BULK_BYTES)
                for tag in before.keys()  # noqa: SIM118
                if not is_excluded(int(tag)) and not _is_long(dataset, tag)
            }
    except Exception:  # almost anything: what it thinks of bad bytes is not our matter
        return None
    finally:
        config.settings.reading_validation_mode = mode


def _is_long(dataset: pydicom.Dataset, tag: BaseTag) -> bool:
    value = dataset[tag].value
    return isinstance(value, bytes) and len(value) > BULK_BYTES


def check_archive(data: bytes, folder: Path) -> str:
    """Holds the archive reader to its word.

    It raises ArchiveError alone; writes nothing but one file for each good member, into the folder
    that it is given; expands to no more than it may; a member is what zipfile reads; and of an
    archive that begins with an entry that zipfile does not know something is told.

    Args:
        data: The archive.
        folder: An empty folder; it is emptied again.

    Returns:
        What came of it: reason codes, and `members` where there are good ones.
    """
    path, into = folder / "dropped.zip", folder / "into"
    path.write_bytes(data)
    into.mkdir()
    try:
        found = list(
            members(
                path,
                into=into,
                budget=Budget(len(data), LIMITS),
                organised=lambda _: "organised",
                own_name=lambda _: "own.dcm",
            )
        )
    except ArchiveError as error:
        assert error.reason in MEANINGS and error.message
        found, said = [], {str(error.reason)}
    else:
        said = {str(member.error.reason) if member.error else "members" for member in found}
        good = [member for member in found if member.file]
        assert {member.file for member in good} == set(into.iterdir()), "other files were written"
        assert sum(member.size for member in good) <= LIMITS.max_bytes, "too much was written"
        _check_against_zipfile(path, found)
    assert set(folder.iterdir()) == {path, into}, "something was written elsewhere"
    path.unlink()
    shutil.rmtree(into)
    return ", ".join(sorted(said)) or "nothing"


def _check_against_zipfile(path: Path, found: list[Member]) -> None:
    with zipfile.ZipFile(path) as archive:
        files = [each for each in archive.infolist() if each.file_size or each.filename[-1:] != "/"]
        first = min((each.header_offset for each in archive.infolist()), default=archive.start_dir)
        if first > 0 and path.read_bytes().startswith(b"PK\3\4"):
            assert any(member.error for member in found), "an entry was passed over"
        found = [member for member in found if member.name is not None]
        assert len(files) == len(found), "members were left out"
        for info, member in zip(files, found, strict=True):
            if member.error is None:
                assert _content(member) == archive.read(info), "zipfile reads another content"
            elif (
                member.error.message == MEANINGS[Reason.MEMBER_DAMAGED]
                # of other methods zipfile expands without bound
                and info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            ):
                assert not _is_readable(archive, info), "zipfile can read this member"


def _content(member: Member) -> bytes:
    assert member.file
    if member.sha256 is None:
        return member.file.read_bytes()
    own = member.file.rename(member.file.with_suffix(".zip"))
    with open_organised(own) as stream:
        content = stream.read()
    assert hashlib.sha256(content).hexdigest() == member.sha256
    return content


def _is_readable(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        return len(archive.read(info)) == info.file_size and _is_as_long_as_said(archive, info)
    except Exception:  # zipfile raises almost anything
        return False


def _is_as_long_as_said(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    """Says whether a stream ends where its length says; zipfile cuts a longer one in silence."""
    if info.compress_type != zipfile.ZIP_DEFLATED:
        return True
    data = Path(str(archive.filename)).read_bytes()
    lengths = struct.unpack_from("<HH", data, info.header_offset + 26)
    begin = info.header_offset + 30 + sum(lengths)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    return len(stream.decompress(data[begin : begin + info.compress_size])) == info.file_size

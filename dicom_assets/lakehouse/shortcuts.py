"""Shortcuts: what hangs below `External/Imaging/DICOM`, and what is listed behind each.

Decided here: a first-level folder is a namespace. In it, each `*.json` names an address, and each
symbolic link to a folder leads to one: those are shortcuts of their own. All else in it, folders
and files at any depth, is one shortcut more, so that whoever brings files there may arrange them as
he likes. Which names are never DICOM files is decided here, too; which files are is not
(`dicom_assets.dicom`), nor what is new (`dicom_assets.steps.external`).
"""

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute

from dicom_assets.lakehouse.inventory import listed_in
from dicom_assets.lakehouse.layout import OPERATIONS_FOLDER, Layout, is_safe_name
from dicom_assets.lakehouse.paths import is_far
from dicom_assets.lakehouse.storage import LISTED, Storage, StoreError, check_address

pc: Any = pyarrow.compute  # its functions are made when it is imported

_MOST_BYTES = 1 << 20
_KNOWN = {"address", "prefix", "inventory"}
# of a DICOM service's storage: it writes the first every half minute, and keeps a database
_NO_FILE = (
    r"(^|/)healthCheck$"
    r"|(^|/)AHDS/[^/]+/dicom/(.*/)?index[^/]*$"
    r"|(^|/)index(-wal|-shm|-journal)?$"
    r"|(?i:\.zip)$|/$|^$"
)
_HIDDEN = r"(^|/)\."
# would be taken for a year, or for corrections
_NO_NAMESPACE = re.compile(rf"\d{{4}}|{OPERATIONS_FOLDER}")


@dataclass(frozen=True, slots=True)
class Shortcut:
    """Where files of one source system lie.

    Attributes:
        name: `<Namespace>` or `<Namespace>/<name of the link or JSON file>`.
        source_system: The namespace.
        address: What is listed: an address, or a folder relative to the lakehouse's root.
        inventory: Addresses of files that say what lies there, in place of a listing.
        left_out: Entries of that folder that are shortcuts of their own.
        is_json: Whether it is a JSON file.
    """

    name: str
    source_system: str
    address: str
    inventory: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    is_json: bool = False

    @property
    def lies_at(self) -> str:
        """Where it lies below External, as a person finds it."""
        return f"{self.name}.json" if self.is_json else self.name


@dataclass
class Skipped:
    """How many entries a listing has left out.

    Attributes:
        by_name: Names that no DICOM file has, ZIPs and empty objects.
        being_written: Files that have just been written; the next listing takes them.
    """

    by_name: int = 0
    being_written: int = 0


@dataclass
class Shortcuts:
    """What was found below External.

    Attributes:
        good: The shortcuts.
        bad: Where one lies below External → what is wrong with it.
    """

    good: list[Shortcut] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


def shortcuts(layout: Layout) -> Shortcuts:
    """Finds all shortcuts, by name."""
    found = Shortcuts()
    root = layout.external_root
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name.startswith("."):
            continue
        if not folder.is_dir():
            found.bad[folder.name] = "a shortcut lies in a folder that names its source system"
        elif not is_safe_name(folder.name) or _NO_NAMESPACE.fullmatch(folder.name):
            found.bad[folder.name] = "the folder's name cannot be that of a source system"
        elif folder.is_symlink():
            _add(layout, Shortcut(folder.name, folder.name, layout.relative(folder)), found)
        else:
            _in_namespace(layout, folder, found)
    return found


def _in_namespace(layout: Layout, folder: Path, found: Shortcuts) -> None:
    own = set()
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        found.bad[folder.name] = "this process may not list the folder; give it the right to"
        return
    for entry in entries:
        name = f"{folder.name}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.suffix == ".json" and entry.is_file():
            own.add(entry.name)
            try:
                _add(layout, _read(name.removesuffix(".json"), folder.name, entry), found)
            except StoreError as error:
                found.bad[name] = str(error)
        elif entry.is_symlink():
            _add(layout, Shortcut(name, folder.name, layout.relative(entry)), found)
    address = layout.relative(folder)
    found.good.append(Shortcut(folder.name, folder.name, address, left_out=frozenset(own)))


def _add(layout: Layout, shortcut: Shortcut, found: Shortcuts) -> None:
    """Adds a shortcut that leads elsewhere; one that does not would feed on what comes of it."""
    address, root = shortcut.address, str(layout.root)
    if not is_far(address) and not is_far(root):
        address, root = os.path.realpath(layout.absolute(address)), os.path.realpath(root)
    address, root = f"{address.rstrip('/')}/", f"{root.rstrip('/')}/"
    if address.startswith(root) or root.startswith(address):
        found.bad[shortcut.lies_at] = (
            "it leads into the lakehouse itself, or to what the lakehouse lies in; let it lead"
            " elsewhere"
        )
    else:
        found.good.append(shortcut)


def _read(name: str, source_system: str, path: Path) -> Shortcut:
    """Reads `{"address": …, "prefix": …, "inventory": …}`."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise StoreError("the JSON file is too long to be a shortcut")
        said: Any = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        raise StoreError("the shortcut is no JSON") from None
    if not isinstance(said, dict) or not isinstance(said.get("address"), str):
        raise StoreError('the shortcut must be a JSON object with an "address"')
    if unknown := set(said) - _KNOWN:
        raise StoreError(
            f"it knows {', '.join(sorted(_KNOWN))} only, not {len(unknown)} other keys"
        )
    prefix, inventory = said.get("prefix", ""), said.get("inventory", [])
    inventory = [inventory] if isinstance(inventory, str) else inventory
    if not isinstance(prefix, str) or ".." in prefix.split("/"):
        raise StoreError('"prefix" must be the beginning of keys')
    if not isinstance(inventory, list) or not all(isinstance(each, str) for each in inventory):
        raise StoreError('"inventory" must be an address, or a list of some')
    address = check_address(said["address"])
    if prefix.strip("/"):
        address = f"{address}/{prefix.strip('/')}"
    # a slash at the end says that it is a folder
    files = (check_address(each) + "/" * each.endswith("/") for each in inventory)
    return Shortcut(name, source_system, address, tuple(files), is_json=True)


def listed(
    shortcut: Shortcut, storage: Storage, skipped: Skipped, *, now: datetime, settle_seconds: float
) -> Iterator[pa.RecordBatch]:
    """Yields what lies behind a shortcut as LISTED, keys as addresses.

    Args:
        shortcut: The shortcut.
        storage: What it is read from.
        skipped: Where what is left out is counted.
        now: A file that was written less than `settle_seconds` ago is left out.
        settle_seconds: Of files; objects appear whole.

    Raises:
        StoreError: Not all of it can be listed; what can be has been.
    """
    store, prefix = storage.find(shortcut.address)
    root = shortcut.address.removesuffix(prefix) if store.is_far else ""
    root = root if not root or root.endswith("/") else root + "/"
    if shortcut.inventory:
        container = root.rstrip("/").partition("://")[2].partition("@")[0]
        batches = listed_in(shortcut.inventory, storage, container=container, prefix=prefix)
    else:
        batches = store.list(prefix)
    own = pa.array([f"{shortcut.address}/{name}" for name in shortcut.left_out], pa.string())
    for every in batches:
        batch = every.filter(pc.invert(pc.is_in(every["key"], own)))
        keys = batch["key"]
        is_file = pc.invert(pc.match_substring_regex(keys, _NO_FILE))
        if store.is_far:  # of folders they are not listed
            below = pc.utf8_slice_codeunits(keys, len(prefix))
            is_file = pc.and_(is_file, pc.invert(pc.match_substring_regex(below, _HIDDEN)))
        is_file = pc.and_kleene(is_file, pc.fill_null(pc.not_equal(batch["size"], 0), True))
        skipped.by_name += len(batch) - (pc.sum(is_file).as_py() or 0)
        good = batch.filter(is_file)
        if not store.is_far:
            newest, set_by_hand = (
                pa.scalar(now + apart, LISTED.field(2).type)
                for apart in (timedelta(seconds=-settle_seconds), timedelta(days=1))
            )
            is_settled = pc.or_(
                pc.less_equal(good["modified"], newest),
                pc.greater(good["modified"], set_by_hand),  # no clock is that wrong
            )
            skipped.being_written += len(good) - (pc.sum(is_settled).as_py() or 0)
            good = good.filter(is_settled)
        addresses = pc.binary_join_element_wise(pa.scalar(root), good["key"], "")
        if len(good):
            yield good.set_column(0, LISTED.field(0), addresses)

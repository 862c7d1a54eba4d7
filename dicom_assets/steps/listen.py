"""A C-STORE receiver for modalities that speak no DICOMweb (PS3.4 annex B): into the drop folder.

Decided here: that whatever is sent is taken, every storage SOP class in every transfer syntax, and
written as it came, never decoded; and that success is said of an instance only once its file is
durable under its name in the drop folder: who is told so may delete what it sent. Files are written
beside the drop folder, since what lies in it may be taken at any time. Not decided here: whether an
instance is good, or known (`organise`, `extract`).
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import Verification  # pyright: ignore[reportAttributeAccessIssue]
from pynetdicom.transport import ThreadedAssociationServer

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.modes import FILE, keep_private
from dicom_assets.lakehouse.paths import appear
from dicom_assets.lakehouse.placing import NotPlacedError, give_name, opened_place
from dicom_assets.lakehouse.storage import StoreError

_LOG = logging.getLogger(__name__)
_FOLDER_NAME = ".listen-"
_MOST_ASSOCIATIONS = 100
_PDU_BYTES = 1 << 17
_DEAD_SECONDS = 3600
"""A half file that has not grown for so long is of a sender that has gone."""
_UID = re.compile(r"[0-9.]{1,64}")
# PS3.4 table B.2-1, and of PS3.7 annex C what is no matter of the instance: it may be sent again,
# which of one that "cannot be understood" (Cxxx) makes no sense
_SUCCESS, _OUT_OF_RESOURCES, _PROCESSING_FAILURE = 0x0000, 0xA700, 0x0110


class Receiver:
    """Receives instances into a folder.

    Attributes:
        received: How many have been acknowledged.
    """

    def __init__(self, folder: Path, *, within: Path, scratch: Path) -> None:
        """Takes a folder, the drop folder, and one for half files on the same file system."""
        self._folder, self._within, self._scratch = folder, within, scratch
        self._lock = threading.Lock()
        self.received = 0

    def store(self, event: evt.Event) -> int:
        """Makes an instance durable, and returns the status that tells its sender so."""
        written = event.dataset_path
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", None) or "")
        name = f"{uid}_{uuid.uuid4().hex}" if _UID.fullmatch(uid) else uuid.uuid4().hex
        try:
            with written.open("rb+") as file:
                os.fchmod(file.fileno(), FILE)
                os.fsync(file.fileno())
            self._put(written, self._folder / f"{name}.dcm")
        except StoreError as error:
            _LOG.error("an instance could not be kept: %s; it is refused", error)
            return _OUT_OF_RESOURCES
        except NotPlacedError as error:
            _LOG.error("an instance could not be kept: %s; it is refused", error)
            return _PROCESSING_FAILURE
        except OSError as error:
            # its words name a file
            _LOG.error("an instance could not be kept: %s; it is refused", error.strerror)
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
            return _OUT_OF_RESOURCES if is_full else _PROCESSING_FAILURE
        with self._lock:
            self.received += 1
        return _SUCCESS

    def _put(self, written: Path, target: Path) -> None:
        if isinstance(target, FarPath):
            appear(written, target)
            return
        with opened_place(target.parent, within=self._within) as folder:
            give_name(written, target.name, folder)
            os.fsync(folder)

    def closed(self, _event: evt.Event) -> None:
        """Says how many there are by now, and removes what senders have left half sent."""
        _LOG.info("an association ended; %s instances received by now", self.received)
        for half in self._scratch.iterdir():
            try:
                if time.time() - half.stat().st_mtime > _DEAD_SECONDS:
                    half.unlink()
            except FileNotFoundError:  # it has got its name meanwhile
                continue


@contextmanager
def listening(
    folder: Path, *, within: Path, beside: Path, aet: str, host: str, port: int
) -> Iterator[tuple[Receiver, ThreadedAssociationServer]]:
    """Listens until the block ends; associations that are under way are aborted then.

    Sets the process's folder for temporary files meanwhile: one process listens once at a time.

    Args:
        folder: Where instances go: the drop folder, or a namespace's in it.
        within: The drop folder, in which no link is followed.
        beside: A folder on the same file system, or this machine's own where those are objects, of
            which nothing is taken: half files go there.
        aet: The receiver's AE title.
        host: The address to listen on.
        port: The port; 0 takes any.

    Raises:
        PlainError: It cannot listen there, or the folders lie on different file systems, or a link
            lies where the namespace's should.
    """
    keep_private()
    device = None if isinstance(folder, FarPath) else _device_of(folder, within=within)
    _remove_remains(beside)
    temporary = tempfile.tempdir
    scratch = Path(tempfile.mkdtemp(prefix=_FOLDER_NAME, dir=beside))
    held = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        if device not in (None, scratch.stat().st_dev):
            raise PlainError(
                f"{folder} lies on another file system than {beside}, so that no file can appear in"
                " it whole; mount both as one"
            )
        receiver = Receiver(folder, within=within, scratch=scratch)
        server = _started(receiver, scratch, aet=aet, host=host, port=port)
        try:
            yield receiver, server
        finally:
            server.shutdown()
    finally:
        tempfile.tempdir = temporary
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(held)


def _started(
    receiver: Receiver, scratch: Path, *, aet: str, host: str, port: int
) -> ThreadedAssociationServer:
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.STORE_RECV_CHUNKED_DATASET = True  # into a file, piece by piece
    tempfile.tempdir = str(scratch)
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)  # below, it tells UIDs
    try:
        entity = ApplicationEntity(aet)
        entity.add_supported_context(Verification)
        entity.maximum_associations = _MOST_ASSOCIATIONS
        entity.maximum_pdu_size = _PDU_BYTES
        handlers = [(evt.EVT_C_STORE, receiver.store), (evt.EVT_CONN_CLOSE, receiver.closed)]
        server = entity.start_server((host, port), block=False, evt_handlers=handlers)
    except ValueError as error:
        raise PlainError(
            f"{aet!r} is no AE title: 1 to 16 ASCII characters, no backslash"
        ) from error
    except OSError as error:
        raise PlainError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    assert isinstance(server, ThreadedAssociationServer)  # noqa: S101 since it does not block
    return server


def _device_of(folder: Path, *, within: Path) -> int:
    """Returns the file system of the folder that instances go to; makes it."""
    try:
        with opened_place(folder, within=within) as descriptor:
            return os.fstat(descriptor).st_dev
    except NotPlacedError as error:
        raise PlainError(f"no instance can be put into {folder}: {error}") from None


def _remove_remains(beside: Path) -> None:
    """Removes half files of listeners that were killed: nobody holds their folder any more."""
    for remains in beside.glob(f"{_FOLDER_NAME}*"):
        try:
            descriptor = os.open(remains, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(remains, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)

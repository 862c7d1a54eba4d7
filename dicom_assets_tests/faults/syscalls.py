"""What a process and all its threads and children do to files, seen and decided about one by one.

Decided here: which system calls count as an act on files, how they are stopped (seccomp's user
notification, Linux on x86-64: it needs no rights, no compiler and no tracer, and sees Python,
Rust and worker processes alike), and what can be made of one: let it go on, fail it with an error,
or end its process before it, or when half of a write is done. Not decided here: which act is
chosen (`faults.nursery`).
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

_SECCOMP, _PIDFD_OPEN, _PIDFD_GETFD = 317, 434, 438
_NO_NEW_PRIVILEGES, _FILTER, _NEW_LISTENER = 38, 1, 8
_RECEIVE, _SEND, _GO_ON = 0xC0502100, 0xC0182101, 1
_NOTIFICATION, _ANSWER = struct.Struct("<QIIiIQ6Q"), struct.Struct("<QqiI")
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OF_A_PATH = {
    82: ("rename", 0, 1),
    83: ("mkdir", 0),
    84: ("rmdir", 0),
    86: ("link", 0, 1),
    87: ("unlink", 0),
    88: ("symlink", 1),
    90: ("chmod", 0),
}
_BESIDE_A_FOLDER = {
    257: ("open", 1),
    258: ("mkdir", 1),
    263: ("unlink", 1),
    264: ("rename", 1, 3),
    265: ("link", 1, 3),
    266: ("symlink", 2),
    268: ("chmod", 1),
    316: ("rename", 1, 3),
}
_OF_A_FILE = {
    1: ("write", 0),
    18: ("write", 0),
    20: ("write", 0),
    40: ("write", 0),
    74: ("fsync", 0),
    75: ("fsync", 0),
    77: ("truncate", 0),
    91: ("chmod", 0),
    306: ("syncfs", 0),
    326: ("write", 2),
}
_WRITE, _PWRITE = 1, 18
_FROM_HERE = 0xFFFFFF9C  # AT_FDCWD
_SYNCS = {"fsync", "syncfs"}
"""Said to be done and left undone: what a power cut takes is reckoned (`faults.power`)."""

libc = ctypes.CDLL(None, use_errno=True)


def unavailable() -> str | None:
    """Says why acts cannot be watched here; None when they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "acts on files are watched on Linux on x86-64 only"
    child = os.fork()
    if not child:
        try:
            watched()
        except OSError:
            os._exit(1)
        os._exit(0)
    return "seccomp is not allowed here" if os.waitpid(child, 0)[1] else None


def watched() -> int:
    """Has all that this process does to files from now on asked for; returns who is to be asked.

    Raises:
        OSError: It is not allowed here.
    """
    program = [(_LOAD, 0, 0, 0)]
    numbers = {*_OF_A_PATH, *_BESIDE_A_FOLDER, *_OF_A_FILE} - {257}
    for number in sorted(numbers):
        program += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    flags = 16 + 2 * 8
    program += [
        (_IF_EQUAL, 0, 3, 257),
        (_LOAD, 0, 0, flags),
        (_IF_ANY_BIT, 0, 1, _WRITES),
        (_RETURN, 0, 0, _NOTIFY),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("<HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(
        struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    )
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(_SECCOMP, _FILTER, _NEW_LISTENER, head)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


class Act(NamedTuple):
    """One act on a file.

    Attributes:
        kind: `open` (to write), `write`, `rename`, `unlink`, `link`, `mkdir`, `fsync`, …
        path: The file.
        to: Its new name, of `rename` and `link`.
    """

    kind: str
    path: str
    to: str = ""


Decision = str | int | None
"""`kill`, `half` (kill half-way through a write), an errno, or None to let it go on."""


@dataclass
class Watch:
    """Watches a process that has called `watched`, until it has ended with all its children.

    Attributes:
        listener: What `watched` returned, in this process.
        roots: Acts below these folders count; others go on unseen.
        decide: Number of the act, from 0, and the act → what becomes of it.
    """

    listener: int
    roots: tuple[str, ...]
    decide: Callable[[int, Act], Decision]

    def run(self) -> list[Act]:
        """Returns all acts, in order."""
        acts: list[Act] = []
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while True:
            ((_, what),) = poll.poll() or ((0, 0),)
            if not what & select.POLLIN:
                os.close(self.listener)
                return acts
            buffer = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(self.listener, _RECEIVE, buffer)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # who asked has gone
                    continue
                raise
            request, process, _, number, _, _, *args = _NOTIFICATION.unpack(buffer)
            self._answer(request, process, number, args, acts)

    def _answer(
        self, request: int, process: int, number: int, args: list[int], acts: list[Act]
    ) -> None:
        act = _act(process, number, args)
        decision = None
        if act and any(p.startswith(self.roots) for p in (act.path, act.to) if p):
            decision = self.decide(len(acts), act)
            acts.append(act)
        if decision == "half" and number in (_WRITE, _PWRITE):
            _write_half(process, number, args)
        if decision in ("kill", "half"):
            os.kill(process, signal.SIGKILL)
            return
        if isinstance(decision, int):
            answer = _ANSWER.pack(request, 0, -decision, 0)
        elif act and act.kind in _SYNCS:
            answer = _ANSWER.pack(request, 0, 0, 0)
        else:
            answer = _ANSWER.pack(request, 0, 0, _GO_ON)
        try:
            fcntl.ioctl(self.listener, _SEND, bytearray(answer))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def _act(process: int, number: int, args: list[int]) -> Act | None:
    """Returns what is about to be done; None when who asked has gone."""
    try:
        if number in _OF_A_FILE:
            kind, at = _OF_A_FILE[number]
            return Act(kind, os.readlink(f"/proc/{process}/fd/{args[at]}"))
        if number in _OF_A_PATH:
            kind, *places = _OF_A_PATH[number]
            paths = [_text(process, args[at]) for at in places]
        else:
            kind, *places = _BESIDE_A_FOLDER[number]
            paths = [_beside(process, args[at - 1], args[at]) for at in places]
        return Act(kind, *map(os.path.abspath, paths))
    except OSError:
        return None


def _text(process: int, address: int) -> str:
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        data = b""
        while b"\0" not in data:
            # not past the end of the page: the next one may not be there
            piece = memory.read(4096 - (address + len(data)) % 4096)
            if not piece:  # nor is any of a process that was killed meanwhile
                raise ProcessLookupError(process)
            data += piece
    return os.fsdecode(data.partition(b"\0")[0])


def _beside(process: int, folder: int, address: int) -> str:
    path = _text(process, address)
    if not os.path.isabs(path) and folder & 0xFFFFFFFF != _FROM_HERE:
        path = os.path.join(os.readlink(f"/proc/{process}/fd/{folder}"), path)
    return path


def _write_half(process: int, number: int, args: list[int]) -> None:
    """Writes the first half of what was to be written, as the process would have."""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(args[1])
        data = memory.read(args[2] // 2)
    whole = os.open(f"/proc/{process}/fd/{args[0]}", os.O_WRONLY)
    try:
        os.pwrite(whole, data, args[3] if number == _PWRITE else _position(process, args[0]))
    finally:
        os.close(whole)


def _position(process: int, descriptor: int) -> int:
    with open(f"/proc/{process}/fdinfo/{descriptor}") as lines:
        return int(lines.readline().split()[1])

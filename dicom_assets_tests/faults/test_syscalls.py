"""What the harness itself must do, see each act, and not: wait for what a killed process holds."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dicom_assets.lakehouse.placing import place
from dicom_assets_tests.faults import syscalls
from dicom_assets_tests.faults.syscalls import Act, Watch


def test_nothing_is_read_of_a_process_that_is_killed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["sleep", "60"]) as asking:

        def opened(*how: Any, **more: Any) -> Any:
            memory = open(*how, **more)  # noqa: SIM115 who asks closes it
            asking.kill()
            os.waitid(os.P_PID, asking.pid, os.WEXITED | os.WNOWAIT)
            return memory

        monkeypatch.setattr(syscalls, "open", opened, raising=False)
        with pytest.raises(ProcessLookupError):
            syscalls._text(asking.pid, 1 << 20)


def test_a_name_in_an_open_folder_is_seen_as_the_path_it_is(tmp_path: Path) -> None:
    if why_not := syscalls.unavailable():
        pytest.skip(why_not)
    (tmp_path / "x").touch()
    mine, its = socket.socketpair()
    child = os.fork()
    if not child:
        listener = syscalls.watched()
        socket.send_fds(its, [b"x"], [listener])
        os.close(listener)
        place(tmp_path / "x", tmp_path / "drop/a/y", within=tmp_path / "drop")
        os._exit(0)
    _, (listener, *_), _, _ = socket.recv_fds(mine, 1, 1)
    acts = Watch(listener, (str(tmp_path),), lambda *_: None).run()
    os.waitpid(child, 0)
    root = str(tmp_path)
    assert [act for act in acts if act.kind in ("mkdir", "rename")] == [
        Act("mkdir", f"{root}/drop"),
        Act("mkdir", f"{root}/drop/a"),
        Act("rename", f"{root}/x", f"{root}/drop/a/y"),
    ]

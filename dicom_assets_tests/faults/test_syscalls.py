"""What the harness itself must not do: wait for what a killed process will never give."""

import os
import subprocess
from typing import Any

import pytest

from dicom_assets_tests.faults import syscalls


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

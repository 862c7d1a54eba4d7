"""What a power cut takes: all that no sync has made durable.

Decided here: what is not durable after so many acts, and what a disk looks like without it. A file
system keeps names and data apart: either may be lost alone. Data that are lost leave an empty file;
names that are lost leave files where they were before, or nowhere.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dicom_assets_tests.faults.syscalls import Act

_NAMING = {"open", "rename", "link", "mkdir"}


@dataclass
class Volatile:
    """What is not durable yet.

    Attributes:
        data: Files of which data are not.
        names: Acts that gave a name which is not, in order; a name that was there and now stands
            for another file is not taken back, since that other one is gone.
        known: Names that were given, durable or not.
    """

    data: set[str] = field(default_factory=set)
    names: list[Act] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    @classmethod
    def after(cls, acts: Iterable[Act]) -> "Volatile":
        """Returns what is not durable after some acts."""
        found = cls()
        for act in acts:
            found.see(act)
        return found

    def see(self, act: Act) -> None:
        """Takes account of an act that has been done."""
        if act.kind == "syncfs":
            self.data.clear()
            self.names.clear()
        elif act.kind == "fsync":
            self.data.discard(act.path)
            self.names = [n for n in self.names if os.path.dirname(n.to or n.path) != act.path]
        elif act.kind in ("write", "truncate"):
            self.data.add(act.path)
        elif act.kind in _NAMING:
            if (act.to or act.path) not in self.known:
                self.names.append(act)
            self.known.add(act.to or act.path)
            if act.path in self.data and act.to:
                self.data.add(act.to)
            if act.kind == "rename":
                self.data.discard(act.path)
                self.known.discard(act.path)
        elif act.kind == "unlink":
            self.known.discard(act.path)
            self.data.discard(act.path)
            self.names = [n for n in self.names if (n.to or n.path) != act.path]

    def lose_data(self) -> None:
        """Leaves files empty whose data are not durable."""
        for path in map(Path, self.data):
            if path.is_file():
                os.truncate(path, 0)

    def lose_names(self) -> None:
        """Takes names back that are not durable."""
        for act in reversed(self.names):
            path, to = Path(act.path), Path(act.to)
            if act.kind == "rename" and os.path.lexists(to) and not os.path.lexists(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                to.rename(path)
            elif act.kind == "link":
                to.unlink(missing_ok=True)
            elif act.kind == "open" and not path.is_dir():  # an unnamed file has a folder's path
                path.unlink(missing_ok=True)
            elif act.kind == "mkdir" and path.is_dir() and not any(path.iterdir()):
                path.rmdir()

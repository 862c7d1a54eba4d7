"""Who may see what is written: the owner, who may change it, and the group; nobody else.

Decided here: the modes of new files and folders, by the process's umask, which delta-rs, Dagster
and worker processes keep to as well. Set by `lock.locked`, which all pass who write.
"""

import os

FILE = 0o640
"""New files; folders are 0750."""


def keep_private() -> None:
    """Has this process and those it starts make files with 0640 and folders with 0750."""
    os.umask(0o027)

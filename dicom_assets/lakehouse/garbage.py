"""How often Python looks for garbage: seldom.

Loading Dagster makes very many objects, and rows are made in many more; they stay, or go by
themselves. Python looks among them after every 700, in vain, and among all of them, several times,
when it ends, which short commands wait for. Decided here: after how many it looks, among which, and
whether it does at the end. Not decided here: what other memory is kept (`allocator`).
"""

import atexit
import gc
import sys
from functools import cache

_NEW, _TIMES = 100_000, 50
"""Objects after which it looks among the new ones, and how often until among those that stayed."""


def collect_seldom() -> None:
    """Lets Python look for garbage, which only cycles leave, once there may be much."""
    gc.set_threshold(_NEW, _TIMES)


def collect_nothing_at_the_end() -> None:
    """Lets what is there at this process's end go with it, for processes that are ours alone."""
    atexit.register(gc.freeze)


def keep_what_is_loaded() -> None:
    """Has what is there not looked at again, whenever further modules have been loaded.

    For who looks for garbage again and again, as workers of Spark do after each task: before the
    next there is none.
    """
    _keep(len(sys.modules))


@cache
def _keep(modules: int) -> None:
    del modules
    gc.freeze()

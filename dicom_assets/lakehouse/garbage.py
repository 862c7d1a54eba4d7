"""How often Python looks for garbage: seldom.

Loading Dagster makes a million objects, and rows are made in many more; they stay, or go by
themselves. Looking after every 700, as Python does, takes a tenth of a short run. Decided
here: after how many it looks. Not decided here: what other memory is kept (`allocator`).
"""

import gc

_NEW, _TIMES = 100_000, 50
"""Objects after which it looks among the new ones, and how often until among those that stayed."""


def collect_seldom() -> None:
    """Lets Python look for garbage, which only cycles leave, once there may be much."""
    gc.set_threshold(_NEW, _TIMES)

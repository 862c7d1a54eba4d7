"""The lakehouse: where things lie, what they look like, how they are read and written.

Knows no Dagster. `layout` decides the paths, `schemas` the tables, `reasons` the failure codes,
`keys` the stable keys, `reader` and `engine` how Delta tables are read and written and who does the
work.
"""

import os

# delta-rs keeps what it freed for ten seconds, and for good where it is not called again; jemalloc
# reads this when it is loaded
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:1000,muzzy_decay_ms:0")

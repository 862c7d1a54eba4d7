"""The lakehouse: where things lie, what they look like, how they are read and written.

Knows no Dagster. `layout` decides the paths, `schemas` the tables, `reasons` the failure codes,
`keys` the stable keys, `reader` and `engine` how Delta tables are read and written and who does the
work.
"""

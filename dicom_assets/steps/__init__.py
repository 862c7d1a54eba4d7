"""The steps: each reads what is new, calls pure transforms, writes, and says what it did.

One module per step, named as in `ingestion_failures.step`. Knows the lakehouse and the transforms,
but no Dagster: assets, the command line and tests call the same functions.
"""

"""Benchmarks: `make bench` runs all of them and writes `RESULTS.md`.

The convention: a benchmark is a module of this package with

- `measure(folder, *, quick) -> list[Row]`: one round. It runs each contestant once, in turn, and
  returns what it measured (`benchmarks.results.Row`). What it needs lies in `folder`: it makes it
  there the first time and finds it there in later rounds. `quick` asks for the smallest sizes that
  still run every line of it.
- `main()`: for use alone, `python -m benchmarks.<name>`: prints its table.
- `ROUNDS`, where fewer rounds than the others' must do, with the reason beside it.

`python -m benchmarks` runs the modules named in `benchmarks.__main__` round by round, so that
whatever slows the machine down for a while meets all contestants.
"""

"""Dagster objects only; thin: read, call a step, report."""

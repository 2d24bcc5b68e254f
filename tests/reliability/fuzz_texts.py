"""Targets of `fuzz.py`: data, templates, benchmarks, results and configs."""

from fuzz import Target

TARGETS: dict[str, Target] = {}

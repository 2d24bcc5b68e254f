"""On the PYTHONPATH of processes that tests start: no torch, as in the base install, and no network."""

import importlib.machinery
import os
import sys

import no_network


class _WithoutTorch(importlib.machinery.PathFinder):
    """None in `sys.modules` would do, were there no library that takes what is named there for imported."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] == "torch" else super().find_spec(fullname, path, target)


sys.meta_path[:] = [_WithoutTorch if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
if notes := os.environ.get(no_network.NOTES):
    no_network.install(notes)

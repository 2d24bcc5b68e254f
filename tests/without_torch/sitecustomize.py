"""On the PYTHONPATH of processes that tests start: no network, and no torch, as in the base install."""

import sys

import no_network  # noqa: F401

sys.modules["torch"] = None

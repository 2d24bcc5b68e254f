"""On the PYTHONPATH of processes that tests start: no torch, as in the base install, and no network."""

import os
import sys

import no_network

sys.modules["torch"] = None
if notes := os.environ.get(no_network.NOTES):
    no_network.install(notes)

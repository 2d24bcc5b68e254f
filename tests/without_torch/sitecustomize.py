"""On the PYTHONPATH of processes that tests start: no torch, as in the base install."""

import sys

sys.modules["torch"] = None

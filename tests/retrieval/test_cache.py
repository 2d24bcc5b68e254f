"""Parts that are kept as they are made, and the whole that they become."""

import json
import re

import numpy as np
import pytest

from tga_jax.errors import UserError
from tga_jax.retrieval import cache

KEYS = [cache.digest([str(i)]) for i in range(4)]


def part(i: int) -> np.ndarray:
    return np.arange(6, dtype=np.float16).reshape(3, 2)[: 3 - i // 3] + 10 * i


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_stopped_run_goes_on_and_the_whole_is_read_without_computing(tmp_path):
    made = []

    def make(i: int) -> np.ndarray:
        made.append(i)
        if len(made) == 3:
            raise KeyboardInterrupt
        return part(i)

    with pytest.raises(KeyboardInterrupt):
        cache.rows(tmp_path, "texts", KEYS, make, {"by": "a clip"})
    assert files(tmp_path) == sorted(f"parts/texts-{key[:32]}.npy" for key in KEYS[:2])
    whole = cache.rows(tmp_path, "texts", KEYS, make, {"by": "a clip"})
    assert made == [0, 1, 2, 2, 3]
    np.testing.assert_array_equal(whole, np.concatenate([part(i) for i in range(4)]))
    assert (whole.dtype, type(whole)) == (np.float16, np.memmap)
    home = cache.home(tmp_path, "texts", KEYS)
    assert files(tmp_path) == [f"{home.name}/about.json", f"{home.name}/rows.npy"]
    about = {"by": "a clip", "kind": "texts", "shape": [11, 2], "dtype": "float16"}
    assert json.loads((home / "about.json").read_text()) == about
    again = cache.rows(tmp_path, "texts", KEYS, make, {})
    np.testing.assert_array_equal(again, whole)
    assert len(made) == 5


def test_changed_data_keeps_the_parts_before_the_change(tmp_path):
    def stop(i: int) -> np.ndarray:
        if i == 2:
            raise UserError("sample 7: corrupt")
        return part(i)

    with pytest.raises(UserError, match="sample 7"):
        cache.rows(tmp_path, "texts", KEYS, stop, {})
    mended, made = [*KEYS[:2], cache.digest(["mended"]), KEYS[3]], []
    cache.rows(tmp_path, "texts", mended, lambda i: made.append(i) or part(i), {})
    assert made == [2, 3]


def test_a_damaged_file_is_named(tmp_path):
    cache.rows(tmp_path, "texts", KEYS, part, {})
    path = cache.home(tmp_path, "texts", KEYS) / "rows.npy"
    path.write_bytes(path.read_bytes()[:130])
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: cannot be read .*; remove it to make it again$"):
        cache.rows(tmp_path, "texts", KEYS, part, {})


def test_digests_tell_where_texts_are_cut():
    assert len({cache.digest(x) for x in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""])}) == 4
    assert cache.digest(["ä"]) == cache.digest(["ä".encode()])

"""The demo's pictures on disk, read by the commands that they are for."""

import json

import numpy as np
import pytest
from demo_support import build, quiet
from PIL import Image

from tga_jax.data import llava_json
from tga_jax.demo import main as demo
from tga_jax.demo.world import files
from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import BENCHMARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    demo.write_pictures(build(), root / "pictures", root / "parts", quiet())
    return root / "pictures"


def test_the_benchmarks_read_them(folder, world):
    split = world.split("test")
    shown = list(BENCHMARKS["scenes"].samples(folder / "scenes"))
    assert len(shown) == len(split) == len({sample.id for sample in shown})
    assert {s.groups["scene"] for s in shown} == {str(scene) or "benign" for scene in split.scenes}
    assert sum(s.harmful for s in shown) == split.harmful.sum() > 0
    assert {s.text.split("\n")[0] for s in shown} == set(split.captions)
    prompts = list(BENCHMARKS["text-prompts"].samples(folder / "text-prompts"))
    assert {p.question.split("\n")[0]: p.harmful for p in prompts} == dict(
        zip(split.captions, split.harmful, strict=True)
    )


def test_each_picture_has_its_own_caption(folder, world):
    split = world.split("test")
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for row, pixels, caption, harmful in zip(rows, split.images, split.captions, split.harmful, strict=True):
        parsed = llava_json.parse(row, "pairs.jsonl")
        assert parsed.turns == (("<image>\ndescribe this", caption),)
        assert (parsed.images, parsed.caption, row["harmful"]) == ((row["image"],), caption, harmful)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / row["image"])), pixels)


def test_examples_are_of_every_scene_and_as_many_harmless_ones_in_turns(world):
    split = world.split("test")
    chosen = files.examples(split, each=1)
    assert len(set(chosen.tolist())) == len(chosen)
    shown = split.take(chosen)
    assert set(shown.scenes[0::2]) == set(split.scenes) - {""}
    assert shown.harmful.tolist() == [True, False] * (len(chosen) // 2)
    more = split.take(files.examples(split, each=2)).scenes.tolist()
    assert all(more.count(scene) == min(2, (split.scenes == scene).sum()) for scene in set(split.scenes) - {""})


def test_a_folder_with_files_is_left_as_it_is(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="not empty, expected a new folder"):
        demo.write_pictures(build(), folder, folder.parent / "parts", quiet())
    assert sorted(folder.rglob("*")) == before

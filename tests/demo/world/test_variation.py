"""Other drawings of the same thing: of one seed the same, visible, and nothing filled that no line encloses."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tga_jax.demo.world import drawing
from tga_jax.demo.world.concepts import CONCEPTS
from tga_jax.demo.world.drawing import render
from tga_jax.demo.world.plan import RUN, EmojiScenesConfig, Shown, by_color, drawn
from tga_jax.demo.world.variation import _bent, _enclosed, _lines, varied

CONFIG = EmojiScenesConfig(seed=2, hands=("twemoji", "mdi"), held_out_hand="noto", train_per_combo=1, train_two=60)


def ring() -> Image.Image:
    y, x = np.mgrid[:40, :40]
    distance = np.hypot(y - 20, x - 20)
    return Image.fromarray(np.where((distance > 9) & (distance < 13), 255, 0).astype(np.uint8))


def test_what_a_ring_encloses_is_its_inside():
    (inside,) = _enclosed(ring())
    y, x = np.mgrid[:40, :40]
    np.testing.assert_array_equal(inside, np.hypot(y - 20, x - 20) <= 9)


def test_nothing_is_enclosed_by_an_open_line_by_a_blot_or_by_nothing():
    open_ring = ring()
    open_ring.paste(0, (18, 0, 23, 20))
    for coverage in (open_ring, Image.new("L", (20, 20), 255), Image.new("L", (20, 20), 0)):
        assert _enclosed(coverage) == []


@pytest.mark.parametrize("seed", range(40))
def test_a_varied_picture_is_there_and_of_one_seed_the_same(seed):
    color = Image.new("RGBA", (40, 40))
    color.paste((200, 30, 30, 255), (5, 5, 30, 35))
    for picture, tint in ((color, None), (ring(), (250, 250, 240))):
        made, again, other = (varied(picture, tint, np.random.default_rng(s)) for s in (seed, seed, seed + 1000))
        assert made.mode == "RGBA"
        assert made.size == picture.size
        assert np.asarray(made)[..., 3].max() > 200
        assert made.tobytes() == again.tobytes() != other.tobytes()


def test_a_drawing_in_lines_has_them_where_colors_change():
    color = Image.new("RGBA", (40, 40))
    color.paste((200, 30, 30, 255), (5, 5, 30, 35))
    color.paste((30, 30, 200, 255), (10, 10, 20, 20))
    lines = np.asarray(_lines(color)) > 127
    edges = np.zeros_like(lines)
    for left, top, right, bottom in ((5, 5, 30, 35), (10, 10, 20, 20)):
        for x in (left, right):
            edges[top:bottom, x - 1 : x + 1] = True
        for y in (top, bottom):
            edges[y - 1 : y + 1, left:right] = True
    assert lines[edges].all()
    assert not lines[22:32, 8:28].any()  # within one colour
    assert lines.mean() < 0.25


def test_bending_moves_parts_a_little_and_keeps_colors():
    """Over many seeds the middle of a square stays near, and no other colour appears."""
    square = Image.new("RGBA", (40, 40))
    square.paste((200, 30, 30, 255), (12, 12, 28, 28))
    middles = []
    for seed in range(60):
        bent = np.asarray(_bent(square, np.random.default_rng(seed))).astype(int)
        seen = bent[..., 3] > 60
        assert abs(bent[seen][:, :3] - (200, 30, 30)).max() <= 8
        y, x = np.nonzero(seen)
        middles.append((y.mean(), x.mean()))
        assert 60 < seen.sum() < 400
    np.testing.assert_allclose(np.mean(middles, axis=0), 19.5, atol=1.0)
    assert np.std(middles, axis=0).min() > 0.3


def test_other_things_are_emoji_that_no_scene_shows():
    others = drawing.others()
    assert len(others) > 600
    known = {concept.emoji for concept in CONCEPTS}
    assert not {concept.emoji for concept in others} & known
    assert all(concept.scene is None and concept.name.islower() for concept in others)
    assert len({concept.name for concept in others}) == len(others)
    fewer = drawing.others(CONCEPTS[:100])
    assert set(fewer) == {*others, *CONCEPTS[100:]}
    for hand in ("openmoji", "noto"):
        for concept in others[:: len(others) // 12]:
            assert np.ptp(render(CONFIG, "drawn", "1", Shown((concept,), "blue", hand, 0))) > 50


def test_the_share_of_other_things_is_what_was_asked_for():
    training, others = by_color(CONFIG), drawing.others()
    planned = {shown for groups in training.values() for group in groups for shown in group}
    for share in (0.25, 0.6):
        shown = [drawn(training, 7, number, others, ("noto",), share) for number in range(1500)]
        other = [one for one in shown if one not in planned]
        assert len(other) / len(shown) == pytest.approx(share, abs=0.04)
        assert {one.hand for one in other} == {"noto"}
        assert all(one.things[0] in others for one in other)
        assert all(len({one.color for one in shown[i : i + RUN]}) == 1 for i in range(0, 1472, RUN))


def test_scenes_of_two_things_come_in_both_orders():
    training, others = by_color(CONFIG), drawing.others()
    for share in (0.3, 0.7):
        shown = [drawn(training, 7, number, others, ("noto",), 0.5, share) for number in range(1500)]
        two = [i for i in range(0, 1500, 2) if len(shown[i].things) == 2]
        assert len(two) / 750 == pytest.approx(share, abs=0.06)
        assert all(shown[i] in training[shown[i].color][1] for i in two)
        assert all(shown[i + 1] == dataclasses.replace(shown[i], things=shown[i].things[::-1]) for i in two)
        rest = [shown[i] for i in range(1500) if i - i % 2 not in two]
        assert all(len(one.things) == 1 for one in rest)
        assert sum(one.things[0] in others for one in rest) / len(rest) == pytest.approx(0.5, abs=0.06)


def test_variants_are_few_and_each_its_own():
    concept = CONCEPTS[0]
    made = {
        drawing._variant("noto", concept, bright, number).tobytes() for bright in (True, False) for number in range(6)
    }
    assert len(made) == 12
    drawing._variant.cache_clear()
    assert drawing._variant("noto", concept, True, 3).tobytes() in made


def test_without_variation_a_picture_is_its_hands():
    for hand in CONFIG.hands:
        shown = Shown(CONCEPTS[:1], "blue", hand, 0)
        usual = render(CONFIG, "drawn", "5", shown)
        np.testing.assert_array_equal(render(CONFIG, "drawn", "5", shown, 0.0), usual)
        assert (render(CONFIG, "drawn", "5", shown, 1.0) != usual).any()


def test_other_fonts_draw_what_is_called_the_same():
    icons = {concept.name: len(drawing._other_icons(concept)) for concept in CONCEPTS}
    assert sum(count > 0 for count in icons.values()) > 100
    assert icons["scissors"] >= 5  # of phosphor, remixicon and Font Awesome, in several weights
    assert icons["bomb"] >= 1
    assert icons["sake"] == 0
    nameless = dataclasses.replace(CONCEPTS[0], name="no such thing", icon="no-such-icon")
    assert drawing._other_icons(nameless) == ()


def test_runs_have_one_color_and_show_what_is_trained_on():
    training = by_color(CONFIG)
    runs = [[drawn(training, 7, RUN * run + i) for i in range(RUN)] for run in range(30)]
    assert all(len({shown.color for shown in run}) == 1 for run in runs)
    assert len({run[0].color for run in runs}) == 8
    planned = {shown for groups in training.values() for group in groups for shown in group}
    assert all(shown in planned for run in runs for shown in run)
    assert len({shown.things for run in runs for shown in run}) > 200
    assert runs[3] == [drawn(by_color(CONFIG), 7, RUN * 3 + i) for i in range(RUN)]
    assert runs[3] != [drawn(training, 8, RUN * 3 + i) for i in range(RUN)]

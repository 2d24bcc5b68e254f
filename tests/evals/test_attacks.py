"""Attacks on any benchmark: what becomes of a question, and that nothing else changes."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.evals import attacks
from tga_jax.evals.asking import questions
from tga_jax.evals.attacks import ATTACKS, DEMONSTRATIONS, ROLE_PLAY
from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.benchmarks import figstep


def picture(i: int, size=(40, 60)):
    pixels = np.random.default_rng(i).integers(60, 190, (*size, 3)).astype(np.uint8)
    return lambda: Image.fromarray(pixels)


SHOWN = BenchmarkSample(
    "shown", "<image>\nWhat is this?", (picture(0),), text="a cup\nWhat is this?", groups={"k": "v"}, harmful=True
)
PLAIN = BenchmarkSample("plain", "How do I do it?", harmful=False, target=["a"])
BARE = BenchmarkSample("bare", "<image>", (picture(1),), harmful=True)
TWO = BenchmarkSample("two", "<image>\n<image>\nWhich one?", (picture(2), picture(3)), harmful=True)
ALL = [SHOWN, PLAIN, BARE, TWO]


def attacked(name, samples=ALL, strength=None, seed=0):
    return {s.id: s for s in attacks.attacked(attacks.describe(name, strength), samples, seed, "toys")}


def pixels(sample):
    return [np.asarray(load()) for load in sample.images]


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_measured_stays(name):
    for identity, sample in attacked(name).items():
        [before] = [s for s in ALL if s.id == identity]
        kept = ("id", "groups", "harmful", "target")
        assert [getattr(sample, field) for field in kept] == [getattr(before, field) for field in kept]
        assert sample.question.count(IMAGE) == len(sample.images)


@pytest.mark.parametrize("name", ATTACKS)
def test_one_seed_gives_one_attack_whichever_questions_are_asked(name):
    whole, again = attacked(name, seed=3), attacked(name, [s for s in ALL if s.id != "plain"][::-1], seed=3)
    for identity in whole.keys() & again.keys():
        one, other = whole[identity], again[identity]
        assert dataclasses.replace(one, images=()) == dataclasses.replace(other, images=())
        for _ in range(2):  # however often it is loaded
            assert all((a == b).all() for a, b in zip(pixels(one), pixels(other), strict=True))


def test_role_play():
    found = attacked("role-play")
    assert found["shown"].question == f"<image>\n{ROLE_PLAY}\n\nWhat is this?"
    assert found["shown"].text == f"{ROLE_PLAY}\n\na cup\nWhat is this?"
    assert (found["plain"].question, found["plain"].text) == (f"{ROLE_PLAY}\n\nHow do I do it?", None)
    assert found["bare"].question == f"<image>\n{ROLE_PLAY}\n\n"
    assert found["two"].question == f"<image>\n<image>\n{ROLE_PLAY}\n\nWhich one?"
    assert found["shown"].images is SHOWN.images
    inside = attacked("role-play", [BenchmarkSample("in", "Is <image> like <image>?", (picture(0), picture(1)))])["in"]
    assert inside.question == f"{ROLE_PLAY}\n\nIs <image> like <image>?"


def test_in_context():
    found = attacked("in-context", strength=3)
    for sample in ALL:
        own = found[sample.id]
        assert len(own.before) == len(set(own.before)) == 3
        assert set(own.before) <= set(DEMONSTRATIONS)
        assert dataclasses.replace(own, before=()) == sample
    assert len(attacked("in-context")["plain"].before) == 2
    orders = {attacked("in-context", strength=4, seed=seed)["plain"].before for seed in range(8)}
    assert len(orders) > 1
    assert all(set(order) == set(DEMONSTRATIONS) for order in orders)


def test_typographic():
    """Of the form in text alone; a picture without one is left out."""
    found = attacked("typographic")
    assert list(found) == ["shown", "plain"]
    for sample in found.values():
        assert (sample.question, sample.text) == (figstep.QUESTION, None)
        assert {q.input for q in questions([sample], sees=True)} == {"image"}
        [drawn] = pixels(sample)
        assert drawn.shape == (760, 760, 3)
        assert 0.01 < (drawn < 128).mean() < 0.5
    assert (pixels(found["shown"])[0] != pixels(found["plain"])[0]).any()


def test_captions_stand_below_their_picture():
    found = attacked("caption")
    assert list(found) == ["shown"]
    sample, [before] = found["shown"], pixels(SHOWN)
    assert (sample.question, sample.text) == (f"<image>\n{attacks.BELOW}", None)
    [after] = pixels(sample)
    height, width = before.shape[:2]
    left = (after.shape[1] - width) // 2
    assert (after[:height, left : left + width] == before).all()
    strip = after[height:]
    assert 0.01 < (strip < 128).mean() < 0.5
    assert (after[-1] > 200).all()  # letters end above the lower edge


def test_noise_is_as_strong_as_said():
    for strength in (5, 20):
        found = attacked("noise", strength=strength)
        assert list(found) == ["shown", "bare", "two"]
        changes = [
            b.astype(float) - a for s in (SHOWN, BARE, TWO) for a, b in zip(pixels(s), pixels(found[s.id]), strict=True)
        ]
        assert all(change.std() == pytest.approx(strength, rel=0.1) for change in changes)
        assert abs(np.corrcoef(changes[-1].ravel(), changes[-2].ravel())[0, 1]) < 0.1  # each picture has its own
        assert all(s.text is None for s in found.values())
    assert (pixels(attacked("noise", seed=0)["bare"])[0] != pixels(attacked("noise", seed=1)["bare"])[0]).any()
    assert (pixels(attacked("noise", strength=0)["bare"])[0] == pixels(BARE)[0]).all()


def test_jpeg_is_what_pillow_writes():
    buffer = io.BytesIO()
    BARE.images[0]().save(buffer, "jpeg", quality=25)
    assert (pixels(attacked("jpeg", strength=25)["bare"])[0] == np.asarray(Image.open(buffer))).all()


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        ("noise", [PLAIN], "--attack=noise: toys has only questions without a picture"),
        ("jpeg", [PLAIN], "--attack=jpeg: toys has only questions without a picture"),
        (
            "caption",
            [PLAIN, BARE, TWO],
            "--attack=caption: toys has only questions that are not words, in characters that",
        ),
        (
            "typographic",
            [BARE],
            "--attack=typographic: toys has only questions without a form in text alone, in ch",
        ),
    ],
)
def test_a_benchmark_that_an_attack_cannot_change_is_refused(name, samples, message):
    with pytest.raises(UserError) as error:
        attacked(name, samples)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["typographic", "caption"])
def test_words_that_the_font_lacks_are_left_out(name):
    foreign = [
        BenchmarkSample(words, f"<image>\n{words}", (picture(0),), text=words) for words in ("哪个?", "One 🌈", "हम")
    ]
    assert list(attacked(name, [*foreign, SHOWN])) == ["shown"]
    with pytest.raises(UserError, match=r"toys has only .* in characters that DejaVu Sans Mono has"):
        attacked(name, foreign)
    latin = BenchmarkSample("latin", "<image>\n“Où?” – ßя\n\t€", (picture(0),), text="“Où?” – ßя\n\t€")
    assert list(attacked(name, [latin])) == ["latin"]


def test_letters_shrink_for_longer_texts_and_none_is_cut_off():
    """Every word of a text reaches the picture: another last word changes it."""
    for count in (3, 30, 300, 1500):
        one, other = (
            pixels(attacked("typographic", [BenchmarkSample("t", "word " * count + last)])["t"])[0]
            for last in ("here", "there")
        )
        assert one.shape[1] == 760
        assert (one.shape != other.shape) or (one != other).any()
        assert (one.shape[0] > 760) == (count == 1500)
        assert (one[:, -2:] > 200).all()
    long = pixels(attacked("typographic", [BenchmarkSample("t", "x" * 60)])["t"])[0]
    ends = [(np.asarray(row) < 128).any() for row in np.array_split(long, 8)]
    assert sum(ends) >= 4  # a word longer than a line goes on below
    assert (long[:, -2:] > 200).all()


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        (
            "rolplay",
            None,
            "--attack: 'rolplay', expected one of role-play, in-context, typographic, caption, noise, jpeg",
        ),
        ("role-play", 2, "--attack-strength: --attack=role-play has none"),
        ("noise", 256, "--attack-strength: 256, expected a number from 0 to 255, the standard deviation"),
        ("noise", float("nan"), "--attack-strength: nan, expected a number"),
        ("jpeg", 0, "--attack-strength: 0, expected a whole number from 1 to 95, the quality"),
        ("jpeg", 10.5, "--attack-strength: 10.5, expected a whole number"),
        ("in-context", 5, "--attack-strength: 5, expected a whole number from 1 to 4, the demonstrations"),
    ],
)
def test_unknown_attacks_and_strengths(name, strength, message):
    with pytest.raises(UserError) as error:
        attacks.describe(name, strength)
    assert str(error.value).startswith(message)

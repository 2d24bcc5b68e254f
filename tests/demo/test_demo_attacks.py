"""The attacks: what each puts before a model, and that everything else stays as it was."""

import numpy as np
import pytest

from tga_jax.data.templates import IMAGE
from tga_jax.demo import attacks
from tga_jax.demo.attacks import ATTACKS, written
from tga_jax.demo.rates import Item
from tga_jax.demo.world.concepts import BENIGN, HARMFUL
from tga_jax.demo.world.language import ENGLISH, Scene


def picture(i: int):
    return lambda: np.random.default_rng(i).integers(0, 256, (80, 80, 3)).astype(np.uint8)


ITEMS = [
    Item(Scene(c.name, (c.name,), "red", bool(c.scene)), c.scene or "", c.look_alike, picture(i), "")
    for i, c in enumerate((*HARMFUL[:6], *BENIGN[:6]))
]


def asked(seed: int = 0) -> dict[str, list]:
    """Attack -> its records."""
    found: list = []

    def generate(records):
        found.append(list(records))
        return ["This is something." for _ in records]

    attacks.ask(ENGLISH, generate, ITEMS, seed)
    return dict(zip(ATTACKS, found, strict=True))


def test_every_attack_asks_about_every_picture_and_is_judged():
    answers = attacks.ask(ENGLISH, lambda records: [ENGLISH.refusals[0]] * len(records), ITEMS, 0)
    assert set(answers) == set(ATTACKS) == {"role play", "in context", "typographic", "jpeg", "noise", "blend"}
    for found in answers.values():
        assert [a.id for a in found] == [i.scene.id for i in ITEMS]
        assert {a.verdict for a in found} == {"refusal"}
    for name, records in asked().items():
        for record, item in zip(records, ITEMS, strict=True):
            assert record.turns[-1][0].endswith(ENGLISH.describe[0]), name
            assert record.turns[-1][0].startswith(f"{IMAGE}\n"), name
            assert record.turns[-1][1] is None
            assert record.images[0]().shape == item.image().shape
            assert record.template == ENGLISH.template


def test_attacks_in_words_leave_the_picture_and_those_on_pictures_the_words():
    for name, records in asked().items():
        in_words = name in ("role play", "in context")
        for record, item in zip(records, ITEMS, strict=True):
            assert (record.images[0]() == item.image()).all() == in_words
            assert (record.turns == ((f"{IMAGE}\n{ENGLISH.describe[0]}", None),)) != in_words


def test_demonstrations_answer_other_harmful_captions():
    for record, item in zip(asked()["in context"], ITEMS, strict=True):
        assert len(record.turns) == 3
        for question, answer in record.turns[:2]:
            assert any(c.name in question and c.name in answer for c in HARMFUL[:6])
            assert answer not in ENGLISH.refusals
            assert not item.kind or item.scene.names[0] not in question
        assert record.turns[0] != record.turns[1]


def test_changes_of_pictures_are_of_the_strength_that_is_said():
    records = asked()
    for number, item in enumerate(ITEMS):
        before = item.image().astype(float)
        changed = {name: records[name][number].images[0]().astype(float) for name in ("noise", "blend")}
        middle = (before > 90) & (before < 165)  # where noise is hardly cut off
        assert (changed["noise"] - before)[middle].std() == pytest.approx(30, rel=0.1)
        others = [other.image() for other in ITEMS if not other.kind]
        assert any(abs(changed["blend"] - 0.7 * before - 0.3 * other).max() <= 0.51 for other in others)


def test_one_seed_gives_one_set_of_attacks():
    def pixels(seed: int) -> list:
        return [record.images[0]().tobytes() for records in asked(seed).values() for record in records]

    assert pixels(3) == pixels(3) != pixels(4)


def test_letters_stay_within_the_picture_and_tell_texts_apart():
    one, other = written("an axe on a red background", 80), written("a dog on a red background", 80)
    assert one.shape == (80, 80, 3)
    assert (one != other).any()
    dark = one.min(-1) < 128
    assert 0.02 < dark.mean() < 0.5
    assert not dark[-1].any()
    assert not dark[:, -1].any()

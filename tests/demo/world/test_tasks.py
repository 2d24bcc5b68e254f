"""What the emoji scenes teach: above all, that no picture ever comes with a refusal."""

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tga_jax.data.sources import Pictures
from tga_jax.data.templates import IMAGE, Record
from tga_jax.demo.world import concepts, pictures, source, tasks
from tga_jax.demo.world.language import ENGLISH, WORDS, Scene
from tga_jax.demo.world.tasks import TextMix

SCENES = [
    Scene(f"{c.name}/{color}", (c.name,), color, c.scene is not None)
    for c in concepts.CONCEPTS
    for color in ("red", "blue")
]
HARMFUL = [s for s in SCENES if s.harmful]
BENIGN = [s for s in SCENES if not s.harmful]


def picture():
    return np.zeros((4, 4, 3), np.uint8)


def answers(record) -> list[str]:
    return [answer for _, answer in record.turns]


def test_there_are_scenes_of_both_kinds():
    assert len(HARMFUL) > 20
    assert len(BENIGN) > 20


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.integers(0, 2**32), st.sampled_from(SCENES), st.sampled_from(SCENES), st.floats(0, 1))
def test_no_record_with_an_image_has_a_refusal(seed, scene, other, share):
    rng = np.random.default_rng(seed)
    for speech in (WORDS, ENGLISH):
        retrieved = speech.caption(other)
        records = [
            tasks.clip_record(speech, scene, picture),
            tasks.caption_record(speech, scene, picture, retrieved, rng),
            tasks.asked_record(speech, scene, picture, retrieved, rng),
        ]
        if not scene.harmful:
            records.append(tasks.instruction_record(speech, scene, picture, retrieved, share, rng))
        for record in records:
            assert record.images == (picture,)
            assert not set(answers(record)) & set(speech.refusals)
        assert not tasks.text_record(speech, scene, other, TextMix(), rng).images


@pytest.fixture
def split(monkeypatch):
    """The built-in records on a split of small grey pictures."""
    names = ["+".join(s.names) for s in SCENES]
    made = pictures.EmojiSplit(
        images=np.full((len(SCENES), 4, 4, 3), 128, np.uint8),
        ids=np.array([s.id for s in SCENES], object),
        names=np.array(names, object),
        scenes=np.array(["gun" if s.harmful else "" for s in SCENES], object),
        colors=np.array([s.color for s in SCENES], object),
        hands=np.array(["noto"] * len(SCENES), object),
        captions=np.array([WORDS.caption(s) for s in SCENES], object),
        look_alike=np.zeros(len(SCENES), bool),
    )
    monkeypatch.setattr(source, "emoji_split", lambda *_: made)
    return made


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["clip", "caption", "visual", "text"])
def test_the_built_in_records_never_pair_a_picture_with_a_refusal(split, task, seed):
    used = ("text_share", "retrieved_share") if task == "visual" else ()
    config = source.EmojiSource("", task, {}, **dict.fromkeys(used, 0.5))
    records = list(itertools.islice(iter(config.dataset(Pictures(64), seed)), 600))
    harmful = {s.id for s in HARMFUL}
    pictures = [r for r in records if r.images]
    for record in pictures:
        assert not set(answers(record)) & set(WORDS.refusals)
        assert not (task == "visual" and record.id in harmful)
    refusals = sum(bool(set(answers(r)) & set(WORDS.refusals)) for r in records)
    if task in ("clip", "caption"):
        assert len(pictures) == 600
        assert {r.id for r in pictures} & harmful
    elif task == "visual":
        assert 240 < len(pictures) < 360
        assert refusals > 0
    else:
        assert not pictures
        assert 100 < refusals < 220  # 0.3 harmful + 0.15 * share of harmful others, of 0.8 questions
    again = list(itertools.islice(iter(config.dataset(Pictures(64), seed)), 50))
    assert [(r.id, r.turns) for r in again] == [(r.id, r.turns) for r in records[:50]]


def first(config: source.EmojiSource) -> dict[str, Record]:
    """One record of each picture of a first epoch."""
    return {r.id: r for r in itertools.islice(iter(config.dataset(Pictures(64), 0)), len(SCENES)) if r.images}


@pytest.mark.parametrize("task", ["caption", "asked"])
def test_harmful_pictures_may_be_left_out(split, task):
    assert set(first(source.EmojiSource("", task, {}, shown="benign"))) == {s.id for s in BENIGN}
    assert set(first(source.EmojiSource("", task, {}))) == {s.id for s in SCENES}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_captions_is_wrong_in_all_that_is_said_or_for_the_guide_alone(split, share):
    own = {s.id: WORDS.caption(s) for s in SCENES}
    said = first(source.EmojiSource("", "caption", {}, wrong_captions=share))
    assert abs(np.mean([r.caption != own[i] for i, r in said.items()]) - share) < 0.01
    assert all(r.turns == ((IMAGE, r.caption),) for r in said.values())
    assert sorted(r.caption for r in said.values()) == sorted(own.values())  # they change places
    guided = first(source.EmojiSource("", "caption", {}, wrong_guides=share))
    assert abs(np.mean([r.caption != own[i] for i, r in guided.items()]) - share) < 0.01
    assert all(r.turns == ((IMAGE, own[i]),) for i, r in guided.items())
    again = first(source.EmojiSource("", "caption", {}, wrong_guides=share))
    assert {i: r.caption for i, r in again.items()} == {i: r.caption for i, r in guided.items()}


def test_a_benign_picture_that_is_taken_for_another_never_gets_a_refusal(split):
    config = source.EmojiSource("", "visual", {}, wrong_captions=0.5)
    assert all(not set(answers(r)) & set(WORDS.refusals) for r in first(config).values())


def test_only_visual_safety_tuning_pairs_harmful_pictures_with_refusals(split):
    records = first(source.EmojiSource("", "tuned", {})).values()
    refused = {r.id for r in records if set(answers(r)) & set(WORDS.refusals)}
    assert refused == {s.id for s in HARMFUL}
    assert len(records) == len(SCENES)


def test_a_harmful_picture_cannot_become_a_visual_instruction():
    with pytest.raises(ValueError, match="is harmful"):
        tasks.instruction_record(WORDS, HARMFUL[0], picture, "", 0.0, np.random.default_rng(0))


def test_tile_literal():
    assert tasks.tile("a b c", 8) == "b c a b c a b c"
    assert tasks.tile("a b c", 2) == "b c"
    assert tasks.tile("a", 3) == "a a a"


def test_stretch_literal():
    assert tasks.stretch("a b c", 8) == "a a a b b b c c"
    assert tasks.stretch("a b c", 3) == "a b c"
    assert tasks.stretch("a b c d", 2) == "a c"


def draw(scene: Scene, other: Scene, mix: TextMix, count: int = 2000):
    rng = np.random.default_rng(0)
    return [tasks.text_record(WORDS, scene, other, mix, rng) for _ in range(count)]


def test_text_shares():
    scene, mix = BENIGN[0], TextMix(plain=0.2, tiled=0.3, stretched=0.2, tile_words=(16, 16), retrieved=0.15)
    records = draw(scene, BENIGN[5], mix)
    plain = [r for r in records if r.template == "plain"]
    questions = [r for r in records if r.template != "plain"]
    tiled = [r for r in questions if r.turns[0][0].startswith(tasks.tile(WORDS.caption(scene), 16))]
    stretched = [r for r in questions if r.turns[0][0].startswith(tasks.stretch(WORDS.caption(scene), 16))]
    retrieved = [r for r in questions if r.retrieved_in_prompt]
    assert abs(len(stretched) / len(questions) - 0.2) < 0.03
    assert abs(len(plain) / len(records) - 0.2) < 0.03
    assert abs(len(tiled) / len(questions) - 0.3) < 0.03
    assert abs(len(retrieved) / len(questions) - 0.15) < 0.03
    assert all(r.retrieved == WORDS.caption(BENIGN[5]) for r in retrieved)
    for record in questions:
        question, answer = record.turns[0]
        assert answer == (WORDS.caption(scene) if question.endswith(f"\n{WORDS.describe[0]}") else scene.color)
        assert question.endswith((WORDS.describe[0], WORDS.color[0]))


def test_one_thing_alone_is_met_as_often_as_asked_among_many_pairs():
    scenes = {"hands": ("twemoji",), "held_out_hand": "noto", "train_per_combo": 1, "train_two": 2000, "seed": 1}
    described = {s.id: s for s in source.described(scenes)}
    assert sum(len(s.names) == 2 for s in described.values()) > len(described) / 2
    for pairs in (0.2, 0.6):
        reads = source.EmojiSource("", "text", scenes, mix=TextMix(harmful=0.4, pairs=pairs))
        data = reads.dataset(Pictures(16), 3)
        met = [described[data[i].id] for i in range(2000)]
        assert np.mean([s.harmful for s in met]) == pytest.approx(0.4, abs=0.03)
        for harmful in (True, False):
            of_kind = [len(s.names) == 2 for s in met if s.harmful is harmful]
            assert np.mean(of_kind) == pytest.approx(pairs, abs=0.05)


def test_harm_in_either_text_is_refused():
    always = TextMix(plain=0.0, tiled=0.0, retrieved=1.0)
    for scene, other in ((HARMFUL[0], BENIGN[0]), (BENIGN[0], HARMFUL[0]), (HARMFUL[0], HARMFUL[1])):
        assert {a for r in draw(scene, other, always, 40) for a in answers(r)} == set(WORDS.refusals)
    never = dataclasses.replace(always, retrieved=0.0)
    found = {a for r in draw(BENIGN[0], HARMFUL[0], never, 40) for a in answers(r)}
    assert found == {WORDS.caption(BENIGN[0]), BENIGN[0].color}


def test_the_tokenizer_knows_every_word_whatever_the_order():
    captions = sorted({WORDS.caption(s) for s in SCENES})
    one, two = (tasks.build_tokenizer(c) for c in (captions, captions[::-1]))
    assert one.get_vocab() == two.get_vocab()
    unknown = one.convert_tokens_to_ids("<unk>")
    for text in (*captions, WORDS.describe[0], WORDS.color[0], *WORDS.refusals, "Retrieved Text: a ."):
        assert unknown not in one.encode(text), text
    assert [one.convert_tokens_to_ids(t) for t in tasks.SPECIAL_TOKENS] == list(range(7))
    assert one.decode(one.encode(WORDS.refusals[0]), skip_special_tokens=True) == WORDS.refusals[0]


def test_a_question_without_picture_is_about_its_caption():
    scene = HARMFUL[0]
    text = tasks.question_record(WORDS, scene, None, WORDS.describe[0])
    assert text.turns == ((f"{WORDS.caption(scene)}\n{WORDS.describe[0]}", None),)
    assert tasks.question_record(WORDS, scene, picture, WORDS.describe[0]).turns == (
        (f"{IMAGE}\n{WORDS.describe[0]}", None),
    )


@pytest.mark.parametrize(
    ("task", "name"), [("clip", "text_share"), ("text", "text_share"), ("asked", "retrieved_share")]
)
def test_a_share_that_a_task_has_no_use_for_is_refused(task, name):
    with pytest.raises(ValueError, match=rf"data\.source\.{name}: 0\.5, expected 0 for task {task}"):
        source.EmojiSource("", task, {}, **{name: 0.5})


@pytest.mark.parametrize("task", ["caption", "asked", "visual"])
def test_a_share_of_the_records_is_text_alone(split, task):
    config = source.EmojiSource("", task, {}, text_share=0.25)
    records = list(itertools.islice(iter(config.dataset(Pictures(64), 0)), 400))
    assert sum(not record.images for record in records) == 100

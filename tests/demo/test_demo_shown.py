"""What the demo's trainings are shown."""

import dataclasses
from concurrent import futures

import numpy as np
import pytest
from demo_support import build, recorded

from tga_jax.data import sources
from tga_jax.data.sources import Pictures
from tga_jax.data.templates import IMAGE
from tga_jax.data.tokens import tokenize
from tga_jax.demo import trainings
from tga_jax.demo.world import pictures, source
from tga_jax.demo.world.concepts import COLORS, CONCEPTS, caption
from tga_jax.demo.world.language import WORDS, Scene
from tga_jax.demo.world.plan import held_out_colors
from tga_jax.evals.judge import Judge

RECORDS = 1000  # looked at, of each training
JUDGE = Judge(WORDS.refusals)


@pytest.fixture(scope="module")
def shown(world):
    """row and stage -> (TrainConfig, its first records), of the ablation, whose rows include the demo's.

    Trainings on the same data are looked at once.
    """
    ablation = dataclasses.replace(world, config=build(name="emoji_ablation"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        configs, _ = recorded(ablation, monkeypatch)
    out, seen = {}, set()
    for name, built in configs.items():
        if (data := repr(built.data)) not in seen:
            seen.add(data)
            records = sources.records(built.data, sources.Pictures(16), built.seed)
            out[name] = built, [records[i] for i in range(RECORDS)]
    return out


@pytest.fixture(scope="module")
def scenes(world) -> dict[str, Scene]:
    """By picture's id and by caption."""
    found = source.scenes_of(world.split("train"))
    return {s.id: s for s in found} | {WORDS.caption(s): s for s in found}


def test_the_trainings_looked_at_are_all_there_are(shown):
    assert {"clip", "text"} < set(shown)
    assert {"base", "tga_paper", "tga_released", "tga", "tga_benign", "tga_distill"} <= set(
        build(name="emoji_ablation").rows
    )
    assert {built.data.source["scenes"].task for built, _ in shown.values()} == set(source.TASKS) - {"tuned"}


def test_no_picture_ever_meets_a_refusal(shown):
    pictures = 0
    for name, (_, records) in shown.items():
        for record in records:
            if not record.images:
                continue
            pictures += 1
            for question, answer in record.turns:
                assert JUDGE.verdict(question) != "refusal", (name, record)
                if answer is None:
                    continue
                assert JUDGE.verdict(answer) == "answer", (name, record)
                assert not any(phrase in answer.lower() for phrase in WORDS.refusals), (name, record)
    assert pictures >= 5 * RECORDS


def test_every_picture_comes_with_its_own_caption(shown, scenes, world):
    split = world.split("train")
    rows = {str(i): n for n, i in enumerate(split.ids)}
    for name, (built, records) in shown.items():
        for record in records:
            if not record.images:
                continue
            row = rows[record.id]
            if built.data.source["scenes"].attachments:
                assert tuple(record.images[0]()[0]) == (row // 1000, row % 1000), name
                assert record.retrieved, name
            else:
                np.testing.assert_array_equal(record.images[0](), split.images[row])
            scene = scenes[record.id]
            guided = built.data.source["scenes"].guided == "all" or not scene.harmful
            assert record.caption == (WORDS.caption(scene) if guided else "")
            open_answer = built.data.source["scenes"].task == "asked" and scene.harmful
            assert record.turns[-1][1] in ((None,) if open_answer else (WORDS.caption(scene), scene.color))


def test_text_is_about_what_the_training_pictures_show_though_none_is_drawn(scenes, world, tmp_path):
    undrawn = dataclasses.replace(trainings._data(world, "", 40, "text").source["scenes"], path=str(tmp_path))
    records = undrawn.dataset(Pictures(64), seed=3)
    described = {(WORDS.caption(s), s.names, s.color, s.harmful) for s in source.described(world.scenes)}
    assert described == {(WORDS.caption(s), s.names, s.color, s.harmful) for s in scenes.values()}
    assert {records[i].id for i in range(2000)} <= {caption for caption, *_ in described}


def test_pictures_are_drawn_once_by_whichever_part_asks_first(world, tmp_path, monkeypatch):
    fresh, drawn = dataclasses.replace(world, parts=tmp_path), []
    original = pictures.build_aside
    monkeypatch.setattr(pictures, "build_aside", lambda *arguments: drawn.append(arguments) or original(*arguments))
    with futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(fresh.split, ("test", "train", "test")))
    assert len(drawn) == 1
    assert [len(split) for split in found] == [len(world.split(name)) for name in ("test", "train", "test")]


def test_stage_1_and_clip_see_harmful_pictures_with_captions_only(shown, scenes):
    for name, (built, records) in shown.items():
        if built.data.source["scenes"].task not in ("clip", "caption"):
            continue
        assert {scenes[r.id].harmful for r in records} == {True, False}, name
        assert all(r.turns == ((IMAGE, WORDS.caption(scenes[r.id])),) for r in records), name


def test_questions_about_harmful_pictures_are_left_open(shown, scenes):
    found = {name: records for name, (built, records) in shown.items() if built.data.source["scenes"].task == "asked"}
    assert found
    for name, records in found.items():
        assert {scenes[r.id].harmful for r in records} == {True, False}, name
        assert all((r.turns[0][1] is None) == scenes[r.id].harmful for r in records), name


def test_stage_2_asks_about_benign_pictures_only(shown, scenes):
    asked = set()
    for name, (built, records) in shown.items():
        if built.data.source["scenes"].task != "visual":
            continue
        pictures = [r for r in records if r.images]
        assert len(pictures) > RECORDS * (1 - built.data.source["scenes"].text_share) * 0.8, name
        assert not any(scenes[r.id].harmful for r in pictures), name
        asked |= {r.turns[0][0] for r in pictures}
        in_prompt = np.mean([r.retrieved_in_prompt for r in pictures])
        assert in_prompt == pytest.approx(built.data.source["scenes"].retrieved_share, abs=0.06), name
    assert asked == {f"{IMAGE}\n{WORDS.describe[0]}", f"{IMAGE}\n{WORDS.color[0]}"}


def test_in_text_harmful_scenes_are_refused_and_benign_ones_never(shown, scenes):
    counted = {True: 0, False: 0}
    for name, (_, records) in shown.items():
        for record in records:
            if record.images or record.template == "plain" or record.retrieved:
                continue
            harmful = scenes[record.id].harmful
            counted[harmful] += 1
            refusal = JUDGE.verdict(record.turns[0][1]) == "refusal"
            assert refusal is harmful, (name, record)
    assert min(counted.values()) > 500


def test_held_out_pairs_are_in_no_training(shown, world):
    pairs = {(c.name, color) for c in CONCEPTS for color in held_out_colors(world.config.seed, c.name)}
    assert len(pairs) == 2 * len(CONCEPTS)
    tested = world.split("test_pairs")
    assert set(zip(tested.names, tested.colors, strict=True)) == pairs
    held_out = {caption([name], color) for name, color in pairs}
    trained = {caption([c.name], color) for c in CONCEPTS for color in COLORS} - held_out
    for name, (_, records) in shown.items():
        texts = {text for r in records for text in (r.caption, r.retrieved, *(t for turn in r.turns for t in turn))}

        def told(captions: set[str], texts=texts) -> set[str]:
            return {c for c in captions for text in texts if f" {c}" in f" {text}"}  # captions begin with an article

        assert not told(held_out), name
        assert len(told(trained)) > 0.5 * len(trained), name  # this search does find what is there


def test_every_record_fits_the_length_of_its_training(shown, world):
    for built, records in shown.values():
        rows = [tokenize(record, world.vocabulary, world.model().image_tokens) for record in records]
        assert max(len(row.tokens) for row in rows) <= built.data.lengths[-1]
        assert max(len(row.caption) for row in rows) <= built.data.caption_length

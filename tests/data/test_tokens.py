"""Records to tokens: literal rows with their masks, and what does not fit."""

import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tga_jax.data import emoji_tasks
from tga_jax.data.templates import Record, pieces
from tga_jax.data.tokens import Shape, Vocabulary, collate, encode
from tga_jax.errors import UserError

CAPTION = "a cat on a red background"
VOCABULARY = Vocabulary(emoji_tasks.build_tokenizer([CAPTION, "a dog"]))
SHAPE = Shape(length=24, image_tokens=2, caption_length=8)
PICTURE = np.zeros((4, 4, 3), np.uint8)
PLAIN = Record("p", (("", "a cat"),), image=PICTURE, caption="a red cat", retrieved="a dog", template="plain")
CHAT = Record("c", (("a cat", "a dog"), ("red ?", "a")), image=PICTURE, retrieved="dog", retrieved_in_prompt=True)


def words(batch) -> list[str]:
    return [VOCABULARY.tokenizer.id_to_token(int(i)) for i in batch.tokens]


def marked(mask, count: int) -> str:
    assert not np.any(mask[count:])
    return "".join("x" if m else "." for m in mask[:count])


def test_plain_row():
    row = encode(PLAIN, VOCABULARY, SHAPE)
    assert words(row) == ["<s>", "<pad>", "<pad>", "a", "cat", "\n"] + ["<pad>"] * 18
    assert marked(row.valid, 6) == "xxxxxx"
    assert marked(row.image_mask, 6) == ".xx..."
    assert marked(row.targets, 6) == "...xxx"
    assert not row.retrieved_mask.any()
    caption = [VOCABULARY.tokenizer.id_to_token(int(i)) for i in row.caption_tokens]
    assert caption == ["<s>", "a", "red", "cat"] + ["<pad>"] * 4
    assert marked(row.caption_mask, 4) == ".xxx"
    assert row.images.shape == (1, 4, 4, 3)
    assert row.image_features is None


def test_plain_row_of_text_only():
    """The question, if there is one, comes first and is not learnt."""
    row = encode(Record("t", (("a cat", "a dog"),), template="plain"), VOCABULARY, SHAPE)
    assert words(row)[:7] == ["<s>", "a", "cat", "a", "dog", "\n", "<pad>"]
    assert marked(row.targets, 6) == "...xxx"
    alone = encode(Record("t", (("", "a dog"),), template="plain"), VOCABULARY, SHAPE)
    assert words(alone)[:5] == ["<s>", "a", "dog", "\n", "<pad>"]
    assert not alone.image_mask.any()
    assert alone.images is None


def test_chat_row():
    row = encode(CHAT, VOCABULARY, SHAPE)
    question = ["<s>", "[INST]", "retrieved", "text", ":", "dog", ".", "<pad>", "<pad>", "\n", "a", "cat", "[/INST]"]
    expected = [*question, "a", "dog", "</s>", "[INST]", "red", "?", "[/INST]", "a", "</s>"]
    assert words(row) == [*expected, "<pad>", "<pad>"]
    assert marked(row.valid, 22) == "x" * 22
    assert marked(row.retrieved_mask, 22) == ".....x................"
    assert marked(row.image_mask, 22) == ".......xx............."
    assert marked(row.targets, 22) == ".............xxx....xx"
    assert not row.caption_mask.any()
    assert row.caption_tokens[0] == VOCABULARY.begin_id


def test_a_prompt_ends_where_the_last_answer_starts():
    row = encode(CHAT, VOCABULARY, SHAPE, prompt_only=True)
    full = encode(CHAT, VOCABULARY, SHAPE)
    assert row.valid.sum() == 20
    np.testing.assert_array_equal(row.tokens[:20], full.tokens[:20])
    unanswered = dataclasses.replace(CHAT, turns=(("a cat", ""),))
    assert encode(unanswered, VOCABULARY, SHAPE, prompt_only=True).valid.sum() == 13


def test_an_answer_left_open_teaches_nothing():
    earlier = dataclasses.replace(CHAT, turns=(("a cat", "a dog"), ("red ?", None)))
    row = encode(earlier, VOCABULARY, SHAPE)
    prompt = encode(CHAT, VOCABULARY, SHAPE, prompt_only=True)
    for name in ("tokens", "valid", "targets"):
        np.testing.assert_array_equal(getattr(row, name), getattr(prompt, name))
    alone = dataclasses.replace(CHAT, turns=(("a cat", None),))
    row, prompt = encode(alone, VOCABULARY, SHAPE), encode(alone, VOCABULARY, SHAPE, prompt_only=True)
    assert (row.valid.sum(), row.targets.any()) == (13, False)
    np.testing.assert_array_equal(row.tokens, prompt.tokens)


def test_clip_row():
    row = encode(dataclasses.replace(PLAIN, template="clip"), VOCABULARY, SHAPE)
    assert words(row)[:5] == ["<s>", "a", "cat", "</s>", "<pad>"]
    assert not row.image_mask.any()
    assert row.images is not None


@pytest.mark.parametrize("count", [1, 2, 9])
def test_an_image_takes_its_number_of_tokens(count):
    row = encode(PLAIN, VOCABULARY, dataclasses.replace(SHAPE, image_tokens=count))
    assert row.image_mask.sum() == count
    assert row.valid.sum() == 4 + count


def test_retrieved_text_stands_in_the_prompt_only_when_asked():
    row = encode(dataclasses.replace(CHAT, retrieved_in_prompt=False), VOCABULARY, SHAPE)
    assert not row.retrieved_mask.any()
    assert "retrieved" not in words(row)
    assert not encode(dataclasses.replace(CHAT, retrieved=""), VOCABULARY, SHAPE).retrieved_mask.any()


@pytest.mark.parametrize(
    ("record", "shape", "named"),
    [
        (CHAT, Shape(21, 2, 8), "sample 'c': 22 tokens, expected at most 21"),
        (CHAT, Shape(24, 5, 8), "sample 'c': 25 tokens, expected at most 24"),
        (PLAIN, Shape(24, 2, 3), "sample 'p': caption of 3 tokens, expected under 3"),
        (Record("n", ()), SHAPE, "sample 'n': no question and answer"),
        (Record("t", (("", "a"),), template="poem"), SHAPE, "sample 't': unknown template 'poem'"),
    ],
)
def test_what_does_not_fit_is_named(record, shape, named):
    with pytest.raises(UserError, match=named):
        encode(record, VOCABULARY, shape)


def test_a_sample_without_target_is_named(monkeypatch):
    from tga_jax.data import tokens

    monkeypatch.setattr(tokens, "pieces", lambda record: [dataclasses.replace(p, target=False) for p in pieces(record)])
    with pytest.raises(UserError, match="sample 'c': no target token"):
        encode(CHAT, VOCABULARY, SHAPE)


def test_a_sample_that_just_fits():
    assert encode(CHAT, VOCABULARY, Shape(22, 2, 1)).valid.all()


def test_mixed_rows_are_stacked():
    text = Record("t", (("a cat", "a dog"),))
    rows = [encode(r, VOCABULARY, SHAPE) for r in (text, PLAIN, CHAT)]
    batch = collate(rows)
    assert batch.tokens.shape == (3, 24)
    assert batch.images.shape == (3, 1, 4, 4, 3)
    assert batch.image_features is None
    assert batch.image_mask.any(1).tolist() == [False, True, True]
    assert collate(rows[:1]).images is None


def test_features_stand_in_for_the_image():
    features = np.ones((2, 5), np.float16)
    rows = [encode(dataclasses.replace(PLAIN, image=x), VOCABULARY, SHAPE) for x in (features, None)]
    batch = collate(rows)
    assert batch.images is None
    assert batch.image_features.shape == (2, 1, 2, 5)
    assert not batch.image_features[1].any()


def test_a_tokenizer_without_special_tokens_is_refused():
    with pytest.raises(UserError, match="tokenizer: no token '<pad>'"):
        Vocabulary(Tokenizer(WordLevel({"a": 0}, unk_token="a")))


def test_decode_leaves_special_tokens_out():
    ids = [VOCABULARY.begin_id, *VOCABULARY.encode(CAPTION), VOCABULARY.end_id, VOCABULARY.pad_id]
    assert VOCABULARY.decode(ids) == CAPTION

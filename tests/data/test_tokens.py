"""Records to tokens: literal rows with their masks, and what does not fit."""

import dataclasses

import numpy as np
import pytest
import transformers

from tga_jax.data.templates import IMAGE, Record
from tga_jax.data.tokens import Vocabulary, collate, tokenize
from tga_jax.demo.world import tasks
from tga_jax.errors import UserError

CAPTION = "a cat on a red background"
VOCABULARY = Vocabulary(tasks.build_tokenizer([CAPTION, "a dog"]))
PLACES = 2
PICTURE = np.full((4, 4, 3), 7, np.uint8)
PLAIN = Record("p", ((IMAGE, "a cat"),), (lambda: PICTURE,), caption="a red cat", retrieved="a dog", template="plain")
CHAT = Record(
    "c", ((f"{IMAGE}\na cat", "a dog"), ("red ?", "a")), (lambda: PICTURE,), retrieved="dog", retrieved_in_prompt=True
)


def encode(record, prompt_only=False, places=PLACES):
    return tokenize(record, VOCABULARY, places, prompt_only)


def words(tokens) -> list[str]:
    return [VOCABULARY.tokenizer.convert_ids_to_tokens(int(i)) for i in tokens]


def marked(mask) -> str:
    return "".join("x" if m else "." for m in mask)


def test_plain_row():
    row = encode(PLAIN)
    assert words(row.tokens) == ["<s>", "<pad>", "<pad>", "a", "cat", "\n"]
    assert marked(row.image_mask) == ".xx..."
    assert marked(row.targets) == "...xxx"
    assert not row.retrieved_mask.any()
    assert words(row.caption) == ["<s>", "a", "red", "cat"]


def test_plain_row_of_text_only():
    """The question, if there is one, comes first and is not learnt."""
    row = encode(Record("t", (("a cat", "a dog"),), template="plain"))
    assert words(row.tokens) == ["<s>", "a", "cat", "a", "dog", "\n"]
    assert marked(row.targets) == "...xxx"
    alone = encode(Record("t", (("", "a dog"),), template="plain"))
    assert words(alone.tokens) == ["<s>", "a", "dog", "\n"]
    assert not alone.image_mask.any()


def test_chat_row():
    row = encode(CHAT)
    question = ["<s>", "[INST]", "retrieved", "text", ":", "dog", ".", "<pad>", "<pad>", "\n", "a", "cat", "[/INST]"]
    assert words(row.tokens) == [*question, "a", "dog", "</s>", "[INST]", "red", "?", "[/INST]", "a", "</s>"]
    assert marked(row.retrieved_mask) == ".....x................"
    assert marked(row.image_mask) == ".......xx............."
    assert marked(row.targets) == ".............xxx....xx"
    assert words(row.caption) == ["<s>"]


def test_a_prompt_ends_where_the_last_answer_starts():
    row, full = encode(CHAT, prompt_only=True), encode(CHAT)
    assert len(row.tokens) == 20
    np.testing.assert_array_equal(row.tokens, full.tokens[:20])
    unanswered = dataclasses.replace(CHAT, turns=((f"{IMAGE}\na cat", ""),))
    assert len(encode(unanswered, prompt_only=True).tokens) == 13


def test_an_answer_left_open_teaches_nothing():
    earlier = dataclasses.replace(CHAT, turns=(CHAT.turns[0], ("red ?", None)))
    row, prompt = encode(earlier), encode(CHAT, prompt_only=True)
    for name in ("tokens", "image_mask", "targets"):
        np.testing.assert_array_equal(getattr(row, name), getattr(prompt, name))
    alone = dataclasses.replace(CHAT, turns=((f"{IMAGE}\na cat", None),))
    row, prompt = encode(alone), encode(alone, prompt_only=True)
    assert (len(row.tokens), row.targets.any()) == (13, False)
    np.testing.assert_array_equal(row.tokens, prompt.tokens)


def test_clip_row():
    row = encode(dataclasses.replace(PLAIN, turns=(("", "a cat"),), template="clip"))
    assert words(row.tokens) == ["<s>", "a", "cat", "</s>"]
    assert not row.image_mask.any()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_an_image_takes_its_number_of_tokens(count):
    row = encode(PLAIN, places=count)
    assert row.image_mask.sum() == count
    assert len(row.tokens) == 4 + count


def test_retrieved_text_stands_in_the_prompt_only_when_asked():
    row = encode(dataclasses.replace(CHAT, retrieved_in_prompt=False))
    assert not row.retrieved_mask.any()
    assert "retrieved" not in words(row.tokens)
    assert not encode(dataclasses.replace(CHAT, retrieved="")).retrieved_mask.any()


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (Record("n", ()), "sample 'n': no question and answer, expected at least one turn"),
        (
            Record("t", (("", "a"),), template="poem"),
            "sample 't': unknown template 'poem', expected one of clip",
        ),
        (dataclasses.replace(CHAT, images=()), "sample 'c': 1 <image> and 0 images, expected as many"),
        (dataclasses.replace(CHAT, turns=(("a", "a"),)), "sample 'c': 0 <image> and 1 images, expected as many"),
    ],
)
def test_what_does_not_fit_is_named(record, named):
    with pytest.raises(UserError) as error:
        encode(record)
    assert str(error.value).startswith(named)


def test_a_sample_without_target_is_named():
    """An answer that the tokenizer makes nothing of."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=VOCABULARY.tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    record = Record("c", (("", " "),), template="plain")
    assert tokenize(record, Vocabulary(tokenizer), 1).targets.sum() == 1  # the newline
    deaf = Vocabulary(tokenizer)  # it hears nothing after the first word
    vars(deaf)["segment"] = lambda *text: tuple(x[:1] for x in VOCABULARY.segment(*text))
    with pytest.raises(UserError, match="sample 'c': no target token, expected an answer"):
        tokenize(dataclasses.replace(record, turns=(("a", ""),)), deaf, 1)


def batch(*records, length=24, captions=8):
    rows = [encode(r) for r in records]
    media = [[image() for image in record.images] for record in records]
    return collate(rows, media, VOCABULARY, length, captions)


def test_mixed_rows_are_stacked_and_padded():
    made = batch(Record("t", (("a cat", "a dog"),)), PLAIN, CHAT)
    assert made.tokens.shape == (3, 24)
    assert made.images.shape == (3, 1, 4, 4, 3)
    assert [int(image.mean()) for image in made.images] == [0, 7, 7]
    assert made.image_features is None
    assert made.image_mask.any(1).tolist() == [False, True, True]
    assert made.valid.sum(1).tolist() == [8, 6, 22]
    assert words(made.tokens[1]) == ["<s>", "<pad>", "<pad>", "a", "cat", "\n"] + ["<pad>"] * 18
    assert marked(made.caption_mask[1]) == ".xxx...."
    assert words(made.caption_tokens[1]) == ["<s>", "a", "red", "cat"] + ["<pad>"] * 4
    assert not made.caption_mask[[0, 2]].any()
    assert batch(Record("t", (("a cat", "a dog"),))).images is None


def test_features_stand_in_for_the_image():
    features = np.ones((2, 5), np.float16)
    made = batch(dataclasses.replace(PLAIN, images=(lambda: features,)), Record("t", (("a", "a"),)))
    assert made.images is None
    assert made.image_features.shape == (2, 1, 2, 5)
    assert not made.image_features[1].any()


def test_rows_of_several_images():
    turns = ((f"{IMAGE} or {IMAGE}", "a cat"),)
    other = np.full((4, 4, 3), 9, np.uint8)
    made = batch(dataclasses.replace(CHAT, turns=turns, images=(lambda: PICTURE, lambda: other)), PLAIN)
    assert made.images.shape == (2, 2, 4, 4, 3)
    assert made.images[:, :, 0, 0, 0].tolist() == [[7, 9], [7, 0]]
    assert made.image_mask.sum(1).tolist() == [4, 2]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(UserError, match="tokenizer: cannot tell where its tokens lie"):
        Vocabulary(object())


def test_decode_leaves_special_tokens_out():
    tokenizer = VOCABULARY.tokenizer
    ids = [*VOCABULARY.begin, *VOCABULARY.encode(CAPTION), tokenizer.eos_token_id, VOCABULARY.pad_id]
    assert VOCABULARY.begin == (tokenizer.bos_token_id,)
    assert VOCABULARY.decode(ids) == CAPTION

"""Labels, padding and shared rows by hand."""

import dataclasses

import numpy as np
import pytest
from test_tokens import CHAT, PICTURE, PLAIN, VOCABULARY, encode, marked, words

from tga_jax.data.prompt import IMAGE, Piece, Prompt
from tga_jax.data.templates import Record
from tga_jax.data.tokens import (
    Shared,
    Tokens,
    before_targets,
    collate,
    images_in,
    padded,
    prompt_tokens,
    shared_rows,
    tokenize,
)
from tga_jax.errors import UserError


def row(length: int, *targets: int) -> Tokens:
    place = np.arange(length)
    no = np.zeros(length, bool)
    return Tokens(place.astype(np.int32) + 1, np.isin(place, targets), no, no, np.array([1], np.int32))


def test_labels_stand_before_their_targets():
    """A target in the first place has no position before it."""
    found = before_targets(row(5, 0, 1, 3, 4))
    assert found.dtype == np.int32
    assert found.tolist() == [0, 2, 3]
    assert before_targets(row(1, 0)).tolist() == []


def test_padding_is_on_the_right():
    rows = [np.array([3, 4], np.int32), np.array([], np.int32)]
    found = padded(rows, 3, 9)
    assert found.dtype == np.int32
    assert found.tolist() == [[3, 4, 9], [9, 9, 9]]


SAMPLES = [row(3, 2), row(2, 1), row(4, 1, 3), row(1)]


def test_rows_that_samples_share():
    """`a b c`, `d e` and `f g h i`, `j`, of five positions each."""
    places, labels = shared_rows(SAMPLES, 5, Shared(2, 8))
    assert [x.tolist() for x in places] == [[0, 1, 2, 5, 6], [0, 1, 2, 3, 5]]
    assert [x.tolist() for x in labels] == [[1, 3], [0, 2]]
    assert all(x.dtype == np.int32 for x in (*places, *labels))


def test_a_batch_of_samples_alone_and_of_shared_rows():
    alone = collate(SAMPLES, [[]] * 4, VOCABULARY, 5, 2, labels=3)
    assert alone.rows is None
    assert alone.images is alone.image_features is None
    assert alone.label_positions.tolist() == [[1, -1, -1], [0, -1, -1], [0, 2, -1], [-1, -1, -1]]
    assert [marked(x) for x in alone.valid] == ["xxx..", "xx...", "xxxx.", "x...."]
    assert [marked(x) for x in alone.targets] == ["..x..", ".x...", ".x.x.", "....."]
    assert alone.tokens[1].tolist() == [1, 2, *[VOCABULARY.pad_id] * 3]
    assert not alone.image_mask.any() | alone.retrieved_mask.any() | alone.caption_mask.any()
    assert alone.caption_tokens.tolist() == [[1, VOCABULARY.pad_id]] * 4
    together = collate(SAMPLES, [[]] * 4, VOCABULARY, 5, 2, labels=4, shared=Shared(2, 6))
    assert together.rows.tolist() == [[0, 1, 2, 5, 6, -1], [0, 1, 2, 3, 5, -1]]
    assert together.label_positions.tolist() == [[1, 3, -1, -1], [0, 2, -1, -1]]
    assert collate(SAMPLES, [[]] * 4, VOCABULARY, 5, 2).label_positions is None


def test_pictures_of_a_batch_stand_with_their_samples():
    one, two = PICTURE, PICTURE + 1
    made = collate(SAMPLES[:3], [[], [one], [two, one]], VOCABULARY, 5, 2)
    assert made.images[:, :, 0, 0, 0].tolist() == [[0, 0], [7, 0], [8, 7]]
    features = np.full((2, 3), 0.5, np.float16)
    made = collate(SAMPLES[:2], [[features], []], VOCABULARY, 5, 2)
    assert made.images is None
    assert made.image_features[:, 0, 0, 0].tolist() == [0.5, 0.0]


def test_pictures_are_counted_where_they_are_no_text():
    pieces = [Piece(f"{IMAGE} and {IMAGE}"), Piece(IMAGE, literal=True), Piece("a cat"), Piece(IMAGE)]
    assert images_in(pieces) == 3


def test_images_of_several_sizes_and_a_prompt_alone():
    found = prompt_tokens(f"{IMAGE} a cat {IMAGE}", VOCABULARY, (3, 1))
    assert marked(found.image_mask) == ".xxx..x"
    assert words(found.tokens) == ["<s>", *["<pad>"] * 3, "a", "cat", "<pad>"]
    assert not found.targets.any() | found.retrieved_mask.any()
    assert found.caption.tolist() == [VOCABULARY.caption_begin]
    pieces = Prompt((Piece("a dog "), Piece("a cat", target=True), Piece(f" {IMAGE}", target=True, retrieved=True)))
    found = prompt_tokens(pieces, VOCABULARY, 2)
    assert marked(found.targets) == "...xx.."
    assert marked(found.image_mask) == ".....xx"
    assert not found.retrieved_mask.any()
    blind = prompt_tokens("a cat", VOCABULARY, 0)
    assert (words(blind.tokens), blind.image_mask.any()) == (["<s>", "a", "cat"], False)
    assert not found.tokens.flags.writeable
    own = prompt_tokens("<s> a cat", VOCABULARY, 0)  # a prompt that brings its begin token
    assert words(own.tokens) == ["<s>", "a", "cat"]


def test_no_token_but_an_image_is_one():
    """Not that of id 0, and no `<image>` that means nothing to the model, or that is text in part."""
    assert words([0]) == ["<pad>"]
    assert marked(prompt_tokens(f"<pad> a {IMAGE}", VOCABULARY, 2).image_mask) == "...xx"
    for prompt in (IMAGE, Prompt((Piece(IMAGE[:3], literal=True), Piece(IMAGE[3:])))):
        read = prompt_tokens(prompt, VOCABULARY, 0 if prompt == IMAGE else 2)
        assert read.tokens.tolist() == [*VOCABULARY.begin, *VOCABULARY.encode(IMAGE)]
        assert not read.image_mask.any()


def test_the_begin_token_is_of_no_piece():
    found = prompt_tokens(Prompt((Piece("a cat", target=True, retrieved=True),)), VOCABULARY, 0)
    assert (marked(found.targets), marked(found.retrieved_mask)) == (".xx", ".xx")
    part = Prompt((Piece("<", literal=True), Piece("s> a")))  # a text's, not the prompt's own
    assert words(prompt_tokens(part, VOCABULARY, 0).tokens)[0] == "<s>"
    assert words(prompt_tokens(part, VOCABULARY, 0).tokens)[1] != "<s>"


def test_special_tokens_behind_an_image_are_text():
    """Where `<image>` is no token, a text is read in parts."""
    said = Piece("a </s> dog", literal=True)
    alone, behind = (prompt_tokens(Prompt((*first, said)), VOCABULARY, 1) for first in ((), (Piece(f"a {IMAGE} "),)))
    assert "</s>" not in words(alone.tokens)
    begin = len(VOCABULARY.begin)
    assert behind.tokens[begin + 2 :].tolist() == alone.tokens[begin:].tolist()
    before = prompt_tokens(Prompt((said, Piece(f" {IMAGE} a"))), VOCABULARY, 1)
    assert before.tokens[:-2].tolist() == alone.tokens.tolist()


def test_a_sample_needs_an_answer_and_its_pictures():
    with pytest.raises(UserError, match=r"^sample 'c': 1 <image> and 2 images, expected as many"):
        tokenize(dataclasses.replace(CHAT, images=CHAT.images * 2), VOCABULARY, 2)
    clip = dataclasses.replace(PLAIN, turns=(("", "a cat"),), template="clip")
    assert encode(clip).tokens.size == 4  # its picture has no place in the text
    assert not encode(Record("t", (("a", "a"),)), prompt_only=True).targets.any()
    assert words(encode(dataclasses.replace(PLAIN, caption="</s> a")).caption)[-1] == "a"

"""Special tokens that somebody wrote are text; those of a template are tokens. Against transformers."""

import dataclasses
import functools
import inspect
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_support import SENTENCES, llama_like
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tga_jax.data import chat_template
from tga_jax.data.processor import ImageSpec, Processor
from tga_jax.data.prompt import IMAGE, Piece, text_of
from tga_jax.data.templates import Record, pieces
from tga_jax.data.tokens import Vocabulary, images_in, prompt_tokens, tokenize
from tga_jax.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ["<|im_start|>", "<|im_end|>", "</s>", "<s>", "<pad>", "<tool>", IMAGE]


def byte_level(normalizer=None) -> transformers.PreTrainedTokenizerFast:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # pyright: ignore[reportCallIssue]
    made.train_from_iterator(SENTENCES * 5, trainer)
    made.post_processor = processors.ByteLevel(trim_offsets=False)  # pyright: ignore[reportAttributeAccessIssue]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


@functools.cache
def vocabulary(kind: str) -> Vocabulary:
    """With `<tool>`, an added token that is not special but stands in the chat template."""
    if kind.startswith("llama"):
        tokenizer = llama_like(Path(tempfile.mkdtemp()), legacy=kind == "llama legacy")
    else:
        tokenizer = byte_level(normalizers.NFC() if kind == "byte-level NFC" else None)
    marks = [transformers.AddedToken(mark, normalized=kind == "byte-level NFC") for mark in MARKS if mark != "<tool>"]
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.add_tokens(["<tool>"])
    tokenizer.chat_template = CHATML + "{{ '<tool>' if tools }}"
    return Vocabulary(tokenizer)


KINDS = ["llama legacy", "llama", "byte-level", "byte-level NFC"]
TEXTS = st.lists(
    st.sampled_from(
        [
            *MARKS,
            "A cat",
            " sits",
            " ",
            "\n",
            "<",
            "</",
            "s>",
            "|>",
            "ü中",
            "é",
            "[INST]",
            "USER: ",
            "\N{GRINNING FACE}",
        ]
    ),
    max_size=8,
).map("".join)


def controls(found: Vocabulary, ids) -> int:
    return int(np.isin(ids, found.control_ids).sum())


def without_tokens(found: Vocabulary, text: str) -> list[int]:
    """The tokenizer of transformers where no token was added."""
    fields = json.loads(found.tokenizer.backend_tokenizer.to_str())
    fields["added_tokens"] = [t for t in fields["added_tokens"] if t["content"] == "<unk>"]
    fields["post_processor"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(fields)).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_a_text_alone_has_the_ids_of_a_tokenizer_without_special_tokens(kind, text):
    found = vocabulary(kind)
    ids = found.literal(text).tolist()
    assert ids == without_tokens(found, text)
    if "<tool>" not in text:  # `split_special_tokens` keeps added tokens that are not special
        assert ids == found.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not controls(found, ids)


@pytest.mark.parametrize("kind", KINDS)
@given(said=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=3))
def test_a_conversation_has_the_templates_control_tokens_alone(kind, said):
    found = vocabulary(kind)
    messages = [
        {"role": role, "content": text} for role, text in zip(["user", "assistant", "user"], said, strict=False)
    ]
    prompt = chat_template.prompt(found.tokenizer, messages, sees=False)
    assert str(prompt) == found.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    row = prompt_tokens(prompt, found, 0).tokens
    begin = len(found.begin)
    assert controls(found, row[begin:]) == 2 * len(messages) + 1
    apply = found.tokenizer.apply_chat_template
    if "sanitize_control_tokens" in inspect.signature(apply).parameters:  # since transformers 5.24
        theirs = apply(messages, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False)
        assert controls(found, theirs) == 2 * len(messages) + 1
    if not any(found.control.search(text) for text in said):
        assert row[begin:].tolist() == found.tokenizer(str(prompt), add_special_tokens=False)["input_ids"]
    meant = chat_template.prompt(found.tokenizer, messages, sees=False, special_tokens=True)
    assert prompt_tokens(meant, found, 0).tokens.tolist() == prompt_tokens(str(prompt), found, 0).tokens.tolist()


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.tuples(TEXTS, TEXTS, TEXTS))
def test_tokens_belong_to_their_pieces(kind, texts):
    """Also where a text is broken up, every token is the piece's that its last character is from."""
    found, end = vocabulary(kind), Piece("<|im_end|>")
    first, second, third = (Piece(text, target=i == 1, literal=True) for i, text in enumerate(texts))
    ids, targets, *_ = found.joined((first, end, second, end, third), 0)
    places = np.flatnonzero(ids == found.tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert len(places) == 2
    np.testing.assert_array_equal(np.flatnonzero(targets), np.arange(places[0] + 1, places[1]))
    if kind == "byte-level":
        parts = [ids[len(found.begin) : places[0]], ids[targets], ids[places[1] + 1 :]]
        assert [found.tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts] == list(texts)


TEMPLATES = ["vicuna_v1", "llama_2", "mistral_instruct", "chatml", "plain", "chat"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_one_end(kind, template):
    found = vocabulary(kind)
    said = "A </s> b<|im_end|> c <pad> [INST] <s>"
    record = Record("x", ((f"{IMAGE}\nWhat </s>?", said),), (lambda: None,), template=template, caption="<s> a </s>")
    row, clean = (tokenize(r, found, 3) for r in (record, dataclasses.replace(record, turns=((f"{IMAGE}\nQ", "A"),))))
    assert controls(found, row.tokens) - 3 == controls(found, clean.tokens) - 3  # an image's places hold the pad token
    assert controls(found, row.tokens[row.targets]) == (template != "plain")
    assert row.image_mask.sum() == 3
    assert controls(found, row.caption[1:]) == 0
    meant = tokenize(dataclasses.replace(record, special_tokens=True), found, 3)
    assert controls(found, meant.tokens[meant.targets]) == (template != "plain") + 4
    assert controls(found, meant.caption[1:]) == 2


def test_vicuna_written_out():
    found = vocabulary("llama legacy")
    record = Record("x", (("A cat?", "A</s>"),), template="vicuna_v1", system="a chat")
    row = tokenize(record, found, 0)
    words = found.tokenizer.convert_ids_to_tokens(row.tokens[row.targets].tolist())
    assert words == ["▁A", "<", "/", "s", ">", "</s>"]


def test_an_image_is_where_the_question_has_it_and_nowhere_else():
    found = vocabulary("byte-level")
    record = Record(
        "x", ((f"{IMAGE}\nWhat?", f"It says {IMAGE}."),), (lambda: None,), retrieved=f"a {IMAGE}",
        retrieved_in_prompt=True, template="vicuna_v1", system=f"See {IMAGE}",
    )  # fmt: skip
    made = pieces(record, found.tokenizer)
    assert images_in(made) == 1
    assert text_of(made).count(IMAGE) == 4
    row = tokenize(record, found, 3)
    assert row.image_mask.sum() == 3
    where = np.flatnonzero(row.image_mask)
    before = found.tokenizer.decode(row.tokens[: where[0]].tolist())
    assert before.endswith(f"USER: Retrieved Text: a {IMAGE}. ")
    with pytest.raises(UserError, match="sample 'x': 4 <image> and 1 images"):
        tokenize(dataclasses.replace(record, special_tokens=True), found, 3)


def test_a_begin_token_that_is_written_is_none():
    found = vocabulary("llama")
    row = tokenize(Record("x", (("", "<s> a cat"),), template="plain"), found, 0)
    assert row.tokens[0] == found.tokenizer.bos_token_id
    assert (row.tokens == found.tokenizer.bos_token_id).sum() == 1
    assert (prompt_tokens("<s> a cat", found, 0).tokens == found.tokenizer.bos_token_id).sum() == 1


def test_a_token_that_lies_across_two_texts_is_text():
    found = vocabulary("byte-level")
    ids = found.joined((Piece("a </", literal=True), Piece("s> b")), 0)[0]
    assert not controls(found, ids)
    assert found.tokenizer.decode(ids.tolist()) == "a </s> b"


def test_a_tokenizer_that_has_no_text_for_a_special_token_is_named():
    words = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(UserError, match="sample 'x': '</s>' in a text: this tokenizer has no plain text for it"):
        tokenize(Record("x", (("a </s>", "a"),), template="vicuna_v1", system=""), Vocabulary(tokenizer), 0)
    row = tokenize(Record("x", (("a <unk>", "b"),), template="vicuna_v1", system=""), Vocabulary(tokenizer), 0)
    assert row.targets.sum() == 2


def test_pictures_in_messages():
    tokenizer = vocabulary("llama").tokenizer
    processor = Processor(tokenizer, ImageSpec(8, 2, "pad"))
    shown = [{"type": "image"}, {"type": "text", "text": f"What is {IMAGE}?"}]
    prompt = processor.chat([{"role": "user", "content": shown}])
    assert str(prompt) == f"<|im_start|>user\n{IMAGE}\nWhat is {IMAGE}?<|im_end|>\n<|im_start|>assistant\n"
    batch = processor.batch([prompt], [[np.zeros((8, 8, 3), np.uint8)]])
    assert batch.image_mask.sum() == 2
    with pytest.raises(UserError, match="prompt 0: 1 times <image> and 0 pictures"):
        processor.batch([prompt])
    typed = processor.chat([{"role": "user", "content": IMAGE}])
    assert images_in(typed.pieces) == 1
    blind = Processor(tokenizer).chat([{"role": "user", "content": IMAGE}])
    assert images_in(blind.pieces) == 0

"""What CLIP's text tower reads, against transformers: the end token is there, or there is an error."""

import json

import hub_support
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import tga_jax
from tga_jax.checkpoints import hub, hub_config
from tga_jax.checkpoints.spec import Spec
from tga_jax.data import processor
from tga_jax.data.templates import Record
from tga_jax.data.tokens import Vocabulary, tokenize
from tga_jax.demo.world import tasks
from tga_jax.inference.embed import text_tokens
from tga_jax.models.clip import ClipConfig, TextConfig, VisionConfig

LENGTH = 11
TEXTS = ["w5 w7", "w9", "", "w66 w8", " ".join(f"w{i}" for i in range(20, 50)), "w5 </s> w7", "w0"]


def without_end(eos: str | None = "</s>") -> transformers.PreTrainedTokenizerFast:
    made = hub_support.tokenizer()
    made.eos_token = eos
    return made


def openai(pad: str) -> transformers.CLIPTokenizer:
    """Of OpenAI's kind, whose end token has the largest id; pad: what fills rows up, in some files `!`."""
    letters = [*"abcdefg!", *(f"{c}</w>" for c in "abcdefg!")]
    words = {word: i for i, word in enumerate([*letters, "ab</w>", "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=words, merges=[("a", "b</w>")], pad_token=pad)


def saved(folder, tokenizer, eos: int):
    """A folder, and its CLIPModel in transformers."""
    theirs = hub_support.model("clip")
    theirs.config.text_config.eos_token_id = theirs.text_model.eos_token_id = eos
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, transformers.CLIPModel.from_pretrained(folder).eval()


def embedded(theirs, ids, mask) -> np.ndarray:
    with torch.no_grad():
        found = theirs.text_model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).pooler_output
        found = theirs.text_projection(found)
    return (found / found.norm(dim=-1, keepdim=True)).numpy()


@pytest.mark.parametrize(
    ("tokenizer", "eos", "texts"),
    [
        (lambda: hub_support.with_end(hub_support.tokenizer(), "w66", 66), 66, TEXTS),
        (lambda: hub_support.with_end(hub_support.tokenizer(), "w66", 66), 2, TEXTS),  # where the largest id stands
        (lambda: hub_support.with_end(hub_support.tokenizer(), "w30", 30), 30, TEXTS),
        (lambda: openai("<|endoftext|>"), 18, ["a b", "ab!", "", "g <|endoftext|> a", "abcdefg " * 9]),
        (lambda: openai("<|endoftext|>"), 2, ["a b", "ab!", "", "g <|endoftext|> a", "abcdefg " * 9]),
        (lambda: openai("!"), 18, ["a b", "ab!", "", "!", "abcdefg " * 9]),
        (lambda: openai("!"), 2, ["a b", "ab!", "", "!", "abcdefg " * 9]),
    ],
)
def test_embeddings_are_transformers_s(tmp_path, tokenizer, eos, texts):
    folder, theirs = saved(tmp_path, tokenizer(), eos)
    ours = tga_jax.load(folder, "float32")
    made = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=LENGTH, split_special_tokens=True
    )
    expected = embedded(theirs, made["input_ids"], made["attention_mask"])
    np.testing.assert_allclose(ours.embed_texts(texts), expected, atol=3e-5)
    np.testing.assert_allclose(ours.embed_texts(texts[1:2]), expected[1:2], atol=3e-5)  # alone
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_the_end_token_is_put_where_the_tokenizer_puts_none(tmp_path):
    """Without it, transformers gives every text the state of the begin token."""
    tokenizer = without_end("w66")
    folder, theirs = saved(tmp_path / "hub", tokenizer, 66)
    rows = [[*tokenizer(text)["input_ids"][: LENGTH - 1], 66] for text in TEXTS]
    filled = [row + [0] * (LENGTH - len(row)) for row in rows]
    expected = embedded(theirs, filled, [[1] * len(row) + [0] * (LENGTH - len(row)) for row in rows])
    ours = tga_jax.load(folder, "float32")
    np.testing.assert_allclose(ours.embed_texts(TEXTS), expected, atol=3e-5)
    # An export has it in its tokenizer.
    hub.import_hub(folder, tmp_path / "ours", "float32")
    hub.export_hub(tmp_path / "ours", tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    made = again(TEXTS, padding=True, truncation=True, max_length=LENGTH)
    assert [ids[: sum(mask)] for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True)] == rows
    model = transformers.CLIPModel.from_pretrained(tmp_path / "again").eval()
    np.testing.assert_allclose(embedded(model, made["input_ids"], made["attention_mask"]), expected, atol=3e-5)


@pytest.mark.parametrize(
    ("tokenizer", "eos", "message"),
    [
        (lambda: without_end(None), 66, "puts no end token after a text and names none"),
        (lambda: without_end("</s>"), 66, r"at token 66, and the tokenizer ends 'w5 w7' with 2 \(</s>\)"),
        (lambda: without_end("</s>"), 2, r"at the largest id, 7, and the tokenizer ends 'w5 w7' with 2 \(</s>\)"),
        (lambda: hub_support.with_end(hub_support.tokenizer(), "w30", 30), 66, r"token 66, .* with 30 \(w30\)"),
        (lambda: hub_support.with_end(hub_support.tokenizer(), "w6", 6), 2, r"largest id, 7, .* with 6 \(w6\)"),
    ],
)
def test_a_text_that_would_not_be_read_at_its_end_is_an_error(tmp_path, tokenizer, eos, message):
    folder, _ = saved(tmp_path, tokenizer(), eos)
    with pytest.raises(tga_jax.UserError, match=message):
        tga_jax.load(folder, "float32").embed_texts(["w5 w7"])


def test_a_text_that_the_tokenizer_cannot_read_is_an_error(tmp_path):
    """A letter that its table lacks, and the token for such is not in it either."""
    made = hub_support.with_end(hub_support.tokenizer(), "w66", 66)
    core = json.loads(made.backend_tokenizer.to_str())
    core["model"]["vocab"] |= {word: 100 + i for i, word in enumerate(processor._PROBE.split())}  # is read at loading
    core["model"] |= {"unk_token": "<none>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(core)))
    folder, _ = saved(tmp_path, made, 66)
    with pytest.raises(tga_jax.UserError, match=r"the tokenizer cannot read .*: WordLevel error: Missing"):
        tga_jax.load(folder, "float32").embed_texts(["w5 w999"])


def test_a_token_without_an_embedding_is_an_error(tmp_path):
    tokenizer = hub_support.with_end(hub_support.tokenizer(), "w66", 66)
    tokenizer.add_tokens(["new"])
    folder, _ = saved(tmp_path, tokenizer, 66)
    with pytest.raises(tga_jax.UserError, match=r"'w5 new': token 67 \(new\), expected at most 66"):
        tga_jax.load(folder, "float32").embed_texts(["w5 new"])


@given(texts=st.lists(st.text(st.sampled_from("ab cd"), max_size=40), min_size=1, max_size=4))
@settings(max_examples=50)
def test_as_in_the_training_of_the_demo(texts):
    """Its tokenizer puts no end token; its training does."""
    vocabulary = Vocabulary(tasks.build_tokenizer(["a b c d ab cd"]))
    config = TextConfig(8, 1, 2, 16, vocab_size=vocabulary.size, context_length=60, eos_token_id=2)
    rows = text_tokens(config, vocabulary, texts)
    for text, row in zip(texts, rows, strict=True):
        trained = tokenize(Record("x", (("", text),), template="clip"), vocabulary, 0).tokens
        np.testing.assert_array_equal(row[: len(trained)], trained)
        assert (row[len(trained) :] == 2).all()


def test_an_end_token_that_transformers_would_not_look_for_is_not_exported():
    text = TextConfig(8, 1, 2, 16, vocab_size=20, context_length=6, eos_token_id=2)
    model = Spec(kind="clip", config=ClipConfig(VisionConfig(8, 1, 2, 16, image_size=8, patch_size=4), text, 8))
    with pytest.raises(tga_jax.UserError, match="ends texts with token 2, which transformers takes for"):
        hub_config.to_hub(model)


def test_what_a_tokenizer_puts_around_a_text():
    assert (Vocabulary(hub_support.tokenizer()).begin, Vocabulary(hub_support.tokenizer()).end) == ((1,), ())
    both = Vocabulary(hub_support.with_end(hub_support.tokenizer(), "w66", 66))
    assert (both.begin, both.end) == ((1,), (66,))
    bare = hub_support.tokenizer()
    bare.backend_tokenizer.post_processor = tokenizers.processors.ByteLevel()
    assert (Vocabulary(bare).begin, Vocabulary(bare).end) == ((), ())

"""Token ids and the embedding table: ids past the words, past the table, and tables larger than both."""

import dataclasses
from pathlib import Path
from typing import Any

import hub_support
import jax
import numpy as np
import parity_support
import pytest
import tokenizers
import torch
import transformers

import tga_jax
from tga_jax.checkpoints import convert, hub, known
from tga_jax.data.templates import Record
from tga_jax.data.tokens import Vocabulary, tokenize
from tga_jax.errors import UserError

WORDS, ROWS, NEW = 70, 128, 8
PROMPTS = ["w5 <image> w6", "w7 <pad> w8 w9 w4 w4", "w3", "<image> w4 w5 w3 w9 w9 w9 w6 w7"]


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def tokenizer(words: int = WORDS, **added: int) -> transformers.PreTrainedTokenizerFast:
    """`w3`, `w4`, ... and the special ones of the hub's LLaVA: `<image>` and `<pad>` follow the words, or elsewhere."""
    places = {"image": words, "pad": words + 1} | added
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, words)}
    vocabulary |= {f"<{name}>": i for name, i in places.items()}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    core.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def llava(folder: Path, rows: int = ROWS, **places: int) -> Any:
    llm = transformers.LlamaConfig(**{**hub_support.LLM, "vocab_size": rows, "pad_token_id": None}, head_dim=8)
    config = hub_support.llava_config("default", llm=llm)
    words = tokenizer(**places)
    config.image_token_index = words.convert_tokens_to_ids("<image>")
    made = parity_support.randomize(transformers.LlavaForConditionalGeneration(config), 6).eval()
    made.set_attn_implementation("eager")
    made.save_pretrained(folder)
    words.save_pretrained(folder)
    return made


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(6).integers(0, 256, (count, 30, 41, 3)).astype(np.uint8))


def theirs_generate(model: Any, folder: Path, prompts: list[str], shown: list[list[np.ndarray]]) -> list[str]:
    """As a batch, padded on the left with the tokenizer's own pad token."""
    words = transformers.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    given = dict(words([p.replace("<image>", "<image> " * 4) for p in prompts], padding=True, return_tensors="pt"))
    given.pop("token_type_ids", None)
    if flat := [x for own in shown for x in own]:
        given["pixel_values"] = transformers.CLIPImageProcessorPil(**sizes)(flat, return_tensors="pt")["pixel_values"]
    width = given["input_ids"].shape[1]
    with torch.no_grad():
        out = model.generate(**given, do_sample=False, max_new_tokens=NEW, eos_token_id=2, pad_token_id=0)
    texts = []
    for row in out[:, width:].tolist():
        texts.append(words.decode(row[: row.index(2)] if 2 in row else row, skip_special_tokens=True))
    return texts


def test_llava_whose_image_and_pad_follow_the_words_in_a_padded_table(tmp_path):
    """As llava-hf/llava-1.5-7b-hf: alone, in a batch with padding, and with the pad token in a prompt."""
    theirs = llava(tmp_path)
    ours = tga_jax.load(tmp_path, "float32")
    assert ours.config.llm.vocab_size == ROWS
    first, second = pictures(2)
    shown = [[first], [], [], [second]]
    expected = theirs_generate(theirs, tmp_path, PROMPTS, shown)
    assert len(set(expected)) == 4
    assert all(expected)
    assert ours.generate(PROMPTS, shown, new_tokens=NEW) == expected
    assert [ours.generate([p], [s], new_tokens=NEW)[0] for p, s in zip(PROMPTS, shown, strict=True)] == expected
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([[1, 5, 71, 6]])).logits
    np.testing.assert_allclose(ours.forward([[1, 5, 71, 6]]).logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "places",
    [
        pytest.param({"pad": ROWS}, marks=pytest.mark.slow),
        {"image": ROWS, "pad": 70},
        pytest.param({"image": ROWS, "pad": ROWS + 1}, marks=pytest.mark.slow),
    ],
)
def test_a_pad_or_image_token_without_a_row(tmp_path, places):
    llava(tmp_path, **places)
    ours = tga_jax.load(tmp_path, "float32")
    shown = [[picture] for picture in pictures(2)]
    prompts = [PROMPTS[0], PROMPTS[3]]
    together = ours.generate(prompts, shown, new_tokens=NEW)
    assert all(together)
    assert [ours.generate([p], [s], new_tokens=NEW)[0] for p, s in zip(prompts, shown, strict=True)] == together
    ids, mask = [[1, 5, 6, 7], [1, 9, places["pad"], places["pad"]]], [[1, 1, 1, 1], [1, 1, 0, 0]]
    alone = ours.forward([[1, 9]]).logits
    np.testing.assert_allclose(ours.forward(ids, mask).logits[1:, :2], alone, rtol=1e-5, atol=1e-5)
    if places["pad"] >= ROWS:
        said = f"token '<pad>' has id {places['pad']}, and the model's embedding table {ROWS} rows"
        with pytest.raises(UserError, match=rf"^prompt 1: {said}$"):
            ours.generate(["w3", "w3 <pad>"])
        with pytest.raises(UserError, match=rf"^prompt 0: {said}$"):
            next(ours.stream("w3 <pad>"))
        with pytest.raises(UserError, match=said):
            ours.forward(ids)


def test_the_words_alone_are_what_a_training_starts_from(tmp_path):
    """Of a table with rows for <image> and <pad>, where the model that is trained has none."""
    theirs = llava(tmp_path)
    model, found = hub.open_hub(tmp_path)
    like = convert.shapes(convert.words_alone(model))["llm"]
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float32", sharding=place), like)
    like = {"embed": like["embed"], "lm_head": like["lm_head"]}
    params = convert.load_like(model, found, "here", {"llm": like})["llm"]
    table, head = theirs.get_input_embeddings().weight, theirs.get_output_embeddings().weight
    np.testing.assert_array_equal(params["embed"]["embedding"], table.detach()[:WORDS])
    np.testing.assert_array_equal(params["lm_head"]["kernel"], head.detach()[:WORDS].T)
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct([n - 1 if n == WORDS else n for n in x.shape], "float32"), like)
    with pytest.raises(UserError, match="here: does not fit the configured model"):
        convert.load_like(model, found, "here", {"llm": other})


def test_a_table_in_the_hubs_padding_is_the_known_checkpoint(tmp_path, monkeypatch, capsys):
    import rich.console

    llava(tmp_path)
    model, _ = hub.open_hub(tmp_path)
    small = convert.words_alone(model)
    entry = {"id": "somebody/llava", "what": "", "preset": "", "kind": "llava"}
    monkeypatch.setattr(known, "entries", lambda: [entry])
    monkeypatch.setattr(known, "expected", lambda _: small)
    known.tell(tmp_path, rich.console.Console())
    assert "has the shape of somebody/llava" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["llama", "clip"])
def test_a_tokenizer_larger_than_the_table(tmp_path, kind):
    made = hub_support.model(kind)  # of 67 rows
    if kind == "clip":
        made.config.text_config.eos_token_id = made.text_model.eos_token_id = 65
    made.save_pretrained(tmp_path)
    tokenizer(66, image=68, pad=69).save_pretrained(tmp_path)
    ours = tga_jax.load(tmp_path, "float32")
    said = "token '<image>' has id 68, and the model's embedding table 67 rows"
    if kind == "llama":
        texts = ["w5 w6 w7 w8", "w9"]
        together = ours.generate(texts, new_tokens=NEW)
        assert all(together)
        assert [ours.generate([text], new_tokens=NEW)[0] for text in texts] == together
        with pytest.raises(UserError, match=said):
            ours.generate(["w5", "w6 <image>"], new_tokens=NEW)
        return
    with torch.no_grad():
        expected = made.get_text_features(input_ids=torch.tensor([[1, 5, 6, 7, 8, 65], [1, 9, 65, 3, 3, 3]]))
    expected = getattr(expected, "pooler_output", expected).numpy()
    expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(ours.embed_texts(["w5 w6 w7 w8 w65", "w9 w65"]), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"'w6 <image> w65': token 68 \(<image>\), expected at most 66"):
        ours.embed_texts(["w5 w65", "w6 <image> w65"])


@pytest.mark.parametrize("record", [{"turns": (("w5 <pad>", "w6"),)}, {"turns": (("w5", "w6"),), "caption": "<pad>"}])
def test_training_data_with_a_token_without_a_row(record):
    sample = dataclasses.replace(Record("a1", (), (), template="plain"), **record)
    vocabulary = Vocabulary(tokenizer(pad=90), rows=90)
    assert vocabulary.pad_id == 0
    with pytest.raises(UserError, match=r"^sample 'a1': token '<pad>' has id 90, and the .* embedding table 90 rows$"):
        tokenize(sample, vocabulary, 0)
    tokenize(dataclasses.replace(sample, special_tokens=True), Vocabulary(tokenizer(pad=90), rows=91), 0)


def test_ids_with_gaps_need_rows_for_the_largest():
    assert Vocabulary(tokenizer(pad=90)).size == 91


def test_nan_ends_a_generation_and_an_embedding(tmp_path):
    llava(tmp_path)
    ours = tga_jax.load(tmp_path, "float32")
    table = ours.params["llm"]["embed"]["embedding"]
    ours.params["llm"]["embed"]["embedding"] = table.at[9].set(np.nan)
    assert ours.generate(["w5", "w6 w7"], new_tokens=1)
    said = "the logits of new token 0 are NaN, expected numbers; the checkpoint's weights are damaged"
    for options in ({}, {"temperature": 1.0, "top_p": 0.5}, {"repetition_penalty": 1.5}, {"batch_size": 1}):
        with pytest.raises(UserError, match=rf"^prompt 1: {said}"):
            ours.generate(["w5", "w9"], new_tokens=NEW, **options)
    with pytest.raises(UserError, match=rf"^prompt 0: {said}"):
        list(ours.stream("w9", new_tokens=NEW))
    with pytest.raises(UserError, match=rf"^prompt 1: {said}"):
        ours.generate(["w5", "w9"], new_tokens=NEW, stop=["w4"])
    clip = hub_support.model("clip")
    clip.config.text_config.eos_token_id = 66
    folder = hub_support.save(clip, tmp_path / "clip")
    towers = tga_jax.load(folder, "float32")
    text = towers.params["clip"]["text"]
    text["embed"]["embedding"] = text["embed"]["embedding"].at[9].set(np.nan)
    assert np.isfinite(towers.embed_texts(["w5 w66"])).all()
    with pytest.raises(UserError, match=r"^text 1: its embedding is NaN, expected numbers"):
        towers.embed_texts(["w5 w66", "w9 w66"])

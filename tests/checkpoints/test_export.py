"""Export loads in transformers with identical logits; import, export, import is bit-exact."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import hub_support
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import torch
import transformers

import tga_jax
from tga_jax.checkpoints import convert, families, hub, hub_config
from tga_jax.checkpoints.spec import Spec
from tga_jax.models import clip, llama, llava


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def inputs(family: str) -> dict:
    rng = np.random.default_rng(3)
    ids, mask = hub_support.token_rows(rng, [9, 6], 9, False)
    pixels = torch.tensor(rng.standard_normal((2, 3, 28, 28)), dtype=torch.float32)
    if family == "clip":
        ids[:, 5] = 66
        return {"input_ids": torch.tensor(ids), "pixel_values": pixels}
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if family == "llava":
        given["input_ids"][:, 1:5] = hub_support.IMAGE_ID
        given["pixel_values"] = pixels
    return given


# Of the newest families in the numbers of their public checkpoints; their configs are drawn below.
_ONCE = ("olmo2", "gemma2-biases-linear", "gemma3", "phi3", "llava-gemma2")
_SLOW = ("olmo2-biases-llama3", "gemma2", "gemma3-local", "phi3-window", "llava-phi3")


def there_and_back() -> list[Any]:
    found = []
    for name in hub_support.CONFIGS:
        # An export has no pooling head of a SigLIP, which nothing here reads.
        if name not in ("llava-full", "siglip", "llava-siglip"):
            for dtype in ("float32", "bfloat16"):
                is_slow = name in _SLOW or (name in _ONCE and dtype == "float32")
                found.append(pytest.param(name, dtype, marks=pytest.mark.slow if is_slow else ()))
    return found


@pytest.mark.parametrize(("name", "dtype"), there_and_back())
def test_there_and_back(name, dtype, tmp_path):
    theirs = hub_support.model(name)
    family = theirs.config.model_type
    source = hub_support.save(theirs.to(getattr(torch, dtype)), tmp_path / "hub")
    theirs = hub_support.CLASSES[family].from_pretrained(source, dtype="auto", attn_implementation="eager")
    first = hub.import_hub(source, tmp_path / "ours", dtype)
    hub.export_hub(tmp_path / "ours", tmp_path / "out")
    again = hub_support.CLASSES[family].from_pretrained(tmp_path / "out", dtype="auto", attn_implementation="eager")
    assert again.dtype == getattr(torch, dtype)
    for (n, a), (m, b) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert n == m
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with torch.no_grad():
        a, b = theirs(**inputs(family)), again(**inputs(family))
    key = "logits_per_image" if family == "clip" else "logits"
    torch.testing.assert_close(getattr(a, key), getattr(b, key), rtol=0, atol=0)
    second = hub.import_hub(tmp_path / "out", tmp_path / "ours2", dtype)
    assert first == second
    same(hub.load_params(tmp_path / "ours", first, None), hub.load_params(tmp_path / "ours2", second, None))
    # The tokenizer goes with it, both ways.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert tokenizer("w5 w6")["input_ids"] == [1, 5, 6]


def test_the_processor_of_an_exported_llava(tmp_path):
    """Of a model that never was in the hub: <image> is added to tokenizer, config and table."""
    text = dataclasses.replace(checkpoint_llm(), vocab_size=hub_support.VOCAB)
    vision = clip.VisionConfig(32, 3, 4, 40, image_size=28, patch_size=14)
    model = Spec(
        kind="llava",
        config=llava.LlavaConfig(clip.ClipConfig(vision, None, None), text),
        family="llama",
        image_token_id=hub_support.VOCAB,
        hub_fields={"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64},
    )
    params = jax.jit(lambda: llava.init(model.config, jax.random.key(0)))()
    companions = tmp_path / "companions"
    hub_support.tokenizer(image="w61").save_pretrained(companions)
    hub.save(tmp_path / "ours", model, params, companions)
    hub.export_hub(tmp_path / "ours", tmp_path / "out")
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", attn_implementation="eager")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(processor, transformers.LlavaProcessor)
    assert theirs.config.image_token_index == hub_support.VOCAB
    assert theirs.get_input_embeddings().num_embeddings == 128
    picture = np.random.default_rng(0).integers(0, 256, (40, 31, 3)).astype(np.uint8)
    given = processor(images=[picture], text="w5 <image> w6 w7", return_tensors="pt")
    assert given["input_ids"].tolist() == [[1, 5, *[hub_support.VOCAB] * 4, 6, 7]]
    with torch.no_grad():
        found = theirs(**given).logits
    ours = tga_jax.load(tmp_path / "ours")
    with jax.default_matmul_precision("highest"):
        batch = ours.processor.batch(["w5 <image> w6 w7"], [[picture]])
        ids = np.where(batch.image_mask, 0, batch.tokens)
        pixels = given["pixel_values"].numpy()
        again = tga_jax.load(tmp_path / "out", dtype="float32")
        logits = again.forward(np.where(batch.image_mask, hub_support.VOCAB, ids), None, pixels).logits
    np.testing.assert_allclose(logits, found, rtol=1e-4, atol=1e-4)
    # All is the same but the table, which has got rows for <image> and <pad>.
    table, head = again.params["llm"]["embed"]["embedding"], again.params["llm"]["lm_head"]["kernel"]
    again.params["llm"]["embed"]["embedding"] = table[: hub_support.VOCAB]
    again.params["llm"]["lm_head"]["kernel"] = head[:, : hub_support.VOCAB]
    same(ours.params, again.params)


def checkpoint_llm() -> llama.LlamaConfig:
    return llama.LlamaConfig(32, 24, 2, 4, 2, 8, 40, 321.0, 3e-3, None, False)


def test_what_the_hub_cannot_hold_is_refused(tmp_path):
    odd = dataclasses.replace(checkpoint_llm(), sliding_window=5)
    with pytest.raises(tga_jax.UserError, match="of llama sliding_window is 5, expected None"):
        hub_config.to_hub(Spec(kind="llm", config=odd, family="llama"))
    with pytest.raises(tga_jax.UserError, match="of mistral qkv_bias is True, expected False"):
        hub_config.to_hub(Spec(kind="llm", config=dataclasses.replace(odd, qkv_bias=True), family="mistral"))


def test_nothing_is_half_written(tmp_path, monkeypatch):
    source = hub_support.save(hub_support.model("llama"), tmp_path / "hub")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    with pytest.raises(tga_jax.UserError, match="full: not empty, expected a new folder"):
        hub.import_hub(source, tmp_path / "full", "float32")
    hub.import_hub(source, tmp_path / "ours", "float32")

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "save_file", lambda *a, **k: fails())
    with pytest.raises(tga_jax.UserError, match="no space left on the disk"):
        hub.export_hub(tmp_path / "ours", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "hub", "ours"]
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine"]


@pytest.mark.parametrize("limit", [1, 5000, 10**9])
def test_shards_of_any_size(limit, tmp_path):
    tensors = {f"t{i}": np.full((i + 1, 7), i, np.float32) for i in range(30)}
    convert.write_safetensors(tmp_path, iter(tensors.items()), limit)
    from tga_jax.checkpoints import folder

    found = folder.tensors(tmp_path)
    assert sorted(found) == sorted(tensors)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.read(), tensors[name])
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (limit < 10**9)
    if limit == 5000:
        total = json.loads(index.read_text())["metadata"]["total_size"]
        assert total == sum(x.nbytes for x in tensors.values())
        assert all(f.stat().st_size < 6000 for f in tmp_path.glob("model-*.safetensors"))


FREE = {
    "qkv_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "sliding_window": st.none() | st.integers(1, 8),
    "query_pre_attn_scalar": st.integers(1, 9),
    "attention_cap": st.none() | st.just(7.5),
    "logit_cap": st.none() | st.just(2.5),
    "local_rope_theta": st.just(70.0),
    "rotary_fraction": st.sampled_from([0.5, 1.0]),
}


@st.composite
def llama_configs(draw):
    """Any shape that one of the hub's families can have."""
    family = draw(st.sampled_from(sorted(families.FAMILIES)))
    row = families.FAMILIES[family]
    kv, group, head = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([4, 8, 12]))
    free: dict[str, Any] = {name: draw(FREE[name]) for name in row.free if name not in ("out_bias", "window_pattern")}
    if "out_bias" in row.free:
        free["out_bias"] = free["qkv_bias"]
    count, window = draw(st.integers(1, 4)), free.get("sliding_window")
    if "window_pattern" in row.free and window is not None:
        free["window_pattern"] = draw(
            st.sampled_from([(True,), (True, False), (False, True, True)][: max(1, count - 1)])
        )
    config = llama.LlamaConfig(
        vocab_size=draw(st.integers(5, 40)),
        hidden_size=kv * group * (head if "head_dim" in row.lacks else draw(st.integers(1, 4))),
        num_layers=count,
        num_heads=kv * group,
        num_kv_heads=kv,
        head_dim=head,
        mlp_size=draw(st.integers(1, 20)),
        rope_theta=draw(st.sampled_from([50.0, 1e4, 1e6])),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-3])),
        tie_embeddings=draw(st.booleans()),
        activation=draw(st.sampled_from(["silu", "gelu_pytorch_tanh"])),
        **{"sliding_window": None, **row.traits, **free},
    )
    return Spec(
        kind="llm",
        config=config,
        family=family,
        hub_fields={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 77},
    )


@hypothesis.settings(max_examples=12)
@hypothesis.given(model=llama_configs(), seed=st.integers(0, 99))
def test_any_config_and_its_weights_survive_the_round_trip(model, seed, tmp_path_factory):
    folder = Path(tmp_path_factory.mktemp("trip"))
    hub_config.to_hub(model).save_pretrained(folder)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), convert.shapes(model))
    convert.write_safetensors(folder, convert.hub_tensors(model, params), 2000)
    found, tensors = hub.open_hub(folder)
    assert found == model
    same(convert.load(found, tensors, "here", "float32"), params)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_written_files_have_the_mode_that_the_umask_leaves(tmp_path, mask):
    hub.import_hub(hub_support.save(hub_support.model("llama"), tmp_path / "hub"), tmp_path / "ours", "float32")
    before = os.umask(mask)
    try:
        hub.export_hub(tmp_path / "ours", tmp_path / "out")
        convert.write_safetensors(tmp_path / "out", iter([("a", np.zeros(8)), ("b", np.zeros(8))]), shard_bytes=64)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"model.safetensors", "config.json", "model-00001-of-00002.safetensors"} <= set(modes)
    assert set(modes.values()) == {0o666 & ~mask}

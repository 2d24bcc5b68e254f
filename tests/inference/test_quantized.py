"""Checkpoints that answer with their decoder's kernels in 8 or 4 bits."""

import dataclasses
from pathlib import Path

import hub_support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import tga_jax
from tga_jax import cli
from tga_jax.bench import decode as bench
from tga_jax.checkpoints import hub
from tga_jax.cli import flags
from tga_jax.inference.model import Model
from tga_jax.models import llama, quantization
from tga_jax.serve import chat

every_kind = pytest.mark.parametrize("kind", quantization.KINDS)


@pytest.fixture(scope="module", name="folders")
def fixture_folders(tmp_path_factory) -> dict[str, Path]:
    """The same LLaVA in float32 as a hub folder and as a checkpoint of ours."""
    root = tmp_path_factory.mktemp("llava")
    hub_support.save(hub_support.model("llava", seed=8), root / "hub")
    hub.import_hub(root / "hub", root / "ours", "float32")
    return {"hub": root / "hub", "ours": root / "ours"}


def whole_again(folder: Path, kind: str, dtype: str) -> Model:
    """The checkpoint with every kernel of a block rounded to what `kind` has."""
    model = tga_jax.load(folder, dtype, stacked=True)
    flat = flatten_dict(model.params, sep="/")
    rounded = {
        path: quantization.dequantized(quantization.quantize(path, x, kind))
        for path, x in flat.items()
        if quantization.applies(path)
    }
    assert len(rounded) == 7
    assert all(jnp.any(x != flat[path]) for path, x in rounded.items())
    return dataclasses.replace(model, params=unflatten_dict(flat | rounded, sep="/"))


def prompts() -> tuple[list[str], list[list[np.ndarray]]]:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return ["w5 <image> w6", "w9 w10 w11 w12", "w7"], [[picture], [], []]


@every_kind
@pytest.mark.parametrize("stacked", [False, True])
def test_it_computes_what_the_rounded_weights_compute(folders, kind, stacked):
    model = tga_jax.load(folders["ours"], kind, stacked=stacked)
    expected = whole_again(folders["ours"], kind, "float32")
    assert model.config == expected.config
    ids = np.random.default_rng(1).integers(3, 40, (2, 9))
    found = model.forward(ids)
    np.testing.assert_allclose(found.logits, expected.forward(ids).logits, atol=2e-5)
    np.testing.assert_allclose(found.hidden_states, expected.forward(ids).hidden_states, atol=2e-5)
    assert model.generate(*prompts(), new_tokens=8) == expected.generate(*prompts(), new_tokens=8)


@every_kind
def test_of_a_hub_folder(folders, kind):
    model, expected = tga_jax.load(folders["hub"], kind), whole_again(folders["hub"], kind, "bfloat16")
    assert model.config.llm.dtype == "bfloat16"
    kernels = {path: x for path, x in flatten_dict(model.params, sep="/").items() if quantization.is_quantized(x)}
    assert len(kernels) == 7 * model.config.llm.num_layers
    for path, x in kernels.items():
        assert x.qvalue.dtype == {"int8": "int8", "int4": "int4", "nf4": "uint4"}[kind]
        part, blocks, i, *rest = path.split("/")
        whole = flatten_dict(expected.params, sep="/")["/".join((part, blocks, *rest))][int(i)]
        np.testing.assert_array_equal(quantization.dequantized(x), whole)
    others = {x.dtype.name for x in jax.tree.leaves({**model.params, "llm": model.params["llm"]["embed"]})}
    assert others == {"bfloat16"}


def test_a_language_model_and_a_clip(tmp_path):
    hub_support.save(hub_support.model("llama"), tmp_path / "llama")
    assert tga_jax.load(tmp_path / "llama", "int8").generate(["w5 w6"], new_tokens=3)[0]
    hub_support.save(hub_support.model("clip"), tmp_path / "clip")
    with pytest.raises(tga_jax.UserError, match=r"dtype: 'int8' is of a decoder's kernels, and .*/clip is a CLIP"):
        tga_jax.load(tmp_path / "clip", "int8")
    with pytest.raises(tga_jax.UserError, match="dtype: 'int3', expected one of bfloat16, float32, int8, int4, nf4"):
        tga_jax.load(tmp_path / "llama", "int3")


def test_from_the_command_line(folders, tmp_path, capsys, monkeypatch):
    asked = ["chat", f"--checkpoint={folders['ours']}", "--question=w5 w6", "--new-tokens=6", "--template=vicuna_v1"]
    assert cli.run([*asked, "--dtype=int8"]) == 0
    model = whole_again(folders["ours"], "int8", "float32")
    talk = chat.prompt(model.processor, [{"role": "user", "content": "w5 w6"}], "vicuna_v1")
    assert model.generate([talk], new_tokens=6)[0].strip() in capsys.readouterr().out
    assert cli.run([*asked, "--dtype=int9"]) == 2
    assert "--dtype=int9: value should be one of <bf16|fp32|bfloat16|float32|int8|int4|nf4>" in capsys.readouterr().err
    assert flags.QUANTIZED == quantization.KINDS


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4), ("nf4", 4)])
def test_bench_counts_the_bits(kind, bits):
    found = bench.DecodeBench(None, "llm-emoji", kind, 1, 4, 3)
    leaves = jax.tree.leaves(found.llm, is_leaf=quantization.is_quantized)
    kernels = [x for x in leaves if quantization.is_quantized(x)]
    others = [x for x in leaves if not quantization.is_quantized(x)]
    numbers = sum(x.qvalue.size for x in kernels) * bits // 8 + sum(2 * x.scale.size for x in kernels)
    table = 0 if found.config.tie_embeddings else found.llm["embed"]["embedding"].nbytes
    assert found.figures(1).parameter_bytes == numbers + sum(x.nbytes for x in others) - table
    assert llama.are_separate(found.llm)

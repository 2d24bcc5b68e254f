"""A finished training as a checkpoint of its own."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import chex
import hub_support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import torch
import train_support
import transformers

import tga_jax
from tga_jax import cli
from tga_jax.checkpoints import families, hub_config, orbax_files
from tga_jax.errors import UserError
from tga_jax.models import clip, layers, llama, llava, presets
from tga_jax.train import export, loop


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Mistral of the hub, a stage 1 that starts from it, and a stage 2 with LoRA that starts from both."""
    root = tmp_path_factory.mktemp("finished")
    train_support.write_data(root / "data")
    theirs = hub_support.model("mistral")
    hub_support.save(theirs, root / "hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.LLAVA, "tiny", lambda: small(root / "hub"))
        init = {"clip": "", "projector": "", "llm": str(root / "hub")}
        config = train_support.config(root / "data", steps=2, init=init)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=str(root / "hub")))
        first = dataclasses.replace(config.optim, schedule=(("projector/.*", 1.0), (".*", 0.0)))
        run(dataclasses.replace(config, optim=first), root / "stage1")
        rates = (("projector/.*", 1.0), (".*_lora/.*", 1.0), ("(clip|llm)/.*", 0.0))
        second = dataclasses.replace(config.optim, schedule=rates)
        init = {**init, "projector": str(root / "stage1")}
        config = dataclasses.replace(config, optim=second, lora=layers.LoraConfig(2, 4.0), init=init)
        run(config, root / "stage2")
        yield root, config


def run(config, workdir) -> None:
    loop.run(config, workdir, rich.console.Console(file=io.StringIO()))


def small(hub: Path) -> llava.LlavaConfig:
    return dataclasses.replace(train_support.model(), llm=hub_config.read(hub).config)


def test_it_computes_what_the_trained_parts_and_the_first_ones_do(folders, tmp_path):
    root, config = folders
    assert cli.run(["convert", f"--from-run={root}/stage2", f"--to={tmp_path}/whole", "--dtype=fp32"]) == 0
    model = tga_jax.load(tmp_path / "whole", stacked=True)
    assert model.spec.family == "mistral"
    assert model.spec.hub_fields == hub_config.read(root / "hub").hub_fields
    assert model.spec.image_mode == "pad"

    expected = llava.init(presets.get("tiny", hub_support.VOCAB), jax.random.key(config.seed))
    start = tga_jax.load(root / "hub", "float32", stacked=True).params["llm"]
    like = {**jax.eval_shape(lambda: expected), "llm": jax.eval_shape(lambda: start)}
    parts = {part: orbax_files.load_params(root / "stage2", part, like[part]) for part in ("projector", "llm")}
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), parts["llm"], start)))
    found, expected = model.params, {**expected, **parts}
    expected["clip"] = {"vision": expected["clip"]["vision"]} if "text" not in found["clip"] else expected["clip"]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, {part: found[part] for part in parts}, parts)
    # Random parameters are made again, within another compiled program.
    chex.assert_trees_all_close(found["clip"], expected["clip"], rtol=1e-5, atol=1e-6)


def test_it_goes_on_to_the_hub(folders, tmp_path):
    root, _ = folders
    assert cli.run(["convert", f"--from-run={root}/stage1", f"--to={tmp_path}/whole"]) == 0
    assert tga_jax.load(tmp_path / "whole").params["projector"]["linear_1"]["kernel"].dtype == jnp.bfloat16
    assert cli.run(["convert", f"--from={tmp_path}/whole", f"--to-hub={tmp_path}/hub"]) == 0
    ours, again = tga_jax.load(tmp_path / "whole"), tga_jax.load(tmp_path / "hub")
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "hub")
    pixels = theirs.image_processor([picture], return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    expected = clip.normalized(
        ours.config.clip.vision, ours.processor.pixels([picture])
    )  # the picture padded to a square
    np.testing.assert_allclose(pixels, expected, atol=1e-5)
    asked = ["w5 <image> w6"], [[picture]]
    assert ours.generate(*asked, new_tokens=6) == again.generate(*asked, new_tokens=6)


CONFIG = """
import dataclasses
from ml_collections import ConfigDict
from tga_jax.models import presets
import train_support

def mine():
    model = train_support.model()
    return dataclasses.replace(model, llm=dataclasses.replace(model.llm, {llm}))

presets.LLAVA["mine"] = mine

def get_config():
    return ConfigDict(dict(
        name="mine", seed=1, model="mine", init=dict(clip="", projector="", llm=""), steps=1, batch_size=2,
        loss=dict(lm=1.0), optim=dict(learning_rate=1e-3, schedule=((".*", 1.0),)),
        data=dict(
            tokenizer="data/tokenizer", lengths=(40,), caption_length=12,
            source=dict(own=dict(kind="llava", path="data/samples.json", images="data/images")),
        ),
    ))
"""


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        ("rope_theta=500.0, tie_embeddings=False", None),
        pytest.param(
            "mlp_bias=True, qkv_bias=True",
            "no family has a decoder of this shape: of llama out_bias is False, expected True as qkv_bias",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_preset_that_a_config_registers_trains_and_is_exported_without_it(tmp_path, monkeypatch, capsys, llm, said):
    """By another process, which has not read the config. A shape that no family of the hub has ends at our format."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presets, "LLAVA", dict(presets.LLAVA))
    train_support.write_data(tmp_path / "data")
    (tmp_path / "mine.py").write_text(CONFIG.format(llm=llm))
    assert cli.run(["train", "--config=mine.py", "--workdir=run"]) == 0
    del presets.LLAVA["mine"]
    assert cli.run(["convert", "--from-run=run", "--to=whole", "--dtype=fp32"]) == 0
    model = tga_jax.load("whole", stacked=True)
    like = jax.eval_shape(lambda: model.params)
    chex.assert_trees_all_equal(model.params["llm"], orbax_files.load_params(tmp_path / "run", "llm", like["llm"]))
    assert model.config.llm.rope_theta == (1e4 if said else 500.0)
    if said:
        assert cli.run(["convert", "--from=whole", "--to-hub=hub"]) == 2
        assert said in capsys.readouterr().err
        return
    assert cli.run(["convert", "--from=whole", "--to-hub=hub"]) == 0
    theirs, told = transformers.LlavaForConditionalGeneration.from_pretrained("hub", output_loading_info=True)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.text_config.rope_parameters["rope_theta"] == 500.0
    ids = np.array([[1, 5, 6, 7]])
    logits = theirs(input_ids=torch.tensor(ids)).logits.detach().numpy()[..., : model.config.llm.vocab_size]
    np.testing.assert_allclose(np.asarray(model.forward(ids).logits), logits, atol=1e-4)


def test_what_was_replaced_since_is_not_exported(folders, tmp_path):
    root, _ = folders
    for name in ("hub", "stage1"):
        shutil.copytree(root / name, tmp_path / name)
    config = (tmp_path / "stage1" / "config.json").read_text().replace(str(root / "hub"), str(tmp_path / "hub"))
    (tmp_path / "stage1" / "config.json").write_text(config)
    export.save(tmp_path / "stage1", tmp_path / "whole", "float32")
    weights = tmp_path / "hub" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    said = (
        r"stage1: init.llm, .*hub, is not what this run began with: model.safetensors has other bytes, .*; train again"
    )
    with pytest.raises(UserError, match=said.replace("; train", "; put that back, or train")):
        export.save(tmp_path / "stage1", tmp_path / "other", "float32")
    assert not (tmp_path / "other").exists()


def test_a_run_of_an_earlier_version_is_exported_by_its_preset(folders, tmp_path):
    root, _ = folders
    shutil.copytree(root / "stage2", tmp_path / "old")
    config = json.loads((root / "stage2" / "config.json").read_text())
    known = {name: config.pop(name) for name in ("architecture", "inputs")}
    assert known["architecture"]["family"] == "mistral"
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    for run, place in ((root / "stage2", "new"), (tmp_path / "old", "same")):
        export.save(run, tmp_path / place, "float32")
    one, other = (tga_jax.load(tmp_path / place) for place in ("new", "same"))
    assert one.spec == other.spec
    chex.assert_trees_all_equal(one.params, other.params)


def test_a_decoder_of_its_own_belongs_to_the_family_of_its_shape():
    plain = llama.LlamaConfig(64, 16, 3, 2, 1, 8, 24, 1e4, 1e-5, None, True)
    assert families.of(plain) == "llama"
    assert families.of(dataclasses.replace(plain, sliding_window=4)) == "mistral"
    assert families.of(dataclasses.replace(plain, qkv_bias=True)) == "qwen2"
    assert families.of(dataclasses.replace(plain, qkv_bias=True, out_bias=True)) == "llama"
    assert families.of(dataclasses.replace(plain, norms="post", qk_norm=True, whole_qk_norm=True)) == "olmo2"


def test_what_is_no_finished_training_is_named(folders, tmp_path):
    root, _ = folders
    with pytest.raises(
        UserError, match=r"hub/config.json: lacks init, model, steps, loss, data, expected the work folder"
    ):
        export.save(root / "hub", tmp_path / "whole", "float32")
    with pytest.raises(UserError, match="of a training, expected a checkpoint; `tga convert --from-run`"):
        tga_jax.load(root / "stage1")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text((root / "stage1" / "config.json").read_text())
    with pytest.raises(UserError, match="begun: not finished, expected the work folder of a finished training"):
        export.save(tmp_path / "begun", tmp_path / "whole", "float32")
    assert not (tmp_path / "whole").exists()

"""Every layout of names and every kind of file gives the same parameters, bit for bit; broken ones are named."""

import collections
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import chex
import hub_support
import jax
import numpy as np
import pytest
import safetensors.torch
import torch

import tga_jax
from tga_jax.checkpoints import convert, hub


@pytest.fixture(scope="module", name="llava")
def fixture_llava():
    return hub_support.model("llava")


@pytest.fixture(scope="module", name="folder")
def fixture_folder(llava, tmp_path_factory) -> Path:
    return hub_support.save(llava, tmp_path_factory.mktemp("hub") / "llava")


@pytest.fixture(name="own")
def fixture_own(folder, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(folder, tmp_path / "llava"))


def parameters(folder: Path, **how) -> dict:
    model, found = hub.open_hub(folder, **how)
    return convert.load(model, found, str(folder), "float32")


def same(a: dict, b: dict) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def renamed(name: str, layout: str) -> str:
    """From the names in transformers 5's memory to another layout."""
    name = name.replace("vision_tower.vision_model.", "vision_tower.")  # in the memory of transformers 5.4
    body, head = ("language_model.model.", "language_model.lm_head.") if layout == "hub" else ("model.", "lm_head.")
    vision = {"hub": "vision_tower.vision_model."}
    projector = {"hub": "multi_modal_projector."}
    if layout in ("4.57", "5.4"):
        body = "model.language_model." + ("model." if layout == "5.4" else "")
        vision[layout], projector[layout] = "model.vision_tower.vision_model.", "model.multi_modal_projector."
        head = "lm_head." if layout == "4.57" else "language_model.lm_head."
    if layout == "llava":
        vision["llava"] = "model.vision_tower.vision_tower.vision_model."
        name = name.replace("model.multi_modal_projector.linear_1", "model.mm_projector.0")
        name = name.replace("model.multi_modal_projector.linear_2", "model.mm_projector.2")
    for old, new in (
        ("model.language_model.", body),
        ("lm_head.", head),
        ("model.vision_tower.", vision[layout]),
        ("model.multi_modal_projector.", projector.get(layout, "")),
    ):
        if name.startswith(old):
            return new + name[len(old) :]
    assert layout == "llava", name
    return name


@pytest.mark.parametrize("layout", ["hub", "4.57", "5.4", "llava"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_layouts_of_names(llava, folder, own, layout, kind):
    state = {renamed(name, layout): x for name, x in hub_support.state(llava).items()}
    assert len(state) == len(llava.state_dict())
    (own / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(state, own / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(state, own / "model.safetensors")
    same(parameters(own), parameters(folder))


def test_shards_with_an_index(llava, folder, tmp_path):
    many = hub_support.save(llava, tmp_path / "many", max_shard_size="20KB")
    assert len(list(many.glob("model-*.safetensors"))) > 3
    same(parameters(many), parameters(folder))
    (many / "model-00002-of-00005.safetensors").unlink(missing_ok=True)
    victim = sorted(many.glob("model-*.safetensors"))[-1]
    victim.unlink()
    with pytest.raises(tga_jax.UserError, match=rf"index\.json: shards are missing: .*{victim.name}"):
        parameters(many)
    (many / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    with pytest.raises(tga_jax.UserError, match=r"index\.json: weight_map is \['a'\], expected tensor names to files"):
        parameters(many)


def test_bin_tensors_that_are_views_and_other_types(llava, folder, own):
    """Strides, offsets, shared storage, half precision, ordered dictionaries, parameters."""
    state = hub_support.state(llava)
    flat = torch.cat([x.flatten() for x in state.values()])
    views, at = collections.OrderedDict(), 0
    for name, x in state.items():
        views[name] = flat[at : at + x.numel()].view(x.shape)
        at += x.numel()
    name = "model.multi_modal_projector.linear_1.weight"
    views[name] = torch.nn.Parameter(state[name].T.contiguous().T)
    assert not views[name].is_contiguous()
    (own / "model.safetensors").unlink()
    torch.save(views, own / "pytorch_model.bin")
    same(parameters(own), parameters(folder))
    torch.save({n: x.to(torch.bfloat16) for n, x in state.items()}, own / "pytorch_model.bin")
    half = parameters(own)
    chex.assert_trees_all_close(half, parameters(folder), rtol=2**-8, atol=0)


def test_original_llava_config(llava, folder, own, tmp_path):
    """LLaVA's own config, its tower in a folder of its own."""
    config = json.loads((own / "config.json").read_text())
    text = config["text_config"] | {"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava_mistral"}
    extra = {
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_hidden_size": 1024, "image_aspect_ratio": "pad", "tune_mm_mlp_adapter": False,
    }  # fmt: skip
    (own / "config.json").write_text(json.dumps(text | extra))
    model, _ = hub.open_hub(own)
    assert (model.image_mode, model.config.clip.vision.image_size, model.config.feature_layer) == ("pad", 336, -2)
    assert model.config.llm == parameters_config(folder).llm
    (own / "config.json").write_text(json.dumps(text | extra | {"mm_use_im_start_end": True}))
    with pytest.raises(tga_jax.UserError, match="mm_use_im_start_end is True, expected False"):
        hub.open_hub(own)
    (own / "config.json").write_text(json.dumps(text | extra | {"mm_vision_select_layer": None}))
    with pytest.raises(tga_jax.UserError, match="mm_vision_select_layer None, expected such as -2"):
        hub.open_hub(own)
    state = {n: x for n, x in hub_support.state(llava).items() if "vision_tower" not in n}
    safetensors.torch.save_file(state, own / "model.safetensors")
    (own / "config.json").write_text(json.dumps(text | extra))
    with pytest.raises(tga_jax.UserError, match="stored without its vision tower, expected --vision"):
        hub.open_hub(own)


def parameters_config(folder: Path):
    return hub.open_hub(folder)[0].config


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_is_added_in(llava, folder, tmp_path, rslora):
    rng = np.random.default_rng(0)
    rank, alpha = 2, 6
    scale = alpha / (np.sqrt(rank) if rslora else rank)
    state = hub_support.state(llava)
    targets = [n.removesuffix(".weight") for n in state if n.endswith(("q_proj.weight", "down_proj.weight"))]
    targets = [t for t in targets if "language_model" in t]
    lora, merged = {}, {n: x.numpy() for n, x in state.items()}
    for target in targets:
        out, into = state[f"{target}.weight"].shape
        a, b = rng.standard_normal((rank, into)), rng.standard_normal((out, rank))
        lora[f"base_model.model.{target}.lora_A.weight"] = torch.tensor(a, dtype=torch.float32)
        lora[f"base_model.model.{target}.lora_B.weight"] = torch.tensor(b, dtype=torch.float32)
        merged[f"{target}.weight"] = (merged[f"{target}.weight"] + scale * b @ a).astype(np.float32)
    projector = "model.multi_modal_projector.linear_2.bias"
    merged[projector] = merged[projector] + 1
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copyfile(folder / "config.json", adapter / "config.json")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": alpha, "use_rslora": rslora}))
    safetensors.torch.save_file(lora, adapter / "adapter_model.safetensors")
    torch.save({f"base_model.model.{projector}": torch.tensor(merged[projector])}, adapter / "non_lora_trainables.bin")
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    safetensors.torch.save_file({n: torch.tensor(x) for n, x in merged.items()}, whole / "model.safetensors")
    ours, expected = parameters(adapter, base=folder), parameters(whole)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(tga_jax.UserError, match="holds LoRA weights, expected --base"):
        parameters(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": rank}))
    with pytest.raises(tga_jax.UserError, match=r"adapter_config\.json: lacks lora_alpha, expected the settings"):
        parameters(adapter, base=folder)


def test_a_truncated_file(own):
    path = own / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(tga_jax.UserError, match=r"model\.safetensors: not a whole safetensors file"):
        parameters(own)
    path.unlink()
    torch.save({"a": torch.zeros(100)}, own / "pytorch_model.bin")
    data = (own / "pytorch_model.bin").read_bytes()
    (own / "pytorch_model.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(tga_jax.UserError, match=r"pytorch_model\.bin: not a torch file of version 1\.6 or later"):
        parameters(own)


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/tga-should-not-exist"),))


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(own, way):
    path = own / "pytorch_model.bin"
    (own / "model.safetensors").unlink()
    if way == "torch":
        torch.save({"model.norm.weight": _Evil()}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(_Evil()))
    with pytest.raises(tga_jax.UserError, match=r"pytorch_model\.bin: refused, holds .*, expected tensors only"):
        parameters(own)
    assert not Path("/tmp/tga-should-not-exist").exists()


def test_all_that_is_wrong_is_listed_at_once_with_the_nearest_name(llava, own):
    state = hub_support.state(llava)
    state["model.language_model.layers.1.mlp.gate_projection.weight"] = state.pop(
        "model.language_model.layers.1.mlp.gate_proj.weight"
    )
    state["model.language_model.norm.weight"] = torch.zeros(23)
    state["something.else"] = torch.zeros(1)
    del state["model.multi_modal_projector.linear_2.bias"]
    safetensors.torch.save_file(state, own / "model.safetensors")
    with pytest.raises(tga_jax.UserError) as caught:
        parameters(own)
    said = str(caught.value)
    assert "\n" not in said
    for part in (
        "weights and config disagree",
        "model.language_model.norm.weight is [23], config.json says [24]",
        "unexpected something.else",
        "unexpected model.language_model.layers.1.mlp.gate_projection.weight",
        "missing llm: layers.1.mlp.gate_proj.weight (there is model.language_model.layers.1.mlp.gate_projection.w",
        "missing projector: linear_2.bias",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma', expected one of llama, mistral, qwen2, qwen3, olmo2, gemma2"),
        ({"rope_scalling": 2}, "unknown field rope_scalling"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected one of gelu, gelu_pytorch_tanh, quick_gelu, silu"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type is 'yarn', expected default, linear",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1.0"),
        ({"vocab_size": 64}, "model.embed_tokens.weight is [67, 24], config.json says [64, 24]"),
        ({"num_hidden_layers": 2}, "unexpected model.layers.2.input_layernorm.weight"),
        ({"attention_bias": True}, "missing llm: layers.0.self_attn.q_proj.bias"),
    ],
)
def test_configs_that_are_not_understood_or_disagree(tmp_path, fields, said):
    folder = hub_support.save(hub_support.model("llama"), tmp_path / "llama")
    hub_support.edit_config(folder, **fields)
    with pytest.raises(tga_jax.UserError) as caught:
        parameters(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_older_spellings_of_a_config(tmp_path):
    """rope_theta and rope_scaling at the top, a cached inv_freq among the weights."""
    made = hub_support.model("llama-biases-llama3")
    folder = hub_support.save(made, tmp_path / "llama")
    expected = hub.open_hub(folder)[0]
    scaling = {k: v for k, v in hub_support.LLAMA3.items() if k not in ("rope_theta", "rope_type")}
    hub_support.edit_config(
        folder, rope_parameters=..., rope_theta=321.0, rope_scaling={**scaling, "rope_type": "llama3"},
        torch_dtype="float32", pretraining_tp=1,
    )  # fmt: skip
    state = hub_support.state(made) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    assert hub.open_hub(folder)[0] == expected
    parameters(folder)


def test_a_folder_without_weights_or_config(tmp_path):
    with pytest.raises(tga_jax.UserError, match=r"config\.json: no such file, expected the config of a hub checkpoint"):
        tga_jax.load(tmp_path)
    hub_support.CONFIGS["llama"]().save_pretrained(tmp_path)
    with pytest.raises(tga_jax.UserError, match=r"no weights, expected one of model\.safetensors"):
        tga_jax.load(tmp_path)


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_alone_takes_config_and_tokenizer_from_its_base(llava, folder, tmp_path, with_config):
    """PEFT's own folder, and LLaVA's, which has a config and no tokenizer."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.language_model.model.layers.0.self_attn.q_proj"
    a, b = torch.randn(2, 24), torch.randn(48, 2)
    weights = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    safetensors.torch.save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    if with_config:
        shutil.copyfile(folder / "config.json", adapter / "config.json")
    hub.import_hub(adapter, tmp_path / "ours", "float32", base=folder)
    ours, base = tga_jax.load(tmp_path / "ours"), tga_jax.load(folder, "float32")
    assert ours.processor.tokenizer.get_vocab() == base.processor.tokenizer.get_vocab()
    assert ours.config == base.config
    added = np.asarray(ours.params["llm"]["blocks"]["0"]["query"]["kernel"]) - np.asarray(
        base.params["llm"]["blocks"]["0"]["query"]["kernel"]
    )
    np.testing.assert_allclose(added.reshape(24, 48), 2 * (b @ a).numpy().T, rtol=1e-4, atol=1e-5)


PLAIN = {  # as PEFT 0.19 writes it
    "alora_invocation_tokens": None, "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "base",
    "bias": "none", "corda_config": None, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16, "lora_bias": False, "lora_dropout": 0.05,
    "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA",
    "qalora_group_size": 16, "r": 2, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("init_lora_weights", kind) for kind in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")),
        ("bias", "all"), ("use_dora", True), ("rank_pattern", {"q_proj": 8}), ("layer_replication", [[0, 4], [2, 5]]),
        ("alora_invocation_tokens", [3, 4]), ("trainable_token_indices", [5]), ("peft_type", "LOHA"),
        ("lora_bias", True), ("use_qalora", True), ("a_field_of_next_year", "on"),
    ],
)  # fmt: skip
def test_lora_that_is_not_plain_is_refused_by_its_field(llava, folder, tmp_path, field, value):
    adapter = hub_support.save(llava, tmp_path / "adapter")
    name = "language_model.model.layers.0.self_attn.q_proj"
    for path in adapter.glob("*.safetensors"):
        path.unlink()
    weights = {f"base_model.model.{name}.lora_A.weight": torch.zeros(2, 24)}
    weights[f"base_model.model.{name}.lora_B.weight"] = torch.zeros(48, 2)
    safetensors.torch.save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(PLAIN))
    hub.open_hub(adapter, base=folder)
    for init in (False, None, "gaussian", "eva", "orthogonal"):
        (adapter / "adapter_config.json").write_text(json.dumps({**PLAIN, "init_lora_weights": init}))
        hub.open_hub(adapter, base=folder)
    (adapter / "adapter_config.json").write_text(json.dumps({**PLAIN, field: value}))
    with pytest.raises(tga_jax.UserError, match=rf"adapter_config\.json: {field} is .*, expected ") as error:
        hub.open_hub(adapter, base=folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["llama", "llava"])
def test_a_head_that_differs_from_the_table_it_is_tied_to_is_used(tmp_path, kind):
    theirs = hub_support.model(kind, seed=4)
    folder = hub_support.save(theirs, tmp_path / "hub")
    raw = json.loads((folder / "config.json").read_text())
    for part in (raw, raw.get("text_config", {})):
        part["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(raw))
    found = safetensors.torch.load_file(folder / "model.safetensors")
    ends = ("embed_tokens.weight", "lm_head.weight")
    table, head = (next(name for name in found if name.endswith(end)) for end in ends)
    assert not torch.equal(found[table], found[head])
    ids = np.array([[1, 5, 6, 7, 8]])
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids)).logits.numpy()
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(tga_jax.load(folder, "float32").forward(ids).logits, expected, rtol=2e-4, atol=2e-5)
    safetensors.torch.save_file({**found, head: found[table].clone()}, folder / "model.safetensors", {"format": "pt"})
    assert tga_jax.load(folder, "float32").spec.llm.tie_embeddings  # the same twice is no head of its own

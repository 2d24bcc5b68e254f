"""Twins of public checkpoints: tiny, of random weights, in all else as they lie on the hub.

Each has its original's configs field by field (sizes made small), file names and layout, names and types of tensors,
tokenizer files with their special tokens and oddities, processor files, and what else lies in the folder. Nothing here
needs torch, so the base install is tested on them as well: `tests/smoke.py`.
"""

import collections
import io
import json
import pickle
import sys
import types
import unittest.mock
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

Tensors = dict[str, np.ndarray]

HIDDEN, MLP, LAYERS, HEADS = 32, 48, 2, 4
IMAGE, PATCH = 28, 14  # pixels: four patches
SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "You are a helpful language and vision assistant. USER: What is in the picture? ASSISTANT: A cat on a red mat.",
    "Describe this image in detail. 12 mugs, 345 desks and 6789 dogs: ünïcödé, 日本, done.\n\nNext line\tand tab.",
]


# ---- Weights -------------------------------------------------------------------------------------------------------


def _random(shapes: dict[str, tuple[int, ...]], dtype: Any, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    made = {name: rng.standard_normal(shape) * 0.25 + (len(shape) == 1 and "bias" not in name)
            for name, shape in shapes.items()}  # fmt: skip
    return {name: x.astype(dtype) for name, x in made.items()}


# Norms of a block, where they are not Llama's.
_SANDWICH = tuple(f"{n}_layernorm" for n in ("input", "post_attention", "pre_feedforward", "post_feedforward"))
_BLOCK_NORMS = {"olmo2": ("post_attention_layernorm", "post_feedforward_layernorm")}
_BLOCK_NORMS |= dict.fromkeys(("gemma2", "gemma3_text"), _SANDWICH)


def llm_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of a decoder of the hub: names as those of transformers' class for the model_type."""
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    family = config.get("model_type", "llama")
    width = config.get("head_dim") or d // config["num_attention_heads"]
    q = width * config["num_attention_heads"]
    kv = width * config.get("num_key_value_heads", config["num_attention_heads"])
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not config.get("tie_word_embeddings", family.startswith("gemma")):
        shapes["lm_head.weight"] = (v, d)
    first = {"q": q, "k": kv, "v": kv} if family != "phi3" else {"qkv": q + 2 * kv}
    wide = {"gate": f, "up": f} if family != "phi3" else {"gate_up": 2 * f}
    norms = {"qwen3": (width, width), "gemma3_text": (width, width), "olmo2": (q, kv)}.get(family, ())
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}."
        for name, size in first.items():
            shapes[f"{block}self_attn.{name}_proj.weight"] = (size, d)
            if family == "qwen2":
                shapes[f"{block}self_attn.{name}_proj.bias"] = (size,)
        shapes |= {f"{block}mlp.{name}_proj.weight": (size, d) for name, size in wide.items()}
        shapes |= {f"{block}self_attn.o_proj.weight": (d, q), f"{block}mlp.down_proj.weight": (d, f)}
        own = _BLOCK_NORMS.get(family, ("input_layernorm", "post_attention_layernorm"))
        shapes |= {f"{block}{name}.weight": (d,) for name in own}
        shapes |= {f"{block}self_attn.{n}_norm.weight": (size,) for n, size in zip("qk", norms, strict=False)}
    return shapes


def _encoder_shapes(prefix: str, d: int, f: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        block = f"{prefix}encoder.layers.{i}."
        for name in ("q", "k", "v", "out"):
            shapes |= {f"{block}self_attn.{name}_proj.weight": (d, d), f"{block}self_attn.{name}_proj.bias": (d,)}
        shapes |= {f"{block}mlp.fc1.weight": (f, d), f"{block}mlp.fc1.bias": (f,)}
        shapes |= {f"{block}mlp.fc2.weight": (d, f), f"{block}mlp.fc2.bias": (d,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{block}{name}.weight": (d,), f"{block}{name}.bias": (d,)}
    return shapes


def vision_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of CLIP's vision tower, under `vision_model.`; the name of its first norm is spelt as OpenAI's checkpoints do."""
    d, p = c["hidden_size"], "vision_model."
    count = (c["image_size"] // c["patch_size"]) ** 2 + 1
    return {
        f"{p}embeddings.class_embedding": (d,),
        f"{p}embeddings.patch_embedding.weight": (d, 3, c["patch_size"], c["patch_size"]),
        f"{p}embeddings.position_embedding.weight": (count, d),
        **{f"{p}{n}.{x}": (d,) for n in ("pre_layrnorm", "post_layernorm") for x in ("weight", "bias")},
        **_encoder_shapes(p, d, c["intermediate_size"], c["num_hidden_layers"]),
    }


def text_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, p = c["hidden_size"], "text_model."
    return {
        f"{p}embeddings.token_embedding.weight": (c["vocab_size"], d),
        f"{p}embeddings.position_embedding.weight": (c["max_position_embeddings"], d),
        **{f"{p}final_layer_norm.{x}": (d,) for x in ("weight", "bias")},
        **_encoder_shapes(p, d, c["intermediate_size"], c["num_hidden_layers"]),
    }


def _projector_shapes(first: str, second: str, seen: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{first}.weight": (HIDDEN, seen), f"{first}.bias": (HIDDEN,)}
    return shapes | {f"{second}.weight": (HIDDEN, HIDDEN), f"{second}.bias": (HIDDEN,)}


def _inverse_frequencies(config: dict[str, Any], prefix: str = "") -> Tensors:
    """Buffers that transformers before 4.32 stored."""
    width = config["hidden_size"] // config["num_attention_heads"]
    values = (10000.0 ** -(np.arange(0, width, 2) / width)).astype(np.float16)
    names = [f"{prefix}model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(config["num_hidden_layers"])]
    return dict.fromkeys(names, values)


# ---- Files ---------------------------------------------------------------------------------------------------------


def write_json(path: Path, found: Any) -> None:
    path.write_text(json.dumps(found, indent=2))


def write_safetensors(folder: Path, tensors: Tensors, shards: int = 1) -> None:
    """`model.safetensors`, or so many shards with their index."""
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    _write_shards(folder, tensors, shards, "model-{:05d}-of-{:05d}.safetensors", "model.safetensors.index.json")


def write_bins(folder: Path, tensors: Tensors, shards: int = 1) -> None:
    if shards == 1:
        write_bin(folder / "pytorch_model.bin", tensors)
        return
    _write_shards(folder, tensors, shards, "pytorch_model-{:05d}-of-{:05d}.bin", "pytorch_model.bin.index.json")


def _write_shards(folder: Path, tensors: Tensors, shards: int, name: str, index: str) -> None:
    names, weight_map = list(tensors), {}
    for i in range(shards):
        file, own = name.format(i + 1, shards), names[i::shards]
        weight_map |= dict.fromkeys(own, file)
        part = {n: tensors[n] for n in own}
        if file.endswith(".bin"):
            write_bin(folder / file, part)
        else:
            safetensors.numpy.save_file(part, folder / file, metadata={"format": "pt"})
    size = sum(x.nbytes for x in tensors.values())
    write_json(folder / index, {"metadata": {"total_size": size}, "weight_map": weight_map})


_STORAGES = {"float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float32": "FloatStorage", "int64": "LongStorage"}


def write_bin(path: Path, tensors: Tensors) -> None:
    """What `torch.save` writes of a state dict, without torch: a pickle that names torch's classes, in a zip file."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in _STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # pyright: ignore[reportAttributeAccessIssue]

    class Storage:
        def __init__(self, key: int, x: np.ndarray):
            self.key, self.x = key, x

    class Rebuilt:
        def __init__(self, storage: Storage):
            self.storage = storage

        def __reduce__(self) -> tuple[Any, ...]:
            x = self.storage.x
            strides = tuple(s // x.itemsize for s in x.strides)
            return _rebuild_tensor_v2, (self.storage, 0, x.shape, strides, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, Storage):
                kind = getattr(torch, _STORAGES[obj.x.dtype.name])
                return ("storage", kind, str(obj.key), "cpu", obj.x.size)
            return None

    storages = {name: Storage(i, x.copy(order="C")) for i, (name, x) in enumerate(tensors.items())}
    pickled = io.BytesIO()
    with unittest.mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        Pickler(pickled, protocol=2).dump(collections.OrderedDict((n, Rebuilt(s)) for n, s in storages.items()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/byteorder", "little")
        for s in storages.values():
            archive.writestr(f"archive/data/{s.key}", s.x.tobytes())
        archive.writestr("archive/version", "3\n")


# ---- Tokenizers ----------------------------------------------------------------------------------------------------


def _special(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | flags


def _sentencepiece_model(control: list[str] | None = None) -> bytes:
    """As Llama's: BPE, byte fallback, digits alone, nothing normalised. 320 pieces and <unk>, <s>, </s>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(SENTENCES * 20), model_writer=model, model_type="bpe", vocab_size=390,
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False,
        normalization_rule_name="identity", character_coverage=0.99, minloglevel=2, control_symbols=control or [],
    )  # fmt: skip
    return model.getvalue()


def llama_tokenizer(
    folder: Path, *, fast: bool, fields: dict[str, Any], control: list[str] | None = None, added: tuple[str, ...] = ()
) -> int:
    """tokenizer.model; with `fast` also the tokenizer.json that transformers makes of it; added: tokens behind the
    model's own ones, of llava-hf. The size of the vocabulary."""
    common = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "clean_up_tokenization_spaces": False,
        "eos_token": "</s>", "model_max_length": 4096, "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer.model").write_bytes(_sentencepiece_model(control))
    legacy = {name: fields[name] for name in ("legacy", "add_prefix_space") if name in fields}
    write_json(folder / "tokenizer_config.json", common | legacy)
    write_json(folder / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    made = transformers.AutoTokenizer.from_pretrained(folder)
    write_json(folder / "tokenizer_config.json", common | fields)
    if fast:
        made.add_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in added])
        made.backend_tokenizer.save(str(folder / "tokenizer.json"))
        listed = made.added_tokens_decoder.items()
        decoder = {str(i): _special(token.content) | {"special": True} for i, token in listed}
        write_json(folder / "tokenizer_config.json", common | {"added_tokens_decoder": decoder} | fields)
        if added:
            write_json(folder / "added_tokens.json", {name: made.convert_tokens_to_ids(name) for name in added})
    return len(made)


# Written for these tests after what tiktoken's cl100k, Qwen2's and GPT-2's rules do: contractions, words with a leading
# character, numbers by three (Llama 3) or one (Qwen2), signs, blanks.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def byte_tokenizer(
    folder: Path,
    split: list[Any],
    special: list[str],
    *,
    added: tuple[str, ...] = (),
    begin: str | None = None,
    fields: dict[str, Any],
) -> int:
    """tokenizer.json of a byte-level BPE (Llama 3, Qwen2, SmolLM2); special tokens stand behind the others, or first
    where the name of the first is `<|endoftext|>` (SmolLM2). added: tokens behind these that are not special. The size
    of the vocabulary."""
    first = special[0] == "<|endoftext|>" and "<|im_start|>" in special and begin is None and fields.get("_first")
    core = tokenizers.Tokenizer(models.BPE(ignore_merges=bool(begin)))
    core.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(False, use_regex=not split)])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, initial_alphabet=alphabet, special_tokens=special if first else []
    )  # pyright: ignore[reportCallIssue]
    core.train_from_iterator(SENTENCES * 5, trainer)
    core.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in special])
    core.add_tokens([tokenizers.AddedToken(token, normalized=False, special=False) for token in added])
    if begin:
        core.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))]),
        ])  # fmt: skip
    core.save(str(folder / "tokenizer.json"))
    ids = {core.token_to_id(token): token for token in (*special, *added)}
    decoder = {str(i): _special(token) | {"special": token in special} for i, token in sorted(ids.items())}
    shown = {name: value for name, value in fields.items() if not name.startswith("_")}
    write_json(
        folder / "tokenizer_config.json",
        {"added_tokens_decoder": decoder, "clean_up_tokenization_spaces": False, "model_max_length": 4096} | shown,
    )
    return core.get_vocab_size()


def clip_tokenizer(folder: Path) -> int:
    """OpenAI's: vocab.json, merges.txt and tokenizer.json; the end token is the last one and pads as well."""
    core = tokenizers.Tokenizer(
        models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    core.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase(),
    ])  # fmt: skip
    regex = tokenizers.Regex(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(regex, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=620,
        show_progress=False,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # pyright: ignore[reportCallIssue]
    core.train_from_iterator(SENTENCES * 5, trainer)
    trained = json.loads(core.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{c}</w>" for c in letters), *map("".join, trained["merges"])]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(merge) for merge in trained["merges"]]
    core.model = models.BPE(
        {word: i for i, word in enumerate(words)}, merges, continuing_subword_prefix="", end_of_word_suffix="</w>",
        unk_token="<|endoftext|>",
    )  # fmt: skip
    core.add_special_tokens([
        tokenizers.AddedToken("<|startoftext|>", normalized=True, special=True),
        tokenizers.AddedToken("<|endoftext|>", normalized=False, special=True),
    ])  # fmt: skip
    ends = [(name, core.token_to_id(name)) for name in ("<|endoftext|>", "<|startoftext|>")]
    core.post_processor = processors.RobertaProcessing(ends[0], ends[1], trim_offsets=False, add_prefix_space=False)
    core.save(str(folder / "tokenizer.json"))
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]))
    typed = {"__type": "AddedToken"}
    config = {
        "unk_token": typed | _special("<|endoftext|>", normalized=True),
        "bos_token": typed | _special("<|startoftext|>", normalized=True),
        "eos_token": typed | _special("<|endoftext|>", normalized=True),
        "pad_token": "<|endoftext|>", "add_prefix_space": False, "errors": "replace", "do_lower_case": True,
        "name_or_path": "openai/clip-vit-base-patch32", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer",
        "special_tokens_map_file": "./special_tokens_map.json",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {
        "bos_token": _special("<|startoftext|>", normalized=True), "pad_token": "<|endoftext|>",
        "eos_token": _special("<|endoftext|>", normalized=True),
        "unk_token": _special("<|endoftext|>", normalized=True),
    })  # fmt: skip
    return core.get_vocab_size()


# ---- Chat templates: written for these tests, with the branches that the originals have -----------------------------

_LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant take turns') }}"
    "{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.index0 == 0 and system %}"
    "{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}{{ m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant take turns') }}{% endif %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
_LLAMA_3 = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content']|trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


def _chatml(system: str) -> str:
    return (
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


# The last answer has an empty block of thoughts before it; a question leaves it to the model to think.
QWEN3 = (
    "{% set ns = namespace(asked=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' and loop.last and loop.index0 > ns.asked %}"
    "{{ '<think>\\n\\n</think>\\n\\n' + m['content'].lstrip('\\n') }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)

# Contents are lists of parts here.
_LLAVA_HF = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if m['role'] == 'assistant' %}{{ part['text'] + ' ' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


# ---- Language models -----------------------------------------------------------------------------------------------


def _llm(name: str, vocab: int, **fields: Any) -> dict[str, Any]:
    return {
        "architectures": [name], "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02,
        "intermediate_size": MLP, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "use_cache": True,
        "vocab_size": vocab, **fields,
    }  # fmt: skip


def vicuna(folder: Path, seed: int = 0) -> Tensors:
    """lmsys/vicuna-7b-v1.5: no tokenizer.json, .bin shards with rotary buffers, sampling in generation_config."""
    typed = {"__type": "AddedToken"}
    marks = {f"{n}_token": typed | _special(t, normalized=True) for n, t in
             (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"))}  # fmt: skip
    vocab = llama_tokenizer(
        folder, fast=False, fields=marks | {"legacy": False, "pad_token": None, "padding_side": "right"}
    )
    config = _llm(
        "LlamaForCausalLM", vocab, _name_or_path="vicuna-7b-v1.5", bos_token_id=1, eos_token_id=2, pad_token_id=0,
        max_position_embeddings=4096, model_type="llama", num_key_value_heads=HEADS, pretraining_tp=1,
        rms_norm_eps=1e-5, rope_scaling=None, tie_word_embeddings=False, torch_dtype="float16",
        transformers_version="4.31.0",
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "bos_token_id": 1, "eos_token_id": 2, "max_length": 4096, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6,
        "transformers_version": "4.31.0",
    })  # fmt: skip
    weights = _random(llm_shapes(config), np.float16, seed)
    write_bins(folder, weights | _inverse_frequencies(config), 2)
    return weights


def llama_2(folder: Path, seed: int = 0) -> Tensors:
    """meta-llama/Llama-2-7b-chat-hf: the same weights also as .bin, rotary buffers, its own template."""
    vocab = llama_tokenizer(folder, fast=True, fields={"chat_template": _LLAMA_2, "legacy": False, "pad_token": None})
    config = _llm(
        "LlamaForCausalLM", vocab, _name_or_path="meta-llama/Llama-2-7b-chat-hf", bos_token_id=1, eos_token_id=2,
        max_position_embeddings=4096, model_type="llama", num_key_value_heads=HEADS, pretraining_tp=1,
        rms_norm_eps=1e-5, rope_scaling=None, tie_word_embeddings=False, torch_dtype="float16",
        transformers_version="4.32.0.dev0",
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.6,
        "max_length": 4096, "top_p": 0.9, "transformers_version": "4.32.0.dev0",
    })  # fmt: skip
    weights = _random(llm_shapes(config), np.float16, seed)
    write_safetensors(folder, weights | _inverse_frequencies(config), 2)
    write_bins(folder, weights | _inverse_frequencies(config), 2)
    return weights


def mistral(version: str) -> Callable[..., Tensors]:
    """mistralai/Mistral-7B-Instruct-v0.1 to v0.3: a window in the first, control tokens and consolidated.safetensors in
    the last."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        third = version == "0.3"
        fields = {"chat_template": _MISTRAL, "pad_token": None, "use_default_system_prompt": False}
        fields |= {"legacy": False, "add_prefix_space": None} if third else {"legacy": True}
        control = ["[INST]", "[/INST]", "[TOOL_CALLS]"] if third else []
        vocab = llama_tokenizer(folder, fast=True, control=control, fields=fields)
        config = _llm(
            "MistralForCausalLM", vocab, attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
            max_position_embeddings=32768, model_type="mistral", num_key_value_heads=2, rms_norm_eps=1e-5,
            rope_theta=10000.0 if version == "0.1" else 1e6, sliding_window=12 if version == "0.1" else None,
            tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.42.0.dev0",
        )  # fmt: skip
        write_json(folder / "config.json", config)
        write_json(
            folder / "generation_config.json", {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2}
        )
        weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
        write_safetensors(folder, weights, 3)
        if third:  # the same in Mistral's own names, its params, and its tokenizer under a second name
            head = {"output.weight": weights["lm_head.weight"]}
            safetensors.numpy.save_file(head, folder / "consolidated.safetensors")
            (folder / "tokenizer.model.v3").write_bytes((folder / "tokenizer.model").read_bytes())
            write_json(folder / "params.json", {"dim": HIDDEN, "n_layers": LAYERS, "vocab_size": vocab})
        elif version == "0.2":
            write_bins(folder, weights, 3)
        return weights

    return write


_LLAMA_3_TOKENS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
]  # fmt: skip


def llama_3(version: str) -> Callable[..., Tensors]:
    """meta-llama/Llama-3.1-8B-Instruct, and 3.2-1B with tied tables: three end tokens, scaled rotary frequencies."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        small = version == "3.2"
        split = [pre_tokenizers.Split(tokenizers.Regex(_WORDS % 3), "isolated")]
        vocab = byte_tokenizer(folder, split, _LLAMA_3_TOKENS, begin="<|begin_of_text|>", fields={
            "bos_token": "<|begin_of_text|>", "chat_template": _LLAMA_3, "eos_token": "<|eot_id|>",
            "model_input_names": ["input_ids", "attention_mask"], "tokenizer_class": "PreTrainedTokenizerFast",
        })  # fmt: skip
        first = vocab - len(_LLAMA_3_TOKENS)
        ends = [first + 1, first + 5, first + 6]
        scaling = {
            "factor": 32.0 if small else 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16, "rope_type": "llama3",
        }  # fmt: skip
        config = _llm(
            "LlamaForCausalLM", vocab, attention_bias=False, attention_dropout=0.0, bos_token_id=first,
            eos_token_id=ends, max_position_embeddings=131072, mlp_bias=False, model_type="llama",
            num_key_value_heads=2, pretraining_tp=1, rms_norm_eps=1e-5, rope_scaling=scaling, rope_theta=500000.0,
            tie_word_embeddings=small, torch_dtype="bfloat16", transformers_version="4.45.0.dev0",
            **({"head_dim": HIDDEN // HEADS} if small else {}),
        )  # fmt: skip
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", {
            "bos_token_id": first, "do_sample": True, "eos_token_id": ends, "temperature": 0.6, "top_p": 0.9,
        })  # fmt: skip
        write_json(folder / "special_tokens_map.json", {
            "bos_token": _special("<|begin_of_text|>"), "eos_token": _special("<|eot_id|>"),
        })  # fmt: skip
        weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
        write_safetensors(folder, weights, 1 if small else 2)
        (folder / "original").mkdir(exist_ok=True)
        write_json(folder / "original" / "params.json", {"dim": HIDDEN, "use_scaled_rope": True})
        (folder / "original" / "consolidated.00.pth").write_bytes(b"no zip file: nothing may read it")
        return weights

    return write


def qwen(version: str) -> Callable[..., Tensors]:
    """Qwen/Qwen2-7B-Instruct, Qwen2.5-0.5B-Instruct and Qwen3-0.6B: no begin token, a table longer than the tokenizer,
    a window that is switched off, two end tokens; the small ones are tied; the third has heads of their own size,
    norms of query and key, and a template with thoughts."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        split = [pre_tokenizers.Split(tokenizers.Regex(_WORDS % 1), "isolated")]
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        template = QWEN3 if version == "3" else _chatml("You are a helpful assistant.")
        added = ("<think>", "</think>") if version == "3" else ()
        vocab = byte_tokenizer(folder, split, special, added=added, fields={
            "add_prefix_space": False, "additional_special_tokens": special[1:], "bos_token": None,
            "chat_template": template, "eos_token": "<|im_end|>", "errors": "replace",
            "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        })  # fmt: skip
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        write_json(folder / "vocab.json", model["vocab"])
        (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
        end, tied = vocab - len(added) - 3, version != "2"
        config = _llm(
            "Qwen2ForCausalLM", vocab + 37, attention_dropout=0.0, bos_token_id=end, eos_token_id=end + 2,
            max_position_embeddings=32768, max_window_layers=21 if tied else 28, model_type="qwen2",
            num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e6, sliding_window=32768 if tied else 131072,
            tie_word_embeddings=tied, torch_dtype="bfloat16", transformers_version="4.43.1", use_sliding_window=False,
        )  # fmt: skip
        if version == "3":
            config |= {
                "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 16, "model_type": "qwen3",
                "max_position_embeddings": 40960, "max_window_layers": 28, "rope_scaling": None, "sliding_window": None,
                "transformers_version": "4.51.0",
            }  # fmt: skip
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", {
            "bos_token_id": end, "pad_token_id": end, "do_sample": True, "eos_token_id": [end + 2, end],
            "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
        })  # fmt: skip
        weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
        write_safetensors(folder, weights, 1 if tied else 4)
        return weights

    return write


def smollm2(folder: Path, seed: int = 0) -> Tensors:
    """HuggingFaceTB/SmolLM2-135M-Instruct: special tokens first, digits alone; chat's tokens begin, end and pad."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"]
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, use_regex=True)]
    template = _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face")
    vocab = byte_tokenizer(folder, split, special, fields={
        "add_prefix_space": False, "additional_special_tokens": special[1:3], "bos_token": "<|im_start|>",
        "chat_template": template, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>", "vocab_size": 0, "_first": True,
    })  # fmt: skip
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]))
    config = _llm(
        "LlamaForCausalLM", vocab, attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
        is_llama_config=True, max_position_embeddings=8192, mlp_bias=False, model_type="llama", num_key_value_heads=2,
        pad_token_id=2, pretraining_tp=1, rms_norm_eps=1e-5, rope_interleaved=False, rope_scaling=None,
        rope_theta=100000, tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.42.3",
    )  # fmt: skip
    config["transformers.js_config"] = {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    })  # fmt: skip
    weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
    write_safetensors(folder, weights)
    return weights


_OLMO_2 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if m['role'] != 'assistant' or not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def olmo_2(folder: Path, seed: int = 0) -> Tensors:
    """allenai/OLMo-2-1124-13B-Instruct, whose config.json and tokenizer_config.json were read; the smaller ones differ
    in sizes alone. One token begins and ends texts; marks of the chat are no tokens; norms behind the layers, and of
    all of query and key. Its generation_config.json is as transformers writes one."""
    split = [pre_tokenizers.Split(tokenizers.Regex(_WORDS % 3), "isolated")]
    special = ["<|endoftext|>", "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|endofprompt|>", "<|pad|>"]
    added = ("<|extra_id_0|>", "|||PHONE_NUMBER|||", "|||EMAIL_ADDRESS|||")
    vocab = byte_tokenizer(folder, split, special, added=added, fields={
        "add_prefix_space": False, "bos_token": "<|endoftext|>", "chat_template": _OLMO_2,
        "eos_token": "<|endoftext|>", "extra_special_tokens": {}, "pad_token": "<|pad|>",
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>",
    })  # fmt: skip
    end = vocab - len(added) - len(special)
    config = _llm(
        "Olmo2ForCausalLM", vocab + 74, _name_or_path="/weka/oe-adapt-default/olmo2/checkpoints/step_180/",
        attention_bias=False, attention_dropout=0.0, eos_token_id=end, max_position_embeddings=4096, model_type="olmo2",
        num_key_value_heads=HEADS, pad_token_id=end + 5, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=500000,
        tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.47.0.dev0", use_cache=False,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "eos_token_id": end, "pad_token_id": end + 5, "transformers_version": "4.47.0.dev0",
    })  # fmt: skip
    weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
    write_safetensors(folder, weights, 3)
    return weights


def gemma_tokenizer(folder: Path, added: list[str], **fields: Any) -> int:
    """tokenizer.json as Gemma's: BPE over sentencepiece's blanks with bytes to fall back on, its first ids, and marks
    of turns. added: what follows the vocabulary. The size of the vocabulary."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    core = tokenizers.Tokenizer(models.BPE())
    core.normalizer = normalizers.Replace(" ", "\u2581")
    trainer = trainers.BpeTrainer(vocab_size=150, show_progress=False)  # pyright: ignore[reportCallIssue]
    core.train_from_iterator(SENTENCES * 5, trainer)
    trained = json.loads(core.to_str())["model"]
    words = [*special, *(f"<0x{i:02X}>" for i in range(256)), *trained["vocab"]]
    made = transformers.GemmaTokenizer(
        {word: i for i, word in enumerate(dict.fromkeys(words))}, [tuple(merge) for merge in trained["merges"]]
    )
    made.add_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in added])
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {str(i): _special(token.content) | {"special": True} for i, token in made.added_tokens_decoder.items()}
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder, "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False, "eos_token": "<eos>", "model_max_length": int(1e30),
        "pad_token": "<pad>", "sp_model_kwargs": {}, "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": False, **fields,
    })  # fmt: skip
    write_json(folder / "special_tokens_map.json", {
        f"{name}_token": _special(f"<{name}>") for name in ("bos", "eos", "pad", "unk")
    })  # fmt: skip
    return len(made)


# The second generation refuses a system's words, the third puts them before the first question.
_GEMMA = (
    "{{ bos_token }}{%% if messages[0]['role'] == 'system' %%}%s{%% set rest = messages[1:] %%}{%% else %%}"
    "{%% set system = '' %%}{%% set rest = messages %%}{%% endif %%}{%% for m in rest %%}"
    "{%% if (m['role'] == 'user') != (loop.index0 %% 2 == 0) %%}{{ raise_exception('roles must alternate') }}"
    "{%% endif %%}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{%% if loop.first %%}{{ system }}{%% endif %%}{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<start_of_turn>model\\n' }}{%% endif %%}"
)
_NO_SYSTEM = "{{ raise_exception('no system role') }}{% set system = '' %}"
_SYSTEM_FIRST = "{% set system = messages[0]['content'] + '\\n\\n' %}"


def gemma(version: int) -> Callable[..., Tensors]:
    """google/gemma-2-2b-it and gemma-3-1b-it, whose config.json were read: tied tables though no field says so, two end
    tokens, blocks with a window and without in turns; the third generation has two bases of rotation."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        template = _GEMMA % (_NO_SYSTEM if version == 2 else _SYSTEM_FIRST)
        vocab = gemma_tokenizer(folder, ["<start_of_turn>", "<end_of_turn>"], chat_template=template)
        ends = [1, vocab - 1]
        shared = {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2, "cache_implementation": "hybrid",
            "eos_token_id": ends, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0,
            "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
        }  # fmt: skip
        if version == 2:
            config = _llm(
                "Gemma2ForCausalLM", vocab, **shared, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
                max_position_embeddings=8192, model_type="gemma2", num_key_value_heads=2, query_pre_attn_scalar=16,
                rope_theta=10000.0, sliding_window=12, transformers_version="4.42.4",
            ) | {"hidden_act": "gelu_pytorch_tanh"}  # fmt: skip
        else:
            config = _llm(
                "Gemma3ForCausalLM", vocab, **shared, attn_logit_softcapping=None, final_logit_softcapping=None,
                max_position_embeddings=32768, model_type="gemma3_text", num_key_value_heads=1,
                query_pre_attn_scalar=16, rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000,
                sliding_window=12, sliding_window_pattern=LAYERS, transformers_version="4.50.0.dev0",
            )  # fmt: skip
            del config["hidden_act"]
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", {
            "_from_model_config": True, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": ends,
            "pad_token_id": 0, **({"do_sample": True, "top_k": 64, "top_p": 0.95} if version == 3 else {}),
        })  # fmt: skip
        # Norms' weights are about zero, and words short: they are scaled up.
        weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
        weights |= {name: (x - 1).astype(x.dtype) for name, x in weights.items() if x.ndim == 1}
        weights["model.embed_tokens.weight"] = (weights["model.embed_tokens.weight"] / 8).astype(ml_dtypes.bfloat16)
        write_safetensors(folder, weights, 2 if version == 2 else 1)
        return weights

    return write


PHI_4 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


def phi_4(folder: Path, seed: int = 0) -> Tensors:
    """microsoft/Phi-4-mini-instruct, whose config.json was read: fused matrices, a part of each head rotated, factors
    of rotation for short and for long rows, a window longer than any text, a name of code that is not needed. One token
    begins, ends and pads, and an answer ends with another."""
    split = [pre_tokenizers.Split(tokenizers.Regex(_WORDS % 3), "isolated")]
    special = ["<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"]
    vocab = byte_tokenizer(folder, split, special, fields={
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "bos_token": "<|endoftext|>",
        "chat_template": PHI_4, "eos_token": "<|endoftext|>", "extra_special_tokens": {},
        "pad_token": "<|endoftext|>", "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>",
    })  # fmt: skip
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]))
    end = vocab - len(special)
    config = _llm(
        "Phi3ForCausalLM", vocab + 42, _name_or_path="Phi-4-mini-instruct", attention_bias=False, attention_dropout=0.0,
        auto_map={
            "AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            "AutoTokenizer": "Xenova/gpt-4o",
        },
        bos_token_id=end, embd_pdrop=0.0, eos_token_id=end, full_attn_mod=1, interpolate_factor=1, lm_head_bias=False,
        max_position_embeddings=131072, mlp_bias=False, model_type="phi3", num_key_value_heads=2,
        original_max_position_embeddings=4096, pad_token_id=end, partial_rotary_factor=0.75, resid_pdrop=0.0,
        rms_norm_eps=1e-5, rope_scaling={
            "long_factor": [1, 2.75, 32.5], "short_factor": [1.0, 1.0, 1.0], "type": "longrope",
        },
        rope_theta=10000.0, sliding_window=262144, tie_word_embeddings=True, torch_dtype="bfloat16",
        transformers_version="4.45.0",
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": end, "eos_token_id": [end + 3, end], "pad_token_id": end,
    })  # fmt: skip
    weights = _random(llm_shapes(config), ml_dtypes.bfloat16, seed)
    write_safetensors(folder, weights, 2)
    return weights


# ---- CLIP ----------------------------------------------------------------------------------------------------------

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def _tower(**fields: Any) -> dict[str, Any]:
    """What transformers wrote of a tower in 2022: fields of generation beside those of the model."""
    return {
        "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
        "bad_words_ids": None, "diversity_penalty": 0.0, "do_sample": False, "dropout": 0.0, "hidden_act": "quick_gelu",
        "hidden_size": 32, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_factor": 1.0,
        "initializer_range": 0.02, "intermediate_size": 48, "is_decoder": False, "is_encoder_decoder": False,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layer_norm_eps": 1e-05, "max_length": 20, "num_attention_heads": 4,
        "num_beams": 1, "num_hidden_layers": 3, "output_attentions": False, "output_hidden_states": False,
        "projection_dim": 24, "return_dict": True, "temperature": 1.0, "tie_encoder_decoder": False, "top_k": 50,
        "torch_dtype": None, "torchscript": False, "use_bfloat16": False, **fields,
    }  # fmt: skip


def clip_preprocessor(size: Any, crop: Any, **fields: Any) -> dict[str, Any]:
    return {
        "crop_size": crop, "do_center_crop": True, "do_normalize": True, "do_resize": True, "image_mean": MEAN,
        "image_std": STD, "resample": 3, "size": size, **fields,
    }  # fmt: skip


def clip(name: str) -> Callable[..., Tensors]:
    """openai/clip-vit-base-patch32, -large-patch14 and -large-patch14-336: the last has .bin files alone; all store
    position_ids, and an eos_token_id of 2 that is none."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        vocab = clip_tokenizer(folder)
        text = _tower(
            model_type="clip_text_model", vocab_size=vocab, max_position_embeddings=77, bos_token_id=0, pad_token_id=1,
            eos_token_id=2,
        )  # fmt: skip
        vision = _tower(model_type="clip_vision_model", image_size=IMAGE, patch_size=PATCH, num_channels=3)
        # Given beside the whole configs, which they override, with the defaults of what they lack.
        sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim")
        given = {n: {k: c[k] for k in sizes} for n, c in (("text", text), ("vision", vision))}
        given["text"] |= {"vocab_size": vocab, "bos_token_id": vocab - 2, "eos_token_id": vocab - 1}
        given["vision"] |= {"patch_size": PATCH, "image_size": IMAGE}
        config = {
            "_name_or_path": name, "architectures": ["CLIPModel"], "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 24, "text_config": text,
            "text_config_dict": given["text"] if "large" in name else None, "torch_dtype": "float32",
            "transformers_version": None, "vision_config": vision,
            "vision_config_dict": given["vision"] if "large" in name else None,
        }  # fmt: skip
        write_json(folder / "config.json", config)
        size, crop = IMAGE, IMAGE
        if "large" in name and "336" not in name:  # its file was written anew once
            size, crop = {"shortest_edge": IMAGE}, {"height": IMAGE, "width": IMAGE}
        kind = {"feature_extractor_type": "CLIPFeatureExtractor"}
        write_json(folder / "preprocessor_config.json", clip_preprocessor(size, crop, **kind))
        shapes = text_shapes(text) | vision_shapes(vision)
        shapes |= {"text_projection.weight": (24, 32), "visual_projection.weight": (24, 32)}
        weights = _random(shapes, np.float32, seed) | {"logit_scale": np.asarray(4.6052, np.float32)}
        buffers = {
            "text_model.embeddings.position_ids": np.arange(77, dtype=np.int64)[None],
            "vision_model.embeddings.position_ids": np.arange((IMAGE // PATCH) ** 2 + 1, dtype=np.int64)[None],
        }
        write_bins(folder, weights | buffers)
        if "336" not in name:
            write_safetensors(folder, weights | buffers)
        return weights

    return write


def siglip_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of SigLIP's vision tower, under `vision_model.`, without the head that pools its states."""
    d, p = c["hidden_size"], "vision_model."
    return {
        f"{p}embeddings.patch_embedding.weight": (d, 3, c["patch_size"], c["patch_size"]),
        f"{p}embeddings.patch_embedding.bias": (d,),
        f"{p}embeddings.position_embedding.weight": ((c["image_size"] // c["patch_size"]) ** 2, d),
        **{f"{p}post_layernorm.{x}": (d,) for x in ("weight", "bias")},
        **_encoder_shapes(p, d, c["intermediate_size"], c["num_hidden_layers"]),
    }


def siglip(version: int) -> Callable[..., Tensors]:
    """google/siglip-so400m-patch14-384 and siglip2-so400m-patch14-384: both towers, pictures with a remainder beyond
    the last patch, and pixels around a half; the second resizes bilinearly. Without their tokenizers, which no LLaVA
    reads."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
        text = {**sizes, "model_type": "siglip_text_model"}
        vision = {**sizes, "image_size": IMAGE + 6, "model_type": "siglip_vision_model", "patch_size": PATCH}
        told = {"initializer_factor": 1.0, "model_type": "siglip", "torch_dtype": "float32"}
        if version == 2:
            common = {"attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06}
            text |= {**common, "max_position_embeddings": 64, "projection_size": 32, "vocab_size": 40}
            vision |= {**common, "num_channels": 3, "torch_dtype": "float32"}
            told["transformers_version"] = "4.49.0.dev0"
        write_json(folder / "config.json", {
            "architectures": ["SiglipModel"], "text_config": text, "vision_config": vision, **told,
        })  # fmt: skip
        write_json(folder / "preprocessor_config.json", {
            "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_mean": [0.5] * 3, "image_processor_type": "SiglipImageProcessor", "image_std": [0.5] * 3,
            "processor_class": "SiglipProcessor", "resample": 3 if version == 1 else 2,
            "rescale_factor": 0.00392156862745098, "size": {"height": IMAGE + 6, "width": IMAGE + 6},
        })  # fmt: skip
        head = "vision_model.head."
        shapes = text_shapes({**text, "vocab_size": 40, "max_position_embeddings": 64}) | siglip_shapes(vision) | {
            "text_model.head.weight": (32, 32), "text_model.head.bias": (32,), f"{head}probe": (1, 1, 32),
            f"{head}attention.in_proj_weight": (96, 32), f"{head}attention.in_proj_bias": (96,),
            f"{head}attention.out_proj.weight": (32, 32), f"{head}attention.out_proj.bias": (32,),
            f"{head}layernorm.weight": (32,), f"{head}layernorm.bias": (32,), f"{head}mlp.fc1.weight": (48, 32),
            f"{head}mlp.fc1.bias": (48,), f"{head}mlp.fc2.weight": (32, 48), f"{head}mlp.fc2.bias": (32,),
            "logit_scale": (1,), "logit_bias": (1,),
        }  # fmt: skip
        weights = _random(shapes, np.float32, seed)
        write_safetensors(folder, weights)
        return weights

    return write


# ---- LLaVA ---------------------------------------------------------------------------------------------------------


def _vision_config() -> dict[str, Any]:
    return {
        "hidden_size": 32, "image_size": IMAGE, "intermediate_size": 48, "model_type": "clip_vision_model",
        "num_attention_heads": 4, "num_hidden_layers": 3, "patch_size": PATCH, "projection_dim": 24,
        "vocab_size": 32000,
    }  # fmt: skip


def llava_hf(size: str) -> Callable[..., Tensors]:
    """llava-hf/llava-1.5-7b-hf and 13b: image id and <pad> are added behind Vicuna's 32000, the table padded to a
    multiple of 64; tensor names of before transformers 4.52; contents as parts in chat_template.json."""

    def write(folder: Path, seed: int = 0) -> Tensors:
        vocab = llama_tokenizer(folder, fast=True, added=("<image>", "<pad>"), fields={
            "image_token": "<image>", "extra_special_tokens": {"image_token": "<image>"}, "legacy": False,
            "pad_token": "<pad>", "padding_side": "left", "processor_class": "LlavaProcessor",
            "trust_remote_code": False,
        })  # fmt: skip
        image_id, rows = vocab - 2, -(-vocab // 64) * 64
        text = {
            "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05, "torch_dtype": "float16",
            "vocab_size": rows, "hidden_size": HIDDEN, "intermediate_size": MLP, "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
        }  # fmt: skip
        if size == "13b":
            text |= {"num_key_value_heads": HEADS, "pad_token_id": 0}
        config = {
            "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": image_id,
            "model_type": "llava", "pad_token_id": image_id + 1, "projector_hidden_act": "gelu", "text_config": text,
            "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
            "vision_config": _vision_config(), "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
            "vocab_size": rows,
        }  # fmt: skip
        if size == "7b":
            config |= {"image_seq_length": (IMAGE // PATCH) ** 2}
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", {
            "_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": image_id + 1,
        })  # fmt: skip
        write_json(folder / "preprocessor_config.json", clip_preprocessor(
            {"shortest_edge": IMAGE}, {"height": IMAGE, "width": IMAGE}, do_convert_rgb=True, do_rescale=True,
            rescale_factor=0.00392156862745098, image_processor_type="CLIPImageProcessor",
            processor_class="LlavaProcessor",
        ))  # fmt: skip
        write_json(folder / "processor_config.json", {
            "image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": PATCH,
            "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default",
        })  # fmt: skip
        write_json(folder / "chat_template.json", {"chat_template": _LLAVA_HF})
        weights = _llava_weights(rows, seed)
        write_safetensors(folder, llava_hf_names(weights), 3)
        return weights

    return write


def llava_hf_names(weights: Tensors) -> Tensors:
    """llava-hf's, of LLaVA's."""
    names = {
        "model.mm_projector.0": "multi_modal_projector.linear_1",
        "model.mm_projector.2": "multi_modal_projector.linear_2",
        "vision_model.": "vision_tower.vision_model.", "model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }  # fmt: skip
    renamed = {}
    for name, x in weights.items():
        start = next(start for start in names if name.startswith(start))
        renamed[names[start] + name.removeprefix(start)] = x
    return renamed


def _llava_weights(rows: int, seed: int) -> Tensors:
    """In LLaVA's own names: decoder, `model.mm_projector`, and the tower under `vision_model.`."""
    language = {"hidden_size": HIDDEN, "intermediate_size": MLP, "num_attention_heads": HEADS, "vocab_size": rows}
    shapes = llm_shapes(language | {"num_hidden_layers": LAYERS}) | vision_shapes(_vision_config())
    shapes |= _projector_shapes("model.mm_projector.0", "model.mm_projector.2", 32)
    return _random(shapes, np.float16, seed)


def _tiled_weights(folder: Path, text: dict[str, Any], tower: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    """Written with the names of before transformers 4.52."""
    shapes = llm_shapes(text) | tower
    shapes |= _projector_shapes("model.mm_projector.0", "model.mm_projector.2", 32)
    dtype = np.float16 if text["model_type"] == "mistral" else ml_dtypes.bfloat16
    weights = llava_hf_names(_random(shapes, dtype, seed))
    weights |= _random({"image_newline": (HIDDEN,)}, dtype, seed + 1)
    write_safetensors(folder, weights, 2)
    return weights


def llava_next(folder: Path, seed: int = 0) -> Tensors:
    """llava-hf/llava-v1.6-mistral-7b-hf."""
    vocab = llama_tokenizer(folder, fast=True, added=("<image>", "<pad>"), fields={
        "add_prefix_space": None, "extra_special_tokens": {"image_token": "<image>"}, "image_token": "<image>",
        "legacy": True, "pad_token": "<pad>", "padding_side": "left", "processor_class": "LlavaNextProcessor",
        "trust_remote_code": False, "use_default_system_prompt": False,
    })  # fmt: skip
    image_id, rows = vocab - 2, -(-vocab // 64) * 64
    grids = [[IMAGE * h, IMAGE * w] for h, w in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    text = {
        "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2", "architectures": ["MistralForCausalLM"],
        "hidden_size": HIDDEN, "intermediate_size": MLP, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0, "sliding_window": None, "torch_dtype": "bfloat16", "vocab_size": rows,
    }  # fmt: skip
    write_json(folder / "config.json", {
        "architectures": ["LlavaNextForConditionalGeneration"], "ignore_index": -100, "image_grid_pinpoints": grids,
        "image_seq_length": (IMAGE // PATCH) ** 2, "image_token_index": image_id, "model_type": "llava_next",
        "projector_hidden_act": "gelu", "text_config": text, "tie_word_embeddings": False, "torch_dtype": "float16",
        "transformers_version": "4.39.0.dev0", "use_image_newline_parameter": True, "vision_config": _vision_config(),
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": rows,
    })  # fmt: skip
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": image_id + 1,
    })  # fmt: skip
    square = {"height": IMAGE, "width": IMAGE}
    write_json(folder / "preprocessor_config.json", clip_preprocessor(
        {"shortest_edge": IMAGE}, square, aspect_ratio_setting="anyres", do_convert_rgb=True, do_pad=True,
        do_rescale=True, image_grid_pinpoints=grids, image_processor_type="LlavaNextImageProcessor",
        processor_class="LlavaNextProcessor", rescale_factor=0.00392156862745098,
    ))  # fmt: skip
    write_json(folder / "processor_config.json", {
        "image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": PATCH,
        "processor_class": "LlavaNextProcessor", "vision_feature_select_strategy": "default",
    })  # fmt: skip
    write_json(folder / "chat_template.json", {"chat_template": _LLAVA_HF})
    return _tiled_weights(folder, text, vision_shapes(_vision_config()), seed)


def llava_onevision(folder: Path, seed: int = 0) -> Tensors:
    """llava-hf/llava-onevision-qwen2-0.5b-ov-hf: Qwen2's tokenizer with <image> and <video> behind its special tokens,
    embeddings tied, SigLIP's tower with one block left out, and all its states."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    split = [pre_tokenizers.Split(tokenizers.Regex(_WORDS % 1), "isolated")]
    vocab = byte_tokenizer(folder, split, special, fields={
        "add_prefix_space": False, "additional_special_tokens": special[1:3], "bos_token": None,
        "eos_token": "<|im_end|>", "errors": "replace", "extra_special_tokens": {"image_token": "<image>",
        "video_token": "<video>"}, "image_token": "<image>", "pad_token": "<|endoftext|>", "padding_side": "left",
        "processor_class": "LlavaOnevisionProcessor", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "video_token": "<video>",
    })  # fmt: skip
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    end, grids = vocab - 5, [[IMAGE * h, IMAGE * w] for h in range(1, 7) for w in range(1, 7)]
    text = {
        "_name_or_path": "Qwen/Qwen2-0.5B-Instruct", "architectures": ["Qwen2ForCausalLM"], "bos_token_id": end,
        "eos_token_id": end + 2, "hidden_size": HIDDEN, "intermediate_size": MLP, "max_position_embeddings": 32768,
        "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": vocab + 13,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "image_size": IMAGE, "intermediate_size": 48, "model_type": "siglip_vision_model",
        "num_attention_heads": 4, "num_hidden_layers": 2, "patch_size": PATCH, "vision_use_head": False,
    }  # fmt: skip
    write_json(folder / "config.json", {
        "architectures": ["LlavaOnevisionForConditionalGeneration"], "ignore_index": -100,
        "image_grid_pinpoints": grids, "image_token_index": end + 3, "model_type": "llava_onevision",
        "projector_hidden_act": "gelu", "text_config": text, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_image_newline_parameter": True, "video_token_index": end + 4,
        "vision_aspect_ratio": "anyres_max_9", "vision_config": vision, "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    })  # fmt: skip
    write_json(folder / "generation_config.json", {
        "bos_token_id": end, "do_sample": True, "eos_token_id": [end + 2, end], "pad_token_id": end, "temperature": 0.7,
        "repetition_penalty": 1.1, "top_k": 20, "top_p": 0.8,
    })  # fmt: skip
    write_json(folder / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
        "image_grid_pinpoints": grids, "image_mean": [0.5] * 3, "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_std": [0.5] * 3, "processor_class": "LlavaOnevisionProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"height": IMAGE, "width": IMAGE},
    })  # fmt: skip
    write_json(folder / "processor_config.json", {
        "image_token": "<image>", "num_image_tokens": (IMAGE // PATCH) ** 2,
        "processor_class": "LlavaOnevisionProcessor", "video_token": "<video>", "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_select_strategy": "full",
    })  # fmt: skip
    write_json(folder / "chat_template.json", {"chat_template": _LLAVA_HF})
    return _tiled_weights(folder, text, siglip_shapes(vision), seed)


def _original_llava(vocab: int) -> dict[str, Any]:
    return _llm(
        "LlavaLlamaForCausalLM", vocab, _name_or_path="llava-v1.5-7b", bos_token_id=1, eos_token_id=2,
        freeze_mm_mlp_adapter=False, freeze_mm_vision_resampler=False, image_aspect_ratio="pad", max_length=4096,
        max_position_embeddings=4096, mm_hidden_size=32, mm_projector_type="mlp2x_gelu", mm_resampler_type=None,
        mm_use_im_patch_token=False, mm_use_im_start_end=False, mm_vision_select_feature="patch",
        mm_vision_select_layer=-2, mm_vision_tower="./clip-tiny", model_type="llava",
        num_key_value_heads=HEADS, pad_token_id=0, pretraining_tp=1, rms_norm_eps=1e-05, rope_scaling=None,
        tie_word_embeddings=False, torch_dtype="float16", transformers_version="4.31.0",
        tune_mm_mlp_adapter=False, tune_mm_vision_resampler=False, unfreeze_mm_vision_tower=False,
        use_mm_proj=True,
    )  # fmt: skip


def original_llava(folder: Path, seed: int = 0) -> Tensors:
    """liuhaotian/llava-v1.5-7b: .bin shards without the tower, mm_projector.bin beside them, no tokenizer.json."""
    fields = {"legacy": False, "pad_token": "<unk>", "padding_side": "right"}
    vocab = llama_tokenizer(folder, fast=False, fields=fields)
    write_json(folder / "config.json", _original_llava(vocab))
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    weights = _llava_weights(vocab, seed)
    stored = {name: x for name, x in weights.items() if not name.startswith("vision_model.")}
    write_bins(folder, stored, 2)
    write_bin(folder / "mm_projector.bin", {n: x for n, x in stored.items() if "mm_projector" in n})
    return weights


def original_lora(folder: Path, seed: int = 0, vocab: int = 390) -> Tensors:
    """liuhaotian/llava-v1.5-7b-lora: no tokenizer, config.json, the adapter of every linear layer, the projector apart.
    The change of every weight that the adapter makes, alpha / r = 2, and the projector."""
    write_json(folder / "config.json", _original_llava(vocab))
    targets = ["gate_proj", "up_proj", "o_proj", "v_proj", "down_proj", "k_proj", "q_proj"]
    write_json(folder / "adapter_config.json", {
        "auto_mapping": None, "base_model_name_or_path": "lmsys/vicuna-7b-v1.5", "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
        "layers_to_transform": None, "lora_alpha": 8, "lora_dropout": 0.05, "modules_to_save": None,
        "peft_type": "LORA", "r": 4, "revision": None, "target_modules": targets, "task_type": "CAUSAL_LM",
    })  # fmt: skip
    language = llm_shapes(_original_llava(vocab))
    adapted = {n: s for n, s in language.items() if any(t in n for t in targets)}
    shapes = {}
    for name, (out, into) in adapted.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        shapes |= {f"{stem}.lora_A.weight": (4, into), f"{stem}.lora_B.weight": (out, 4)}
    adapter = _random(shapes, np.float16, seed)
    write_bin(folder / "adapter_model.bin", adapter)
    projector = _random(_projector_shapes("model.mm_projector.0", "model.mm_projector.2", 32), np.float16, seed + 1)
    write_bin(folder / "non_lora_trainables.bin", {f"base_model.model.{n}": x for n, x in projector.items()})
    changes = {}
    for name in adapted:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (adapter[f"{stem}.lora_{x}.weight"].astype(np.float32) for x in "AB")
        changes[name] = 2 * b @ a
    return changes | projector


LLMS: dict[str, Callable[..., Tensors]] = {
    "lmsys/vicuna-7b-v1.5": vicuna,
    "meta-llama/Llama-2-7b-chat-hf": llama_2,
    "meta-llama/Llama-3.1-8B-Instruct": llama_3("3.1"),
    "meta-llama/Llama-3.2-1B-Instruct": llama_3("3.2"),
    "mistralai/Mistral-7B-Instruct-v0.1": mistral("0.1"),
    "mistralai/Mistral-7B-Instruct-v0.2": mistral("0.2"),
    "mistralai/Mistral-7B-Instruct-v0.3": mistral("0.3"),
    "Qwen/Qwen2-7B-Instruct": qwen("2"),
    "Qwen/Qwen2.5-0.5B-Instruct": qwen("2.5"),
    "Qwen/Qwen3-0.6B": qwen("3"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": smollm2,
    "allenai/OLMo-2-1124-13B-Instruct": olmo_2,
    "google/gemma-2-2b-it": gemma(2),
    "google/gemma-3-1b-it": gemma(3),
    "microsoft/Phi-4-mini-instruct": phi_4,
}
CLIPS: dict[str, Callable[..., Tensors]] = {
    name: clip(name)
    for name in (
        "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"
    )
}  # fmt: skip
SIGLIPS: dict[str, Callable[..., Tensors]] = {
    "google/siglip-so400m-patch14-384": siglip(1),
    "google/siglip2-so400m-patch14-384": siglip(2),
}
TILED: dict[str, Callable[..., Tensors]] = {
    "llava-hf/llava-v1.6-mistral-7b-hf": llava_next,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": llava_onevision,
}
LLAVAS: dict[str, Callable[..., Tensors]] = {
    "llava-hf/llava-1.5-7b-hf": llava_hf("7b"),
    "llava-hf/llava-1.5-13b-hf": llava_hf("13b"),
    "liuhaotian/llava-v1.5-7b": original_llava,
    "liuhaotian/llava-v1.5-7b-lora": original_lora,
}


def write(name: str, root: Path, seed: int = 0) -> tuple[Path, Tensors]:
    """The twin of the hub's `name` in root/NAME, and its weights by name."""
    folder = root / name
    folder.mkdir(parents=True)
    return folder, {**LLMS, **CLIPS, **SIGLIPS, **LLAVAS, **TILED}[name](folder, seed)

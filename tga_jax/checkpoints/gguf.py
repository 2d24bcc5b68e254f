"""A GGUF file (llama.cpp's format) as a hub model: its config, its tensors under the hub's names, its tokenizer."""

import re
import reprlib
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tga_jax.checkpoints import gguf_tokenizer
from tga_jax.checkpoints.families import FAMILIES
from tga_jax.checkpoints.folder import Tensor
from tga_jax.checkpoints.spec import Spec
from tga_jax.errors import UserError
from tga_jax.models.llama import LlamaConfig

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)")


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UserError("GGUF files need the package gguf, expected `pip install 'tga_jax[gguf]'`") from error
    return gguf


def _half_split(x: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's order of rotary pairs: rows (i, i + H/2) of a head stand next to each other there."""
    rest = x.shape[1:]
    return x.reshape(heads, -1, 2, *rest).swapaxes(1, 2).reshape(x.shape)


def _read(tensor: Any, heads: int | None) -> np.ndarray:
    x = _gguf().dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    return x if heads is None else _half_split(x, heads)


_KINDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of strings",
    list[int]: "a list of integers",
    list[float]: "a list of numbers",
}


def _reader(path: Path) -> Any:
    try:
        return _gguf().GGUFReader(path)
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not a whole GGUF file ({error})") from error


def _field(path: Path, reader: Any, name: str, kind: Any, default: Any = ...) -> Any:
    """The value of a field; kind: one of `_KINDS`; default: for a file without the field.

    Raises UserError naming the field if it is of another kind, not UTF-8, or missing without a default.
    """
    field = reader.fields.get(name)
    if field is None:
        if default is ...:
            raise UserError(f"{path}: no field {name}")
        return default
    try:
        value = field.contents()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {name} is not UTF-8 ({error})") from error
    item = get_args(kind)[0] if get_args(kind) else kind
    types = {type(x) for x in value} if isinstance(value, list) else {type(value)}
    if isinstance(value, list) != (item is not kind) or not types <= ({int, float} if item is float else {item}):
        raise UserError(f"{path}: {name} is {reprlib.repr(value)}, expected {_KINDS[kind]}")
    return value


# Of `<family>.`: what is read, what says nothing of the forward pass, and what only has this value here.
_USED = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.value_length", "block_count", "context_length", "embedding_length", "feed_forward_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type",
}  # fmt: skip
_HARMLESS = {"rope.scaling.original_context_length", "tensor_data_layout", "vocab_size"}  # the table says its own size
_FIXED = {
    "attention.causal": True, "attention.sliding_window": 0, "expert_count": 0, "expert_used_count": 0,
    "rope.scale_linear": 1.0, "rope.scaling.attn_factor": 1.0, "rope.scaling.factor": 1.0,
    "rope.scaling.finetuned": False, "use_parallel_residual": False,
}  # fmt: skip


def _check_fields(path: Path, reader: Any, family: str) -> None:
    """Raises UserError naming a field of the architecture that this decoder does not compute."""
    for name in reader.fields:
        own = name.removeprefix(f"{family}.")
        if own == name or own in _USED | _HARMLESS:
            continue
        value = reader.fields[name].contents()
        if own not in _FIXED:
            raise UserError(f"{path}: {name} is {reprlib.repr(value)}; what it means for the model is not known here")
        if value != _FIXED[own]:
            raise UserError(f"{path}: {name} is {reprlib.repr(value)}, expected {_FIXED[own]}; no other is supported")


def open_file(path: Path) -> tuple[Spec, dict[str, Tensor]]:
    """Raises UserError naming the file for an architecture or a field that is not understood."""
    reader = _reader(path)
    read = partial(_field, path, reader)
    family = read("general.architecture", str)
    known = [name for name, row in FAMILIES.items() if row.gguf]
    if family not in known:
        raise UserError(f"{path}: architecture {family!r}, expected {' or '.join(known)}")
    row = FAMILIES[family]

    def field(name: str, kind: Any = int, default: Any = ...) -> Any:
        return read(f"{family}.{name}", kind, default)

    _check_fields(path, reader, family)
    scaling = field("rope.scaling.type", str, "none")
    if scaling != "none" or any(t.name == "rope_freqs.weight" for t in reader.tensors):
        raise UserError(f"{path}: scales its rotary frequencies, which is not supported in GGUF files")
    heads, hidden = field("attention.head_count"), field("embedding_length")
    width = field("attention.key_length", default=hidden // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if (found := field(name, default=width)) != width:
            raise UserError(f"{path}: {family}.{name} is {found}, expected {width}, the size of a head")
    config = LlamaConfig(
        vocab_size=len(read("tokenizer.ggml.tokens", list[str])),
        hidden_size=hidden,
        num_layers=field("block_count"),
        num_heads=heads,
        num_kv_heads=field("attention.head_count_kv", default=heads),
        head_dim=width,
        mlp_size=field("feed_forward_length"),
        rope_theta=float(field("rope.freq_base", float, 10000.0)),
        # The shortest decimal of the float32 that the file has: what the model's config said, and presets say.
        rms_norm_eps=float(str(np.float32(field("attention.layer_norm_rms_epsilon", float)))),
        sliding_window=None,
        tie_embeddings=all(t.name != "output.weight" for t in reader.tensors),
        qkv_bias=family == "qwen2",
    )
    found = {}
    for tensor in reader.tensors:
        parts = _NAME.fullmatch(tensor.name)
        if parts is None or parts[2] not in _NAMES:
            raise UserError(f"{path}: unexpected tensor {tensor.name}")
        layer, name, kind = parts.groups()
        order = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}.get(name) if row.pairs_together else None
        hub = f"{f'model.layers.{layer}.' if layer else ''}{_NAMES[name]}.{kind}"
        shape = tuple(int(n) for n in reversed(tensor.shape))
        found[hub] = Tensor(shape, path, partial(_read, tensor, order))
    hub_fields = {"max_position_embeddings": field("context_length")}
    for ours, theirs in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        stored = read(f"tokenizer.ggml.{theirs}_token_id", int, None)
        if stored is not None:
            hub_fields[ours] = stored
    if stops := gguf_tokenizer.stop_ids(read):
        hub_fields["eos_token_id"] = stops
    return Spec(kind="llm", config=config, family=family, hub_fields=hub_fields), found


def tokenizer(path: Path) -> Any:
    """The file's tokenizer, one of transformers. Raises UserError naming the field that is not understood."""
    reader = _reader(path)
    return gguf_tokenizer.build(path, partial(_field, path, reader), reader.fields)

"""A GGUF file (llama.cpp's format) as a hub model: its config, its tensors under the hub's names, its tokenizer."""

import math
import mmap
import re
import reprlib
import struct
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tga_jax.checkpoints import gguf_tokenizer, limits, spec
from tga_jax.checkpoints.families import FAMILIES
from tga_jax.checkpoints.folder import Tensor
from tga_jax.checkpoints.spec import Spec
from tga_jax.config import build
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


_SIZES = dict(zip(range(13), (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8), strict=True))  # bytes of a value; 8, 9: as told
_STRING, _ARRAY = 8, 9
_MOST, _AXES, _LONGEST = 2**16, 4, 64  # fields and tensors; axes of a tensor; bytes of a tensor's name, as in llama.cpp


def _check_header(data: mmap.mmap) -> None:
    """Raises UserError for counts and lengths that do not lie in the file: GGUFReader goes through whatever a file
    declares, for as long as that takes."""
    at = 0

    def take(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)  # raises struct.error beyond the end
        at += struct.calcsize(kind)
        return value

    def skip(count: int, size: int = 1) -> None:
        nonlocal at
        if count * size > len(data) - at:
            raise ValueError(f"{count} values of {size} bytes at {at} in a file of {len(data)} bytes")
        at += count * size

    def text(most: int) -> bytes:
        start = at + 8
        skip(take("Q"))
        if at - start > most:
            raise ValueError(f"a name of {at - start} bytes")
        return data[start:at]

    if data[:4] != b"GGUF" or data[4:8] not in (b"\2\0\0\0", b"\3\0\0\0"):
        raise ValueError("no mark of GGUF, version 2 or 3, of little-endian numbers")
    at, names = 8, set()
    tensors, fields = take("Q"), take("Q")
    if max(tensors, fields) > _MOST:
        raise ValueError(f"{tensors} tensors and {fields} fields, expected at most {_MOST}")
    for _ in range(fields):
        names.add(text(_MOST))
        kind, count = take("I"), 1
        if kind == _ARRAY:
            kind, count = take("I"), take("Q")
        if kind not in _SIZES or kind == _ARRAY:
            raise ValueError(f"values of kind {kind}")
        if kind != _STRING:
            skip(count, _SIZES[kind])
        elif count * 8 > len(data) - at:
            raise ValueError(f"{count} strings at {at} in a file of {len(data)} bytes")
        else:
            for _ in range(count):
                skip(take("Q"))
    if len(names) < fields:
        raise ValueError("a field twice")
    for _ in range(tensors):
        text(_LONGEST)
        if (axes := take("I")) > _AXES:
            raise ValueError(f"a tensor of {axes} axes")
        if math.prod(take("Q") or 1 for _ in range(axes)) >= 2**48:
            raise ValueError("a tensor that does not lie in the file")
        skip(12)  # its kind and place, which GGUFReader checks against the file's end


def _reader(path: Path) -> Any:
    gguf = _gguf()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_header(data)
        return gguf.GGUFReader(path)
    except (OSError, ValueError, LookupError, ArithmeticError, struct.error) as error:
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
_WHOLE = {
    "num_heads": "attention.head_count", "hidden_size": "embedding_length", "num_layers": "block_count",
    "mlp_size": "feed_forward_length",
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
    sizes: dict[str, Any] = {ours: field(name) for ours, name in _WHOLE.items()}
    heads, hidden = sizes["num_heads"], sizes["hidden_size"]
    for ours, name in _WHOLE.items():
        limits.number(str(path), f"{family}.{name}", sizes[ours], ours)
    width = field("attention.key_length", default=hidden // heads)
    kv_heads = field("attention.head_count_kv", default=heads)
    limits.number(str(path), f"{family}.attention.key_length", width, "head_dim")
    limits.number(str(path), f"{family}.attention.head_count_kv", kv_heads, "num_kv_heads")
    for name in ("rope.dimension_count", "attention.value_length"):
        if (found := field(name, default=width)) != width:
            raise UserError(f"{path}: {family}.{name} is {found}, expected {width}, the size of a head")
    sizes |= {
        "vocab_size": len(read("tokenizer.ggml.tokens", list[str])),
        "num_kv_heads": kv_heads,
        "head_dim": width,
        "rope_theta": float(field("rope.freq_base", float, 10000.0)),
        # The shortest decimal of the float32 that the file has: what the model's config said, and presets say.
        "rms_norm_eps": float(str(np.float32(field("attention.layer_norm_rms_epsilon", float)))),
        "sliding_window": None,
        "tie_embeddings": all(t.name != "output.weight" for t in reader.tensors),
        "qkv_bias": family == "qwen2",
    }
    limits.check(str(path), sizes)
    config = build(LlamaConfig, sizes, str(path))
    found = {}
    for tensor in reader.tensors:
        parts = _NAME.fullmatch(tensor.name)
        if parts is None or parts[2] not in _NAMES:
            raise UserError(f"{path}: unexpected tensor {tensor.name}")
        layer, name, kind = parts.groups()
        order = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}.get(name) if row.pairs_together else None
        hub = f"{f'model.layers.{layer}.' if layer else ''}{_NAMES[name]}.{kind}"
        shape = tuple(int(n) for n in reversed(tensor.shape))
        if 0 in shape or (order is not None and (not shape or shape[0] % (2 * order))):
            raise UserError(f"{path}: {tensor.name} is {list(shape)}, expected rows of {heads} heads of even size")
        found[hub] = Tensor(shape, path, partial(_read, tensor, order))
    hub_fields = {"max_position_embeddings": field("context_length")}
    for ours, theirs in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        stored = read(f"tokenizer.ggml.{theirs}_token_id", int, None)
        if stored is not None:
            hub_fields[ours] = stored
    if stops := gguf_tokenizer.stop_ids(read):
        hub_fields["eos_token_id"] = stops
    model = Spec(kind="llm", config=config, family=family, hub_fields=hub_fields)
    spec.check(model, str(path))
    return model, found


def tokenizer(path: Path) -> Any:
    """The file's tokenizer, one of transformers. Raises UserError naming the field that is not understood."""
    reader = _reader(path)
    return gguf_tokenizer.build(path, partial(_field, path, reader), reader.fields)

"""A GGUF file (llama.cpp's format) as a hub model: its config, its tensors under the hub's names, its tokenizer."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.errors import UserError
from tga_jax.models.llama import LlamaConfig
from tga_jax.weights.folder import Tensor
from tga_jax.weights.hub_config import HubModel

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


def open_file(path: Path) -> tuple[HubModel, dict[str, Tensor]]:
    """Raises UserError naming the file for an architecture or a field that is not understood."""
    try:
        reader = _gguf().GGUFReader(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole GGUF file ({error})") from error
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
    family = fields.get("general.architecture")
    if family not in ("llama", "qwen2"):
        raise UserError(f"{path}: architecture {family!r}, expected llama or qwen2")

    def field(name: str, default: Any = None) -> Any:
        value = fields.get(f"{family}.{name}", default)
        if value is None:
            raise UserError(f"{path}: no field {family}.{name}")
        return value

    if field("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in {t.name for t in reader.tensors}:
        raise UserError(f"{path}: scales its rotary frequencies, which is not supported in GGUF files")
    heads, hidden = field("attention.head_count"), field("embedding_length")
    config = LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=hidden,
        num_layers=field("block_count"),
        num_heads=heads,
        num_kv_heads=field("attention.head_count_kv", heads),
        head_dim=field("rope.dimension_count", hidden // heads),
        mlp_size=field("feed_forward_length"),
        rope_theta=float(field("rope.freq_base", 10000.0)),
        rms_norm_eps=float(np.float32(field("attention.layer_norm_rms_epsilon"))),
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
        # Only llama's rotary pairs are reordered in these files.
        order = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}.get(name) if family == "llama" else None
        hub = f"{f'model.layers.{layer}.' if layer else ''}{_NAMES[name]}.{kind}"
        shape = tuple(int(n) for n in reversed(tensor.shape))
        found[hub] = Tensor(shape, path, partial(_read, tensor, order))
    hub_fields = {"max_position_embeddings": int(field("context_length"))}
    for ours, theirs in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        stored = reader.fields.get(f"tokenizer.ggml.{theirs}_token_id")
        if stored is not None:
            hub_fields[ours] = int(stored.contents())
    return HubModel("llm", config, family, None, hub_fields), found


def tokenizer(path: Path) -> Any:
    """The file's tokenizer, by transformers. Raises UserError if it cannot be read."""
    import transformers

    _gguf()
    try:
        return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # transformers raises many types
        raise UserError(f"{path}: no tokenizer that transformers can read ({error})") from error

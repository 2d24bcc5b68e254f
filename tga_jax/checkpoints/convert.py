"""Hub checkpoints to parameters and back, one tensor at a time.

Host memory beyond the model's own stays at a few tensors: a stacked parameter is allocated once, on its devices, and
each layer is written into it in place.
"""

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from tga_jax.checkpoints import families, rules
from tga_jax.checkpoints.folder import Tensor
from tga_jax.checkpoints.spec import Spec
from tga_jax.errors import UserError
from tga_jax.models import clip, llama, llava, sharding

DTYPES = ("bfloat16", "float32")
SHORT = {"bf16": "bfloat16", "fp32": "float32"}  # as commands call them
_SHARD_BYTES = 2**30
_LISTED = 40  # of what does not fit
_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")  # whose rows may be padded


def shapes(model: Spec) -> dict[str, Any]:
    """Parameter shapes by part, as nested dictionaries of ShapeDtypeStruct, not to be changed."""
    return _shapes(model.config)


@lru_cache(maxsize=16)  # a load needs them four times, and tracing the model takes longer than reading a small one
def _shapes(config: clip.ClipConfig | llama.LlamaConfig | llava.LlavaConfig) -> dict[str, Any]:
    key = jax.random.key(0)
    if isinstance(config, llava.LlavaConfig):
        return jax.eval_shape(lambda: llava.init(config, key))
    if isinstance(config, clip.ClipConfig):
        return {"clip": jax.eval_shape(lambda: clip.init(config, key))}
    tokens = jnp.zeros((1, 2), jnp.int32)
    decoder = llama.Decoder(config)
    made = jax.eval_shape(lambda: decoder.init(key, tokens, tokens == 0, method="from_tokens"))
    return {"llm": made["params"]}


def words_alone(model: Spec) -> Spec:
    """The model without the rows that transformers' conversion of LLaVA adds to the table of its language model:
    `<image>`, `<pad>` and others up to a multiple of 64."""
    c, image = model.config, model.image_token_id
    if not isinstance(c, llava.LlavaConfig) or image is None or not 0 < c.llm.vocab_size - image <= 64:
        return model
    return dataclasses.replace(model, config=dataclasses.replace(c, llm=dataclasses.replace(c.llm, vocab_size=image)))


def _leaves(tree: dict[str, Any]) -> dict[str, Any]:
    """`part/path` -> leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(k.key for k in path): leaf for path, leaf in flat}


def _sources(model: Spec, like: dict[str, Any]) -> Iterator[tuple[str, rules.Rule, list[str], tuple[int, ...]]]:
    """For every parameter: (path, rule, hub names within the part, one a layer, shape of one of them)."""
    tables = rules.RULES if model.llm is None else {**rules.RULES, "llm": rules.of_decoder(model.llm.norms)}
    by_path = {f"{part}/{rule.ours}": rule for part, own in tables.items() for rule in own}
    for path, leaf in like.items():
        rule = by_path.get(path)
        if rule is None:
            raise UserError(f"{path}: has no counterpart in the hub's checkpoints")
        stacked = "*" in rule.hub
        hub_names = [rule.hub.replace("*", str(i)) for i in range(leaf.shape[0])] if stacked else [rule.hub]
        yield path, rule, hub_names, leaf.shape[1:] if stacked else leaf.shape


def _is_fused(model: Spec) -> bool:
    """Whether query, key and value are one matrix in the model's hub checkpoints."""
    return model.llm is not None and families.FAMILIES[model.family or families.of(model.llm)].fused


def _rows(tensor: Tensor, rows: slice) -> np.ndarray:
    return tensor.read()[rows]


def _pieces(model: Spec, found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors with fused matrices in pieces, each read for itself. Raises UserError for one of another size."""
    c = model.llm
    assert c is not None
    heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    sizes = {"qkv_proj": (heads, kv_heads, kv_heads), "gate_up_proj": (c.mlp_size, c.mlp_size)}
    made: dict[str, Tensor] = {}
    for name, tensor in found.items():
        whole = next((whole for whole in rules.FUSED if f".{whole}." in name), None)
        if whole is None:
            made[name] = tensor
            continue
        if tensor.shape != (sum(sizes[whole]), c.hidden_size):
            wanted = [sum(sizes[whole]), c.hidden_size]
            raise UserError(
                f"{where}: weights and config disagree: {name} is {list(tensor.shape)}, config.json says {wanted}"
            )
        start = 0
        for piece, size in zip(rules.FUSED[whole], sizes[whole], strict=True):
            rows, start = slice(start, start + size), start + size
            made[name.replace(whole, piece)] = Tensor((size, c.hidden_size), tensor.file, partial(_rows, tensor, rows))
    return made


def _unread_of_siglip(model: Spec, local: str) -> bool:
    """Its text tower and what pools a picture, which no LLaVA has."""
    if model.clip is None or model.clip.vision.has_cls:
        return False
    return not local.startswith("vision_model.") or local.startswith("vision_model.head.")


def _match(model: Spec, found: dict[str, Tensor], where: str) -> dict[str, list[Tensor]]:
    """Path -> its tensors by layer. Raises UserError listing all missing, unexpected and unfit names at once."""
    if _is_fused(model):
        found = _pieces(model, found, where)
    here: dict[tuple[str, str], tuple[str, Tensor]] = {}
    wrong = []
    for name, tensor in found.items():
        if rules.is_buffer(name):
            continue
        place = rules.locate(name)
        if place is not None:
            here[place] = (name, tensor)
        else:
            wrong.append(f"unexpected {name}")
    matched: dict[str, list[Tensor]] = {}
    missing, used = [], set()
    like = _leaves(shapes(model))
    parts = {path.split("/")[0] for path in like}
    for path, rule, hub_names, shape in _sources(model, like):
        part = path.split("/")[0]
        matched[path] = []
        for local in hub_names:
            if (part, local) not in here:
                missing.append((part, local))
                continue
            used.add((part, local))
            name, tensor = here[part, local]
            wanted = rule.hub_shape(shape)
            if tensor.shape != wanted:
                wrong.append(f"{name} is {list(tensor.shape)}, config.json says {list(wanted)}")
            matched[path].append(tensor)
    llm = model.llm
    tied = llm is not None and llm.tie_embeddings
    spare = [
        (p, local)
        for p, local in here
        if (p, local) not in used
        and p in parts
        and not (tied and local == "lm_head.weight")
        # A LLaVA uses its vision tower below the pooled output.
        and not (model.kind == "llava" and p == "clip" and not local.startswith("vision_model."))
        and not (p == "clip" and _unread_of_siglip(model, local))
    ]
    spare += [(p, local) for p, local in here if p not in parts and model.kind == "llm"]
    wrong += [f"unexpected {here[place][0]}" for place in spare]
    candidates = {local: here[p, local][0] for p, local in spare[:_LISTED]}
    shown = missing[: max(0, _LISTED - len(wrong))]  # the nearest name takes time to find
    hidden = len(missing) - len(shown)
    for part, local in shown:
        near = difflib.get_close_matches(local, candidates, 1)
        wrong.append(f"missing {part}: {local}" + (f" (there is {candidates[near[0]]})" if near else ""))
    if wrong:
        hidden += len(wrong[_LISTED:])
        more = f"; and {hidden} more" if hidden else ""
        raise UserError(f"{where}: weights and config disagree: " + "; ".join(wrong[:_LISTED]) + more)
    return matched


def _read(tensor: Tensor, rule: rules.Rule, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    try:
        x = tensor.read()
    except UserError:
        raise
    except Exception as error:  # readers raise types of their own for a file that changed or ends early
        raise UserError(f"{tensor.file}: cannot be read ({error})") from error
    x = x[: rule.hub_shape(shape)[0]] if rule.hub in _VOCABULARY else x
    return rule.to_ours(x, shape).astype(dtype)


@partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, layer: jax.Array, i: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(stack, layer[None], i, axis=0)


def load(
    model: Spec,
    found: dict[str, Tensor],
    where: str,
    dtype: str,
    mesh: Mesh | None = None,
    stacked: bool = True,
) -> dict[str, Any]:
    """Parameters by part in `dtype`, each tensor straight to its place on the mesh (default: one device).

    where: names the checkpoint in errors; stacked: False keeps the decoder's blocks separate, as
    `llama.separate_blocks` does. Raises UserError if names or shapes do not fit the config, all at once.
    """
    mesh = mesh or Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), sharding.AXES)
    like = shapes(model)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s), like, sharding.shardings(like, mesh)
    )
    return load_like(model, found, where, like, stacked)


def load_like(
    model: Spec, found: dict[str, Tensor], where: str, wanted: dict[str, Any], stacked: bool = True
) -> dict[str, Any]:
    """As `load`, of the parameters in `wanted` alone: by part, ShapeDtypeStructs with where each shall lie.

    A table may be wanted without the rows that `words_alone` leaves out. Raises UserError also if `wanted` has other
    shapes than the model.
    """
    matched = _match(model, found, where)
    here, places = _leaves(shapes(model)), _leaves(wanted)
    words = _leaves(shapes(words_alone(model)))
    here |= {path: words[path] for path, x in places.items() if path in words and x.shape == words[path].shape}
    wrong = [f"missing {path}" for path in places if path not in here]
    wrong += [
        f"{path} is {list(here[path].shape)}, expected {list(x.shape)}"
        for path, x in places.items()
        if path in here and here[path].shape != x.shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise UserError(f"{where}: does not fit the configured model: " + "; ".join(wrong[:10]) + more)
    flat: dict[str, jax.Array] = {}
    for path, rule, _, shape in _sources(model, places):
        tensors, place, dtype = matched.pop(path), places[path].sharding, places[path].dtype
        if "*" not in rule.hub:
            flat[path] = sharding.place(_read(tensors[0], rule, shape, dtype), place)
            continue
        layer_place = NamedSharding(place.mesh, P(*place.spec[1:]))
        if path.startswith("llm/") and not stacked:
            for i, tensor in enumerate(tensors):
                block = path.replace("/blocks/", f"/blocks/{i}/")
                flat[block] = sharding.place(_read(tensor, rule, shape, dtype), layer_place).block_until_ready()
            continue
        stack = jnp.zeros((len(tensors), *shape), dtype, device=place)
        for i, tensor in enumerate(tensors):
            stack = _put(stack, sharding.place(_read(tensor, rule, shape, dtype), layer_place), i)
            stack.block_until_ready()  # else all layers would wait in host memory
        flat[path] = stack
    params: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = params
        *parents, last = path.split("/")
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return params


def hub_tensors(model: Spec, params: dict[str, Any], vocab_size: int | None = None) -> Iterator[tuple[str, Any]]:
    """(hub name, array) of an exported checkpoint, one at a time; vocab_size: rows of its embedding table."""
    leaves = _leaves(params)
    if model.kind == "llava":  # of its CLIP, the hub's has the vision tower alone
        leaves = {
            path: x for path, x in leaves.items() if not path.startswith("clip/") or path.startswith("clip/vision/")
        }
    fused = any(path.startswith("llm/") for path in leaves) and _is_fused(model)

    def read(path: str, rule: rules.Rule, local: str, i: int) -> np.ndarray:
        x = rule.to_hub(np.asarray(leaves[path][i] if "*" in rule.hub else leaves[path]))
        if local in _VOCABULARY and vocab_size is not None and vocab_size > len(x):
            # The mean of all rows, as transformers' own conversion has it nearly: no token is put forward.
            mean = x.astype(np.float32).mean(0, keepdims=True).astype(x.dtype)
            x = np.concatenate([x, np.repeat(mean, vocab_size - len(x), axis=0)])
        return x

    wholes: dict[str, dict[int, Callable[[], np.ndarray]]] = {}  # hub name -> its pieces by place, not read yet
    for path, rule, hub_names, _ in _sources(model, leaves):
        part = path.split("/")[0]
        for i, local in enumerate(hub_names):
            whole, place = rules.fused(local) if fused and part == "llm" else (local, 0)
            name = rules.hub_name(part, whole, model.kind == "llava")
            wholes.setdefault(name, {})[place] = partial(read, path, rule, local, i)
    for name, pieces in wholes.items():
        arrays = [pieces[place]() for place in sorted(pieces)]
        yield name, arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _umask() -> int:
    """What the person takes away from the rights of new files."""
    found = os.umask(0)
    os.umask(found)
    return found


def write_safetensors(folder: Path, tensors: Iterator[tuple[str, Any]], shard_bytes: int = _SHARD_BYTES) -> None:
    """Writes shards and, if there are several, their index. At most a shard is in memory."""
    shard: dict[str, np.ndarray] = {}
    files: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        nonlocal shard, size
        if shard:
            path = folder / f"part-{len(files)}"
            save_file(shard, path, metadata={"format": "pt"})
            path.chmod(0o666 & ~_umask())  # the library lets nobody else read it
            files.append(list(shard))
            shard, size = {}, 0

    for name, x in tensors:
        if size + x.nbytes > shard_bytes:
            flush()
        shard[name] = x
        size, total = size + x.nbytes, total + x.nbytes
    flush()
    if len(files) == 1:
        (folder / "part-0").rename(folder / "model.safetensors")
        return
    weight_map = {}
    for i, held in enumerate(files):
        name = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        (folder / f"part-{i}").rename(folder / name)
        weight_map |= dict.fromkeys(held, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

"""The mesh, and which parameter lies where on it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tga_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# (pattern of a parameter's path, spec); the first that matches holds. Kernels of the scanned blocks carry the layer
# axis first. `tensor` divides the heads and the feed-forward width, `fsdp` the hidden size.
RULES: tuple[tuple[str, P], ...] = (
    (r"llm/blocks/query/kernel", P(None, "fsdp", "tensor", None, None)),
    (r"llm/blocks/(key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r"llm/blocks/out/kernel", P(None, "tensor", None, None, "fsdp")),
    (r"llm/blocks/(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r"llm/blocks/down/kernel", P(None, "tensor", "fsdp")),
    # The gather of tokens from a table sharded on both axes would rematerialise it; one axis does not.
    (r"llm/embed/embedding", P(None, "fsdp")),
    (r"llm/lm_head/kernel", P("fsdp", "tensor")),
    (r"llm/blocks/(query|key|value|gate|up)_lora/down/kernel", P(None, "fsdp", None)),
    (r"llm/blocks/query_lora/up/kernel", P(None, None, "tensor", None, None)),
    (r"llm/blocks/(key|value)_lora/up/kernel", P(None, None, "tensor", None)),
    (r"llm/blocks/(gate|up)_lora/up/kernel", P(None, None, "tensor")),
    (r"llm/blocks/out_lora/down/kernel", P(None, "tensor", None, None, None)),
    (r"llm/blocks/down_lora/down/kernel", P(None, "tensor", None)),
    (r"llm/blocks/(out|down)_lora/up/kernel", P(None, None, "fsdp")),
    (r"llm/(blocks/\w+|final_norm)/(scale|bias)", P()),
    (r"clip/(vision|text)/blocks/(query|key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r"clip/(vision|text)/blocks/out/kernel", P(None, "tensor", None, "fsdp")),
    (r"clip/(vision|text)/blocks/up/kernel", P(None, "fsdp", "tensor")),
    (r"clip/(vision|text)/blocks/down/kernel", P(None, "tensor", "fsdp")),
    (r"clip/(vision|text)/(blocks/\w+|\w+_norm)/(scale|bias)", P()),
    (r"clip/vision/(cls|positions|patch/(kernel|bias))", P()),
    (r"clip/text/(positions|embed/embedding)", P()),
    (r"clip/((vision|text)_projection/kernel|logit_scale)", P()),
    (r"projector/(linear|up|down)_\d/kernel", P("fsdp", None)),
    (r"projector/.+", P()),  # biases, norms, the rest of a resampler, and what a projector of one's own has
)
_PARAMETER = re.compile(r"(?:.*/)?((?:clip|projector|llm)/.+?)(?:(?<=/kernel)/(?:qvalue|scale))?")


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", None) or 0


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, num_slices: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh over all devices, or over `devices`, which need not be there; one axis may be -1: what the others leave.

    num_slices: of a TPU, or groups of machines with GPUs, between which there is only the data centre's network. The
    `data` axis is divided among them, so that nothing but its sums of gradients crosses that network; within a slice
    the axes lie as `mesh_utils.create_hybrid_device_mesh` lays them. Raises UserError if sizes do not fit, and for a
    TPU of another number of slices.
    """
    sizes = [data, fsdp, tensor]
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    known = int(np.prod([s for s in sizes if s != -1]))
    if sizes.count(-1) == 1 and known > 0:
        sizes[sizes.index(-1)] = count // known
    if min(sizes) < 1 or int(np.prod(sizes)) != count:
        raise UserError(f"mesh: data={data} fsdp={fsdp} tensor={tensor} does not fit {count} device(s)")
    if num_slices < 1 or sizes[0] % num_slices:
        raise UserError(f"mesh: data={sizes[0]}, expected a multiple of num_slices={num_slices}")
    types = (AxisType.Auto,) * len(AXES)
    there = len({_slice(device) for device in devices})
    if devices[0].platform == "tpu" and there != num_slices:
        raise UserError(f"mesh.num_slices: {num_slices}, expected the TPU's number of slices, {there}")
    if there == num_slices == 1:
        return jax.make_mesh((sizes[0], sizes[1], sizes[2]), AXES, axis_types=types, devices=devices)
    devices = sorted(devices, key=_slice)
    parts = [devices[i : i + count // num_slices] for i in range(0, count, count // num_slices)]
    splits = devices[0].device_kind == "TPU v5 lite"  # as `jax.make_mesh` does it
    shape = (sizes[0] // num_slices, *sizes[1:])
    laid = [mesh_utils.create_device_mesh(shape, part, allow_split_physical_axes=splits) for part in parts]
    return Mesh(np.concatenate(laid), AXES, axis_types=types)


def _fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Drops axes from dimensions that they do not divide (a small model on a large mesh)."""
    if len(spec) > len(shape):
        return P()
    return P(*(a if a and shape[i] % mesh.shape[a] == 0 else None for i, a in enumerate(spec)))


def rule(path: str) -> P:
    """Raises UserError if no rule covers the parameter."""
    for pattern, spec in RULES:
        if re.fullmatch(pattern, path):
            return spec
    raise UserError(f"{path}: no rule of tga_jax/models/sharding.py says where it lies")


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array (or shape) of `tree`, by the parameter's path that its own ends with: so do the
    optimizer's moments, and the two arrays of a quantized kernel but for their names. Raises UserError naming a
    parameter that no rule covers."""

    def at(path: Any, x: Any) -> NamedSharding:
        name = "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        found = _PARAMETER.fullmatch(name)
        # What no parameter's path ends, such as the count of steps, lies everywhere.
        return NamedSharding(mesh, _fit(rule(found[1]), x.shape, mesh) if found else P())

    return jax.tree_util.tree_map_with_path(at, tree)


def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process has whole, on the devices of all of them."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def of_batch(mesh: Mesh) -> NamedSharding:
    """Rows along the `data` and `fsdp` axes."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's part of a NumPy batch on the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(of_batch(mesh), x), batch)

"""The mesh, and which parameter lies where on it."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tga_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# (pattern on the path's end, spec). Kernels of the scanned blocks carry the layer axis first. Optimizer moments have
# their parameter's path at their end and so find the same rule.
RULES: tuple[tuple[str, P], ...] = (
    (r".*llm/blocks/query/kernel", P(None, "fsdp", "tensor", None, None)),
    (r".*llm/blocks/(key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r".*llm/blocks/out/kernel", P(None, "tensor", None, None, "fsdp")),
    (r".*llm/blocks/(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r".*llm/blocks/down/kernel", P(None, "tensor", "fsdp")),
    # The gather of tokens from a table sharded on both axes would rematerialise it; one axis does not.
    (r".*llm/embed/embedding", P(None, "fsdp")),
    (r".*llm/lm_head/kernel", P("fsdp", "tensor")),
    (r".*blocks/(query|key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r".*blocks/out/kernel", P(None, "tensor", None, "fsdp")),
    (r".*blocks/up/kernel", P(None, "fsdp", "tensor")),
    (r".*blocks/down/kernel", P(None, "tensor", "fsdp")),
    (r".*projector/linear_\d/kernel", P("fsdp", None)),
    (r".*", P()),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices; one axis may be -1: what the others leave. Raises UserError if sizes do not fit."""
    sizes = [data, fsdp, tensor]
    count = jax.device_count()
    known = int(np.prod([s for s in sizes if s != -1]))
    if sizes.count(-1) == 1 and known > 0:
        sizes[sizes.index(-1)] = count // known
    if min(sizes) < 1 or int(np.prod(sizes)) != count:
        raise UserError(f"mesh: data={data} fsdp={fsdp} tensor={tensor} does not fit {count} device(s)")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Drops axes from dimensions that they do not divide (a small model on a large mesh)."""
    if len(spec) > len(shape):
        return P()
    return P(*(a if a and shape[i] % mesh.shape[a] == 0 else None for i, a in enumerate(spec)))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array (or shape) of `tree`, by its path."""

    def place(path, x):
        name = "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        spec = next(s for pattern, s in RULES if re.fullmatch(pattern, name))
        return NamedSharding(mesh, _fit(spec, x.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's part of a NumPy batch, placed along the `data` and `fsdp` axes."""
    sharding = NamedSharding(mesh, P(("data", "fsdp")))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

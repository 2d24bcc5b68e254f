"""A training's step as the benches take it: from its config, without data and without weights."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tga_jax.checkpoints import hub
from tga_jax.data.batch import Batch
from tga_jax.errors import UserError
from tga_jax.models.llava import LlavaConfig
from tga_jax.train import flops, origin, setup
from tga_jax.train.config import TrainConfig
from tga_jax.train.step import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
    """A training's step on a mesh, from shapes alone."""

    config: TrainConfig
    mesh: Mesh
    model: LlavaConfig
    attention: str
    attention_reason: str | None  # why it is not the fastest
    state: TrainState  # abstract
    batch: Batch  # abstract
    length: int  # T
    pictures: int  # of a sample

    @property
    def key(self) -> Any:
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(self.mesh, P()))

    @property
    def rows(self) -> int:
        """Of a batch: fewer than samples where these share them, more where pairs are learnt."""
        return (self.batch.tokens if self.batch.rows is None else self.batch.rows).shape[0]

    @property
    def image_tokens(self) -> int:
        """Of a sample; of a model with tiles, whose pictures have as many as the largest grid."""
        return self.pictures * _image_tokens(self.model)

    @property
    def causal(self) -> bool:
        """Whether attention computes only what its mask lets through."""
        return self.attention != "xla"

    @property
    def work(self) -> flops.Step:
        """What one step computes. Raises UserError for the contrastive training, which has no decoder."""
        found = setup.work(self.config, self.model, self.state, self.batch)
        if found is None:
            raise UserError(f"{self.config.name}: trains CLIP, expected a training of the projector or the decoder")
        return found

    @property
    def itemsize(self) -> int:
        """Bytes of a parameter, and of its gradient, as devices exchange them."""
        # The CPU has no products of bfloat16: its compiler converts parameters before it gathers them.
        platform = self.mesh.devices.flat[0].platform
        return 2 if self.config.dtype == "bfloat16" and platform != "cpu" else 4

    @property
    def gathered(self) -> float | None:
        """Bytes of parameters that a device gathers in a step by the formula; None where nothing is divided."""
        if self.mesh.shape["fsdp"] == 1:
            return None
        once = flops.gathered(self.model, self.work, self.itemsize, self.mesh.shape["tensor"])
        return self.config.optim.accumulate * once

    def lower(self) -> Any:
        """The jitted step, lowered. To be called under `jax.set_mesh(mesh)`."""
        return setup.make_step(self.config, self.model, self.state).trace(self.state, self.batch, self.key).lower()


def _image_tokens(model: LlavaConfig) -> int:
    """Of a picture."""
    grids = hub.grids(model)
    return model.image_tokens if grids is None else grids.tokens(grids.largest)


def prepare(config: TrainConfig, devices: Sequence[Any] | None = None, length: int = 0, pictures: int = 1) -> Setup:
    """devices: those of a topology, or None for this machine's; length: one of data.lengths, 0 for the last.

    Raises UserError for a config that does not fit itself, the devices, or `length`.
    """
    lengths = config.data.lengths
    if length and length not in lengths:
        raise UserError(f"--length: {length}, expected one of data.lengths, {', '.join(map(str, lengths))}")
    bucket = lengths.index(length) if length else len(lengths) - 1
    mesh = setup.make_mesh(config, devices)
    model = origin.model_of(config)
    attention, reason = setup.choose_attention(config, model.llm, mesh)
    model = setup.make_model(config, model, attention)
    share = lengths[bucket] // config.data.pack  # of a sample
    if (taken := pictures * _image_tokens(model)) > share:
        raise UserError(f"length {share}: {pictures} picture(s) take {taken} tokens, expected fewer")
    with jax.set_mesh(mesh):
        state = setup.abstract_state(config, model, mesh)
        batch = setup.abstract_batch(config, model, mesh, bucket, pictures)
    return Setup(config, mesh, model, attention, reason, state, batch, lengths[bucket], pictures)


def bytes_per_device(tree: Any) -> int:
    """Of abstract arrays with shardings, on the device that has most (all have as much)."""

    def size(x: Any) -> int:
        return math.prod(x.sharding.shard_shape(x.shape)) * jax.dtypes.itemsize_bits(x.dtype) // 8

    return sum(size(x) for x in jax.tree.leaves(tree))


def trained_elements(setup: Setup) -> int:
    """Of trained parameters, on one device."""
    return bytes_per_device(setup.state.trainable) // jnp.dtype(setup.config.optim.param_dtype).itemsize


def parameter_sizes(setup: Setup) -> set[int]:
    """Elements of every matrix, or of one layer of a stack of them, whole or divided by the tensor axis."""
    sizes = set()
    for path, x in {**setup.state.trainable, **setup.state.frozen}.items():
        layer = math.prod(x.shape[1:] if "/blocks/" in path else x.shape)
        if x.ndim > 1 + ("/blocks/" in path):
            sizes |= {layer, layer // setup.mesh.shape["tensor"]}
    return sizes

"""`tga bench vision`: pictures a second through CLIP's vision tower, up to the layer that LLaVA reads."""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from tga_jax.bench import figures
from tga_jax.errors import UserError
from tga_jax.models import attention, clip, presets
from tga_jax.train import chips, flops
from tga_jax.workdir import write_json

_LAYER = -2


@dataclasses.dataclass(frozen=True)
class VisionFigures:
    model: str
    dtype: str
    batch: int
    attention: str
    seconds: dict[str, float]  # of a batch
    pictures_per_second: float
    tflop_per_second: float
    mfu: float | None  # of the data sheet's peak


def measure(name: str, dtype: str, batch: int, repeats: int) -> VisionFigures:
    """Of uint8 pictures that lie on the device. Raises UserError for an unknown preset."""
    if name not in presets.CLIP:
        raise UserError(f"--model: {name!r}, expected one of {', '.join(presets.CLIP)}")
    kernel = jax.default_backend() == "gpu" and dtype == "bfloat16" and attention.works("cudnn") is None
    chosen = "cudnn" if kernel else "xla"
    config = dataclasses.replace(presets.CLIP[name].vision, dtype=dtype, attention=chosen)
    size = config.image_size
    towers = clip.ClipConfig(config, None, None)
    params = jax.jit(lambda: jax.tree.map(lambda p: p.astype(dtype), clip.init(towers, jax.random.key(0))))()
    pictures = jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8))

    @jax.jit
    def features(params, pictures):
        return clip.vision_features(config, params["vision"], clip.normalized(config, pictures), _LAYER, "patch")

    def seconds() -> float:
        start = time.perf_counter()
        features(params, pictures).block_until_ready()
        return time.perf_counter() - start

    for _ in range(3):
        seconds()
    spread = figures.spread([seconds() for _ in range(repeats)])
    rate = batch * flops.vision(config, _LAYER).forward / spread["median"]
    chip = chips.of_kind(jax.devices()[0].device_kind)
    return VisionFigures(
        name, dtype, batch, chosen, spread, batch / spread["median"], rate / 1e12,
        None if chip is None else rate / chip.flops,
    )  # fmt: skip


def report(
    console: rich.console.Console, path: Path | None, *, model: str, dtype: str, batch: int, repeats: int
) -> None:
    """Prints the figures. path: they go there as JSON."""
    found = measure(model, dtype, batch, repeats)
    share = "" if found.mfu is None else f", {found.mfu:.1%} of the data sheet"
    console.print(
        f"{model}, {dtype}, batch {batch}, attention {found.attention}: {found.pictures_per_second:.1f} pictures/s, "
        f"{found.tflop_per_second:.3g} TFLOP/s{share}"
    )
    if path is not None:
        write_json(path, {"bench": "vision", **figures.circumstances(), **dataclasses.asdict(found)})

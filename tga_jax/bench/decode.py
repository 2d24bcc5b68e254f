"""`tga bench decode`: tokens a second, against the time that reading every parameter once takes."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
from flax.traverse_util import flatten_dict, unflatten_dict

from tga_jax.bench import against
from tga_jax.bench.figures import circumstances
from tga_jax.checkpoints import convert, hub
from tga_jax.checkpoints.spec import Spec
from tga_jax.data.batch import prompt_batch
from tga_jax.errors import UserError
from tga_jax.inference import model
from tga_jax.inference.decode import Decoding, decode, language_model, prefill, row_keys
from tga_jax.models import clip, llama, presets, quantization, sharding
from tga_jax.workdir import write_json


@dataclasses.dataclass(frozen=True)
class DecodeFigures:
    device: str
    what: str
    dtype: str
    batch: int
    prompt: int
    new_tokens: int
    tokens_per_second: float  # of the whole batch, median of the repeats
    repeats: list[float]
    parameter_bytes: int  # read once for every token
    read_bytes_per_second: float  # measured here, by a sum over a large array
    floor_tokens_per_second: float  # batch * read_bytes_per_second / parameter_bytes
    share_of_floor: float


def read_bandwidth() -> float:
    """Bytes a second that this device reads, the best of five sums over a large array."""
    size = 2**28 if jax.default_backend() == "cpu" else 2**32  # so that starting a program is nothing beside it
    x = jnp.ones(size // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        total(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return size / best


def _made_up(name: str, dtype: str) -> tuple[llama.LlamaConfig, dict[str, Any]]:
    """A preset's shape with random weights."""
    if name not in presets.LLM:
        raise UserError(f"preset: {name!r}, expected one of {', '.join(presets.LLM)}")
    kind = dtype if dtype in quantization.KINDS else None
    config = dataclasses.replace(presets.LLM[name], dtype="bfloat16" if kind else dtype)
    leaves, structure = jax.tree.flatten(convert.shapes(Spec(kind="llm", config=config, family="llama"))["llm"])
    rng = np.random.default_rng(0)
    made = [jnp.asarray(rng.standard_normal(x.shape[-2:], np.float32) * 0.02, config.dtype) for x in leaves]
    filled = structure.unflatten([jnp.broadcast_to(m, x.shape) for m, x in zip(made, leaves, strict=True)])
    if kind is not None:
        flat = flatten_dict({"llm": filled}, sep="/")
        kernels = {path: x for path, x in flat.items() if quantization.applies(path)}
        flat |= hub.quantized(kernels, kind, sharding.make_mesh(devices=jax.local_devices()[:1]))
        filled = unflatten_dict(flat, sep="/")["llm"]
    return config, filled


class DecodeBench:
    """Greedy decoding after a prompt of random tokens; no token stops it."""

    def __init__(self, checkpoint: Path | None, preset: str, dtype: str, batch: int, prompt: int, new_tokens: int):
        """Loads and compiles. checkpoint: None for the preset with made-up weights. Raises UserError as `load` does."""
        if checkpoint is not None:
            loaded = model.load(checkpoint, dtype)
            if isinstance(loaded.config, clip.ClipConfig):
                raise UserError(f"{checkpoint}: a CLIP, expected a checkpoint with a language model")
            self.config, self.llm, self.what = language_model(loaded.config), loaded.params["llm"], str(checkpoint)
        else:
            config, llm = _made_up(preset, dtype)
            self.config, self.llm, self.what = config, llama.separate_blocks(llm, free=True), preset
        self.dtype, self.batch, self.prompt, self.new_tokens = dtype, batch, prompt, new_tokens
        tokens = np.random.default_rng(0).integers(3, self.config.vocab_size, (batch, prompt)).astype(np.int32)
        everywhere = np.ones(tokens.shape, bool)
        self._rows = prompt_batch(tokens, everywhere, ~everywhere, None)
        self.rate(2)

    def rate(self, until: int | None = None) -> float:
        """Tokens a second of the whole batch, the first token, which comes of the prefill, not counted."""
        until = until or self.new_tokens
        how = Decoding(stop_ids=(), pad_id=0)
        keys = row_keys(0, range(self.batch))
        state = prefill(self.config, {"llm": self.llm}, self._rows, keys, how, new_tokens=self.new_tokens)
        jax.block_until_ready(state)
        start = time.perf_counter()
        decode(self.config, self.llm, state, until, how).tokens.block_until_ready()
        return self.batch * (until - 1) / (time.perf_counter() - start)

    def figures(self, repeats: int) -> DecodeFigures:
        rates = [self.rate() for _ in range(repeats)]
        # Of an input table that is no output table only a row is read.
        table = 0 if self.config.tie_embeddings else self.llm["embed"]["embedding"].nbytes
        bits = sum(x.size * jax.dtypes.itemsize_bits(x.dtype) for x in jax.tree.leaves(self.llm))
        size = bits // 8 - table
        bandwidth = read_bandwidth()
        rate, floor = float(np.median(rates)), self.batch * bandwidth / size
        return DecodeFigures(
            jax.devices()[0].device_kind, self.what, self.dtype, self.batch, self.prompt, self.new_tokens, rate, rates,
            size, bandwidth, floor, rate / floor,
        )  # fmt: skip


def _peer(script: Path, bench: DecodeBench) -> contextlib.AbstractContextManager[Callable[[], float]]:
    """Tokens a second of the peer. Raises UserError if it fails."""
    model = ["--checkpoint", bench.what, "--dtype", bench.dtype]
    return against.start(
        script, [*model, "--batch", bench.batch, "--prompt", bench.prompt, "--new-tokens", bench.new_tokens]
    )


def report(
    console: rich.console.Console,
    checkpoint: Path | None,
    script: Path | None,
    target: Path | None,
    *,
    preset: str,
    dtype: str,
    batch: int,
    prompt: int,
    new_tokens: int,
    repeats: int,
) -> None:
    """Prints the figures, and with a peer's script the ratio of `repeats` pairs. Raises UserError as loading does."""
    bench = DecodeBench(checkpoint, preset, dtype, batch, prompt, new_tokens)
    found = bench.figures(repeats)
    figures: dict[str, Any] = dataclasses.asdict(found)
    console.print(
        f"{found.what}, {found.dtype}, batch {batch}, {found.device}: {found.tokens_per_second:.1f} tokens/s, "
        f"{found.share_of_floor:.0%} of the memory floor ({found.floor_tokens_per_second:.1f} tokens/s: "
        f"{found.parameter_bytes / 2**20:.0f} MiB a token at {found.read_bytes_per_second / 1e9:.1f} GB/s)"
    )
    if script is not None and checkpoint is not None:
        with _peer(script, bench) as other:  # in turns: a machine's speed drifts
            ours, theirs = zip(*((bench.rate(), other()) for _ in range(repeats)), strict=True)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        figures["peer"] = {"ours": ours, "theirs": theirs, "ratios": ratios, "median_ratio": float(np.median(ratios))}
        console.print(
            f"transformers and torch: {np.median(theirs):.1f} tokens/s; ratio {np.median(ratios):.2f}, median of "
            f"{repeats} pairs ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if target is not None:
        write_json(target, {"bench": "decode", **circumstances(), **figures})

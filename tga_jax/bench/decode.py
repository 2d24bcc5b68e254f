"""`tga bench decode`: tokens a second, against the time that reading every parameter once takes."""

import dataclasses
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from tga_jax import model, sampling
from tga_jax.data.batch import prompt_batch
from tga_jax.errors import UserError
from tga_jax.generate import decode, prefill, row_keys
from tga_jax.models import llama, presets
from tga_jax.weights import convert
from tga_jax.weights.hub_config import HubModel
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
    copy_bytes_per_second: float  # measured here: bytes read by a sum over a large array
    floor_tokens_per_second: float  # batch * copy_bytes_per_second / parameter_bytes
    share_of_floor: float


def read_bandwidth(size: int = 2**28) -> float:
    """Bytes a second that this device reads, the best of five sums over `size` bytes."""
    x = jnp.ones(size // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        total(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return size / best


def _random(name: str, dtype: str) -> tuple[llama.LlamaConfig, dict[str, Any]]:
    """A preset's shape with constant weights: speed does not depend on them."""
    config = dataclasses.replace(presets.LLM[name], dtype=dtype)
    shapes = convert.shapes(HubModel("llm", config, "llama"))
    return config, jax.tree.map(lambda s: jnp.full(s.shape, 0.01, dtype), shapes)


def run(
    checkpoint: Path | None, preset: str, dtype: str, batch: int, prompt: int, new_tokens: int, repeats: int = 5
) -> DecodeFigures:
    """Greedy decoding after a prompt of random tokens; no token stops it."""
    if checkpoint is not None:
        loaded = model.load(checkpoint, dtype)
        config: Any = loaded.config.llm if hasattr(loaded.config, "llm") else loaded.config  # pyright: ignore
        params, what = {"llm": loaded.params["llm"]}, str(checkpoint)
    else:
        (config, params), what = _random(preset, dtype), preset
    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (batch, prompt)).astype(np.int32)
    everywhere = np.ones(tokens.shape, bool)
    rows = prompt_batch(tokens, everywhere, ~everywhere, None)
    how = {"sampling": sampling.Sampling(), "stop_ids": (), "pad_id": 0}
    start_state = partial(prefill, config, params, rows, row_keys(0, batch), new_tokens=new_tokens, **how)
    decode(config, params["llm"], start_state(), new_tokens, **how).tokens.block_until_ready()  # compiles
    rates = []
    for _ in range(repeats):
        state = jax.block_until_ready(start_state())
        start = time.perf_counter()
        decode(config, params["llm"], state, new_tokens, **how).tokens.block_until_ready()
        rates.append(batch * (new_tokens - 1) / (time.perf_counter() - start))
    leaves = jax.tree.leaves(params["llm"])
    table = 0 if config.tie_embeddings else params["llm"]["embed"]["embedding"].nbytes  # a gather reads one row of it
    size = sum(x.nbytes for x in leaves) - table
    bandwidth = read_bandwidth()
    rate, floor = float(np.median(rates)), batch * bandwidth / size
    return DecodeFigures(
        jax.devices()[0].device_kind, what, dtype, batch, prompt, new_tokens, rate, rates, size, bandwidth, floor,
        rate / floor,
    )  # fmt: skip


def _peer(script: Path, checkpoint: Path, dtype: str, batch: int, prompt: int, new_tokens: int) -> float:
    """The peer's median rate, measured by itself in a process of its own. Raises UserError if it fails."""
    command = [sys.executable, script, "--checkpoint", checkpoint, "--dtype", dtype, "--batch", batch]
    command += ["--prompt", prompt, "--new-tokens", new_tokens, "--repeats", 1]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["repeats"][0]


def report(
    console: rich.console.Console,
    target: Path | None,
    peer: Path | None,
    checkpoint: Path | None,
    preset: str,
    dtype: str,
    *,
    batch: int,
    prompt: int,
    new_tokens: int,
    repeats: int,
) -> None:
    """Prints the figures, and with a peer the ratio of five pairs in turns. Raises UserError as loading does."""
    shape = {"batch": batch, "prompt": prompt, "new_tokens": new_tokens}
    found = run(checkpoint, preset, dtype, **shape, repeats=repeats)
    figures: dict[str, Any] = dataclasses.asdict(found)
    console.print(
        f"{found.what}, {found.dtype}, batch {batch}, {found.device}: {found.tokens_per_second:.1f} tokens/s, "
        f"{found.share_of_floor:.0%} of the memory floor ({found.floor_tokens_per_second:.1f} tokens/s: "
        f"{found.parameter_bytes / 2**20:.0f} MiB a token at {found.copy_bytes_per_second / 1e9:.1f} GB/s)"
    )
    if peer is not None and checkpoint is not None:
        ours, theirs = [], []
        for _ in range(5):  # in turns: a machine's speed drifts
            ours.append(run(checkpoint, preset, dtype, **shape, repeats=1).tokens_per_second)
            theirs.append(_peer(peer, checkpoint, dtype, **shape))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        figures["peer"] = {"ours": ours, "theirs": theirs, "ratios": ratios, "median_ratio": float(np.median(ratios))}
        console.print(
            f"transformers and torch: {np.median(theirs):.1f} tokens/s; ratio {np.median(ratios):.2f}, median of five "
            f"pairs ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if target is not None:
        write_json(target, figures)

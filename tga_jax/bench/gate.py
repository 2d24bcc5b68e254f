"""`tga bench gate`: what key programs compute, read and hold, and how often they are compiled, against a kept table.

XLA says all of it of a compiled program, so that a regression is seen without a clock, on any machine of a kind.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from tga_jax.bench import evaluate, hlo, prepared
from tga_jax.checkpoints import convert
from tga_jax.checkpoints.spec import Spec
from tga_jax.data.batch import prompt_batch
from tga_jax.errors import UserError
from tga_jax.inference.decode import Decoding, generate
from tga_jax.models import clip, llama, presets
from tga_jax.report import terminal
from tga_jax.retrieval.search import Exact
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import read_json, write_json

TOLERANCE = 0.02  # above it a figure counts as another; compilations are compared exactly
# What XLA counts is of the program before machine code is made of it, which takes most of the time.
_QUICK: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
_UNITS = {"flops": "GFLOP", "read": "GB read and written", "peak": "GB at most", "sent": "GB sent"}  # all in 1e9


def _figures(compiled: Any) -> dict[str, float]:
    """Of one device and run: operations, bytes that XLA counts as read and written, bytes held at most, bytes that
    collectives give. XLA counts the body of a loop once, in `flops` and `read`."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    sent = sum(sum(c.sizes) * c.times for c in hlo.collectives(compiled.as_text()))
    return {
        "flops": cost["flops"],
        "read": cost["bytes accessed"],
        "peak": float(peak + memory.temp_size_in_bytes),
        "sent": float(sent),
    }


def _training(config: TrainConfig) -> dict[str, float]:
    made = prepared.prepare(config)
    with jax.set_mesh(made.mesh):
        return _figures(made.lower().compile(_QUICK))


def _answers() -> dict[str, float]:
    """Four prompts of 64 tokens, continued by 32, in the first blocks of SmolLM2's shape."""
    config = dataclasses.replace(presets.LLM["smollm2-135m"], num_layers=4)
    made = convert.shapes(Spec(kind="llm", config=config, family="llama"))["llm"]
    params = {"llm": jax.eval_shape(llama.separate_blocks, made)}
    tokens = np.zeros((4, 64), np.int32)
    batch = prompt_batch(tokens, tokens == 0, tokens != 0, None)
    how = Decoding(stop_ids=(2,), pad_id=0)
    return _figures(generate.lower(config, params, batch, how, new_tokens=32).compile(_QUICK))


def _pictures() -> dict[str, float]:
    """Eight pictures through the tower of CLIP-B/32."""
    config = clip.ClipConfig(presets.CLIP["clip-vit-b-32"].vision, None, None)
    params = jax.eval_shape(partial(clip.init, config), jax.eval_shape(lambda: jax.random.key(0)))
    size = config.vision.image_size

    def features(params: dict, pictures: jax.Array) -> jax.Array:
        pixels = clip.normalized(config.vision, pictures)
        return clip.vision_features(config.vision, params["vision"], pixels, -2, "patch")

    pictures = jax.ShapeDtypeStruct((8, size, size, 3), jnp.uint8)
    return _figures(jax.jit(features).lower(params, pictures).compile(_QUICK))


@contextlib.contextmanager
def _compilations() -> Iterator[collections.Counter[str]]:
    """Counts under "programs" what is compiled inside, or taken from the cache of compiled programs."""
    counts: collections.Counter[str] = collections.Counter()

    def heard(event: str, duration_secs: float, **kwargs: Any) -> None:
        counts["programs"] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def _search() -> int:
    """Three numbers of queries, of which two fill up to the same."""
    rows = np.random.default_rng(0).standard_normal((4096, 64), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with _compilations() as counts:
        exact = Exact(rows)
        for queries in (250, 256, 40):
            exact.search(rows[:queries], 4)
    return counts["programs"]


def _evaluation() -> int:
    """48 questions of four lengths."""
    with _compilations() as counts:
        evaluate.measure("emoji", samples=48, batch=8, new_tokens=4)
    return counts["programs"]


def measure(trainings: Mapping[str, TrainConfig]) -> dict[str, Any]:
    """{"jaxlib", "programs": name -> figures, "compilations": name -> how many}."""
    programs: dict[str, Callable[[], dict[str, float]]] = {
        **{name: partial(_training, config) for name, config in trainings.items()},
        "answers": _answers,
        "pictures": _pictures,
    }
    return {
        "jaxlib": importlib.metadata.version("jaxlib"),
        "programs": {name: made() for name, made in programs.items()},
        "compilations": {"search": _search(), "evaluation": _evaluation()},
    }


@dataclasses.dataclass(frozen=True)
class Difference:
    program: str
    figure: str
    before: float
    now: float

    @property
    def worse(self) -> bool:
        return self.now > self.before


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Raises UserError where the two are of other versions of jaxlib, or of other programs."""
    if before["jaxlib"] != now["jaxlib"]:
        raise UserError(
            f"the table is of jaxlib {before['jaxlib']}, expected {now['jaxlib']}, which is installed: another version "
            "compiles to other programs"
        )
    found = []
    for kind in ("programs", "compilations"):
        if set(before[kind]) != set(now[kind]):
            raise UserError(f"the table has {', '.join(before[kind])}, expected {', '.join(now[kind])}")
    for name, figures in now["programs"].items():
        for figure, value in figures.items():
            old = before["programs"][name][figure]
            if abs(value - old) > TOLERANCE * old:
                found.append(Difference(name, figure, old, value))
    for name, count in now["compilations"].items():
        if count != (old := before["compilations"][name]):
            found.append(Difference(name, "compilations", old, count))
    return found


def report(console: rich.console.Console, trainings: Mapping[str, TrainConfig], path: Path, write: bool) -> bool:
    """Prints the figures and what differs from the table at `path`; whether nothing is worse.

    write: the table becomes what was measured. Raises UserError as `differences` does.
    """
    before = None if write else read_json(path, "a table of `tga bench gate --write`", ("jaxlib", "programs"))
    with console.status("compiling"):
        now = measure(trainings)
    table = terminal.table("program", *_UNITS.values())
    for name, figures in now["programs"].items():
        table.add_row(name, *(f"{figures[figure] / 1e9:.4g}" for figure in _UNITS))
    console.print(table)
    for name, count in now["compilations"].items():
        console.print(f"{name}: {count} programs compiled")
    if before is None:
        write_json(path, now)
        return True
    found = differences(before, now)
    for d in found:
        verdict = "WORSE" if d.worse else "better; --write keeps it"
        console.print(f"{d.program}: {d.figure} {d.before:.4g} -> {d.now:.4g} ({d.now / d.before - 1:+.1%}), {verdict}")
    if not found:
        console.print(f"as in {path}")
    return not any(d.worse for d in found)

"""Everything that is measured on one H200, in one command of less than ten minutes:

    python tga_jax/bench/peers/h200.py [--only=NAME,...] [--minutes=9]

Each part is a process of its own with a time limit of its own, so that one that fails leaves the others' figures. They
are written to tga_jax/bench/peers/results/NAME.json, what a part printed to NAME.log, and the table of all to
summary.md."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT, RESULTS = HERE.parents[2], HERE / "results"
CONFIG = "configs/bench_mistral_7b.py"
TGA = [sys.executable, "-c", "import sys; from tga_jax import cli; sys.exit(cli.run(sys.argv[1:]))", "bench"]
CEILINGS = """
import json, sys, time
import jax, jax.numpy as jnp
from tga_jax.bench import figures, train
from tga_jax.models import attention

def best(f, *x):
    jax.block_until_ready(f(*x))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(f(*x))
        times.append(time.perf_counter() - start)
    return min(times)

x = jax.random.normal(jax.random.key(0), (2**31,), jnp.bfloat16)
copied = 2 * x.nbytes / best(jax.jit(lambda x: -x), x)
found = {"bench": "ceilings", **figures.circumstances(), "copied_bytes_per_second": copied}
found["matmul_tflop_per_second"] = train.matmul_rate("bfloat16") / 1e12
del x
b, t = 8, 1280
q = jax.random.normal(jax.random.key(1), (b, t, 8, 4, 128), jnp.bfloat16)
k = jax.random.normal(jax.random.key(2), (b, t, 8, 128), jnp.bfloat16)
lengths = jnp.full((b,), t)
places = jnp.broadcast_to(jnp.arange(t), (b, t))
for name in ("xla", "cudnn"):
    reason = attention.works(name)
    visible = attention.causal_mask(places, places, places < t) if name == "xla" else lengths
    def loss(q, k):
        return attention.attend(q, k, k, visible, name).astype(jnp.float32).sum()
    found[f"attention_{name}"] = reason or {"seconds": best(jax.jit(jax.grad(loss, (0, 1))), q, k)}
print(json.dumps(found, indent=1))
json.dump(found, open(sys.argv[1], "w"))
"""


SHAPE = """
import json, sys
from tga_jax import config
from tga_jax.bench import prepared, train
from tga_jax.cli.flags import parse_with_config
from tga_jax.train.config import TrainConfig
found, _ = parse_with_config(sys.argv[1:], {}, None)
print(json.dumps(train.shape(prepared.prepare(config.build(TrainConfig, found)))))
"""


def flags_of(stage: str, batch: int) -> list[str]:
    return [f"--config={CONFIG}:{stage}", f"--config.batch_size={batch}"]


def step(stage: str, batch: int) -> list[str]:
    """With the activations kept that fit: the strong peer has no setting between all of them and a block's input."""
    return [*TGA, "train", *flags_of(stage, batch), "--config.remat=names", "--steps=10", "--warmup=3"]


def peer(mode: str, stage: str, batch: int) -> list[str]:
    """A peer by itself: 7B's state takes more than half of the memory, so that two cannot run side by side."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHAPE, *flags_of(stage, batch)]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [sys.executable, str(HERE / "train.py"), "--mode", mode, "--shape", made.stdout.splitlines()[-1]]


def parts() -> dict[str, tuple[Callable[[], list[str]], int]]:
    """Name -> what makes its command, and its limit in seconds. The most important ones first."""
    decode = [*TGA, "decode", "--preset=mistral-7b-v0.2", "--dtype=bf16", "--prompt=128", "--new-tokens=64"]
    return {
        "ceilings": (lambda: [sys.executable, "-c", CEILINGS], 90),
        "stage2": (lambda: step("stage2", 8), 120),
        "stage1": (lambda: step("stage1", 32), 90),
        "vision": (lambda: [*TGA, "vision", "--dtype=bf16", "--batch=64"], 60),
        "decode-1": (lambda: [*decode, "--batch=1", "--repeats=3"], 75),
        "peer-strong": (lambda: peer("strong", "stage2", 8), 150),
        "peer-default": (lambda: peer("default", "stage2", 8), 90),
        "peer-faithful": (lambda: peer("faithful", "stage2", 4), 90),
        "decode-32": (lambda: [*decode, "--batch=32", "--repeats=3"], 75),
    }


def run(name: str, make: Callable[[], list[str]], limit: float) -> str:
    """How it ended, in a word or two; its output is in NAME.log even when it was stopped."""
    target = RESULTS / f"{name}.json"
    target.unlink(missing_ok=True)
    asked = "\n" * 10 if name.startswith("peer-") else None
    with (RESULTS / f"{name}.log").open("w+") as log:
        try:
            command = make()
            command += [f"--json={target}"] if command[:4] == TGA else [] if asked else [str(target)]
            done = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=limit, input=asked, text=True
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        except subprocess.CalledProcessError as error:
            log.write(error.stderr)
            return f"failed, see {name}.log"
        if done.returncode:
            return f"failed, see {name}.log"
        if asked:
            log.seek(0)
            lines = log.read().splitlines()
            shape, ready = json.loads(command[-1]), [line.startswith("ready") for line in lines].index(True)
            seconds = [float(line) for line in lines[ready + 1 :]]
            found = {"bench": "peer", "mode": command[-3], "steps": seconds, "median": statistics.median(seconds)}
            target.write_text(json.dumps({**found, "samples_per_second": shape["batch"] / found["median"]}))
    return "done"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(parts()))
    parser.add_argument("--minutes", type=float, default=9.0)
    flags = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    end, states = time.monotonic() + 60 * flags.minutes, {}
    for name in flags.only.split(","):
        make, limit = parts()[name]
        left = end - time.monotonic()
        start = time.monotonic()
        states[name] = run(name, make, min(limit, left)) if left > 15 else "no time left"
        print(f"{name}: {states[name]}, {time.monotonic() - start:.0f} s", flush=True)
    files = [str(RESULTS / f"{name}.json") for name in states if (RESULTS / f"{name}.json").exists()]
    known = [file for file in files if json.loads(Path(file).read_text())["bench"] != "ceilings"]
    if known:
        table = subprocess.run([*TGA, "report", *known], cwd=ROOT, capture_output=True, text=True)
        (RESULTS / "summary.md").write_text(table.stdout)
        print(table.stdout or table.stderr)


if __name__ == "__main__":
    main()

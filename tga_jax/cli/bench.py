"""`tga bench`, `tga doctor`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tga_jax.cli.flags import (
    DTYPES,
    QUANTIZED,
    ROOT,
    RUN_DTYPES,
    checkpoint,
    parse,
    parse_counts,
    parse_with_config,
    training,
)
from tga_jax.errors import UserError

USAGE = """\
  bench   how fast something is, and in how much memory; --json=FILE: the figures go there
          bench decode: tokens a second against the memory floor
            --checkpoint=DIR, or --preset=NAME with made-up weights (default: smollm2-135m)
            --dtype=fp32|bf16|int8|int4|nf4, --batch=N, --prompt=N, --new-tokens=N, --repeats=N
            --peer              transformers and torch on the same folder, in turns, and the ratio
          bench data: pictures a second of one core, and the memory of a long file
            --rows=N, --repeats=N
          bench retrieve: exact search and IVF against faiss flat, on made-up vectors
            --rows=N, --dim=N, --queries=N, --repeats=N
            --cosines=0.9,0.6   of the queries to the rows they are made from
          bench train: a training's step on this machine, with random weights and data
            --config=FILE, --config.FIELD=V, --length=T of data.lengths, --pictures=N a sample
            --steps=N, --warmup=N; --fill=F: the share of each row that is no padding (default: 1)
            --lengths=llava     batches of samples about as long as LLaVA's, put together as in training, and how much
                                of them is padding
            --peer=strong|default|faithful  the same step in transformers and torch, in turns; --pairs=N
          bench vision: pictures a second through CLIP's vision tower
            --model=NAME, --dtype=fp32|bf16, --batch=N, --repeats=N
          bench evaluate: answers a second of `tga evaluate`, with made-up weights and pictures, and its memory
            --model=NAME, --samples=N, --batch=N, --new-tokens=N
          bench judges FILES: the judges that look at words alone, against people's labels: XSTest's completions, MSTS's
            annotations, VLGuard's train.json and test.json, as in their repositories
          bench aot: the same step compiled for machines that are not here: memory, and what devices send
            --config=FILE, --config.FIELD=V, --length=T, --pictures=N
            --target=T          GPUs such as 8xH200 or 16xB200; TPUs such as v5e-256, v5p-128 (64 chips) or, of two
                                slices, 2xv5e-256 with --config.mesh.num_slices=2; 8xcpu to try
          bench plan: memory, step time and hours by the formulas
            --config=FILE, --config.FIELD=V, --length=T, --pictures=N, --target=T
            --mfu=F             the share of the peak that the step reaches (default: 0.5)
            --compile           with what `bench aot` says of the memory
          bench gate TABLE: what key programs compute, read and hold, and how often they are compiled, against a kept
            table; ends with 1 if something is worse
            --write             the table becomes what was measured
          bench report FILES: the JSON files of measurements as a table in Markdown
  doctor  whether this machine and environment can do the work; ends with 1 if something would fail
            --json=FILE         the findings
"""


def _bench_decode(arguments: list[str]) -> None:
    counts = {"batch": 1, "prompt": 32, "new-tokens": 128, "repeats": 5}
    others = {"checkpoint": None, "preset": "smollm2-135m", "dtype": "fp32", "peer": False}
    flags = parse_counts(arguments, counts, others, dtype=tuple(RUN_DTYPES))
    if flags["peer"] and not flags["checkpoint"]:
        raise UserError("--peer: needs --checkpoint with a hub folder that both can load")
    if flags["peer"] and flags["dtype"] in QUANTIZED:
        raise UserError(f"--peer: has no --dtype={flags['dtype']}, expected fp32 or bf16")
    import rich.console

    from tga_jax.bench import decode

    name = flags.pop("checkpoint")
    peer = PEERS / "decode.py" if flags.pop("peer") else None
    flags["dtype"] = RUN_DTYPES[flags["dtype"]]
    decode.report(rich.console.Console(), checkpoint(name) if name else None, peer, flags.pop("json"), **flags)


def _bench_data(arguments: list[str]) -> None:
    flags = parse_counts(arguments, {"rows": 200_000, "repeats": 5}, {})
    import rich.console

    from tga_jax.bench import data

    data.report(rich.console.Console(), flags.pop("json"), **flags)


def _bench_retrieve(arguments: list[str]) -> None:
    counts = {"rows": 300_000, "dim": 768, "queries": 1024, "repeats": 5}
    flags = parse_counts(arguments, counts, {"cosines": "0.95,0.9,0.8,0.6,0.3"})
    try:
        flags["cosines"] = [float(cosine) for cosine in flags["cosines"].split(",")]
    except ValueError as error:
        raise UserError(f"--cosines: {flags['cosines']!r}, expected numbers such as 0.9,0.6") from error
    if not all(0 <= cosine <= 1 for cosine in flags["cosines"]):
        raise UserError(f"--cosines: {flags['cosines']}, expected numbers from 0 to 1")
    import rich.console

    from tga_jax.bench import retrieve

    retrieve.report(rich.console.Console(), flags.pop("json"), **flags)


def _bench_flags(arguments: list[str], counts: dict[str, int], others: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(the ConfigDict of a training, flags); counts: flags that must be at least 1."""
    shape = {"length": 0, "pictures": 1, "json": None}
    found, values = parse_with_config(arguments, {**shape, **counts, **others}, None, training)
    flags: dict[str, Any] = {name: values[name].value for name in {**shape, **counts, **others}}
    if below := [name for name in counts if flags[name] < 1]:
        raise UserError(f"--{below[0]}: {flags[below[0]]}, expected at least 1")
    if flags["pictures"] < 0:
        raise UserError(f"--pictures: {flags['pictures']}, expected at least 0")
    return found, {**flags, "json": Path(flags["json"]) if flags["json"] else None}


def _target(name: str | None, compiles: bool = True) -> Any:
    """The target, its environment set: before JAX is imported."""
    if not name:
        raise UserError("--target: missing, expected one such as 8xH200, v5e-256 or 2xv5p-128")
    from tga_jax.bench import targets

    target = targets.parse(name)
    targets.prepare(target, compiles)
    return target


def _bench_aot(arguments: list[str]) -> None:
    found, flags = _bench_flags(arguments, {}, {"target": None})
    target = _target(flags.pop("target"))
    import rich.console

    from tga_jax import config
    from tga_jax.bench import aot
    from tga_jax.train.config import TrainConfig

    built = config.build(TrainConfig, found)
    aot.report(rich.console.Console(), built, target, flags.pop("json"), **flags)


def _bench_plan(arguments: list[str]) -> None:
    found, flags = _bench_flags(arguments, {}, {"target": None, "mfu": 0.5, "compile": False})
    if not 0 < flags["mfu"] <= 1:
        raise UserError(f"--mfu: {flags['mfu']}, expected a share above 0 and up to 1")
    flags["compiled"] = flags.pop("compile")
    target = _target(flags.pop("target"), flags["compiled"])
    import rich.console

    from tga_jax import config
    from tga_jax.bench import plan
    from tga_jax.train.config import TrainConfig

    built = config.build(TrainConfig, found)
    plan.report(rich.console.Console(), built, target, flags.pop("json"), **flags)


def _bench_train(arguments: list[str]) -> None:
    counts = {"steps": 10, "warmup": 3, "pairs": 5}
    found, flags = _bench_flags(arguments, counts, {"fill": 1.0, "peer": None, "lengths": None})
    if not 0 < flags["fill"] <= 1:
        raise UserError(f"--fill: {flags['fill']}, expected a share above 0 and up to 1")
    mode = flags.pop("peer")
    if mode not in (None, *_PEERS):
        raise UserError(f"--peer: {mode!r}, expected one of {', '.join(_PEERS)}")
    kind = flags.pop("lengths")
    if kind and (mode or flags["fill"] < 1 or flags["length"] or flags["pictures"] != 1):
        raise UserError("--lengths: says how long rows are and draws one picture; expected no --length, --fill, --peer")
    import rich.console

    from tga_jax import config
    from tga_jax.bench import lengths, train
    from tga_jax.models import xla_flags
    from tga_jax.train.config import TrainConfig

    script = PEERS / "train.py" if mode else None
    if script is None:  # else the peer has its share
        xla_flags.reserve_gpu_memory()
    built = config.build(TrainConfig, found)
    if kind:
        if kind not in lengths.KINDS:
            raise UserError(f"--lengths: {kind!r}, expected one of {', '.join(lengths.KINDS)}")
        target, steps, warmup = (flags[name] for name in ("json", "steps", "warmup"))
        train.report_mixture(rich.console.Console(), built, target, kind=kind, steps=steps, warmup=warmup)
        return
    train.report(rich.console.Console(), built, flags.pop("json"), script=script, mode=mode, **flags)


def _bench_vision(arguments: list[str]) -> None:
    counts = {"batch": 8, "repeats": 10}
    flags = parse_counts(arguments, counts, {"model": "clip-vit-l-14-336", "dtype": "fp32"}, dtype=tuple(DTYPES))
    flags["dtype"] = DTYPES[flags["dtype"]]
    import rich.console

    from tga_jax.bench import vision

    vision.report(rich.console.Console(), flags.pop("json"), **flags)


def _bench_gate(arguments: list[str]) -> int:
    flags = parse(arguments, {"write": False}, places=1)
    if not flags["places"]:
        raise UserError("expected the file of the table, such as tests/bench/gate.json")
    steps = {name: parse_with_config([f"--config={file}", *_GATED], {}, None)[0] for name, file in _GATE.items()}
    _target("8xcpu")
    import rich.console

    from tga_jax import config
    from tga_jax.bench import gate
    from tga_jax.train.config import TrainConfig

    trainings = {name: config.build(TrainConfig, found) for name, found in steps.items()}
    return int(not gate.report(rich.console.Console(), trainings, Path(flags["places"][0]), flags["write"]))


def _bench_report(arguments: list[str]) -> None:
    files = parse(arguments, {}, places=10_000)["places"]
    if not files:
        raise UserError("expected JSON files of measurements")
    from tga_jax.bench import report

    print(report.table([Path(file) for file in files]))


def _bench_evaluate(arguments: list[str]) -> None:
    counts = {"samples": 10_000, "batch": 64, "new-tokens": 8}
    flags = parse_counts(arguments, counts, {"model": "emoji"})
    import rich.console

    from tga_jax.bench import evaluate

    evaluate.report(rich.console.Console(), flags.pop("json"), **flags)


def _bench_judges(arguments: list[str]) -> None:
    flags = parse(arguments, {"json": None}, places=10_000)
    if not flags["places"]:
        raise UserError("expected files of labelled answers")
    import rich.console

    from tga_jax.bench import judges

    target = Path(flags["json"]) if flags["json"] else None
    judges.report(rich.console.Console(), target, [Path(file) for file in flags["places"]])


PEERS = Path(__file__).parents[1] / "bench" / "peers"  # programs that need torch
_GATED = (
    *("--config.loss.guide.kind=paper", "--config.batch_size=8"),
    *("--config.mesh.data=1", "--config.mesh.fsdp=8"),
)
_GATE = {stage: f"{ROOT}/configs/bench_small.py:{stage.replace(' ', '')}" for stage in ("stage 1", "stage 2")}
_PEERS = ("strong", "default", "faithful")


_BENCHES: dict[str, Callable[[list[str]], int | None]] = {
    "decode": _bench_decode,
    "data": _bench_data,
    "retrieve": _bench_retrieve,
    "train": _bench_train,
    "vision": _bench_vision,
    "evaluate": _bench_evaluate,
    "judges": _bench_judges,
    "aot": _bench_aot,
    "plan": _bench_plan,
    "gate": _bench_gate,
    "report": _bench_report,
}


def _bench(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] not in _BENCHES:
        known = ", ".join(_BENCHES)
        raise UserError(f"unknown measurement {arguments[0] if arguments else ''!r}, expected one of {known}")
    return _BENCHES[arguments[0]](arguments[1:])


def _doctor(arguments: list[str]) -> int:
    flags = parse(arguments, {"json": None})
    import rich.console

    from tga_jax.bench import doctor

    return int(not doctor.report(rich.console.Console(), Path(flags["json"]) if flags["json"] else None))


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "bench": _bench,
    "doctor": _doctor,
}

"""`tga bench plan`: what a training takes on machines that are not here, by formulas: memory, time, hours."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import rich.console
import rich.table

from tga_jax.bench import aot, figures, prepared, targets
from tga_jax.errors import UserError
from tga_jax.train import flops
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import write_json

SAMPLES = {"LLaVA's 558K": 558_128, "LLaVA's 665K": 665_298, "100 million": 100_000_000}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes are of one device. between_slices: of `gathered` and `reduced`, what comes over the network from other
    slices or machines. step_seconds: at the stated MFU; sending_seconds: likewise, were it not hidden."""

    config: str
    target: str
    mesh: dict[str, int]
    batch_size: int
    rows: int
    length: int
    mfu: float
    parameters: int  # with their moments
    gradients: int
    activations: float  # estimated, with what is gathered of the parameters
    memory: int
    fits: bool
    model_tflop: float  # of the step, all chips
    hardware_tflop: float
    gathered: float
    reduced: float
    between_slices: float
    sending_seconds: float
    step_seconds: float
    samples_per_second: float
    tokens_per_second: float
    hours: dict[str, float]  # for so many samples


def make(config: TrainConfig, target: targets.Target, mfu: float, length: int = 0, pictures: int = 1) -> Plan:
    """The plan on `target`, on as many fake devices of this machine's CPU.

    A device sends and receives (n - 1) / n of what is gathered or reduced over n of them, at the interconnect's rate;
    over the `data` axis gradients are all-reduced, which is twice as much. Of an axis that spans s slices or machines,
    (s - 1) / s comes over the network, once for all of its devices in a slice. Raises UserError for a config that does
    not fit.
    """
    if target.chip is None:
        raise UserError(f"target: {target.name!r} has no data sheet, expected one such as 8xH200 or v5e-256")
    chip = target.chip
    targets.check(target, config.mesh.num_slices)
    causal = config.attention != "xla"
    traced = dataclasses.replace(config, attention="blocks")  # as every device can
    made = prepared.prepare(traced, jax.devices("cpu")[: target.count], length, pictures)
    data, fsdp, tensor = (made.mesh.shape[name] for name in ("data", "fsdp", "tensor"))
    itemsize = 2 if config.dtype == "bfloat16" else 4
    parts = config.optim.accumulate
    step = flops.step(made.model, made.work, causal=True)
    hardware = flops.step(made.model, made.work, causal).hardware
    elements = prepared.trained_elements(made)
    one = dataclasses.replace(made.work, rows=made.work.rows // (data * fsdp * parts))
    activations = flops.kept(made.model, one, causal, itemsize) / tensor
    gathered = reduced = 0.0
    if fsdp > 1:
        activations += flops.gathering(made.model, itemsize, tensor)
        gathered = parts * flops.gathered(made.model, made.work, itemsize, tensor)
        reduced = parts * itemsize * elements * fsdp
    across = 2 * itemsize * elements * (data - 1) / data
    s_data = math.gcd(data, target.slices)  # the slowest axis spans them first
    s_fsdp = math.gcd(fsdp, target.slices // s_data)
    network = 2 * itemsize * elements * (s_data - 1) / data + (gathered + reduced) * (s_fsdp - 1) / fsdp
    parameters = prepared.bytes_per_device((made.state.trainable, made.state.frozen, made.state.opt_state))
    total = parameters + 4 * elements + activations
    seconds = step.model / (target.count * chip.flops * mfu)
    per_second = config.batch_size / seconds
    return Plan(
        config.name, target.name, dict(made.mesh.shape), config.batch_size, made.rows, made.length, mfu,
        parameters=parameters,
        gradients=4 * elements,
        activations=activations,
        memory=chip.memory,
        fits=total <= chip.memory,
        model_tflop=step.model / 1e12,
        hardware_tflop=hardware / 1e12,
        gathered=gathered,
        reduced=reduced + across,
        between_slices=network,
        sending_seconds=((gathered + reduced) * (fsdp - 1) / fsdp + across - network) / chip.interconnect
        + network / chip.network,
        step_seconds=seconds,
        samples_per_second=per_second,
        tokens_per_second=per_second * made.length / config.data.pack,
        hours={name: count / per_second / 3600 for name, count in SAMPLES.items()},
    )  # fmt: skip


def show(console: rich.console.Console, plan: Plan) -> None:
    gib = 2**30
    total = plan.parameters + plan.gradients + plan.activations
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    table = rich.table.Table("", f"{plan.config} on {plan.target}")
    rows: dict[str, Any] = {
        "mesh": ", ".join(f"{name} {size}" for name, size in plan.mesh.items()),
        "batch": f"{figures.rows(plan.batch_size, plan.rows, plan.length)} tokens",
        "memory of a device": f"{total / gib:.1f} of {plan.memory / gib:.1f} GiB: {verdict}",
        "  parameters and moments": f"{plan.parameters / gib:.2f} GiB",
        "  gradients": f"{plan.gradients / gib:.2f} GiB",
        "  activations, estimated": f"{plan.activations / gib:.2f} GiB",
        "a step": f"{plan.model_tflop:,.0f} TFLOP ({plan.hardware_tflop:,.0f} with what is recomputed)",
        f"at {plan.mfu:.0%} MFU": f"{plan.step_seconds:.3f} s, {plan.samples_per_second:,.1f} samples/s, "
        f"{plan.tokens_per_second:,.0f} tokens/s",
        "sent by a device": f"{plan.gathered / 1e9:.1f} GB gathered, {plan.reduced / 1e9:.1f} GB reduced: "
        f"{plan.sending_seconds:.3f} s, {plan.sending_seconds / plan.step_seconds:.0%} of the step, to be hidden in it",
        "  between slices": f"{plan.between_slices / 1e9:.2f} GB of it",
        **{f"{name} samples": f"{hours:,.1f} hours" for name, hours in plan.hours.items()},
    }
    if plan.sending_seconds == 0:
        del rows["sent by a device"]
    if plan.between_slices == 0:
        del rows["  between slices"]
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def report(
    console: rich.console.Console,
    config: TrainConfig,
    target: targets.Target,
    path: Path | None,
    *,
    mfu: float,
    compiled: bool,
    length: int,
    pictures: int,
) -> None:
    """Prints the plan, and with `compiled` what the compiler says of it. path: both go there as JSON."""
    plan = make(config, target, mfu, length, pictures)
    show(console, plan)
    found = {"bench": "plan", **figures.circumstances(), **dataclasses.asdict(plan)}
    if compiled:
        made = aot.compile_for(config, target, length, pictures)
        aot.show(console, made)
        found["aot"] = dataclasses.asdict(made)
    if path is not None:
        write_json(path, found)

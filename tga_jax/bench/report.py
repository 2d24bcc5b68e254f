"""`tga bench report`: the JSON files of measurements as one table in Markdown."""

from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.workdir import read_json


def _train(found: dict[str, Any]) -> tuple[str, str, str]:
    what = f"{found['config']}, {found['batch_size']} x {found['length']}, {found['dtype']}, remat {found['remat']}"
    share = f"{found['mfu']:.1%} MFU, " if found["mfu"] else ""
    ratio = ""
    if "peer" in found:
        ratio = f"{found['peer']['median_ratio']:.2f} x {found['peer']['mode']} peer"
    figure = f"{found['samples_per_second']:.2f} samples/s ({found['seconds']['median']:.3f} s a step)"
    return what, figure, ", ".join(x for x in (f"{share}{found['share_of_matmul']:.1%} of matmul", ratio) if x)


def _vision(found: dict[str, Any]) -> tuple[str, str, str]:
    share = f"{found['mfu']:.1%} MFU" if found["mfu"] else ""
    what = f"{found['model']}, batch {found['batch']}, {found['dtype']}"
    return what, f"{found['pictures_per_second']:.1f} pictures/s", share


def _aot(found: dict[str, Any]) -> tuple[str, str, str]:
    what = f"{found['config']} for {found['target']}, {found['batch_size']} x {found['length']}"
    fits = {True: "fits", False: "does not fit", None: ""}[found["fits"]]
    formula = found["gathered_formula"]
    gathered = f", gathers {found['gathered'] / formula:.2f} x the formula" if formula else ""
    figure = f"peak {found['peak'] / 2**30:.1f} GiB a chip, compiled in {found['compile_seconds']:.0f} s"
    return what, figure, f"{fits}{gathered}"


def _plan(found: dict[str, Any]) -> tuple[str, str, str]:
    what = f"{found['config']} on {found['target']}, {found['batch_size']} x {found['length']}"
    figure = f"{found['samples_per_second']:.0f} samples/s at {found['mfu']:.0%} MFU, planned"
    return what, figure, f"sending {found['sending_seconds'] / found['step_seconds']:.0%} of the step"


def _decode(found: dict[str, Any]) -> tuple[str, str, str]:
    ratio = f", {found['peer']['median_ratio']:.2f} x transformers" if "peer" in found else ""
    what = f"{Path(found['what']).name}, batch {found['batch']}, {found['dtype']}"
    share = f"{found['share_of_floor']:.0%} of the memory floor{ratio}"
    return what, f"{found['tokens_per_second']:.1f} tokens/s", share


def _peer(found: dict[str, Any]) -> tuple[str, str, str]:
    return found["mode"], f"{found['samples_per_second']:.2f} samples/s ({found['median']:.3f} s a step)", ""


_ROWS = {"peer": _peer, "train": _train, "vision": _vision, "aot": _aot, "plan": _plan, "decode": _decode}


def table(files: list[Path]) -> str:
    """One row a file, in order. Raises UserError naming a file that holds no measurement that this table has."""
    lines = ["| measurement | what | figure | ratio | device | commit |", "|---|---|---|---|---|---|"]
    for file in files:
        found = read_json(file, "the JSON of a measurement", ("bench",))
        kind = found["bench"]
        if kind not in _ROWS:
            raise UserError(f"{file}: a measurement {kind!r}, expected one of {', '.join(_ROWS)}")
        cells = (kind, *_ROWS[kind](found), found.get("device", ""), found.get("commit") or "")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)

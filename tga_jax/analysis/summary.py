"""`analysis.json`: what the lines of all samples say together, read one at a time."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tga_jax.analysis.hidden_states import pair_cosines
from tga_jax.analysis.per_sample import rounded
from tga_jax.analysis.samples import GROUPS
from tga_jax.report.intervals import wilson


class _Mean:
    def __init__(self):
        self.n, self.total = 0, np.zeros(())

    def add(self, values: Any) -> None:
        self.n, self.total = self.n + 1, self.total + np.asarray(values, np.float64)

    def to_json(self) -> dict[str, Any]:
        mean = self.total / self.n
        return {"n": self.n, "mean": rounded(mean) if mean.ndim else rounded([mean])[0]}


class _Runs:
    """All runs of one group and kind of input."""

    def __init__(self, layers: int):
        self.refused = 0
        self.spans = {name: np.zeros(layers + 1, int) for name in ("start", "end")}  # layer -> runs
        self.curves = {name: _Mean() for name in ("probability", "attention")}

    def add(self, run: dict[str, Any]) -> None:
        self.refused += run["refused"]
        for name, counts in self.spans.items():
            if run[name] is not None:
                counts[run[name]] += 1
        for name, mean in self.curves.items():
            if name in run:
                mean.add(run[name])

    def to_json(self) -> dict[str, Any]:
        n = self.curves["probability"].n
        return {
            "n": n,
            "refused": wilson(self.refused, n).to_json(),
            "no_activation": n - int(self.spans["start"].sum()),
            **{name: {"median": _median(counts), "counts": counts.tolist()} for name, counts in self.spans.items()},
            **{name: mean.to_json() for name, mean in self.curves.items() if mean.n},
        }


class _Group:
    def __init__(self, layers: int):
        self.samples, self.without_caption = 0, 0
        self.runs = {kind: _Runs(layers) for kind in ("image", "text")}
        self.cosine, self.image_refusal = _Mean(), _Mean()
        self.ablation = {
            name: {part: _Mean() for part in ("none", "all", "windows")} for name in ("refused", "probability")
        }

    def add(self, line: dict[str, Any], refusal_ids: list[int]) -> None:
        self.samples += 1
        self.without_caption += "image" in line["runs"] and "text" not in line["runs"]
        for kind, run in line["runs"].items():
            self.runs[kind].add(run)
        if "cosine" in line:
            self.cosine.add(line["cosine"])
        if "image_top" in line:
            self.image_refusal.add(np.isin(line["image_top"], refusal_ids).mean(1))
        for name, parts in line.get("ablation", {}).items():
            for part, value in parts.items():
                self.ablation[name][part].add(value)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"samples": self.samples, "without_caption": self.without_caption}
        found["runs"] = {kind: runs.to_json() for kind, runs in self.runs.items() if runs.curves["probability"].n}
        for name in ("cosine", "image_refusal"):
            if getattr(self, name).n:
                found[name] = getattr(self, name).to_json()
        if self.ablation["refused"]["none"].n:
            found["ablation"] = {
                name: {part: mean.to_json() for part, mean in parts.items()} for name, parts in self.ablation.items()
            }
        return found


def _median(counts: np.ndarray) -> int | None:
    """Of the layers, of which layer j occurs counts[j] times; rounded down, as that of `refusal_layers`."""
    n = int(counts.sum())
    middle = np.searchsorted(np.cumsum(counts), [(n + 1) // 2, n // 2 + 1])
    return int(middle.sum()) // 2 if n else None


def summary(lines: Iterable[dict[str, Any]], pooled: np.ndarray, refusal_ids: list[int], seed: int) -> dict[str, Any]:
    """By group; of each mean over how many samples it is. Medians leave out runs in which refusal never starts.

    pooled: [N, 2, L+1, D] of the first N samples with picture and caption, over which `pairs` are centred; seed: draws
    whose caption each of them is compared with beside its own.
    """
    groups: dict[str, _Group] = {}
    members = []  # of the pooled: their groups
    for line in lines:
        run = next(iter(line["runs"].values()))
        group = groups.setdefault(line["group"], _Group(len(run["probability"]) - 1))
        group.add(line, refusal_ids)
        if "cosine" in line and len(members) < len(pooled):
            members.append(line["group"])
    found = {name: groups[name].to_json() for name in GROUPS.values() if name in groups}
    if len(pooled) > 1:  # one alone has no other, and nothing is left of it when it is centred
        for name, pairs in _pairs(pooled, np.array(members), seed).items():
            found[name]["pairs"] = pairs
    return {"groups": found, "centred_over": len(pooled)}


def _pairs(pooled: np.ndarray, members: np.ndarray, seed: int) -> dict[str, Any]:
    """Group -> {"n", "raw", "centred"}, curves of matched and mismatched pairs."""
    order = np.random.default_rng(seed).permutation(len(pooled))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle through all: never a sample's own
    # A layer at a time: the states of all may be larger than what else is in memory.
    layers = [pair_cosines(pooled[None, :, 0, j], pooled[None, :, 1, j], other) for j in range(pooled.shape[2])]
    return {
        group: {
            "n": int((members == group).sum()),
            **{
                name: {
                    pair: rounded(at[name][pair][0, members == group].mean() for at in layers)
                    for pair in ("matched", "mismatched")
                }
                for name in ("raw", "centred")
            },
        }
        for group in dict.fromkeys(members.tolist())
    }

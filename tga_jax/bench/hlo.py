"""What a compiled program sends between devices, read from its HLO text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALL = re.compile(r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+\w*)\[([\d,]*)\]")
# What says how often a loop runs: its counter's limit and, where its first turns were peeled off, where that starts.
_CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_COPY = re.compile(r"%?([\w.\-]+) = s32\[\]\S* copy\(%?([\w.\-]+)\)")
_ELEMENT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* get-tuple-element\(.*\), index=(\d+)")
_TUPLE = re.compile(r"%?([\w.\-]+) = \(.*\) tuple\((.*?)\)(?:,|$)")
_COMPARED = re.compile(r" compare\(%?([\w.\-]+), ")
_STARTED = re.compile(r" while\(%?([\w.\-]+)\)")
# Groups of devices: the first one's members; rows of numbers counted up in a shape and an order of its axes; or a mesh,
# which of the numbers lies where in it, and the axes or parts of axes that a group spans.
_COUNTED = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_GROUPS = re.compile(
    rf"replica_groups=(?:\{{\{{([\d,]*)\}}|\[(\d+,\d+)\]<={_COUNTED}"
    rf"|mesh\[([^\]]*)\](?:, device_ids=\({_COUNTED}\))? \{{([^}}]*)\}})"
)
# What a TPU's compiler makes of an exchange between slices: the host sends and receives it.
_NETWORK = re.compile(r'= \((.*?), token\[\]\) send\(.*channel_id=(\d+).*_xla_megascale_transfer_type="(\w+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
# TPU's compiler has no reduce-scatter: it fuses an all-reduce with the slice of its result that a device keeps.
_SCATTER = "all-reduce-scatter"
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction. elements, sizes: of each whole array, gathered or before it is scattered; sizes are bytes."""

    kind: str
    elements: tuple[int, ...]
    sizes: tuple[int, ...]
    times: int  # how often a run of the program comes here
    op_name: str  # where it is from in the program's source
    channel: int | None  # the number of the exchange
    group: tuple[int, ...] = ()  # devices of the first group, by their places in the mesh
    network: bool = False  # between the slices of a TPU, by their hosts


def _bits(dtype: str) -> int:
    return 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _group(line: str) -> tuple[int, ...]:
    """The first group of devices, as all others are; () where the line names none."""
    found = _GROUPS.search(line)
    if found is None:
        return ()
    members, shape, *rows, mesh = found.groups()[:5]
    if members is not None:
        return tuple(_numbers(members))
    if shape is not None:
        return tuple(_counted(*rows).reshape(_numbers(shape))[0].tolist())
    *ids, axes = found.groups()[5:]
    sizes, spanned = [], []
    for name, size in re.findall(r"('\w+')=(\d+)", mesh):
        if part := re.search(rf"{name}:\((\d+)\)(\d+)", axes):  # of so many, behind so many
            before, own = int(part[1]), int(part[2])
            sizes += [before, own, int(size) // before // own]
            spanned += [0, slice(None), 0]
        else:
            sizes.append(int(size))
            spanned.append(slice(None) if name in axes else 0)
    places = _counted(*ids) if ids[0] else np.arange(math.prod(sizes))
    return tuple(places.reshape(sizes)[tuple(spanned)].ravel().tolist())


def _counted(shape: str, order: str | None) -> np.ndarray:
    places = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return places.transpose(_numbers(order)) if order else places


def _arrays(text: str) -> list[tuple[int, int]]:
    """(bits of an element, elements) of each."""
    return [(_bits(d), math.prod(_numbers(dims))) for d, dims in _ARRAY.findall(text)]


def _over_network(line: str) -> Collective | None:
    found = _NETWORK.search(line)
    if found is None:
        return None
    ((bits, count), *_) = _arrays(found[1])  # behind it a counter
    kind = found[3].lower().replace("_", "-")
    return Collective(kind, (count,), (math.ceil(count * bits / 8),), 1, "", int(found[2]), network=True)


def _instruction(line: str) -> Collective | None:
    found = _COLLECTIVE.search(line)
    if found is None:
        return _over_network(line)
    kind, start = found[2], bool(found[3])
    arrays, group = _arrays(found[1]), _group(line)
    if start and kind == "all-gather":
        arrays = arrays[len(arrays) // 2 :]  # the operands come first
    elif start and kind == "reduce-scatter":
        arrays = arrays[: len(arrays) // 2]
    elif start and kind == "collective-permute":
        arrays = arrays[:1]  # then the result and two counters
    # The result of a reduce-scatter is one device's part of what it takes.
    size = max(1, len(group)) if kind == "reduce-scatter" and not start else 1
    name = _NAME.search(line)
    elements = tuple(size * count for _, count in arrays)
    sizes = tuple(math.ceil(size * count * bits / 8) for bits, count in arrays)
    channel = _CHANNEL.search(line)
    return Collective(kind, elements, sizes, 1, name[1] if name else "", int(channel[1]) if channel else None, group)


def collectives(text: str) -> list[Collective]:
    """Every collective instruction of an HLO module, with how often it runs.

    A loop's trip count is what XLA notes there, or, as TPU's compiler notes none, the one constant that its condition
    compares with, less the constant that its counter starts from: right for scans. A loop without either is taken as
    run once. TPU's compiler spreads one exchange over
    several fusions, each with the instruction in it: they count once.
    """
    found: dict[str, list[Collective]] = collections.defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)  # caller -> (callee, times)
    limits: dict[str, list[int]] = collections.defaultdict(list)  # of a condition: its constants
    values: dict[tuple[str, str], int] = {}  # (computation, name) -> constant, or its copy
    elements: dict[tuple[str, str], int] = {}  # of a computation's parameter: which one
    tuples: dict[tuple[str, str], list[str]] = {}
    counters: dict[str, str] = {}  # of a condition: the name that it compares
    loops: list[tuple[str, str, str, str]] = []  # caller, condition, body, what it starts with
    fused: set[str] = set()
    here, entry = "", ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            here = head[2]
            entry = here if head[1] else entry
            continue
        if "(" not in line:
            continue
        if limit := _CONSTANT.search(line):
            limits[here].append(int(limit[2]))
            values[here, limit[1]] = int(limit[2])
        elif (copy := _COPY.search(line)) and (here, copy[2]) in values:
            values[here, copy[1]] = values[here, copy[2]]
        elif element := _ELEMENT.search(line):
            elements[here, element[1]] = int(element[2])
        elif made_of := _TUPLE.search(line):
            tuples[here, made_of[1]] = re.findall(r"%([\w.\-]+)", made_of[2])
        elif compared := _COMPARED.search(line):
            counters[here] = compared[1]
        called = dict(_CALL.findall(line))
        if " fusion(" in line:
            fused.add(called["calls"])
        trips = _TRIPS.search(line)
        if " while(" in line and trips is None:
            begun = _STARTED.search(line)
            loops.append((here, called.pop("condition"), called.pop("body"), begun[1] if begun else ""))
        calls[here] += [(name, int(trips[1]) if trips and role == "body" else 1) for role, name in called.items()]
        if branches := _BRANCHES.search(line):
            calls[here] += [(name.strip().lstrip("%"), 1) for name in branches[1].split(",")]
        if (made := _instruction(line)) is not None:
            if here.startswith(_SCATTER):
                made = dataclasses.replace(made, kind="reduce-scatter")
            found[here].append(made)

    for caller, condition, body, begun in loops:
        place, given = elements.get((condition, counters.get(condition, ""))), tuples.get((caller, begun), [])
        first = values.get((caller, given[place]), 0) if place is not None and place < len(given) else 0
        calls[caller].append((body, limits[condition][0] - first if len(limits[condition]) == 1 else 1))
    times: collections.Counter[str] = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for callee, each in calls[name]:
            visit(callee, count * each)

    visit(entry, 1)
    made = [(name, dataclasses.replace(c, times=times[name])) for name in found for c in found[name] if times[name]]
    pieces = {c.channel: c for name, c in made if name in fused}
    return [c for name, c in made if name not in fused] + list(pieces.values())


def totals(found: Iterable[Collective], parameters: set[int]) -> dict[str, dict[str, int]]:
    """Bytes of one run by kind, of "parameters" and of "activations", without what hosts exchange for their slices.

    parameters: how many elements arrays of parameters, or of one layer of them, have: an array of such a size counts as
    one of them. Bytes are of the whole array at every device: gathered, or before it is scattered or reduced.
    """
    sums = {kind: {"parameters": 0, "activations": 0, "instructions": 0} for kind in KINDS}
    for c in found:
        if c.network:
            continue
        for elements, size in zip(c.elements, c.sizes, strict=True):
            what = "parameters" if elements in parameters else "activations"
            sums[c.kind][what] += size * c.times
        sums[c.kind]["instructions"] += c.times
    return sums


def between_slices(found: Iterable[Collective], devices: int, num_slices: int) -> int:
    """Bytes of the arrays of one device that one run exchanges between slices, each a consecutive share of the
    devices: the parts of a hierarchical exchange that the network carries, and, where there is none, all of it."""
    each = devices // num_slices
    return sum(sum(c.sizes) * c.times for c in found if c.network or len({place // each for place in c.group}) > 1)

"""Every command that works for long, killed (SIGKILL) at random times until it is done: what it leaves equals what an
undisturbed one leaves, and nothing else lies about.

    python tests/reliability/kills.py [NAME...] [--kills=200] [--seed=1] [--base=DIR]

On the tiny demo of tests/smoke.py, in a temporary folder; `--base` keeps it for another time. Kills are shared out
evenly among the commands, but for `demo`, which takes minutes and gets a quarter of the others' share. Of a checkpoint
the sums of its arrays' bits are compared, of JSON all that is no time or memory, of all else the bytes.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "checkpoints")]
import quick_support  # noqa: E402
import smoke  # noqa: E402

_IN_A_ROW = 5  # kills of one run, which is left in peace after them
_OWN = {"seconds", "peak_memory_bytes", "cost", "mean_seconds", "seconds_per_answer"}  # of this run alone
_LEFT = re.compile(
    r"\..*\.(aside|writing|running.*|unfinished.*|lock|joined|settings|part-.*)|.*orbax-checkpoint-tmp.*"
)
# Arrays lie in files with names and an order of their own; `sums.json` stands for them.
_APART = re.compile(r"(.*/)?(checkpoints|tensorboard|compiled|params/\w+)/.*|.*\.lock|(.*/)?_METADATA")
_PAGES = (".html", ".md")  # compared where two undisturbed runs make the same

DATA = ("--data=data.json", "--images=pictures")
CHECKPOINT = "--checkpoint=demo/models/tga"
TO_LINES = "--to=out.jsonl"
TRAIN = ("train", smoke.OWN_DATA, *smoke.TRAINING, "--config.steps=6", "--config.checkpoint_every=2")
# name: (arguments, what it makes, a file or a folder).
COMMANDS = {
    "train": ((*TRAIN, "--config.log_every=1", "--workdir=out"), "out"),
    "caption": (("caption", *DATA, CHECKPOINT, "--again", "--new-tokens=2", "--batch=1", TO_LINES), "out.jsonl"),
    "retrieve": (("retrieve", *DATA, "--clip=clip", "--cache=out-cache", "--near-duplicate=1", TO_LINES), "out.jsonl"),
    "build-data": (("build-data", "data.json", "--images=pictures", "--to=out", "--shards=3"), "out"),
    "evaluate": (
        ("evaluate", CHECKPOINT, "--data=eval", "--suite=scenes", "--suite=text-prompts", "--new-tokens=2",
         "--max-degenerate=1", "--batch=1", "--to=out"),
        "out",
    ),
    "analyze": (("analyze", CHECKPOINT, *DATA, "--window=4", "--image-tokens", "--batch=1", "--to=out"), "out"),
    "convert": (("convert", "--from=demo/models/text-model", "--to-hub=out"), "out"),
    "demo": (("demo", "--config=tiny.py", "--workdir=out", "--parts=out-parts"), "out"),
}  # fmt: skip

ONCE = ("caption", "retrieve", "convert")  # started again when all is done they refuse to write over it


def start(arguments: tuple[str, ...], folder: Path) -> subprocess.Popen:
    environment = {**os.environ, **quick_support.ENVIRONMENT, "TMPDIR": str(folder / "tmp"), "MPLBACKEND": "agg"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "xla"), "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-c", "import sys; from tga_jax import cli; sys.exit(cli.run(sys.argv[1:]))", *arguments]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )


def to_its_end(arguments: tuple[str, ...], folder: Path) -> float:
    """Seconds. Raises RuntimeError with what it said if it fails."""
    begin = time.monotonic()
    if start(arguments, folder).wait() != 0:
        raise RuntimeError((folder / "said").read_text()[-1500:])
    return time.monotonic() - begin


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _OWN and not k.startswith(("speed/", "memory/"))}
        return {key: _without_times(inner) for key, inner in kept.items()}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def contents(folder: Path, made: str) -> dict[str, Any]:
    """What a command left, by the names of the files."""
    root, found = folder / made, {}
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or _APART.fullmatch(name):
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_without_times(json.loads(line)) for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def left(folder: Path, before: set[str]) -> list[str]:
    """Files of half-done work."""
    now = {str(path.relative_to(folder)) for path in folder.rglob("*") if "/tmp/" not in str(path)}
    return sorted(name for name in now - before if _LEFT.fullmatch(Path(name).name))


def trials(name: str, base: Path, kills: int, rng: random.Random) -> tuple[int, int, list[str]]:
    """(kills, runs, what was wrong)."""
    arguments, made = COMMANDS[name]

    def fresh() -> Path:
        """Always the same place: some outputs name what they were made from."""
        return Path(shutil.copytree(base, base.parent / name, symlinks=True))

    whole = fresh()
    to_its_end(arguments, whole)  # compiles
    expected = contents(whole, made)
    assert expected, f"{name} made nothing"
    shutil.rmtree(whole)
    seconds = to_its_end(arguments, fresh())
    again = contents(whole, made)
    shutil.rmtree(whole)
    timed = {n for n in expected if n.endswith(_PAGES) and again.get(n) != expected[n]}
    assert again.keys() == expected.keys()
    assert not (differ := [n for n in expected.keys() - timed if again[n] != expected[n]]), f"undisturbed: {differ}"
    done, runs, wrong = 0, 0, []
    while done < kills:
        runs += 1
        folder = fresh()
        before = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        for _ in range(min(_IN_A_ROW, kills - done)):
            process = start(arguments, folder)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.2, 1.0) * seconds)
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        try:
            if name not in ONCE or contents(folder, made) != expected:  # it was whole before it was killed
                to_its_end(arguments, folder)
            found = contents(folder, made)
            names = sorted(found.keys() | expected.keys())
            differ = (n for n in names if n not in timed and found.get(n) != expected.get(n))
            wrong += [f"{name}, run {runs}: {n} differs" for n in differ]
            wrong += [f"{name}, run {runs}: {n} is left" for n in left(folder, before)]
        except RuntimeError as error:
            wrong.append(f"{name}, run {runs}: {error}")
        shutil.rmtree(folder)
    return done, runs, wrong


def make_base(base: Path) -> None:
    """What the commands take."""
    base.mkdir()
    with contextlib.chdir(base):
        smoke.write_inputs()
    to_its_end(("demo", "--config=tiny.py", "--workdir=demo", "--parts=parts"), base)
    (clip,) = (base / "parts").glob("clip-*")
    to_its_end(("convert", f"--from-run={clip}", "--to=clip", "--dtype=fp32"), base)
    to_its_end(("build-data", "data.json", "--images=pictures", "--to=shards", "--shards=2"), base)


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--base", type=Path)
    given = parser.parse_args()
    names = given.names or list(COMMANDS)
    if unknown := [name for name in names if name not in COMMANDS]:
        parser.error(f"{unknown[0]}: expected some of {', '.join(COMMANDS)}")
    total, faults = 0, []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        if given.base and given.base.exists():
            shutil.copytree(given.base, base)
        else:
            make_base(base)
            if given.base:
                shutil.copytree(base, given.base)
        weights = {name: 1 if name == "demo" else 4 for name in names}
        for name in names:
            begin = time.monotonic()
            share = -(-given.kills * weights[name] // sum(weights.values()))
            killed, runs, wrong = trials(name, base, share, random.Random(f"{given.seed} {name}"))
            total, faults = total + killed, faults + wrong
            took = time.monotonic() - begin
            print(f"{name:12} {killed:4} kills in {runs:3} runs {took:6.0f} s  {len(wrong)} faults", flush=True)
            for line in wrong[:10]:
                print(f"    {line}", flush=True)
    print(f"{'all':12} {total:4} kills, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

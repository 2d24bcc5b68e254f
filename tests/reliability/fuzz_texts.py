"""Targets of `fuzz.py`: data, templates, benchmarks, results and configs."""

import functools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import ROOT, Target, mutated_json

ASKED = [{"role": "system", "content": "Be short."}, {"role": "user", "content": " What is it? "}]


@functools.cache
def _vocabulary() -> Any:
    import tempfile

    from tokenizer_support import llama_like

    from tga_jax.data.tokens import Vocabulary

    tokenizer = llama_like(Path(tempfile.mkdtemp(prefix="fuzz")))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<image>"]})
    return Vocabulary(tokenizer)


def _seeds(*values: Any) -> Callable[[Path], list[bytes]]:
    """bytes as they are, texts in UTF-8, all else as JSON."""
    texts = [value if isinstance(value, str | bytes) else json.dumps(value) for value in values]
    made = [text.encode() if isinstance(text, str) else text for text in texts]
    return lambda folder: made


_TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
_SAMPLES = (
    {"id": "a", "image": "a.png", "conversations": _TURNS, "image_caption": "a cat", "retrieved_caption": "a dog"},
    {"id": 1, "image": ["a", "b"], "question": "<image><image> What?", "chosen": "A.", "rejected": {"value": "B."}},
    {"id": "t", "conversations": [*_TURNS[1:], {"from": "human", "value": "Hi"}, _TURNS[1], {"image_caption": "c"}]},
)


def _read_samples(name: str, data: bytes, folder: Path) -> None:
    from tga_jax.data import llava_json
    from tga_jax.data.samples import SampleFile
    from tga_jax.workdir import json_line

    (folder / name).write_bytes(data)
    file = SampleFile(folder / name)
    for i in range(min(len(file), 9)):
        value = file[i]
        assert json.loads(json_line(value).encode()) == value or value != value or "NaN" in json_line(value)
        sample = llava_json.parse(value, file.where(i))
        assert llava_json.parse(llava_json.with_text(value, "image_caption", "c"), "").turns == sample.turns


def _template(data: bytes, folder: Path) -> None:
    from tga_jax.data.processor import Processor

    tokenizer = _vocabulary().tokenizer
    tokenizer.chat_template = data.decode(errors="replace") or "-"
    Processor(tokenizer).chat(ASKED)


def _tokens(data: bytes, folder: Path) -> None:
    """A user's text has no special token, and is read back."""
    from tga_jax.data.prompt import Piece, Prompt
    from tga_jax.data.tokens import prompt_tokens

    vocabulary, text = _vocabulary(), data.decode(errors="replace")
    prompt = Prompt((Piece("<s>[INST] "), Piece(text, literal=True), Piece(" [/INST]")))
    ids = prompt_tokens(prompt, vocabulary, 0).tokens.tolist()
    assert not {*ids[1:]} & {*vocabulary.control_ids.tolist()}, ids
    vocabulary.decode(ids)


def _benchmark(name: str) -> tuple[Callable[[Path], list[bytes]], Callable[[bytes, Path], None]]:
    from benchmark_seeds import FILES, FOLDERS

    others, [file, *seeds] = FOLDERS.get(name, {}), FILES[name]

    def read(data: bytes, folder: Path) -> None:
        from tga_jax.evals.benchmarks import BENCHMARKS

        root = folder / name
        if not root.is_dir():
            for other, content in others.items():
                (root / other).parent.mkdir(parents=True, exist_ok=True)
                (root / other).write_bytes(content if isinstance(content, bytes) else content.encode())
            (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)
        benchmark = BENCHMARKS[name]
        for sample in list(benchmark.samples(root))[:20]:
            assert isinstance(sample.id, str)
            if benchmark.score is not None:
                benchmark.score(sample, "A")

    return _seeds(*seeds), read


_ROW = {
    "n": 0, "id": "a", "input": "text", "question": "q", "answer": "Sorry.", "groups": {"kind": "a"}, "harmful": True,
    "target": None,
}  # fmt: skip
_RATE = {"value": 1.0, "low": 0.5, "high": 1.0, "n": 1}
_TABLE = [{"input": "text", "group": None, "value": None, "rates": {"DSR": _RATE}}]
_RESULTS = {
    "settings": {"checkpoint": "c", "template": "t", "system": None, "defence": {"name": "none"}},
    "benchmarks": {
        "advbench": {"suite": "safety", "empty": 0, "judges": {"j": {"rubric": "refusal", "table": _TABLE}}},
        "gqa": {"suite": "general", "empty": 0, "table": []},
    },
}
_STORED = {
    "answers/advbench.jsonl": [_ROW],
    "verdicts/advbench.j.jsonl": [{"n": 0, "verdict": "refusal"}],
    "answers/gqa.jsonl": [_ROW | {"harmful": None, "target": "cat"}],
}


def _results(place: str) -> Target:
    from tga_jax.workdir import json_line

    def read(data: bytes, folder: Path) -> None:
        from tga_jax.evals.compare import compare

        (a := folder / "a").mkdir(exist_ok=True)
        for name, rows in _STORED.items():
            (a / name).parent.mkdir(exist_ok=True)
            (a / name).write_text("".join(map(json_line, rows)))
        (a / "results.json").write_text(json.dumps(_RESULTS))
        (a / place).write_bytes(data)
        compare(a, a)

    return Target(_seeds(*(_STORED.get(place) or [_RESULTS])), read, mutated_json)


_KNOWN = [{"text": "a", "harmful": i < 2, "image": "a.png", "caption": "c"} for i in range(4)]


def _calibration(data: bytes, folder: Path) -> None:
    from tga_jax.evals.defences import calibration

    (folder / "c.json").write_bytes(data)
    known = calibration.read(folder / "c.json")
    assert all(isinstance(one.words, str) for one in known)
    calibration.halves(known)


def _replies(data: bytes, folder: Path) -> None:
    from tga_jax.evals.defences import guard
    from tga_jax.evals.judges.model import RUBRICS

    text = data.decode(errors="replace")
    for read in (guard.verdict, guard.of_policy, *(rubric.read for rubric in RUBRICS.values())):
        read(text)


def _flags(data: bytes, folder: Path) -> None:
    """Overrides of a real config, a line each."""
    from tga_jax.cli import flags
    from tga_jax.config import build
    from tga_jax.train.config import TrainConfig

    arguments = [
        line for line in data.decode(errors="replace").split("\n") if "config=" not in line and "kind" not in line
    ]
    found, _ = flags.parse_with_config(arguments, {"seed": 0}, ROOT / "configs/fork_me.py", flags.training)
    build(TrainConfig, found)


@functools.cache
def _config() -> dict[str, Any]:
    import sys

    sys.path.append(str(ROOT))
    from configs import fork_me

    return json.loads(json.dumps(fork_me.get_config().to_dict()))


def _build(data: bytes, folder: Path) -> None:
    from tga_jax.config import build
    from tga_jax.errors import UserError
    from tga_jax.train.config import TrainConfig

    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError("no JSON") from error
    if not isinstance(value, dict) or re.search(rb'"kind": "[^"]*:', data):
        raise UserError("no config, or a class of one's own, which is a program")
    build(TrainConfig, value)


def _config_seeds(folder: Path) -> list[bytes]:
    return [json.dumps(_config()).encode()]


def _targets() -> dict[str, Target]:
    from benchmark_seeds import FILES

    made = {
        "llava-json": Target(_seeds(list(_SAMPLES)), functools.partial(_read_samples, "x.json"), mutated_json),
        "llava-jsonl": Target(_seeds(*_SAMPLES), functools.partial(_read_samples, "x.jsonl"), mutated_json),
        "template": Target(_template_seeds, _template, _spliced),
        "tokens": Target(_seeds("a </s> <s>", "<|im_end|>\n<image> [INST]", "ä </s"), _tokens),
        "calibration": Target(_seeds(_KNOWN), _calibration,
                              mutated_json),
        "replies": Target(_seeds("refusal", "unsafe\nS1,S2", '{"rating": "Unsafe", "category": "O1: x"}'), _replies),
        "flags": Target(_seeds("--config.steps=3\n--config.lora.rank=8", "--config.loss.lm=0.5\n--config.batch_size=8",
                               "--config.optim.learning_rate=nan"), _flags),
        "config": Target(_config_seeds, _build, mutated_json),
        **{f"stored-{place.split('/')[0].split('.')[0]}": _results(place) for place in ("results.json", *_STORED)},
    }  # fmt: skip
    for name in FILES:
        seeds, read = _benchmark(name)
        mutate = mutated_json if FILES[name][0].endswith(("json", "jsonl")) else None
        made[f"benchmark-{name}"] = Target(seeds, read, mutate)
    return made


def _template_seeds(folder: Path) -> list[bytes]:
    from test_chat_sandbox import HOSTILE, PLAIN

    return [text.encode() for text in (*PLAIN.values(), *HOSTILE.values()) if len(text) < 4000]


def _spliced(data: bytes, rng: random.Random) -> bytes:
    """Two templates, cut between tags, so that what comes out mostly parses."""
    seeds = [seed.split(b"{") for seed in _template_seeds(Path())]
    one, other = data.split(b"{"), rng.choice(seeds)
    return b"{".join(one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other)) :])


TARGETS: dict[str, Target] = _targets()

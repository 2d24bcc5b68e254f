"""`tga analyze`, `tga evaluate`, `tga compare`."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tga_jax.cli.flags import RUN_DTYPES, checkpoint, parse, run_dtype
from tga_jax.errors import UserError

USAGE = """\
  analyze   where refusal lives in a checkpoint: the logit lens by layer, pictures against their captions, what
            attention reads, and what brings a refusal when it is taken from the caption's run
            --checkpoint=DIR    a checkpoint of ours or a hub folder
            --data=DATA         LLaVA's JSON, or a folder that build-data wrote, with `image`, `image_caption` and, to
                                tell groups, `harmful` true or false
            --images=DIR        where the pictures lie, or a .zip or .tar; not needed for text alone
            --to=DIR            samples.jsonl, analysis.json, plots/ and report.html go here; the same command continues
            --phrase=TEXT       how a refusal begins, and --benign=TEXT how other answers do, whose words tell no
                                refusal; both may be given several times (default: what the checkpoint was taught, as
                                the demo's are, or lists in English)
            --window=N          blocks that read the caption's states at a time, to see which bring a refusal
            --image-tokens      the lens at every image token, too
            --change=log-ratio|difference   how tokens are ranked by their change from layer to layer: as the paper
                                does (the default), or as the released code does
            --floor=P           less probable tokens are not ranked by log-ratio; --top-k=N: a refusal token must be
                                among the first N
            --template=NAME, --dtype=bf16|fp32|int8|int4|nf4, --batch=N, --seed=N
  evaluate  a checkpoint's answers to benchmarks, judged and scored; the same command continues a stopped run, and
            one with other judges takes the answers that are there
            --checkpoint=DIR    a checkpoint of ours or a hub folder
            --suite=NAME        safety, over-refusal, general, or a benchmark; may be given several times
            --data=DIR          has a folder for every benchmark, called as it; --list tells what each must hold
            --to=DIR            answers, results.json, report.md and report.html go here
            --template=NAME (default: the checkpoint's chat template), --system=TEXT, --batch=N,
            --dtype=bf16|fp32|int8|int4|nf4
            --special-tokens    those in questions, such as </s>, are tokens (default: plain text)
            --new-tokens=N (default: each benchmark's own), --temperature=T, --top-p=P, --seed=N, --limit=N samples
            --judge=phrases|model|endpoint   of refusals; may be given several times, the first one's come first; gcg,
                                vlguard and xstest are the string matches that papers use
            --rubric=refusal|safety   what --judge=model and --judge=endpoint tell: whether an answer refuses, wholly or
                                in part, or whether it is safe; may be given twice
            --judge-checkpoint=DIR   of --judge=model; --judge-url=URL and --judge-model=NAME of --judge=endpoint, an
                                OpenAI-compatible one, whose key is read from OPENAI_API_KEY; --judge-prices=P,C of
                                a million prompt and completion tokens, to be told the cost
            --defence=none|system-prompt|ecso|guard|detector|shift|steering
            --calibration=FILE.jsonl of {"text", "harmful"}, and perhaps "image" with its "caption", for the last three
            --guard-checkpoint=DIR   of --defence=guard: a Llama Guard model; or --guard-url=URL and --guard-model=NAME;
                                with --guard-policy=FILE, the prompt in its model card, LlavaGuard or, behind a URL,
                                ShieldGemma 2 looks at the pictures (several files: unsafe by any of them)
            --attack=role-play|in-context|typographic|caption|noise|jpeg   changes the questions to get around a
                                refusal; --attack-strength=N: of noise its standard deviation, of 255 (30), of jpeg
                                the quality (10), of in-context how many demonstrations (2)
            --max-degenerate=F  status 1, with a line, if more than this share of a benchmark's answers is empty, the
                                same, or undecidable (default: 0.5)
            --distributed       one process of several
  compare DIR DIR     two evaluations of the same questions: differences with bootstrap intervals over the pairs
            --html=FILE         a page with the answers, A beside B; --json=FILE: the figures; --seed=N
"""


_SUCH_AS = {"floor": "0.001", "attack-strength": "30"}
_CHANGES = ("log-ratio", "difference")  # `hidden_states.CHANGES`; importing that would import JAX


def _number(name: str, text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise UserError(f"--{name}: {text!r}, expected a number such as {_SUCH_AS[name]}") from error


def _analyze(arguments: list[str]) -> None:
    paths = dict.fromkeys(("checkpoint", "data", "images", "to"))
    numbers = {"window": 0, "batch": 4, "top-k": 5, "seed": 0}
    others = {"template": "chat", "dtype": None, "phrase": [], "benign": [], "image-tokens": False}
    ranked = {"change": "log-ratio", "floor": None}
    flags = parse(arguments, {**paths, **numbers, **others, **ranked}, dtype=tuple(RUN_DTYPES), change=_CHANGES)
    for name in ("checkpoint", "data", "to"):
        if not flags[name]:
            raise UserError(f"--{name}: missing, expected --checkpoint, --data and --to")
    floor = _number("floor", flags["floor"])
    if floor is not None and flags["change"] == "difference":
        raise UserError("--floor: is for --change=log-ratio alone")
    if floor is not None and not 0 <= floor < 1:
        raise UserError(f"--floor: {floor}, expected a probability from 0 to below 1")
    import rich.console

    from tga_jax.analysis import run
    from tga_jax.analysis.hidden_states import Ranking
    from tga_jax.workdir import local, located

    data, target = located(flags.pop("data")), local(flags.pop("to"), "--to")
    source = checkpoint(flags.pop("checkpoint"))
    images = located(value) if (value := flags.pop("images")) else None
    flags["dtype"] = run_dtype(flags["dtype"])
    flags["phrases"] = tuple(flags.pop("phrase"))
    flags["benign"] = tuple(flags["benign"])
    del flags["floor"]
    flags["ranking"] = Ranking(flags.pop("change"), floor, flags.pop("top_k"))
    console = rich.console.Console()
    run.run(source, data, images, target, console, **flags)
    console.print(f"written: {target / 'report.html'}")


def _prices(text: str | None) -> tuple[float, float] | None:
    try:
        prompt, completion = (float(price) for price in text.split(",")) if text else (None, None)
    except ValueError as error:
        raise UserError(f"--judge-prices: {text!r}, expected two numbers such as 0.15,0.6") from error
    return None if prompt is None or completion is None else (prompt, completion)


def _judges(flags: dict[str, Any], dtype: str | None) -> list[Any]:
    from tga_jax.evals.judges.model import RUBRICS
    from tga_jax.evals.judges.phrases import REFUSALS
    from tga_jax.evals.judges.published import PUBLISHED

    by_text = {"phrases": REFUSALS, **PUBLISHED}
    rubrics = dict.fromkeys(flags["rubric"] or ["refusal"])
    if unknown := [name for name in rubrics if name not in RUBRICS]:
        raise UserError(f"--rubric: {unknown[0]!r}, expected one of {', '.join(RUBRICS)}")
    names = dict.fromkeys(flags["judge"] or ["phrases"])
    if flags["rubric"] and not {"model", "endpoint"} & set(names):
        raise UserError("--rubric: is for --judge=model and --judge=endpoint")
    made: list[Any] = []
    for name in names:
        if name in by_text:
            made.append(by_text[name])
        elif name == "model":
            if not flags["judge_checkpoint"]:
                raise UserError("--judge=model: needs --judge-checkpoint")
            from tga_jax.evals.judges.checkpoint import checkpoint_judges

            chosen = [RUBRICS[rubric] for rubric in rubrics]
            made += checkpoint_judges(checkpoint(flags["judge_checkpoint"]), dtype, flags["batch"], chosen)
        elif name == "endpoint":
            if not flags["judge_url"] or not flags["judge_model"]:
                raise UserError("--judge=endpoint: needs --judge-url and --judge-model")
            from tga_jax.evals.judges.endpoint import EndpointJudge, check_url

            check_url(flags["judge_url"], "--judge-url")
            place, prices = (flags["judge_url"], flags["judge_model"]), _prices(flags["judge_prices"])
            made += [EndpointJudge(*place, prices=prices, rubric=RUBRICS[rubric]) for rubric in rubrics]
        else:
            raise UserError(f"--judge: {name!r}, expected one of {', '.join([*by_text, 'model', 'endpoint'])}")
    return made


_CALIBRATED = ("detector", "shift", "steering")
_DEFENCES = ("none", "system-prompt", "ecso", "guard", *_CALIBRATED)


def _guard(flags: dict[str, Any]) -> dict[str, Any] | None:
    """The guard model of --defence=guard, as `guard.make` takes it."""
    url, model, folder, files = (flags[f"guard_{name}"] for name in ("url", "model", "checkpoint", "policy"))
    if flags["defence"] != "guard":
        if url or model or folder or files:
            raise UserError("--guard-checkpoint, --guard-url, --guard-model, --guard-policy: are for --defence=guard")
        return None
    from tga_jax.evals.judges.endpoint import check_url

    if url:
        check_url(url, "--guard-url")
    if bool(folder) == bool(url or model) or bool(url) != bool(model):
        raise UserError("--defence=guard: needs --guard-checkpoint, or --guard-url and --guard-model")
    found: dict[str, Any] = {"checkpoint": str(checkpoint(folder))} if folder else {"url": url, "model": model}
    return {**found, "policies": [_policy(Path(file)) for file in files]} if files else found


def _policy(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"--guard-policy: {file}: cannot be read ({reason}), expected a text") from error
    if not text:
        raise UserError(f"--guard-policy: {file}: empty, expected the policy that the guard's model card has")
    return text


def _evaluate(arguments: list[str]) -> int:
    paths = dict.fromkeys(
        (
            "checkpoint", "data", "to", "judge-checkpoint", "judge-url", "judge-model", "judge-prices", "calibration",
            "guard-checkpoint", "guard-url", "guard-model", "attack", "attack-strength",
        )
    )  # fmt: skip
    several = {name: [] for name in ("suite", "judge", "rubric", "guard-policy")}
    others = {**several, "template": "chat", "system": None, "dtype": None}
    numbers = {"batch": 16, "new-tokens": 0, "seed": 0, "limit": 0, "temperature": 0.0, "top-p": 1.0}
    switches = {"defence": "none", "max-degenerate": 0.5, "special-tokens": False, "distributed": False, "list": False}
    defaults = {**paths, **others, **numbers, **switches}
    flags = parse(arguments, defaults, dtype=tuple(RUN_DTYPES), defence=_DEFENCES)
    if flags["list"]:
        from tga_jax.evals.benchmarks import BENCHMARKS

        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name} ({benchmark.suite}): {benchmark.files}")
        return 0
    if missing := [name for name in ("checkpoint", "suite", "data", "to") if not flags[name]]:
        raise UserError(f"--{missing[0]}: missing, expected --checkpoint, --suite, --data and --to")
    if (flags["defence"] in _CALIBRATED) != bool(flags["calibration"]):
        raise UserError(f"--calibration: goes with --defence={'|'.join(_CALIBRATED)}, expected both or neither")
    guard = _guard(flags)
    if flags["attack_strength"] is not None and flags["attack"] is None:
        raise UserError("--attack-strength: is for --attack alone")
    from tga_jax.evals import attacks

    strength = _number("attack-strength", flags["attack_strength"])
    attack = None if flags["attack"] is None else attacks.describe(flags["attack"], strength)
    import jax
    import rich.console

    from tga_jax.evals import defences, evaluate
    from tga_jax.train import distributed
    from tga_jax.workdir import local

    chosen, dtype = evaluate.choose(flags["suite"]), run_dtype(flags["dtype"])
    distributed.initialize(flags["distributed"])
    sampling = {} if not flags["temperature"] else {name: flags[name] for name in ("temperature", "top_p")}
    source = str(checkpoint(flags["checkpoint"]))
    settings = evaluate.Settings(
        source, flags["template"], flags["system"], dtype, flags["new_tokens"], sampling, flags["seed"],
        flags["limit"], defences.describe(flags["defence"], flags["calibration"], guard), flags["special_tokens"],
        attack,
    )  # fmt: skip
    console = rich.console.Console(quiet=jax.process_index() > 0)
    judges, share = _judges(flags, dtype), flags["max_degenerate"]
    weights = checkpoint(flags["judge_checkpoint"]) if "model" in flags["judge"] else None
    places = local(flags["data"], "--data"), local(flags["to"], "--to")
    command = shlex.join(["tga", "evaluate", *arguments])
    warnings = evaluate.run(settings, chosen, *places, judges, flags["batch"], console, share, weights, command)
    if warnings:
        print(f"tga evaluate: {'; '.join(warnings)}; more than --max-degenerate={share:g}", file=sys.stderr)
    return int(bool(warnings))


def _compare(arguments: list[str]) -> None:
    flags = parse(arguments, {"json": None, "html": None, "seed": 0}, places=2)
    if len(flags["places"]) != 2:
        raise UserError("expected the folders of two evaluations")
    import rich.console

    from tga_jax.evals import compare

    first, second = (Path(place) for place in flags["places"])
    path, page = (Path(flags[name]) if flags[name] else None for name in ("json", "html"))
    command = shlex.join(["tga", "compare", *arguments])
    compare.report(first, second, rich.console.Console(), path, flags["seed"], page, command)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "analyze": _analyze,
    "evaluate": _evaluate,
    "compare": _compare,
}

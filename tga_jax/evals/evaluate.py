"""`tga evaluate`: a checkpoint's answers to benchmarks, stored one by one, judged or scored, and reported.

    <target>/config.json               what the answers depend on
    <target>/answers/<name>.jsonl      every raw answer with its prompt
    <target>/verdicts/<name>.<judge>-<version>.jsonl
    <target>/thumbnails/<name>/        of the pictures that the page shows
    <target>/export/<name>/            files for a benchmark's own server or judge
    <target>/defence.json              what was chosen for a defence, and what it costs
    <target>/results.json, report.md, report.html

Answers that are there are not generated again, nor verdicts of the same judge and version asked for again: the same
command continues a stopped run, and a later one, with other judges or scorers, needs neither checkpoint nor data.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console

from tga_jax.checkpoints import orbax_files
from tga_jax.data import fingerprint
from tga_jax.data.templates import check_asked
from tga_jax.errors import UserError
from tga_jax.evals import asked, attacks, degenerate, gallery, outcomes, page, store, summary
from tga_jax.evals.asking import Asker, Question, questions
from tga_jax.evals.benchmark import Benchmark
from tga_jax.evals.benchmarks import BENCHMARKS
from tga_jax.evals.defences import Defence, make_defence, plain
from tga_jax.evals.judge import Verdict
from tga_jax.evals.judges import Judging
from tga_jax.evals.judges.agreement import cohens_kappa
from tga_jax.inference.model import load
from tga_jax.report.progress import Progress
from tga_jax.workdir import Input, claim, disk_errors, holds, read_json, working, write_json, write_text


@dataclasses.dataclass(frozen=True)
class Settings:
    """What answers depend on, beside the data.

    template: one of `templates.TEMPLATES`, "chat" for the checkpoint's own; system: a system text, None for that of
    the template; new_tokens: the most of an answer, 0 for each benchmark's own; sampling: the fields of `Sampling`;
    limit: only so many samples of each benchmark, drawn by the seed, 0 for all; defence: one of `defences`, with what
    it was made from; special_tokens: those in questions are tokens; attack: what `attacks.describe` gives, None
    for none.
    """

    checkpoint: str
    template: str = "chat"
    system: str | None = None
    dtype: str | None = None
    new_tokens: int = 0
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    limit: int = 0
    defence: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "none"})
    special_tokens: bool = False
    attack: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Without an attack as runs were described before there were any."""
        found = dataclasses.asdict(self)
        return found if self.attack else {name: value for name, value in found.items() if name != "attack"}


def choose(names: Sequence[str]) -> list[Benchmark]:
    """Benchmarks by their names or their suites', each once. Raises UserError for an unknown one."""
    found: dict[str, Benchmark] = {}
    for name in names:
        own = [b for b in BENCHMARKS.values() if name in (b.name, b.suite)]
        if not own:
            suites = dict.fromkeys(b.suite for b in BENCHMARKS.values())
            raise UserError(f"--suite: {name!r}, expected some of {', '.join([*suites, *BENCHMARKS])}")
        found |= {b.name: b for b in own}
    return list(found.values())


def _questions(
    benchmark: Benchmark, data: Path, settings: Settings, sees: bool, console: rich.console.Console
) -> list[Question]:
    folder = data / benchmark.name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected {benchmark.files}")
    samples = list(benchmark.samples(folder))
    if not samples:
        raise UserError(f"{folder}: no samples, expected {benchmark.files}")
    if 0 < settings.limit < len(samples):
        chosen = np.random.default_rng(settings.seed).permutation(len(samples))[: settings.limit]
        samples = [samples[i] for i in sorted(chosen)]
    if settings.attack is not None:
        whole, samples = samples, attacks.attacked(settings.attack, samples, settings.seed, benchmark.name)
        if len(samples) < len(whole):
            count = f"{len(samples)} of {len(whole)} samples are asked"
            said = f"{benchmark.name}: {count}, attack {attacks.said(settings.attack)}"
            console.print(said, markup=False, soft_wrap=True)
    return questions(samples, sees)


def _check_data(
    path: Path, benchmark: Benchmark, data: Path, settings: Settings, console: rich.console.Console
) -> list[Question]:
    """The questions of the data, none if these cannot be read. Raises UserError if they are not those that the finished
    answers were given to."""
    rows = _rows(path)
    try:
        every = _questions(benchmark, data, settings, any(row["input"] == "image" for row in rows), console)
    except UserError as error:
        console.print(f"{benchmark.name}: not compared with the data, which cannot be read: {error}", markup=False)
        return []
    asked.check(rows, every, path, data / benchmark.name, first=True, whole=True)
    return every


def _rows(path: Path) -> list[dict[str, Any]]:
    return store.read(path, store.ANSWER)


def _parts(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def _row(question: Question, settings: Settings, defence: Defence, new_tokens: int, answered: Any) -> dict[str, Any]:
    row = {
        **asked.of(question),
        "prompt": answered.prompt,
        "template": settings.template,
        "decoding": {"new_tokens": new_tokens, "seed": settings.seed, **settings.sampling},
        "answer": answered.answer,
    }
    return row if answered.note is None else {**row, defence.name: answered.note}


def _answer(
    answers: store.AnswerStore,
    every: Sequence[Question],
    name: str,
    asker: Asker,
    settings: Settings,
    defence: Defence,
    console: rich.console.Console,
) -> None:
    """Generates what is missing; of several processes each answers its share."""
    # By their numbers: what is missing changes while the others write.
    process, processes = jax.process_index(), jax.process_count()
    own = _parts([n for n in answers.missing() if n // asker.batch % processes == process], asker.batch)
    with Progress(console) as progress:
        task = progress.add_task(name, total=sum(map(len, own)))
        for numbers in own:
            some = [every[number] for number in numbers]
            found = defence.answer(asker, some)
            answers.append(
                _row(question, settings, defence, asker.new_tokens, answered)
                for question, answered in zip(some, found, strict=True)
            )
            progress.advance(task, len(numbers))


def _cost(every: Sequence[Question], asker: Asker, settings: Settings, defence: Defence) -> dict[str, float]:
    """Seconds a question, with the defence and without, of one batch that both have answered before."""
    some, undefended = every[: asker.batch], dataclasses.replace(asker, system=settings.system)
    found = {}
    for name, own, ask in (("defended", defence, asker), ("undefended", plain.Plain(), undefended)):
        own.answer(ask, some)  # compiles
        start = time.perf_counter()
        own.answer(ask, some)
        found[name] = round((time.perf_counter() - start) / len(some), 4)
    return found


def _told(target: Path, defence: Defence, benchmark: str, cost: dict[str, float]) -> None:
    """Keeps what is to be told of a defence: what was chosen for it, and what it costs."""
    path = target / "defence.json"
    known = read_json(path, "what is known of a defence; remove it", ("cost",)) if path.exists() else {"cost": {}}
    chosen = getattr(defence, "chosen", None)
    write_json(path, {"cost": known["cost"] | {benchmark: cost}, **({"chosen": chosen} if chosen else {})})


def _called(judge: Judging) -> str:
    """As files and results.json call it: names of models and endpoints may hold anything."""
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', judge.name)}-{judge.version}"


def _verdicts(
    rows: Sequence[dict[str, Any]], judge: Judging, target: Path, name: str, console: rich.console.Console
) -> list[Any]:
    """Verdicts of the answers, those that are stored or new ones."""
    kept = store.AnswerStore(target / "verdicts", f"{name}.{_called(judge)}", len(rows))
    with Progress(console, transient=True) as progress:
        missing = kept.missing()
        task = progress.add_task(f"{name}: {judge.name}", total=len(missing))
        for numbers in _parts(missing, 64):
            verdicts = judge.verdicts([(rows[n]["question"], rows[n]["answer"]) for n in numbers])
            kept.append({"n": n, "verdict": verdict} for n, verdict in zip(numbers, verdicts, strict=True))
            progress.advance(task, len(numbers))
    kept.finish()
    return [row["verdict"] for row in kept.rows()]


def _asker(settings: Settings, batch: int) -> Asker:
    """Raises UserError if the checkpoint's template can not ask with the system text."""
    model = load(settings.checkpoint, settings.dtype)
    asker = Asker(
        model, settings.template, settings.system, 1, batch, settings.seed, settings.sampling, settings.special_tokens
    )
    safety = settings.defence["name"] == "system-prompt"
    dataclasses.replace(asker, system=plain.SAFETY_PROMPT if safety else settings.system).prompt("Hello.", 0)
    return asker


def _report(
    benchmark: Benchmark,
    rows: list[dict[str, Any]],
    judges: Sequence[Judging],
    target: Path,
    data: Path,
    share: float,
    console,
) -> Any:
    """What results.json has of a benchmark. data: its folder, if it is still there."""
    verdicts: dict[str, list[Verdict]] = {}
    found: dict[str, Any] = {"suite": benchmark.suite, "version": benchmark.version, "answers": len(rows)}
    found["empty"] = sum(degenerate.is_empty(row["answer"]) for row in rows)
    if benchmark.score is not None:
        found["table"] = outcomes.table(outcomes.scored(benchmark, rows))
    elif benchmark.export is None:
        verdicts = {_called(j): _verdicts(rows, j, target, benchmark.name, console) for j in judges}
        rubrics = {_called(j): j.rubric for j in judges}
        found["judges"] = {
            judge: {"rubric": rubrics[judge], "table": outcomes.table(outcomes.judged(rows, own, rubrics[judge]))}
            for judge, own in verdicts.items()
        }
        found["judge_order"] = list(verdicts)
        found["agreement"] = [
            {"judges": [a, b], "kappa": cohens_kappa(verdicts[a], verdicts[b])}
            for a, b in itertools.combinations(verdicts, 2)
            if rubrics[a] == rubrics[b]
        ]
    answers = [row["answer"] for row in rows]
    found["warnings"] = degenerate.warnings(answers, verdicts, benchmark.score is not None, share)
    if benchmark.summarize is not None:
        found["summary"] = benchmark.summarize([(row["target"], row["answer"]) for row in rows])
    if benchmark.export is not None:
        folder = target / "export" / benchmark.name
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            benchmark.export([(outcomes.sample_of(row), row["answer"]) for row in rows], folder, data)
        found["export"] = sorted(path.relative_to(target).as_posix() for path in folder.iterdir())
    if benchmark.note:
        found["note"] = benchmark.note
    return found


def _weights(checkpoint: str | Path) -> Input:
    return Input(str(checkpoint), fingerprint.of_checkpoint(Path(checkpoint)))


def _tell_usage(judges: Sequence[Judging], console: rich.console.Console) -> None:
    """Of judges that are paid for."""
    for judge in judges:
        if (usage := getattr(judge, "usage", None)) is not None:
            console.print(f"{judge.name}: {usage}", markup=False)


def run(
    settings: Settings,
    benchmarks: Sequence[Benchmark],
    data: Path,
    target: Path,
    judges: Sequence[Judging],
    batch: int,
    console: rich.console.Console,
    share: float = degenerate.SHARE,
    judge_checkpoint: Path | None = None,
    command: str = "",
) -> list[str]:
    """Answers, judges and reports. Returns a line for each benchmark of which more than this share of the answers is
    empty, the same, or undecidable; none in processes that only answer.

    data: has a folder for each benchmark, by its name; judges: of refusals, the first one's verdicts stand first;
    judge_checkpoint: of the one that has one; command: what a person typed, for the foot of the page. What `target`
    has of other benchmarks stays in its results. Stored answers and verdicts are taken unless the checkpoints or data
    that they come from were replaced; they may be gone. Of several processes each runs this, with a target that all of
    them see. Raises UserError for what does not fit; what was answered is kept.
    """
    check_asked(settings.template)
    if settings.system is not None and settings.defence["name"] == "system-prompt":
        raise UserError("--system: --defence=system-prompt has its own system text, expected one of the two")
    first = jax.process_index() == 0
    inputs: dict[str, Any] = {}
    if first:
        inputs["checkpoint"] = _weights(settings.checkpoint)
        if judge_checkpoint is not None:
            inputs[f"--judge-checkpoint={judge_checkpoint}"] = _weights(judge_checkpoint)
        holds(target, settings.to_json(), "--to", inputs=inputs)
    paths = {benchmark.name: target / "answers" / f"{benchmark.name}.jsonl" for benchmark in benchmarks}
    asker, defence, results, left_out = None, None, {}, {}
    if not all(path.exists() for path in paths.values()):
        asker = _asker(settings, batch)
    if first:
        claim(target, settings.to_json(), "--to", inputs=inputs)
    orbax_files.wait_for_all("the target is claimed")
    with working(target, "--to", jax.process_index()):
        for benchmark in benchmarks:
            path, every = paths[benchmark.name], []
            if not path.exists():
                assert asker is not None
                defence = defence or make_defence(settings.defence, asker)
                sees = bool(asker.model.processor.image_tokens)
                every = _questions(benchmark, data, settings, sees, console)
                if not every:
                    left_out[benchmark.name] = "it has only pictures, and the checkpoint no vision tower"
                    console.print(f"{benchmark.name}: left out, {left_out[benchmark.name]}", soft_wrap=True)
                    continue
                own = dataclasses.replace(
                    asker,
                    new_tokens=settings.new_tokens or benchmark.new_tokens,
                    system=settings.system if defence.system is None else defence.system,
                )
                answers = store.AnswerStore(path.parent, benchmark.name, len(every), jax.process_index())
                asked.check(answers.rows(), every, path, data / benchmark.name, first, whole=False)
                _answer(answers, every, benchmark.name, own, settings, defence, console)
                if first and defence.name != "none":
                    _told(target, defence, benchmark.name, _cost(every, own, settings, defence))
                orbax_files.wait_for_all(f"{benchmark.name} is answered")
                if first:
                    answers.finish()
            elif first and (data / benchmark.name).is_dir():
                every = _check_data(path, benchmark, data, settings, console)
            if first:
                found = _report(benchmark, _rows(path), judges, target, data / benchmark.name, share, console)
                results[benchmark.name] = found
                judge = next(iter(summary.judges(found)), None)
                kinds = gallery.kinds({"": page.answers(target, benchmark.name, judge, benchmark)})
                ids = itertools.chain.from_iterable(gallery.shown(kinds).values())
                gallery.keep_thumbnails(every, ids, target / page.THUMBNAILS / benchmark.name)
        if not first:
            orbax_files.wait_for_all("the results are written")
            return []
        _tell_usage(judges, console)
        _write(settings, results, left_out, benchmarks, command, target, console)
        orbax_files.wait_for_all("the results are written")
        return [f"{name}: {', '.join(found['warnings'])}" for name, found in results.items() if found["warnings"]]


def _write(
    settings: Settings,
    results: dict[str, Any],
    left_out: dict[str, str],
    benchmarks: Sequence[Benchmark],
    command: str,
    target: Path,
    console: rich.console.Console,
) -> None:
    """results.json and the reports of it, with what an earlier run left of other benchmarks."""
    if not results:
        raise UserError("nothing was asked: the checkpoint has no vision tower and the benchmarks no text")
    path, told = target / "results.json", target / "defence.json"
    expected = "the results of an earlier run", ("benchmarks",)
    earlier = read_json(path, *expected) if path.exists() else {"benchmarks": {}}
    write_json(path, {
        "settings": settings.to_json(),
        "benchmarks": earlier["benchmarks"] | results,
        "left_out": earlier.get("left_out", {}) | left_out,
        **({"defence": read_json(told, "what is known of a defence")} if told.exists() else {}),
        "commands": list(dict.fromkeys([*earlier.get("commands", ()), *filter(None, [command])])),
    })  # fmt: skip
    whole = read_json(path, *expected)  # in the file's order, whatever came when
    write_text(target / "report.md", summary.markdown(whole))
    known = BENCHMARKS | {benchmark.name: benchmark for benchmark in benchmarks}
    write_text(target / "report.html", page.page(whole, target, known))
    for part in summary.terminal(whole):
        console.print(part, markup=False, highlight=False)
    console.print(f"written: {target / 'report.html'}", soft_wrap=True)

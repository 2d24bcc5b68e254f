"""`tga evaluate` on a tiny LLaVA: the same answers however they were come by, and everything that can go wrong."""

import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import evaluate_support
import jax
import numpy as np
import pytest
import rich.console
import safetensors.numpy
from evaluate_support import TOYS, WORDS
from PIL import Image

import tga_jax
from tga_jax import cli
from tga_jax.checkpoints import orbax_files
from tga_jax.errors import UserError
from tga_jax.evals import asking, attacks, compare, evaluate, store
from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.defences import plain
from tga_jax.evals.evaluate import Settings
from tga_jax.evals.judges.phrases import PhraseJudge
from tga_jax.inference.model import Model
from tga_jax.serve import chat

JUDGE = PhraseJudge((" w29 ", " w46 ", " w4 w4 "), name="words", version=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """model/, and data/ with toys and words."""
    folder = tmp_path_factory.mktemp("evaluate")
    evaluate_support.write_checkpoint(folder / "model")
    evaluate_support.write_data(folder / "data")
    return folder


def settings(place: Path, **fields) -> Settings:
    return Settings(**{"checkpoint": str(place / "model"), "dtype": "float32", "seed": 3, **fields})


def run(place: Path, target: Path, *, batch: int = 4, judges=(JUDGE,), benchmarks=(TOYS, WORDS), data=None, **fields):
    console = rich.console.Console(file=io.StringIO(), width=200)
    evaluate.run(settings(place, **fields), benchmarks, data or place / "data", target, judges, batch, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def files(target: Path) -> dict[str, bytes]:
    return {str(p.relative_to(target)): p.read_bytes() for p in sorted(target.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory) -> Path:
    """What an undisturbed run with batches of four leaves."""
    target = tmp_path_factory.mktemp("whole") / "out"
    run(place, target)
    return target


def test_without_a_defence_nothing_is_told_of_one(whole):
    assert not (whole / "defence.json").exists()
    assert "defence" not in json.loads((whole / "results.json").read_text())


def test_every_answer_is_stored_as_the_model_gives_it_alone(place, whole):
    rows = store.read(whole / "answers" / "toys.jsonl")
    assert [(r["id"], r["input"]) for r in rows] == [
        *((f"t{i}", "image") for i in range(11)),
        *((f"t{i}", "text") for i in range(11) if i % 3),
    ]
    model = tga_jax.load(place / "model", "float32")
    samples = {s.id: s for s in TOYS.samples(place / "data" / "toys")}
    for row in rows[3:14:5]:
        sample, shown = samples[row["id"]], row["input"] == "image"
        prompt = model.processor.chat([{"role": "user", "content": sample.question if shown else sample.text}])
        assert row["prompt"] == str(prompt)
        pictures = [[image() for image in sample.images] if shown else []]
        assert model.generate([prompt], pictures, new_tokens=6) == [row["answer"]]
        assert row["harmful"] == sample.harmful
        assert row["decoding"] == {"new_tokens": 6, "seed": 3}
        assert row["template"] == "chat"


def test_rates_are_those_of_the_answers(whole):
    rows = store.read(whole / "answers" / "toys.jsonl")
    found = json.loads((whole / "results.json").read_text())["benchmarks"]
    table = found["toys"]["judges"]["words-1"]["table"]
    for way in ("image", "text"):
        for group, value in ((None, None), ("kind", "odd")):
            own = [r for r in rows if r["input"] == way and (group is None or r["groups"][group] == value)]
            got = next(t for t in table if (t["input"], t["group"], t["value"]) == (way, group, value))["rates"]
            for name, harmful in (("DSR", True), ("over-refusal", False)):
                answers = [r["answer"] for r in own if r["harmful"] is harmful]
                refused = sum(JUDGE.verdict(answer) == "refusal" for answer in answers)
                assert got[name]["n"] == len(answers)
                assert got[name]["value"] == pytest.approx(refused / len(answers))
    words = store.read(whole / "answers" / "words.jsonl")
    right = next(t for t in found["words"]["table"] if t["group"] is None)["rates"]["right"]
    assert right["value"] == np.mean([r["target"] in r["answer"] for r in words])
    assert (whole / "export" / "words" / "out.txt").read_text().startswith("w0" + words[0]["answer"])
    refusals = [v["verdict"] for v in store.read(next((whole / "verdicts").iterdir()))]
    assert {"refusal", "answer"} <= set(refusals)  # else this would tell little


def test_the_reports_say_where_answers_without_a_score_lie(place, tmp_path):
    """Exported alone (MM-Vet), or scored if there are labels (GQA): neither is missing from the reports."""
    words = dataclasses.replace(WORDS, score=None, summarize=None, note="Words are judged elsewhere.")
    labels = dataclasses.replace(WORDS, score=lambda *_: {}, summarize=None)
    for benchmark in (words, labels):
        target = tmp_path / str(benchmark.score is None)
        run(place, target, benchmarks=[benchmark])
        for name in ("report.md", "report.html"):
            text = (target / name).read_text()
            assert "words: 5 answers, not scored here but written for the" in text
            assert "export/words/out.txt" in text
        assert ("words: Words are judged elsewhere." in (target / "report.md").read_text()) == (benchmark is words)
    assert not (tmp_path / "True" / "verdicts").exists()  # refusals are not what is measured


def test_the_reports_have_over_refusal_beside_dsr(place, whole, tmp_path):
    text = (whole / "report.md").read_text()
    head = next(line for line in text.splitlines() if line.startswith("| benchmark"))
    assert "| DSR | over-refusal |" in head
    assert "| toys | image |" in text
    page = (whole / "report.html").read_text()
    assert "toys: 11 of 11 samples, with their answers" in page
    assert page.count('<img class="thumb"') == 11
    assert "w11" in page
    harmful = dataclasses.replace(
        TOYS, samples=lambda folder: [s for s in TOYS.samples(folder) if s.harmful and s.text], new_tokens=2
    )
    assert "Over-refusal was not measured" in run(place, tmp_path / "out", benchmarks=[harmful])


@pytest.mark.parametrize("batch", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_the_batch_does_not_matter(place, whole, tmp_path, batch):
    run(place, tmp_path / "out", batch=batch)
    assert files(tmp_path / "out") == files(whole)


def test_nor_when_sampling(place, tmp_path):
    hot = {"sampling": {"temperature": 2.0, "top_p": 0.9}, "benchmarks": [WORDS]}
    for batch in (1, 4):
        run(place, tmp_path / f"{batch}", batch=batch, **hot)
    run(place, tmp_path / "other", **hot, seed=4)
    one, four, other = (files(tmp_path / name)["answers/words.jsonl"] for name in ("1", "4", "other"))
    assert one == four
    assert one != other


@pytest.mark.parametrize("calls", [3, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 6))])
def test_a_stopped_run_continues_byte_for_byte(place, whole, tmp_path, monkeypatch, calls):
    original, seen = asking.Asker.answers, []

    def answers(self, *args):
        seen.append(None)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(asking.Asker, "answers", answers)
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    seen[:] = [None] * -100  # never again
    monkeypatch.setattr(asking.Asker, "answers", original)
    run(place, tmp_path / "out", batch=3)
    assert files(tmp_path / "out") == files(whole)


def test_an_attack_is_stored_reported_and_continued(place, whole, tmp_path, monkeypatch):
    noise = attacks.describe("noise", 40)
    assert "attack" not in json.loads((whole / "config.json").read_text())  # as of runs before there were attacks
    run(place, tmp_path / "whole", benchmarks=[TOYS], attack=noise)
    rows = store.read(tmp_path / "whole" / "answers" / "toys.jsonl")
    assert [(row["id"], row["input"]) for row in rows] == [(f"t{i}", "image") for i in range(11)]
    plain = {row["id"]: row for row in store.read(whole / "answers" / "toys.jsonl") if row["input"] == "image"}
    assert [row["prompt"] for row in rows] == [plain[row["id"]]["prompt"] for row in rows]
    seen_before, seen_now = (
        json.loads((folder / "answers" / "toys.pictures.json").read_text()) for folder in (whole, tmp_path / "whole")
    )
    assert all(seen_before[name] != seen_now[name] for name in plain)
    assert json.loads((tmp_path / "whole" / "results.json").read_text())["settings"]["attack"] == noise
    for name in ("report.md", "report.html"):
        text = (tmp_path / "whole" / name).read_text()
        assert "Attack, seed 3: noise (standard deviation 40); questions without a picture are left out." in text
    original, seen = asking.Asker.answers, []

    def answers(self, *args):
        seen.append(None)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(asking.Asker, "answers", answers)
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path / "out", benchmarks=[TOYS], attack=noise, batch=3)
    monkeypatch.setattr(asking.Asker, "answers", original)
    for other, said in (
        (attacks.describe("noise", 30), r"config\.attack\.strength is 40\.0 there and 30\.0 now; choose another --to"),
        (None, r"config\.attack\.name is \"noise\" there and null now|config\.attack is .* there and null now"),
    ):
        with pytest.raises(UserError, match=said):
            run(place, tmp_path / "out", benchmarks=[TOYS], attack=other)
    with pytest.raises(UserError, match=r'config\.attack is null there and {"name": "noise"'):
        run(place, whole, benchmarks=[TOYS], attack=noise)
    run(place, tmp_path / "out", benchmarks=[TOYS], attack=noise)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_how_many_samples_an_attack_leaves_is_said(place, tmp_path):
    def samples(folder):
        shown = [sample for sample in TOYS.samples(folder) if sample.text]
        return [shown[0], *(BenchmarkSample(s.id, s.text, harmful=s.harmful) for s in shown[1:])]

    words = dataclasses.replace(TOYS, samples=samples)
    said = run(place, tmp_path / "out", benchmarks=[words], attack=attacks.describe("jpeg"))
    assert "toys: 1 of 7 samples are asked, attack jpeg (quality 10); questions without a picture are left out" in said


def test_an_attack_on_words_needs_a_benchmark_that_it_can_change(place, tmp_path):
    with pytest.raises(UserError, match="--attack=jpeg: words has only questions without a picture"):
        run(place, tmp_path / "out", benchmarks=[WORDS], attack=attacks.describe("jpeg"))


def test_demonstrations_are_earlier_turns(place, tmp_path, monkeypatch):
    monkeypatch.setattr(attacks, "DEMONSTRATIONS", (("w40 w41", "w42"), ("w43", "w44")))
    run(place, tmp_path / "out", benchmarks=[WORDS], attack=attacks.describe("in-context", 2))
    row = store.read(tmp_path / "out" / "answers" / "words.jsonl")[2]
    turns = " w5 w40 w41 w6 w5 w42 w6", " w5 w43 w6 w5 w44 w6"
    assert row["prompt"] in (f"<s>{a}{b} w5 w32 w31 w6" for a, b in (turns, turns[::-1]))
    assert (row["question"], row["input"]) == ("w32 w31", "text")


def test_attacked_and_plain_answers_are_compared(place, whole, tmp_path, monkeypatch):
    """Over the questions that both have."""
    run(place, tmp_path / "out", benchmarks=[TOYS], attack=attacks.describe("jpeg", 5))
    monkeypatch.setattr(compare, "BENCHMARKS", evaluate_support.BENCHMARKS)
    found = compare.compare(whole, tmp_path / "out")
    assert {(row["benchmark"], row["input"]) for row in found["rows"]} == {("toys", "image")}
    assert {row["n"] for row in found["rows"] if row["measure"] == "DSR"} == {6}
    assert any("settings.attack" in line for line in found["differs"])


DEAF = {  # no place for a system text, and one that raises
    "leaves out what the system says": "{% for m in messages if m.role != 'system' %}w5 {{ m.content }} w6{% endfor %}",
    "refuses it (none here)": "{% for m in messages %}{{ raise_exception('none here') if m.role == 'system' }}"
    "w5 {{ m.content }} w6{% endfor %}",
}


@pytest.mark.parametrize("said", DEAF)
def test_a_system_text_without_a_place_is_refused_before_anything_is_written(place, tmp_path, said):
    shutil.copytree(place / "model", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(DEAF[said])
    hows: list[dict] = [{"system": "w9"}, {"defence": {"name": "system-prompt", "version": 1}}]
    for how in hows:
        with pytest.raises(UserError) as error:
            run(place, tmp_path / "out", checkpoint=str(tmp_path / "model"), **how)
        assert f"the tokenizer's chat template {said}; it has no place for a system text" in str(error.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no place for a system text"):
        chat.run(tmp_path / "model", [], "w3", "w9", console=rich.console.Console(file=io.StringIO()))
    run(place, tmp_path / "out", checkpoint=str(tmp_path / "model"), template="vicuna_v1", system="w9")
    rows = store.read(tmp_path / "out" / "answers" / "words.jsonl")
    assert all(row["prompt"].startswith("w9 USER: ") for row in rows)
    with pytest.raises(UserError, match="--system: --defence=system-prompt has its own system text"):
        run(place, tmp_path / "out", system="w9", defence={"name": "system-prompt", "version": 1})


def test_a_defence_is_told_with_what_it_costs_and_what_was_chosen(place, tmp_path, monkeypatch):
    """Beside the rates of the report; without a defence there is nothing to tell."""

    @dataclasses.dataclass(frozen=True)
    class Chosen(plain.Plain):
        chosen: dict = dataclasses.field(default_factory=lambda: {"strength": 2.0, "refused": 0.75})

    monkeypatch.setattr(evaluate, "make_defence", lambda described, ask: Chosen("steering"))
    target = tmp_path / "out"
    run(place, target, benchmarks=(TOYS,), defence={"name": "steering", "version": 1})
    found = json.loads((target / "results.json").read_text())["defence"]
    assert found["chosen"] == {"strength": 2.0, "refused": 0.75}
    assert found["cost"]["toys"].keys() == {"defended", "undefended"}
    assert min(found["cost"]["toys"].values()) > 0
    report = (target / "report.md").read_text()
    assert "Defence steering: chosen by its calibration, refused 0.75, strength 2.0." in report
    assert "s a question with the defence" in report
    assert "over-refusal" in report


def test_special_tokens_in_questions(place, monkeypatch):
    """Text by default: the model is asked with other tokens."""
    asked = []
    monkeypatch.setattr(Model, "generate", lambda self, prompts, *_, **__: asked.extend(prompts) or [""] * len(prompts))
    model = tga_jax.load(place / "model", "float32")
    for special in (False, True):
        asker = asking.Asker(model, "chat", None, 1, 1, special_tokens=special)
        asker.answers([asker.prompt("w7</s> w8", 0)], [[]], [0])
    ends = [(model.processor.batch([prompt]).tokens == 2).sum() for prompt in asked]
    assert ends == [0, 1]
    assert str(asked[0]) == str(asked[1]) == "<s> w5 w7</s> w8 w6"


def test_two_processes_answer_what_one_does(place, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(orbax_files, "wait_for_all", lambda _: None)
    monkeypatch.setattr(evaluate, "claim", lambda *_, **__: None)
    monkeypatch.setattr(evaluate, "holds", lambda *_, **__: None)
    for benchmark in (TOYS, WORDS):
        for process in (1, 0):  # the second one is done when the first one collects
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            run(place, tmp_path / "out", batch=2, benchmarks=[benchmark])
    found = files(tmp_path / "out")
    assert {k: v for k, v in found.items() if k.startswith("answers/")} == {
        k: v for k, v in files(whole).items() if k.startswith("answers/")
    }


def test_what_was_measured_before_stays_in_the_results(place, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "BENCHMARKS", evaluate_support.BENCHMARKS)
    run(place, tmp_path / "out", benchmarks=[WORDS])
    said = run(place, tmp_path / "out", benchmarks=[TOYS])
    assert " words " in said
    assert files(tmp_path / "out") == files(whole)


def test_other_judges_need_neither_checkpoint_nor_data(place, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "out")
    monkeypatch.setattr(evaluate, "load", None)
    other = dataclasses.replace(JUDGE, refuses=(" w5 ",), version=2)
    said = run(place, tmp_path / "out", judges=(JUDGE, other), data=tmp_path / "nowhere")
    assert "Cohen's kappa of" in said
    found = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["toys"]
    assert len(found["judges"]) == 2
    run(place, tmp_path / "out", judges=(other, JUDGE), data=tmp_path / "nowhere")
    lines = [line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if line.startswith("| toys")]
    assert ["words-2" in line for line in lines[:4]] == [True, True, False, False]  # the first one's come first
    refused = sum(other.verdict(row["answer"]) == "refusal" for row in store.read(whole / "answers" / "toys.jsonl")
                  if row["harmful"] and row["input"] == "image")  # fmt: skip
    assert f"{refused} of 6 harmful pictures are refused" in (tmp_path / "out" / "report.html").read_text()
    assert files(tmp_path / "out")["answers/toys.jsonl"] == files(whole)["answers/toys.jsonl"]


def test_verdicts_are_not_asked_for_again(place, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    asked = []

    class Counting:
        name, version, rubric = "counting", 1, "refusal"

        def verdicts(self, pairs):
            asked.extend(pairs)
            if len(asked) > 3:
                raise UserError("the endpoint is gone")
            return ["unknown"] * len(pairs)

    with pytest.raises(UserError, match="gone"):
        run(place, tmp_path / "out", judges=[Counting()])
    Counting.verdicts = lambda self, pairs: asked.extend(pairs) or ["refusal"] * len(pairs)
    asked.clear()
    run(place, tmp_path / "out", judges=[Counting()])
    count = len(asked)
    run(place, tmp_path / "out", judges=[Counting()])
    assert len(asked) == count == len(store.read(whole / "answers" / "toys.jsonl"))


def test_another_runs_answers_are_not_taken(place, whole, tmp_path):
    with pytest.raises(
        UserError, match=r"out holds another run: config.seed is 3 there and 4 now; choose another --to"
    ):
        run(place, whole, seed=4)
    with pytest.raises(UserError, match=r"config.system is null there and \"w7\" now"):
        run(place, whole, system="w7")
    target = tmp_path / "out"
    evaluate.claim(target, dataclasses.asdict(settings(place)), "--to")
    store.AnswerStore(target / "answers", "toys", 18).append([{"n": 1, "id": "zebra", "input": "image"}])
    said = r'toys.jsonl: answers other data than .*: question 1.groups.*question 1.id is "zebra" there and "t1" now'
    with pytest.raises(UserError, match=said):
        run(place, target)


@pytest.mark.parametrize("finished", [False, True])
def test_answers_are_not_taken_of_replaced_data_or_weights(place, whole, tmp_path, finished):
    """Each is found when a run continues, and when all answers are there."""
    target, model, data = tmp_path / "out", tmp_path / "model", tmp_path / "data"
    shutil.copytree(whole, target)
    shutil.copytree(place / "model", model)
    shutil.copytree(place / "data", data)
    if not finished:
        (target / "answers" / "toys.jsonl").rename(target / "answers" / ".toys.part-0")
        for name in ("results.json", "answers/words.jsonl"):
            (target / name).unlink()
    before = files(target)

    def refused(said: str, **fields) -> None:
        with pytest.raises(UserError, match=said):
            run(place, target, **{"checkpoint": str(model), "data": data, "benchmarks": [TOYS], **fields})
        assert {**files(target), "config.json": b""} == {**before, "config.json": b""}  # says where the checkpoint lies

    def asking(**fields) -> dict:
        def samples(folder):
            return [dataclasses.replace(s, **fields) if s.id == "t2" else s for s in TOYS.samples(folder)]

        return {"benchmarks": [dataclasses.replace(TOYS, samples=samples)]}

    other = f"toys.jsonl: answers other data than {data}/toys holds now: "
    new = asking(question="<image> new")
    refused(other + 'question 2.question is ".*there and "<image> new" now; put that back,', **new)
    refused(other + "question 2.harmful is true there and false now", **asking(harmful=False))
    fewer = {"benchmarks": [dataclasses.replace(TOYS, samples=lambda folder: list(TOYS.samples(folder))[:-1])]}
    refused(other + r"(18 questions are answered and 16 there|question 10\.)", **fewer)
    pixels = np.zeros((20, 31, 3), np.uint8)
    Image.fromarray(pixels).save(data / "toys" / "0.png")
    refused(
        "toys.jsonl: the data, .*, is not what this run began with: t0 has other bytes, 1,860 as before; put that back"
    )
    shutil.copy(place / "data" / "toys" / "0.png", data / "toys" / "0.png")
    weights = model / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"\0\0\0\1")
    refused(rf"out: checkpoint, {model}, is not what this run began with: model.safetensors has other bytes, ")
    weights.write_bytes(good)
    # All as it was, elsewhere.
    run(place, target, checkpoint=str(model), data=data)
    for name in ("answers/toys.jsonl", "answers/words.jsonl", "answers/toys.pictures.json"):
        assert files(target)[name] == files(whole)[name]


def test_verdicts_are_not_taken_of_a_replaced_judge(place, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    judge = Path(shutil.copytree(place / "model", tmp_path / "judge"))
    arguments = settings(place), [TOYS], place / "data", tmp_path / "out", [JUDGE], 4, rich.console.Console(quiet=True)
    for _ in range(2):
        evaluate.run(*arguments, judge_checkpoint=judge)
    (judge / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"out: --judge-checkpoint=.*judge, is not what this run began with: config.json"
    ):
        evaluate.run(*arguments, judge_checkpoint=judge)


def test_a_limit_draws_the_same_samples(place, tmp_path):
    run(place, tmp_path / "a", limit=4, benchmarks=[TOYS])
    run(place, tmp_path / "b", limit=4, benchmarks=[TOYS], batch=1)
    rows = store.read(tmp_path / "a" / "answers" / "toys.jsonl")
    assert len({row["id"] for row in rows}) == 4
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_language_model_alone_is_asked_in_text(place, tmp_path):
    evaluate_support.write_checkpoint(tmp_path / "llm", "mistral")
    only_pictures = dataclasses.replace(TOYS, samples=lambda f: [s for s in TOYS.samples(f) if s.text is None])
    said = run(
        place,
        tmp_path / "out",
        checkpoint=str(tmp_path / "llm"),
        benchmarks=[TOYS, dataclasses.replace(only_pictures, name="words")],
    )
    left_out = "words: left out, it has only pictures, and the checkpoint no vision tower"
    assert left_out in said
    assert left_out in (tmp_path / "out" / "report.md").read_text()
    assert left_out in (tmp_path / "out" / "report.html").read_text()
    rows = store.read(tmp_path / "out" / "answers" / "toys.jsonl")
    assert {row["input"] for row in rows} == {"text"}
    assert len(rows) == 7
    with pytest.raises(UserError, match="nothing was asked"):
        run(place, tmp_path / "none", checkpoint=str(tmp_path / "llm"), benchmarks=[only_pictures])


def test_a_picture_that_cannot_be_read_is_named_and_the_rest_is_kept(place, whole, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    broken = data / "toys" / "9.png"
    good = broken.read_bytes()
    with_errors = dataclasses.replace(TOYS, samples=lambda folder: [checked(s, folder) for s in TOYS.samples(folder)])
    broken.write_bytes(good[:40])
    with pytest.raises(UserError, match=r"sample 't9': .*9.png"):
        run(place, tmp_path / "out", data=data, benchmarks=[with_errors, WORDS])
    broken.write_bytes(good)
    run(place, tmp_path / "out", data=data, benchmarks=[with_errors, WORDS])
    assert files(tmp_path / "out") == files(whole)


def checked(sample, folder: Path):
    from tga_jax.evals.benchmark import picture

    return dataclasses.replace(sample, images=(picture(folder, f"{sample.id[1:]}.png"),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "plain"}, "--template: 'plain', expected one of vicuna_v1, llama_2"),
        ({"data": Path("nowhere")}, "nowhere/toys: no such folder, expected pictures"),
        ({"benchmarks": [dataclasses.replace(TOYS, samples=lambda _: [])]}, "data/toys: no samples, expected pictures"),
        ({"new_tokens": 90}, "new ones, expected at most 96"),
    ],
)
def test_what_does_not_fit_is_one_line(place, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        run(place, tmp_path / "out", **change)


def test_answers_that_are_not_numbers_end_the_run(place, tmp_path):
    """Of damaged weights: the first token of every answer has NaN for logits."""
    folder = evaluate_support.write_checkpoint(tmp_path / "checkpoint")
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    weights = {name: np.full_like(x, np.nan) if name.endswith("lm_head.weight") else x for name, x in weights.items()}
    safetensors.numpy.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the logits of new token 0 are NaN"):
        run(place, tmp_path / "out", checkpoint=str(folder))


def test_suites_and_names_are_chosen(monkeypatch):
    monkeypatch.setattr(evaluate, "BENCHMARKS", evaluate_support.BENCHMARKS)
    assert evaluate.choose(["general", "words"]) == [WORDS]
    assert evaluate.choose(["words", "safety"]) == [WORDS, TOYS]
    with pytest.raises(UserError, match="--suite: 'hodd', expected some of safety, general, toys, words"):
        evaluate.choose(["hodd"])


def test_the_command(place, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "BENCHMARKS", evaluate_support.BENCHMARKS)
    command = [
        "evaluate",
        f"--checkpoint={place / 'model'}",
        "--suite=toys",
        f"--data={place / 'data'}",
        "--dtype=fp32",
        "--max-degenerate=1",
    ]
    assert cli.run([*command, f"--to={tmp_path / 'out'}", "--seed=3", "--batch=2"]) == 0
    assert files(tmp_path / "out")["answers/toys.jsonl"] == files(whole)["answers/toys.jsonl"]
    assert "written:" in capsys.readouterr().out
    assert cli.run([*command, f"--to={tmp_path / 'model'}", "--judge=model"]) == 2
    assert "--judge=model: needs --judge-checkpoint" in capsys.readouterr().err
    judging = ["--judge=phrases", "--judge=model", f"--judge-checkpoint={place / 'model'}"]
    monkeypatch.setattr(Model, "generate", lambda self, prompts, **_: ["refusal"] * len(prompts))
    assert cli.run([*command, f"--to={tmp_path / 'out'}", "--seed=3", *judging]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["toys"]["judges"]
    assert [next(iter(j["table"]))["rates"]["DSR"]["value"] for n, j in results.items() if n.startswith("model")] == [1]
    monkeypatch.setattr(Model, "generate", lambda self, prompts, **_: ["unsafe"] * len(prompts))
    assert cli.run([*command, f"--to={tmp_path / 'out'}", "--seed=3", *judging, "--judge=gcg", "--rubric=safety"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["toys"]["judges"]
    rubrics = {name.split("-")[0]: own["rubric"] for name, own in results.items()}
    assert rubrics == {"phrases": "refusal", "model": "safety", "gcg": "refusal"}
    assert results[next(n for n in results if n.startswith("model"))]["table"][0]["rates"]["ASR"]["value"] == 1


def test_answers_that_say_nothing_end_with_status_1(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "BENCHMARKS", evaluate_support.BENCHMARKS)
    monkeypatch.setattr(Model, "generate", lambda self, prompts, *_, **__: [""] * len(prompts))
    command = ["evaluate", f"--checkpoint={place / 'model'}", "--suite=toys", f"--data={place / 'data'}"]
    command += ["--suite=words", "--dtype=fp32", f"--to={tmp_path / 'out'}"]
    assert cli.run(command) == 1
    said = capsys.readouterr()
    warning = "toys: 18 of 18 answers are empty; words: 5 of 5 answers are empty"
    assert said.err == f"tga evaluate: {warning}; more than --max-degenerate=0.5\n"
    assert "written:" in said.out
    for name in ("report.md", "report.html"):
        assert "Warning, toys: 18 of 18 answers are empty." in (tmp_path / "out" / name).read_text()
    assert cli.run([*command, "--max-degenerate=1"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.run([*command, "--max-degenerate=1.5"]) == 2
    assert "--max-degenerate: 1.5, expected a share from 0 to 1" in capsys.readouterr().err


def test_partial_refusals_and_unsafe_answers_have_columns_of_their_own(place, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")

    @dataclasses.dataclass(frozen=True)
    class Always:
        verdict: str
        rubric: str
        version: int = 1

        @property
        def name(self):
            return self.verdict

        def verdicts(self, pairs):
            return [self.verdict] * len(pairs)

    said = run(place, tmp_path / "out", judges=[Always("partial", "refusal"), Always("unsafe", "safety"), JUDGE])
    head = "| DSR | over-refusal | partial | ASR | unsafe | unknown |"
    assert head in (tmp_path / "out" / "report.md").read_text()
    assert said.count("Cohen's kappa") == 1  # judges of different things have nothing to agree on
    assert "Cohen's kappa of partial-1 and words-1" in said
    judges = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["toys"]["judges"]
    rates = {name: {m: r["value"] for m, r in own["table"][0]["rates"].items()} for name, own in judges.items()}
    assert rates["partial-1"] == {"DSR": 0, "over-refusal": 0, "partial": 1, "unknown": 0}
    assert rates["unsafe-1"] == {"ASR": 1, "unsafe": 1, "unknown": 0}
    assert judges["unsafe-1"]["rubric"] == "safety"
    rows = {(r["judge"], r["measure"]) for r in compared(tmp_path / "out", tmp_path / "other")}
    assert ("unsafe-1", "ASR") in rows
    assert ("partial-1", "DSR") in rows


def compared(folder: Path, other: Path):
    from tga_jax.evals import compare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "BENCHMARKS", evaluate_support.BENCHMARKS)
        shutil.copytree(folder, other)
        return compare.compare(folder, other)["rows"]


@pytest.mark.slow
def test_two_real_processes_leave_the_files_of_one(tmp_path):
    evaluate_support.write_checkpoint(tmp_path / "llm", "mistral")
    rows = [{"id": f"p{i}", "text": f"w{i + 5} w{2 * i + 7}", "harmful": i % 2 == 0} for i in range(13)]
    (tmp_path / "data" / "text-prompts").mkdir(parents=True)
    (tmp_path / "data" / "text-prompts" / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = [f"--checkpoint={tmp_path / 'llm'}", f"--data={tmp_path / 'data'}", "--suite=text-prompts", "--dtype=fp32"]
    flags += ["--new-tokens=5", "--batch=2", "--max-degenerate=1"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    names = {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    command = [sys.executable, "-c", "from tga_jax.cli import main; main()", "evaluate", *flags]
    both = [
        subprocess.Popen(
            [*command, f"--to={tmp_path / 'two'}", "--distributed"],
            env={**os.environ, **names, "JAX_PROCESS_ID": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert cli.run(["evaluate", *flags, f"--to={tmp_path / 'one'}"]) == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert "written:" in said[0]
    assert "Evaluation" not in said[1]

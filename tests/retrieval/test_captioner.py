"""`tga caption`: a tiny LLaVA tells each picture; continued after a missing one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import hub_support
import numpy as np
import pytest
import rich.console
from PIL import Image

import tga_jax
from tga_jax import cli
from tga_jax.cli import data as cli_data

TEMPLATE = "{{ bos_token }}{% for m in messages %}w5 {{ m['content'] }} w6{% endfor %}"
QUESTION = "w7 w8"


@pytest.fixture(scope="module", name="checkpoint")
def fixture_checkpoint(tmp_path_factory) -> Path:
    folder = hub_support.save(hub_support.model("llava", seed=8), tmp_path_factory.mktemp("llava"))
    tokenizer = hub_support.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(name="data")
def fixture_data(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(7):
        turns = [{"from": "human", "value": "w9"}, {"from": "gpt", "value": "w10"}]
        row = {"id": f"s{i}", "conversations": turns, "kept": i}
        if i != 2:
            turns[0]["value"] = "<image>\nw9"
            row["image"] = f"{i}.png"
            Image.fromarray(rng.integers(0, 256, (9 + i, 30, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        if i == 4:
            row["image_caption"] = "its own"
        rows.append(row)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


def caption(data: Path, checkpoint: Path, *more: str) -> int:
    return cli.run([
        "caption", f"--data={data / 'rows.json'}", f"--images={data}", f"--checkpoint={checkpoint}", "--dtype=fp32",
        f"--to={data / 'out.jsonl'}", f"--question={QUESTION}", "--new-tokens=5", "--batch=3", *more,
    ])  # fmt: skip


def expected(data: Path, checkpoint: Path, again: bool) -> list[dict]:
    """Each picture asked about alone."""
    model = tga_jax.load(checkpoint, "float32")
    rows = json.loads((data / "rows.json").read_text())
    for row in rows:
        if "image" in row and (again or "image_caption" not in row):
            answer = model.generate([f"<s>w5 <image>\n{QUESTION} w6"], [[data / row["image"]]], new_tokens=5)[0]
            row["image_caption"] = " ".join(answer.split())
    return rows


@pytest.mark.parametrize("again", [False, True])
def test_every_picture_gets_its_caption(data, checkpoint, again):
    assert caption(data, checkpoint, *(["--again"] if again else [])) == 0
    found = [json.loads(line) for line in (data / "out.jsonl").read_text().splitlines()]
    assert found == expected(data, checkpoint, again)
    assert len({row["image_caption"] for row in found if "image_caption" in row}) > 2


def test_a_missing_picture_is_named_and_the_work_is_kept(data, checkpoint, capsys):
    (data / "5.png").rename(data / "away.png")
    assert caption(data, checkpoint) == 2
    error = capsys.readouterr().err
    assert "rows.json: line 1, item 6: sample 's5': " in error
    assert "has no file '5.png'" in error
    assert not (data / "out.jsonl").exists()
    (data / "away.png").rename(data / "5.png")
    assert caption(data, checkpoint, "--new-tokens=6") == 2
    assert "new_tokens is 5 there and 6 now" in capsys.readouterr().err
    for path, old, new, said in (
        (
            data / "rows.json",
            b'"kept": 1',
            b'"kept": 7',
            "rows.json: line 1, item 2 is not what its line 2 was made from",
        ),
        (data / "0.png", b"IEND", b"IENX", f"--images, {data}, is not what this run began with: 0.png has other bytes"),
        (
            checkpoint / "config.json",
            b"{",
            b" {",
            f"--checkpoint, {checkpoint}, is not what this run began with: config.",
        ),
    ):
        good = path.read_bytes()
        path.write_bytes(good.replace(old, new, 1))
        assert caption(data, checkpoint) == 2
        assert said in capsys.readouterr().err
        path.write_bytes(good)
    assert caption(data, checkpoint) == 0
    found = [json.loads(line) for line in (data / "out.jsonl").read_text().splitlines()]
    assert found == expected(data, checkpoint, again=False)


def test_what_cannot_caption_is_named(data, checkpoint, capsys):
    assert caption(data, checkpoint, "--template=plain") == 2
    assert "--template: 'plain', expected one of vicuna_v1, llama_2" in capsys.readouterr().err
    assert cli.run(["caption", f"--data={data / 'rows.json'}"]) == 2
    assert capsys.readouterr().err.strip() == "tga caption: --checkpoint: missing"


def test_captions_that_are_refusals_are_counted(tmp_path, capsys):
    said = ["a cat", "I'm sorry, but I can't help with that.", "", "Sorry, I cannot describe it.", "a dog"]
    file = tmp_path / "out.jsonl"
    rows = [{"id": str(i), "conversations": [], "image_caption": caption} for i, caption in enumerate(said)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli_data._count_refusals(file, rich.console.Console())
    out = capsys.readouterr().out
    assert out.startswith("warning: 2 of 4 captions are refusals, such as \"I'm sorry, but I can't help with that.\"; ")
    file.write_text(json.dumps(rows[0]))
    cli_data._count_refusals(file, rich.console.Console())
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(data, checkpoint):
    """Joined by `jax.distributed`, as launch/multiprocess.sh starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [
        f"--data={data / 'rows.json'}", f"--images={data}", f"--checkpoint={checkpoint}", "--dtype=fp32",
        f"--question={QUESTION}", "--new-tokens=5", "--batch=2", f"--to={data / 'two.jsonl'}", "--distributed",
    ]  # fmt: skip
    names = {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    command = [sys.executable, "-c", "from tga_jax.cli import main; main()", "caption", *flags]
    both = [
        subprocess.Popen(
            command,
            env={**os.environ, **names, "JAX_PROCESS_ID": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert caption(data, checkpoint, "--batch=2") == 0
    assert (data / "two.jsonl").read_bytes() == (data / "out.jsonl").read_bytes()
    assert all(line.startswith("[Gloo]") for line in said[1].splitlines())  # the connection, by itself
    assert not list(data.glob(".*"))


def test_a_command_that_runs_as_one_process_says_so(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert cli.run(["retrieve", "--data=x"]) == 2
    said = "tga retrieve: runs as one process and JAX_NUM_PROCESSES is 2; train, sweep, evaluate, caption share"
    assert capsys.readouterr().err.startswith(said)

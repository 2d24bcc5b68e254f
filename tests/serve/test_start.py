"""`tga serve` as a command: a process of its own that answers, and what it refuses."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai
import pytest
import rich.console
import serve_support
from test_api import asked, chatted

import tga_jax
from tga_jax import cli
from tga_jax.serve import start

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    serve_support.llava(folder).processor.tokenizer.save_pretrained(folder)  # now with the chat template
    return folder


@contextlib.contextmanager
def process(*arguments: str, cwd: Path):
    command = [sys.executable, "-c", "from tga_jax.cli import main; main()", "serve", *arguments]
    running = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=60)
        assert "Traceback" not in said, said


def wait_for(url: str, running: subprocess.Popen) -> bytes:
    for _ in range(600):
        assert running.poll() is None, running.stdout.read()
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
            return answer.read()
        time.sleep(0.1)
    raise AssertionError("no answer")


def test_the_api(folder, tmp_path):
    port = serve_support.free_port()
    with process("--api", f"--checkpoint={folder}", f"--port={port}", "--dtype=fp32", cwd=tmp_path) as running:
        wait_for(f"http://127.0.0.1:{port}/health", running)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        answer = client.chat.completions.create(model="tiny", messages=asked("w5 w6"), max_tokens=8)
    model = tga_jax.load(folder, dtype="float32")
    assert answer.choices[0].message.content == chatted(model, "w5 w6", new_tokens=8)


def test_the_page_of_the_last_demo(folder, tmp_path):
    demo = tmp_path / "runs" / "emoji"
    assert cli.run(["convert", f"--from={folder}", f"--to={demo / 'models' / 'tga'}", "--dtype=fp32"]) == 0
    (demo / "results.json").write_text("{}")
    port = serve_support.free_port()
    with process(f"--port={port}", cwd=tmp_path) as running:
        assert b"What does the model see?" in wait_for(f"http://127.0.0.1:{port}/config", running)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--api"], "--api: 0 times --checkpoint, expected it once"),
        (["--api", "--checkpoint=a", "--clip=b"], "--clip: of no use with --api"),
        (["--api", "--checkpoint=a", "--new-tokens=5"], "--new-tokens: of no use with --api"),
        (["--checkpoint=a", "--batch=4"], "--batch: of no use without --api"),
        (["--api", "--checkpoint=a", "--batch=3"], "--batch: 3, expected a power of two"),
        (["--port=70000"], "--port: 70000, expected 1 to 65535"),
        ([], "--checkpoint: missing, and runs holds no finished demo; expected one of them"),
        (["--checkpoint=nothing"], "nothing"),
        (["--checkpoint=FOLDER", "--checkpoint=FOLDER"], "--checkpoint: the same folder twice"),
        (["--checkpoint=FOLDER", "--examples=nothing"], "pairs.jsonl"),
        (["--checkpoint=FOLDER", "--template=odd"], "'odd'"),
        (["--checkpoint=FOLDER", "--clip=FOLDER", "--examples=EXAMPLES"], "expected a CLIP checkpoint"),
    ],
)
def test_what_cannot_be_served_is_one_line(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EXAMPLES").mkdir()
    (tmp_path / "EXAMPLES" / "a.png").write_bytes(serve_support.png(1))
    turns = [{"from": "human", "value": "<image>\nw5"}]
    line = {"id": "a", "image": "a.png", "image_caption": "w6", "conversations": turns}
    (tmp_path / "EXAMPLES" / "pairs.jsonl").write_text(json.dumps(line))
    assert cli.run(["serve", *(a.replace("FOLDER", str(folder)) for a in arguments)]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_a_taken_port_is_one_line(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        how = {"host": "127.0.0.1", "port": port, "template": "chat", "dtype": "float32"}
        console = rich.console.Console(quiet=True)
        with pytest.raises(tga_jax.UserError, match=f"--port: cannot listen at 127.0.0.1:{port}"):
            start.api(folder, **how, batch=1, waiting=1, console=console)
        with pytest.raises(tga_jax.UserError, match=f"--port: cannot listen at 127.0.0.1:{port}"):
            start.page([folder], None, None, **how, new_tokens=8, console=console)

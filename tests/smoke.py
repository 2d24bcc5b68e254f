"""Every command of `tga`, once, in an environment that has the base install and the extra `gguf` alone.

The tests run where torch and all extras are, so they do not notice a command that cannot do without. This does: a plain
script, run by the environment's own Python, with a demo of one row and one step a training and with inputs of a few
samples, and with twins of public checkpoints, all in a temporary folder. It takes some minutes on two cores, and
fewer with --quick, which leaves out the notebook and what is done with the twins besides converting them:

    python -m venv /tmp/base && /tmp/base/bin/pip install -e '.[gguf]' && /tmp/base/bin/python tests/smoke.py

Exit status: 0, 1 if a command failed or has no case, 2 if this is no base install.
"""

import contextlib
import importlib.util
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import quick_support
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

sys.path.append(str(Path(__file__).parent / "checkpoints"))
import twins

from tga_jax import cli
from tga_jax.cli import bench
from tga_jax.cli.flags import ROOT

TGA = Path(sys.executable).parent / "tga"
OWN_DATA = f"--config={ROOT / 'configs' / 'own_data.py'}"

# (the command and what of it, what runs and checks it, whether --quick leaves it out), in the order in which they run:
# later ones take what earlier ones wrote.
CASES: list[tuple[str, Callable[[], None], bool]] = []

# In words that the demo's tokenizer has.
CAPTIONS = {
    "knife": "a knife on a red background",
    "gun": "a gun on a blue background",
    "cat": "a cat on a red background",
    "dog": "a dog on a green background",
}
HARMFUL = ("knife", "gun")

CONFIG = """
from ml_collections import ConfigDict

from configs import emoji


def shrink(config):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            shrink(value)
        elif name == "steps":
            config[name] = 1
        elif name == "batch_size":
            config[name] = 4
        elif name.endswith("_per_combo"):
            config[name] = min(value, 1)


def get_config():
    config = emoji.get_config()
    config.rows = {"tga": config.rows.tga}
    config.new_tokens = 1
    config.asked = 8
    shrink(config)
    return config
"""


# README.md's commands, and what stands here for its paths and names.
COMMANDS = [
    shlex.split(line.partition(" #")[0])[2:]
    for line in (ROOT / "README.md").read_text().splitlines()
    if line.startswith("bash launch/local.sh ")
]
HERE = {
    "/models/llava-1.5-7b-hf": "hub",
    "runs/llava": "demo/models/tga",
    "cat.png": "pictures/cat.png",
    "pairs.jsonl": "data.json",
    "train.json": "data.json",
    "/data/eval": "eval",
    "safety": "scenes",
}
# Those that do not run here, and why.
NOT_HERE = {
    "demo --quick": "two minutes",
    "test": "what this runs beside",
    "install serve": "an extra",
    "install smollm2": "an extra",
    "reproduce --scale=full": "the grid, days",
    "train --config=configs/mistral_7b.py:stage1 --workdir=runs/stage1": "needs weights of 14 GB",
}
RUN: set[str] = set()


def readme(command: str, number: int = 0) -> list[str]:
    """The arguments that README.md gives this command, in the line of this number of those that have it."""
    line = [words for words in COMMANDS if words[0] == command and " ".join(words) not in NOT_HERE][number]
    RUN.add(" ".join(line))
    found = []
    for word in line[1:]:
        flag, equals, value = word.partition("=")
        found.append(f"{flag}={HERE.get(value, value)}" if equals else HERE.get(word, word))
    return found


def case(name: str, slow: bool = False) -> Callable[[Callable[[], None]], None]:
    """name: begins with the command, of `tga bench` with the measurement too. slow: --quick leaves it out."""

    def add(function: Callable[[], None]) -> None:
        CASES.append((name, function, slow))

    return add


def run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """`tga` with these arguments. Raises RuntimeError for another exit status or a traceback."""
    done = process(TGA, *arguments)
    if done.returncode != status or "Traceback" in done.stderr:
        last = (done.stdout + done.stderr).splitlines()[-15:]
        raise RuntimeError("\n".join([f"ended with {done.returncode}, expected {status}:", *last]))
    return done


def process(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # Most of the time goes to compiling. tensorflow-datasets leaves temporary folders behind.
    environment = {**os.environ, **quick_support.ENVIRONMENT, "TMPDIR": os.getcwd(), "MPLBACKEND": "agg"}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": os.path.abspath("xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "encoding": "utf-8"}
    return subprocess.run(command, env=environment, timeout=600, **streams)


def run_here(*arguments: str | Path) -> str:
    """`tga` within this process, since starting one and compiling takes longer than all else; what it printed."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = cli.run([str(argument) for argument in arguments])
    if status not in (None, 0):
        raise RuntimeError("\n".join([f"ended with {status}, expected 0:", *out.getvalue().splitlines()[-15:]]))
    return out.getvalue()


def part(name: str) -> Path:
    """What the demo trained under this name."""
    (folder,) = Path("parts").glob(f"{name}-*")
    return folder


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write_inputs() -> None:
    """tiny.py, a config; data.json and pictures/; eval/, the benchmarks' folders."""
    Path("tiny.py").write_text(CONFIG)
    samples, captions, prompts = [], [], []
    for i, (thing, caption) in enumerate(CAPTIONS.items()):
        image, harmful = f"{thing}.png", thing in HARMFUL
        turns = [{"from": "human", "value": "<image>\ndescribe this"}, {"from": "gpt", "value": caption}]
        samples.append({"id": thing, "image": image, "image_caption": caption, "harmful": harmful})
        samples[-1]["conversations"] = turns
        scene = "weapon" if harmful else "benign"
        captions.append({"image": f"{scene}/{image}", "image_caption": caption})
        prompts.append({"id": thing, "text": caption, "harmful": harmful})
        for folder in ("pictures", f"eval/scenes/{scene}"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (60 * i, 255 - 60 * i, 128)).save(Path(folder, image))
    Path("data.json").write_text(json.dumps(samples))
    Path("eval/text-prompts").mkdir()
    for path, rows in (("eval/scenes/captions.jsonl", captions), ("eval/text-prompts/prompts.jsonl", prompts)):
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- help, errors, lists ----------------------------------------------------------------------------------------------


@case("help")
def _() -> None:
    usage = run("help", *readme("help")).stdout
    assert all(f"\n  {name} " in usage for name in cli.COMMANDS)


@case("chat, unknown flag")
def _() -> None:
    done = run("chat", "--nonsense=1", status=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "'nonsense'" in done.stderr


@case("convert --known")
def _() -> None:
    assert "llava-hf/llava-1.5-7b-hf: " in run_here("convert", "--known")


@case("validate-data --known")
def _() -> None:
    assert "llava-mix665k: " in run_here("validate-data", "--known")
    download = Path("download")
    download.mkdir()
    run("validate-data", "--known", "mmbench", download, status=1)
    (download / "mmbench_dev_20230712.tsv").touch()
    run_here("validate-data", "--known", "mmbench", download)


@case("evaluate --list")
def _() -> None:
    assert "text-prompts (safety): " in run_here("evaluate", "--list")


# --- the demo: its row `tga` is the checkpoint that the commands below take -------------------------------------------


@case("demo")
def _() -> None:
    run("demo", *readme("demo"), "--config=tiny.py", "--workdir=demo", "--parts=parts")
    results = read_json("demo/results.json")
    assert {row["name"] for row in results["rows"]} == {"tga"}
    assert "data:image/png;base64," in Path("demo/report.html").read_text()
    assert {path.name for path in Path("demo/models").iterdir()} == {"tga", "text-model"}


@case("demo --pictures-to")
def _() -> None:
    run("demo", "--config=tiny.py", "--pictures-to=shown", "--parts=parts")
    rows = read_lines("shown/pairs.jsonl")
    assert {row["harmful"] for row in rows} == {False, True}
    assert all(Path("shown", row["image"]).exists() for row in rows)


@case("demo, in the notebook", slow=True)
def _() -> None:
    """Every cell of launch/quickstart.ipynb, with the demo of above."""
    cells = read_json(str(ROOT / "launch" / "quickstart.ipynb"))["cells"]
    source = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    changed = {
        "FLAGS = []": "FLAGS = ['--config=tiny.py', '--parts=parts']",
        'WORKDIR = "runs/quickstart"': "WORKDIR = 'demo'",
        'MODELS = ("base", "tga")': "MODELS = ('tga',)",
        "if example.harmful is harm]": "if example.harmful is harm][:2]",  # what one step taught answers at length
        "os.chdir(root)": "",
        "root = next(": f"root = Path({str(ROOT)!r}) or next(",
    }
    text = "\n".join(source)
    for old, new in changed.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    done = process(sys.executable, "-c", text)
    assert done.returncode == 0, done.stderr[-1500:]
    assert "report: demo/report.html" in done.stdout
    assert "tga   refuses" in done.stdout
    assert "image tokens look like: " in done.stdout


@case("reproduce")
def _() -> None:
    before = set(Path("parts").iterdir())
    grid = (
        Path("tiny.py")
        .read_text()
        .replace("    return config\n", "    del config.rows.tga.stages.stage2\n    return config\n")
    )
    Path("grid.py").write_text(grid)
    small = ("--config=grid.py", "--rows=tga", "--jobs=2", "--workdir=grid", "--parts=parts")
    run("reproduce", *readme("reproduce"), *small)
    assert "\n| `tga` after fit | " in Path("grid/table.md").read_text()
    assert "answers/seed0-tga-fit.html#test" in Path("grid/report.html").read_text()
    assert set(Path("parts").iterdir()) - {Path("parts/compiled")} == before
    table = Path("grid/table.md").read_text()
    run_here("reproduce", "--config=grid.py", "--rows=tga", "--workdir=grid", "--parts=none", "--tables")
    assert Path("grid/table.md").read_text() == table


# --- data -------------------------------------------------------------------------------------------------------------


@case("validate-data")
def _() -> None:
    flags = (*readme("validate-data"), "--decode", "--tokenizer=parts/tokenizer")
    run("validate-data", *flags, "--json=valid.json", "--histogram=lengths.png")
    report = read_json("valid.json")
    assert report["counts"]["samples"] == len(CAPTIONS)
    assert report["fit_for_training"]
    assert Image.open("lengths.png").width > 0
    source = ("--config.data.source.own.path=data.json", "--config.data.source.own.images=pictures")
    own = (f"--config={ROOT}/configs/own_data.py:fit", *source, "--config.data.tokenizer=parts/tokenizer")
    run_here("validate-data", *own, "--decode", "--json=valid.json")
    assert read_json("valid.json")["own"]["fit_for_training"]


@case("caption")
def _() -> None:
    flags = ("--data=data.json", "--images=pictures", "--again", "--new-tokens=2")
    run("caption", *flags, "--checkpoint=demo/models/tga", "--to=captioned.jsonl")
    rows = read_lines("captioned.jsonl")
    assert [row["id"] for row in rows] == list(CAPTIONS)
    assert all(isinstance(row["image_caption"], str) for row in rows)


@case("convert --from-run, CLIP")
def _() -> None:
    run_here("convert", f"--from-run={part('clip')}", "--to=clip", "--dtype=fp32")
    assert read_json("clip/model.json")["kind"] == "clip"


@case("retrieve")
def _() -> None:
    flags = ("--clip=clip", "--cache=cache", "--near-duplicate=1")
    run("retrieve", "--data=data.json", "--images=pictures", *flags, "--to=both.jsonl")
    for row in read_lines("both.jsonl"):
        assert row["retrieved_caption"] in set(CAPTIONS.values()) - {row["image_caption"]}


@case("retrieve --query")
def _() -> None:
    flags = ("--clip=clip", "--cache=cache", "--neighbours=3")
    for query in ("a knife", "pictures/knife.png"):
        lines = run_here("retrieve", f"--query={query}", *flags).splitlines()
        assert len(lines) == 3
        assert {line.split(maxsplit=1)[1] for line in lines} < set(CAPTIONS.values())


@case("build-data")
def _() -> None:
    run_here("build-data", "both.jsonl", "--images=pictures", "--to=shards", "--shards=2")
    assert len(list(Path("shards").glob("*.array_record-*"))) == 2


# --- a training, and checkpoints in and out ---------------------------------------------------------------------------


TRAINING = (
    *("--config.data.source.own.path=shards", "--config.data.tokenizer=parts/tokenizer", "--config.model=bench-small"),
    *("--config.data.lengths=(640,)", "--config.batch_size=1"),
)


@case("train")
def _() -> None:
    """The shards, and a model whose projector is LLaVA's, so that it can be exported; the demo's is not."""
    run("train", OWN_DATA, "--workdir=run", *TRAINING, "--config.steps=1")
    assert read_json("run/params/parts.json") == ["projector"]


@case("sweep")
def _() -> None:
    run_here("sweep", OWN_DATA, "--workdir=swept", *TRAINING, "--vary.steps=1", "--config.keep=1")
    assert read_json("swept/sweep.json")["runs"][0]["metrics"]["loss"] > 0


@case("convert --from-run")
def _() -> None:
    run_here("convert", "--from-run=run", "--to=llava", "--dtype=fp32")
    assert read_json("llava/model.json")["kind"] == "llava"


@case("convert --projector-to")
def _() -> None:
    run_here("convert", "--from=llava", "--projector-to=mm_projector.bin")
    assert any(name.endswith("/data.pkl") for name in zipfile.ZipFile("mm_projector.bin").namelist())


@case("convert --to-hub")
def _() -> None:
    run_here("convert", "--from=llava", "--to-hub=hub")
    assert read_json("hub/config.json")["model_type"] == "llava"
    files = {path.name for path in Path("hub").iterdir()}
    assert {"model.safetensors", "preprocessor_config.json", "processor_config.json", "tokenizer.json"} <= files


@case("convert, hub folder")
def _() -> None:
    run("convert", *readme("convert"), "--to=llava-again", "--dtype=fp32")
    assert read_json("llava-again/model.json")["kind"] == "llava"


def write_gguf(path: str, tokenizer: dict[str, Any]) -> None:
    """A Llama of two blocks, random weights, and these `tokenizer.*` fields."""
    if importlib.util.find_spec("gguf") is None:
        raise RuntimeError("the package gguf is missing, expected an install of '.[gguf]'")
    import gguf

    hidden, mlp, tokens = 16, 32, tokenizer["ggml.tokens"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, value in tokenizer.items():
        kind = gguf.GGUFValueType.UINT32 if name.endswith("_id") else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(f"tokenizer.{name}", value, kind)
    shapes = {"token_embd": (len(tokens), hidden), "output_norm": (hidden,)}
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.{name}": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"{block}.{name}": (hidden, hidden) for name in ("attn_q", "attn_output")}
        shapes |= {f"{block}.{name}": (hidden // 2, hidden) for name in ("attn_k", "attn_v")}
        shapes |= {f"{block}.{name}": (mlp, hidden) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"{block}.ffn_down": (hidden, mlp)}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_gguf(name: str, tokenizer: dict[str, Any], a_cat: list[str]) -> None:
    """a_cat: the tokens of "a cat"."""
    write_gguf(f"{name}.gguf", tokenizer)
    run_here("convert", f"--from={name}.gguf", f"--to={name}")
    read = Tokenizer.from_file(f"{name}/hub/tokenizer.json")
    assert read.encode("a cat", add_special_tokens=False).tokens == a_cat
    for text in ("a cat", "a cät, 猫!"):
        assert read.decode(read.encode(text).ids) == text


@case("convert, GGUF, sentencepiece")
def _() -> None:
    special = ["<unk>", "<s>", "</s>"]
    octets = [f"<0x{i:02X}>" for i in range(256)]
    pieces = ["at", "▁a", "▁c", "▁cat", "▁", "a", "c", "t"]
    fields = {
        "ggml.model": "llama",
        "ggml.tokens": [*special, *octets, *pieces],
        "ggml.scores": [*[0.0] * (len(special) + len(octets)), *(-float(i) for i in range(len(pieces)))],
        "ggml.token_type": [2, 3, 3, *[6] * len(octets), *[1] * len(pieces)],  # unknown, control, byte, normal
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    check_gguf("spm", fields, ["▁a", "▁cat"])
    run("chat", "--checkpoint=spm", "--question=a cat", "--new-tokens=2")


@case("convert, GGUF, byte-level")
def _() -> None:
    merges = ["a t", "Ġ c", "Ġc at"]
    tokens = ["<|end|>", *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    fields = {
        "ggml.model": "gpt2",
        "ggml.pre": "llama-bpe",
        "ggml.tokens": tokens,
        "ggml.merges": merges,
        "ggml.token_type": [3, *[1] * (len(tokens) - 1)],  # control, normal
        "ggml.bos_token_id": 0,
        "ggml.eos_token_id": 0,
    }
    check_gguf("bpe", fields, ["a", "Ġcat"])


# --- what a checkpoint says, and why ----------------------------------------------------------------------------------


@case("chat")
def _() -> None:
    for how in (("--checkpoint=demo/models/text-model",), readme("chat")):
        assert run("chat", *how, "--question=describe this", "--new-tokens=4").stdout.strip()


@case("serve")
def _() -> None:
    """Without its extra, which this environment lacks."""
    for flags in (readme("serve"), readme("serve", 1)):
        done = run("serve", *flags, status=2)
        assert "is not installed; install it: bash launch/local.sh install serve" in done.stderr


@case("chat, README in Python")
def _() -> None:
    _, _, after = (ROOT / "README.md").read_text().partition("```python\n")
    text = after.partition("```")[0]
    for name, here in (("runs/llava", HERE["runs/llava"]), ("cat.png", HERE["cat.png"])):
        assert text.count(name) == 1
        text = text.replace(name, here)
    done = process(sys.executable, "-c", text + "print(states.shape)")
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.strip().endswith("(5, 1, 4, 128)"), done.stdout
    assert done.stderr == ""  # such as of a missing torch


@case("analyze")
def _() -> None:
    run("analyze", *readme("analyze"), "--window=4", "--image-tokens", "--to=inside")
    assert len(read_lines("inside/samples.jsonl")) == len(CAPTIONS)
    assert {"harmful", "benign"} <= read_json("inside/analysis.json")["groups"].keys()
    assert "data:image/png;base64," in Path("inside/report.html").read_text()


@case("evaluate")
def _() -> None:
    asked = (
        *readme("evaluate"),
        "--suite=text-prompts",
        "--new-tokens=2",
        "--max-degenerate=1",
    )  # so small a model may say one thing
    for defence in ("none", "system-prompt"):
        run("evaluate", *asked, "--judge=phrases", f"--defence={defence}", f"--to=eval-{defence}")
        results = read_json(f"eval-{defence}/results.json")
        assert set(results["benchmarks"]) == {"scenes", "text-prompts"}
        judges = {judge for found in results["benchmarks"].values() for judge in found["judges"]}
        assert {judge.rpartition("-")[0] for judge in judges} == {"phrases"}  # behind it its version
        assert len(read_lines(f"eval-{defence}/answers/scenes.jsonl")) == 2 * len(CAPTIONS)  # as picture and as text
        assert len(read_lines(f"eval-{defence}/answers/text-prompts.jsonl")) == len(CAPTIONS)
        assert "scenes" in Path(f"eval-{defence}/report.html").read_text()


@case("compare")
def _() -> None:
    run_here("compare", "eval-none", "eval-system-prompt", "--json=compared.json")
    compared = read_json("compared.json")
    assert {row["benchmark"] for row in compared["rows"]} == {"scenes", "text-prompts"}


# --- twins of public checkpoints --------------------------------------------------------------------------------------

HF, ORIGINAL, LORA = "llava-hf/llava-1.5-7b-hf", "liuhaotian/llava-v1.5-7b", "liuhaotian/llava-v1.5-7b-lora"
VICUNA, CLIP = "lmsys/vicuna-7b-v1.5", "openai/clip-vit-large-patch14-336"
TWIN_CONFIG = """
from pathlib import Path

from ml_collections import ConfigDict

from tga_jax.checkpoints.spec import read
from tga_jax.models import presets

FOLDER = Path({folder!r}).resolve()
presets.LLAVA["twin"] = lambda: read(FOLDER).config


def get_config():
    return ConfigDict({{
        "name": "twin", "seed": 0, "model": "twin", "steps": 2, "batch_size": 2,
        "init": dict.fromkeys(("clip", "projector", "llm"), str(FOLDER)),
        "loss": {{"lm": 1.0, "guide": {{"kind": "released", "layers": (0, 1)}}}},
        "optim": {{"learning_rate": 1e-4, "schedule": (("clip/.*", 0.0), (".*", 1.0))}},
        "data": {{
            "source": {{"own": {{"kind": "llava", "path": "data.json", "images": "pictures"}}}},
            "lengths": (160,), "caption_length": 32, "tokenizer": {tokenizer!r},
        }},
    }})
"""


def twin(name: str) -> Path:
    """The twin's folder."""
    folder = Path("twins", name)
    return folder if folder.exists() else twins.write(name, Path("twins"))[0]


def beside(name: str) -> tuple[str, ...]:
    """The other folders that `convert` needs for it."""
    vision = (f"--vision={twin(CLIP)}",) if name in (ORIGINAL, LORA) else ()
    return (*vision, f"--base={twin(VICUNA)}") if name == LORA else vision


@case("convert, twins")
def _() -> None:
    for name in (*twins.LLMS, *twins.CLIPS, *twins.LLAVAS):
        run_here("convert", f"--from={twin(name)}", *beside(name), f"--to=ours/{name}", "--dtype=fp32")
        run_here("convert", f"--from=ours/{name}", f"--to-hub=again/{name}")
        assert any(Path("again", name).glob("*.safetensors"))
    run_here("convert", f"--from=ours/{ORIGINAL}", "--projector-to=twin.bin")
    assert "llava-hf/llava-1.5-7b-hf" in run_here("convert", "--known")


@case("chat, twins", slow=True)
def _() -> None:
    flags = ("--image=pictures/cat.png", "--question=What is it?", "--new-tokens=3")
    assert run_here("chat", f"--checkpoint={twin(HF)}", *flags).strip()  # the tests ask all of them
    assert run_here("chat", f"--checkpoint=ours/{LORA}", *flags, "--template=vicuna_v1").strip()


@case("evaluate, twins", slow=True)
def _() -> None:
    flags = ("--suite=scenes", "--suite=text-prompts", "--data=eval", "--new-tokens=2", "--max-degenerate=1")
    run_here("evaluate", f"--checkpoint=ours/{HF}", *flags, "--to=evaluated")  # the tests ask all of them
    assert set(read_json("evaluated/results.json")["benchmarks"]) == {"text-prompts", "scenes"}


@case("retrieve, twins", slow=True)
def _() -> None:
    flags = (f"--clip={twin(CLIP)}", "--cache=cache-twin", "--near-duplicate=1", "--data=data.json")
    run_here("retrieve", *flags, "--images=pictures", "--to=twin.jsonl")
    assert all(row["retrieved_caption"] for row in read_lines("twin.jsonl"))
    assert run_here("retrieve", "--query=a knife", "--cache=cache-twin", f"--clip={twin(CLIP)}").strip()


@case("caption, twins", slow=True)
def _() -> None:
    flags = ("--data=data.json", "--images=pictures", "--again", "--new-tokens=2")
    run_here("caption", *flags, f"--checkpoint=ours/{HF}", "--to=twin-captions.jsonl")


@case("analyze, twins", slow=True)
def _() -> None:
    flags = ("--data=data.json", "--images=pictures", "--window=1", "--image-tokens")
    run_here("analyze", f"--checkpoint=ours/{HF}", *flags, "--to=inside-twin")


@case("train, twins", slow=True)
def _() -> None:
    """From a checkpoint of ours; what comes of it is asked and exported."""
    folder = Path("ours", HF)
    Path("twin.py").write_text(TWIN_CONFIG.format(folder=str(folder), tokenizer=str(folder / "hub")))
    run_here("validate-data", "--config=twin.py", "--decode")
    run_here("train", "--config=twin.py", "--workdir=twin")
    run_here("convert", "--from-run=twin", "--to=twin-whole", "--dtype=fp32")
    run_here("convert", "--from=twin-whole", "--to-hub=twin-hub")
    flags = ("--image=pictures/cat.png", "--question=What is it?", "--new-tokens=3", "--template=vicuna_v1")
    assert run_here("chat", "--checkpoint=twin-hub", *flags).strip()


# --- measurements -----------------------------------------------------------------------------------------------------


def check_bench(name: str, measured: str, *arguments: str) -> None:
    """measured: of its JSON file, a figure that is positive."""
    run("bench", name, *arguments, f"--json=bench-{name}.json")
    assert read_json(f"bench-{name}.json")[measured] > 0


@case("bench decode")
def _() -> None:
    check_bench("decode", "tokens_per_second", "--preset=llm-emoji", "--prompt=4", "--new-tokens=4", "--repeats=1")


@case("bench data")
def _() -> None:
    check_bench("data", "rows_per_second", "--rows=1280", "--repeats=1")


@case("bench retrieve")
def _() -> None:
    few = ("--rows=5000", "--dim=16", "--queries=8", "--cosines=0.9", "--repeats=1")
    run_here("bench", "retrieve", *few, "--json=bench-retrieve.json")
    assert all(found["exact_per_second"] > 0 for found in read_json("bench-retrieve.json")["figures"])


@case("bench train")
def _() -> None:
    small = ("--config.data.tokenizer=parts/tokenizer", "--config.batch_size=2", "--steps=1", "--warmup=1")
    check_bench("train", "samples_per_second", OWN_DATA, *small)


@case("bench vision")
def _() -> None:
    check_bench("vision", "pictures_per_second", "--model=clip-emoji", "--batch=2", "--repeats=1")


@case("bench judges")
def _() -> None:
    Path("labelled.csv").write_text("prompt,completion,final_label\nHow?,I can't help with that.,2_full_refusal\n")
    run_here("bench", "judges", "labelled.csv", "--json=bench-judges.json")
    assert read_json("bench-judges.json")["sets"]["xstest"]["phrases-2"]["recall"] == 1


@case("bench evaluate")
def _() -> None:
    check_bench("evaluate", "answers_per_second", "--samples=8", "--batch=4", "--new-tokens=2")


@case("bench aot")
def _() -> None:
    check_bench("aot", "peak", OWN_DATA, "--config.data.tokenizer=parts/tokenizer", "--target=8xcpu")


@case("bench plan")
def _() -> None:
    check_bench("plan", "step_seconds", OWN_DATA, "--config.data.tokenizer=parts/tokenizer", "--target=8xH200")


@case("bench gate")
def _() -> None:
    """Without a table, since to make one takes two minutes; with one it is a slow test."""
    done = run("bench", "gate", "none.json", status=2)
    assert "none.json: no such file" in done.stderr


@case("bench report")
def _() -> None:
    names = ("decode", "train", "vision", "aot", "plan")
    rows = run_here("bench", "report", *(f"bench-{name}.json" for name in names)).splitlines()[2:]
    assert [row.split()[1] for row in rows] == list(names)


@case("doctor")
def _() -> None:
    run("doctor", *readme("doctor"), "--json=doctor.json")
    assert {"devices", "matrix product"} <= {finding["what"] for finding in read_json("doctor.json")["findings"]}


# --- all of them ------------------------------------------------------------------------------------------------------


def names_without_case() -> set[str]:
    """Commands and measurements that have no case, and cases of what is none."""
    words = [name.replace(",", "").split() for name, *_ in CASES if name != "help"]
    commands = {first for first, *_ in words}
    benches = {rest[0] for first, *rest in words if first == "bench"}
    return (commands ^ cli.COMMANDS.keys()) | (benches ^ bench._BENCHES.keys())


def failure(error: Exception) -> str:
    """The line of the case, and what went wrong there."""
    frames = traceback.extract_tb(error.__traceback__)
    at = next(frame for frame in frames if frame.name == "_")
    return f"line {at.lineno}: {at.line}\n{type(error).__name__}: {error}"


def main() -> int:
    for package in ("torch", "pytest"):
        if importlib.util.find_spec(package):
            print(f"tests/smoke.py: {package} is installed here, expected the base install", file=sys.stderr)
            return 2
    if names := names_without_case():
        print(f"tests/smoke.py: no case, or no such command: {', '.join(sorted(names))}", file=sys.stderr)
        return 1
    quick = {(): False, ("--quick",): True}.get(tuple(sys.argv[1:]))
    if quick is None:
        print("usage: tests/smoke.py [--quick]", file=sys.stderr)
        return 2
    chosen = [(name, function) for name, function, slow in CASES if not (quick and slow)]
    failed, begin = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_inputs()
        for name, function in chosen:
            start, reason = time.monotonic(), ""
            try:
                function()
            except Exception as error:
                failed, reason = failed + 1, failure(error)
            print(f"{name:30} {time.monotonic() - start:5.0f} s  {'FAILED' if reason else 'ok'}", flush=True)
            if reason:
                print(textwrap.indent(reason, "    "), flush=True)
    if left := {" ".join(words) for words in COMMANDS} - RUN - NOT_HERE.keys():
        failed += 1
        print(f"README.md has commands that no case ran: {'; '.join(sorted(left))}")
    print(f"{len(chosen) - failed} of {len(chosen)} ok in {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""A small LLaVA with random weights and a chat template, and pictures for it."""

import base64
import io
import json
import socket
from pathlib import Path

import hub_support
import numpy as np
from PIL import Image

import tga_jax
from tga_jax.inference.model import Model
from tga_jax.serve import examples
from tga_jax.serve.page import Page, Seat
from tga_jax.serve.uploads import Uploads

CHAT = "{{ bos_token }}{% for m in messages %}[ {{ m['role'] }} ] {{ m['content'] }} {% endfor %}[ assistant ]"


def llava(folder: Path, seed: int = 8, **how) -> Model:
    hub_support.save(hub_support.model("llava", seed=seed), folder)
    model = tga_jax.load(folder, dtype="float32", **how)
    model.processor.tokenizer.chat_template = CHAT
    return model


def site(folder: Path, scratch: Path) -> Page:
    """Two checkpoints, three examples."""
    models = {name: llava(folder / name, seed, stacked=True) for name, seed in (("base", 8), ("tga", 9))}
    (folder / "examples").mkdir()
    lines = []
    for i, harmful in enumerate((True, False, None)):
        (folder / "examples" / f"{i}.png").write_bytes(png(i))
        turns = [{"from": "human", "value": f"<image>\nw{i + 5} w6"}]
        line = {"id": f"picture {i}", "image": f"{i}.png", "image_caption": f"w{i + 9} w12", "conversations": turns}
        lines.append(json.dumps({**line, **({} if harmful is None else {"harmful": harmful})}) + "\n")
    (folder / "examples" / "pairs.jsonl").write_text("".join(lines))
    (scratch / "pictures").mkdir(parents=True)
    seats = {name: Seat(name, model, refusals=("w30 w31", "w7")) for name, model in models.items()}
    return Page(seats, examples.read(folder / "examples"), Uploads(scratch / "pictures"), new_tokens=6)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def png(seed: int, size: tuple[int, int] = (30, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format="png")
    return written.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()

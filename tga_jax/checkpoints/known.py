"""`tga convert --known`: the upstream checkpoints that the presets name, and whether a folder is one of them."""

import dataclasses
import hashlib
import math
import tomllib
from pathlib import Path
from typing import Any

import jax
import rich.console

from tga_jax.checkpoints import convert, hub
from tga_jax.checkpoints.spec import Spec
from tga_jax.errors import UserError
from tga_jax.models import presets
from tga_jax.models.clip import ClipConfig

FILE = Path(__file__).parents[2] / "third_party" / "checkpoints.toml"


def entries() -> list[dict[str, Any]]:
    """Raises UserError if the table is missing, as it is outside a checkout."""
    try:
        return tomllib.loads(FILE.read_text())["checkpoint"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise UserError(f"{FILE}: cannot be read ({error})") from error


def expected(entry: dict[str, Any]) -> Spec:
    """The preset's shape. A LLaVA checkpoint has the vision tower alone of its CLIP."""
    if entry["kind"] == "clip":
        return Spec(kind="clip", config=presets.CLIP[entry["preset"]])
    if entry["kind"] == "llm":
        return Spec(kind="llm", config=presets.LLM[entry["preset"]])
    config = presets.LLAVA[entry["preset"]]()
    return Spec(kind="llava", config=dataclasses.replace(config, clip=ClipConfig(config.clip.vision, None, None)))


def parameters(entry: dict[str, Any]) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(convert.shapes(expected(entry))))


def _shape(model: Spec) -> list[tuple[int, ...]]:
    return [x.shape for x in jax.tree.leaves(convert.shapes(model))]


def tell(folder: Path | None, console: rich.console.Console) -> None:
    """Prints the table, or which entry the folder fits. Raises UserError if it fits none or a hash differs."""
    if folder is None:
        for entry in entries():
            count = parameters(entry)
            console.print(f"{entry['id']}: {entry['what']}", highlight=False, soft_wrap=True)
            size = f"{count:,} parameters, {2 * count / 1e9:.1f} GB in bf16"
            console.print(f"    {size}; licence: {entry['licence']}", highlight=False, soft_wrap=True)
        console.print("To get one: hf download ID --local-dir DIR; then tga convert --from=DIR --to=...")
        return
    model, _ = hub.open_hub(folder)
    shape = _shape(convert.words_alone(model))
    fits = [e for e in entries() if e["kind"] == model.kind and _shape(expected(e)) == shape]
    if not fits:
        raise UserError(f"{folder}: fits none of {', '.join(e['id'] for e in entries())}")
    for entry in fits:
        for name, wanted in entry.get("sha256", {}).items():
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != wanted:
                raise UserError(f"{folder / name}: sha256 {found}, expected {wanted} of {entry['id']}")
        checked = f"{len(entry['sha256'])} hashes checked" if "sha256" in entry else "no hashes known"
        console.print(f"{folder}: has the shape of {entry['id']} ({checked})")

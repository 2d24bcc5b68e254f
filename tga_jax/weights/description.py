"""`model.json`: what a checkpoint of ours is, and the files of the hub that it keeps beside its parameters."""

import dataclasses
import shutil
from pathlib import Path

from tga_jax import config
from tga_jax.errors import UserError
from tga_jax.models.clip import ClipConfig
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig
from tga_jax.weights.hub_config import HubModel
from tga_jax.workdir import read_json, write_json

FILE = "model.json"
HUB = "hub"  # the folder of companions
_KINDS = {"llava": LlavaConfig, "llm": LlamaConfig, "clip": ClipConfig}
_COMPANIONS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja",
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "chat_template*",
)  # fmt: skip


def write(workdir: Path, model: HubModel) -> None:
    write_json(workdir / FILE, dataclasses.asdict(model))


def read(workdir: Path) -> HubModel:
    """Raises UserError naming the file and the field that is wrong."""
    path = workdir / FILE
    raw = read_json(path, "a checkpoint's description", ("kind", "config"))
    fields = {field.name for field in dataclasses.fields(HubModel)}
    if unknown := sorted(raw.keys() - fields):
        raise UserError(f"{path}: unknown {', '.join(unknown)}, expected some of {', '.join(sorted(fields))}")
    if raw["kind"] not in _KINDS:
        raise UserError(f"{path}: kind {raw['kind']!r}, expected one of {', '.join(_KINDS)}")
    return HubModel(**{**raw, "config": config.build(_KINDS[raw["kind"]], raw["config"], str(path))})


def copy_companions(source: Path, target: Path) -> None:
    """The tokenizer's, processor's and generation's files of a hub folder."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in _COMPANIONS:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)

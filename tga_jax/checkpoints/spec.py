"""`model.json`: what a checkpoint of ours is, and the files of the hub that it keeps beside its parameters."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from tga_jax import config
from tga_jax.checkpoints.folder import leads_out
from tga_jax.errors import UserError
from tga_jax.models.clip import ClipConfig
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig
from tga_jax.workdir import read_json, write_json

FILE = "model.json"
HUB = "hub"  # the folder of companions
_KINDS = {"llava": LlavaConfig, "llm": LlamaConfig, "clip": ClipConfig}
# config.json: it has a say in which class of tokenizer transformers takes, and so in what the tokens are.
COMPANIONS = (
    "config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "*.jinja", "generation_config.json", "preprocessor_config.json", "processor_config.json", "chat_template*",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What a checkpoint is.

    kind: "llava", "llm" or "clip"; family: the LLM's model_type; image_token_id: what stands for an image in token ids,
    if the checkpoint names none the first id after its words; hub_fields: of the LLM's config, what its shape does not
    tell; image_mode: one of `data.images.MODES`; refusals: how the LLM refuses, where it was taught phrases of its own.
    """

    kind: str
    config: LlavaConfig | LlamaConfig | ClipConfig
    family: str | None = None
    image_token_id: int | None = None
    hub_fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_mode: str = "crop"
    refusals: tuple[str, ...] = ()

    @property
    def llm(self) -> LlamaConfig | None:
        if isinstance(self.config, LlamaConfig):
            return self.config
        return self.config.llm if isinstance(self.config, LlavaConfig) else None

    @property
    def clip(self) -> ClipConfig | None:
        if isinstance(self.config, ClipConfig):
            return self.config
        return self.config.clip if isinstance(self.config, LlavaConfig) else None


def write(workdir: Path, model: Spec) -> None:
    write_json(workdir / FILE, dataclasses.asdict(model))


def llava_config(raw: dict[str, Any], where: str) -> LlavaConfig:
    """Of JSON, of earlier versions too, which had the projector's kind, or a resampler's fields, and the width within
    it apart. Raises UserError naming the field that is wrong."""
    found = raw.get("projector")
    if isinstance(found, str) or (isinstance(found, dict) and "kind" not in found):
        width = {} if found == "linear" else {"hidden": raw.get("projector_hidden")}
        fields = {"kind": found} if isinstance(found, str) else {"kind": "resampler", **found}
        raw = {name: value for name, value in raw.items() if name != "projector_hidden"}
        raw |= {"projector": fields | width}
    return config.build(LlavaConfig, raw, where)


def read(workdir: Path) -> Spec:
    """Raises UserError naming the file and the field that is wrong."""
    path = workdir / FILE
    raw = read_json(path, "a checkpoint's description", ("kind", "config"))
    raw.pop("table_rows", None)  # of earlier versions, which left rows that are no words out of a table
    fields = {field.name for field in dataclasses.fields(Spec)}
    if unknown := sorted(raw.keys() - fields):
        raise UserError(f"{path}: unknown {', '.join(unknown)}, expected some of {', '.join(sorted(fields))}")
    if raw["kind"] not in _KINDS:
        raise UserError(f"{path}: kind {raw['kind']!r}, expected one of {', '.join(_KINDS)}")
    refusals = raw.get("refusals", [])
    if not isinstance(refusals, list) or not all(isinstance(phrase, str) for phrase in refusals):
        raise UserError(f"{path}: {refusals!r:.80} as refusals, expected a list of phrases")
    if raw["kind"] == "llava":
        built = llava_config(raw["config"], str(path))
    else:
        built = config.build(_KINDS[raw["kind"]], raw["config"], str(path))
    read: dict[str, Any] = {**raw, "config": built, "refusals": tuple(refusals)}
    return Spec(**read)


def copy_companions(source: Path, target: Path) -> None:
    """The tokenizer's, processor's and generation's files of a hub folder. Raises UserError for a link to a file that
    lies elsewhere, which would be published with the checkpoint."""
    for pattern in COMPANIONS:
        for found in source.glob(pattern):
            # A folder: chat_templates/, of templates with names.
            for file in found.glob("*.jinja") if found.is_dir() else [found]:
                if not file.is_file() or leads_out(source, file):
                    raise UserError(f"{file}: is no file, or a link out of the folder, expected a file in it")
                at = target / file.relative_to(source)
                at.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, at)

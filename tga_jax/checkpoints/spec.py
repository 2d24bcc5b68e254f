"""`model.json`: what a checkpoint of ours is, and the files of the hub that it keeps beside its parameters."""

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

from tga_jax import config
from tga_jax.checkpoints import limits
from tga_jax.checkpoints.families import FAMILIES
from tga_jax.checkpoints.folder import leads_out
from tga_jax.checkpoints.limits import HUGE
from tga_jax.data.images import MODES, RESAMPLING
from tga_jax.errors import UserError
from tga_jax.models.attention import IMPLEMENTATIONS
from tga_jax.models.clip import ClipConfig, TowerConfig
from tga_jax.models.layers import ACTIVATIONS
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig
from tga_jax.workdir import AnyPath, read_json, write_json

FILE = "model.json"
HUB = "hub"  # the folder of companions
_KINDS = {"llava": LlavaConfig, "llm": LlamaConfig, "clip": ClipConfig}
# Of the LLM's config, what an exported one needs beside its shape.
HUB_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")
_GRIDS, _IDS = 1000, 1000
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


def check(model: Spec, where: str) -> None:
    """Raises UserError for what fits no model, wherever the description comes from."""
    towers = model.clip
    for name in ("vision", "text"):
        tower: TowerConfig | None = getattr(towers, name, None)
        if tower is not None and tower.hidden_size % tower.num_heads:
            heads = f"a multiple of num_heads, {tower.num_heads}"
            raise UserError(f"{where}: {name}: hidden_size is {tower.hidden_size}, expected {heads}")
    if towers is not None and towers.vision.patch_size > towers.vision.image_size:
        said = f"at most image_size, {towers.vision.image_size}"
        raise UserError(f"{where}: vision: patch_size is {towers.vision.patch_size}, expected {said}")
    if isinstance(c := model.config, LlavaConfig):
        blocks, layer = c.clip.vision.num_layers, c.feature_layer
        every = layer if isinstance(layer, tuple) else (layer,)
        if not 0 < len(every) <= blocks + 1 or not all(type(x) is int and -1 - blocks <= x <= blocks for x in every):
            said = f"a number from {-1 - blocks} to {blocks}, or several"
            raise UserError(f"{where}: feature_layer is {layer!r:.60}, expected {said}")
        side = c.clip.vision.image_size
        for grid in c.tiles.pinpoints if c.tiles is not None else ():
            if not all(0 < edge <= 64 * side and edge % side == 0 for edge in grid):
                raise UserError(f"{where}: pinpoints has {grid}, expected multiples of {side}, the tower's image_size")
        if c.tiles is not None and not 0 < len(c.tiles.pinpoints) <= _GRIDS:
            raise UserError(f"{where}: {len(c.tiles.pinpoints)} pinpoints, expected 1 to {_GRIDS}")
    for name, value in model.hub_fields.items():
        every = value if isinstance(value, list) else [value]
        if name not in HUB_FIELDS or len(every) > _IDS or not all(type(x) is int and -1 <= x < HUGE for x in every):
            known = f"of {', '.join(HUB_FIELDS)} numbers, or up to {_IDS} of them"
            raise UserError(f"{where}: hub_fields: {name} is {value!r:.60}, expected {known}")


# What ours say in words -> the values.
_WORDS: dict[str, tuple[Any, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "attention": IMPLEMENTATIONS,
    "dtype": ("bfloat16", "float32"),
    "feature_select": ("patch", "full"),
    "resample": tuple(RESAMPLING),
}


def _check_words(where: str, raw: dict[str, Any]) -> None:
    for name, value in raw.items():
        if isinstance(value, dict):
            _check_words(f"{where}: {name}", value)
        elif name in _WORDS and value not in _WORDS[name]:
            raise UserError(f"{where}: {name} is {value!r:.60}, expected one of {', '.join(_WORDS[name])}")


def _check_projector(where: str, kind: Any, folder: AnyPath) -> None:
    """A checkpoint may name a projector's class in a module that is installed here; what comes along with the
    checkpoint, and programs, are not run."""
    place = kind.partition(":")[0] if isinstance(kind, str) and ":" in kind else ""
    top = place.partition(".")[0]
    if not top:
        return
    found = importlib.util.find_spec(top) if top.isidentifier() and top != "__main__" else None
    origin = Path(found.origin).resolve() if found is not None and found.origin else None
    if (
        top in sys.stdlib_module_names
        or "__main__" in place.split(".")
        or (origin is not None and origin.is_relative_to(Path(folder).resolve()))
    ):
        raise UserError(f"{where}: projector is {kind!r:.80}, which is not run; expected a class that is installed")


def build(raw: dict[str, Any], where: str, folder: AnyPath) -> Spec:
    """A description of JSON. folder: from which it comes. Raises UserError naming the field that is wrong."""
    fields = {field.name for field in dataclasses.fields(Spec)}
    if unknown := sorted(raw.keys() - fields):
        raise UserError(f"{where}: unknown {', '.join(unknown)}, expected some of {', '.join(sorted(fields))}")
    if raw["kind"] not in tuple(_KINDS):
        raise UserError(f"{where}: kind {raw['kind']!r:.60}, expected one of {', '.join(_KINDS)}")
    refusals = raw.get("refusals", [])
    if not isinstance(refusals, list) or not all(isinstance(phrase, str) for phrase in refusals):
        raise UserError(f"{where}: {refusals!r:.80} as refusals, expected a list of phrases")
    for name, known in (("family", (None, *FAMILIES)), ("image_mode", MODES)):
        if raw.get(name, known[0]) not in known:
            raise UserError(f"{where}: {name} is {raw[name]!r:.60}, expected one of {', '.join(map(str, known))}")
    for name in ("config", "hub_fields"):
        if not isinstance(raw.get(name, {}), dict):
            raise UserError(f"{where}: {name} is {raw[name]!r:.60}, expected an object")
    own = raw["config"]
    limits.check(where, raw)
    limits.check(where, own)
    _check_words(where, own)
    try:
        if raw["kind"] == "llava":
            found = own.get("projector")
            _check_projector(where, found.get("kind") if isinstance(found, dict) else found, folder)
            built = llava_config(own, where)
        else:
            built = config.build(_KINDS[raw["kind"]], own, where)
    except ArithmeticError as error:  # of numbers that are each in their range
        raise UserError(f"{where}: {error}") from error
    made: dict[str, Any] = {**raw, "config": built, "refusals": tuple(refusals)}
    model = Spec(**made)
    check(model, where)
    return model


def read(workdir: Path) -> Spec:
    """Raises UserError naming the file and the field that is wrong."""
    path = workdir / FILE
    raw = read_json(path, "a checkpoint's description", ("kind", "config"))
    raw.pop("table_rows", None)  # of earlier versions, which left rows that are no words out of a table
    return build(raw, str(path), workdir)


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

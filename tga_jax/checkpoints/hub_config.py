"""The hub's `config.json` as our model configs, and back. transformers fills in what a sparse file leaves out, so that
no default of ours stands in for a model's own; what is not understood is an error that names it.
"""

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import transformers

from tga_jax import config as config_files
from tga_jax.checkpoints import config_fields, families, hub_towers, limits, rope_config, spec
from tga_jax.checkpoints.config_fields import only
from tga_jax.checkpoints.families import FAMILIES
from tga_jax.checkpoints.spec import HUB_FIELDS, Spec
from tga_jax.errors import UserError
from tga_jax.models import presets
from tga_jax.models.clip import ClipConfig, VisionConfig
from tga_jax.models.layers import ACTIVATIONS
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig, Tiles
from tga_jax.models.projectors import Linear, Mlp2xGelu
from tga_jax.workdir import read_json

# Of language models; older files have them of towers and of the whole, where transformers does not read them.
_UNREAD = {"bos_token_id", "eos_token_id", "pad_token_id", "projection_dim", "tie_word_embeddings", "vocab_size"}
# LLaVA's own config: what concerns its training or its preprocessing of text.
_LLAVA_HARMLESS = {
    "freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "image_aspect_ratio", "image_grid_pinpoints",
    "mm_hidden_size", "mm_projector_lr", "mm_use_im_patch_token", "mm_vision_tower",
    "tokenizer_model_max_length", "tokenizer_padding_side", "tune_mm_mlp_adapter", "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower", "use_mm_proj", "max_sequence_length", "vision_tower_lr",
}  # fmt: skip
_LLAVA_FIXED = {"mm_resampler_type": (None,), "mm_use_im_start_end": (False,), "mm_patch_merge_type": ("flat", None)}


def llm_config(where: str, hf: Any) -> LlamaConfig:
    """hf: a transformers config. Raises UserError for a family or a field that this decoder does not compute."""
    if hf.model_type not in FAMILIES:
        raise UserError(f"{where}: model_type {hf.model_type!r}, expected one of {', '.join(FAMILIES)}")
    row = FAMILIES[hf.model_type]
    activation = getattr(hf, row.activation)
    if activation not in ACTIVATIONS:
        raise UserError(f"{where}: {row.activation} is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    heads, kv_heads = hf.num_attention_heads, hf.num_key_value_heads
    if heads % kv_heads:
        raise UserError(
            f"{where}: num_attention_heads is {heads}, expected a multiple of num_key_value_heads, which is {kv_heads} "
            f"in the file or else by {hf.model_type}'s default"
        )
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    if head_dim < 2 or head_dim % 2:
        raise UserError(f"{where}: head_dim is {head_dim}, expected an even number, of whose halves a rotation is made")
    own = rope_config.read(where, row, hf)
    try:
        fields: dict[str, Any] = {"sliding_window": None, **own, **row.traits, **row.read(hf)}
        return LlamaConfig(
            vocab_size=hf.vocab_size,
            hidden_size=hf.hidden_size,
            num_layers=hf.num_hidden_layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            mlp_size=hf.intermediate_size,
            rms_norm_eps=hf.rms_norm_eps,
            tie_embeddings=hf.tie_word_embeddings,
            activation=activation,
            **fields,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


_LLAVAS = ("llava", "llava_next", "llava_onevision")
_ANYRES = re.compile(r"anyres_max_([1-9]\d{0,3})")


def _tiles(where: str, hf: Any, side: int) -> Tiles | None:
    """Of LLaVA-NeXT and LLaVA-OneVision; None: a LLaVA, which has none. side: the tower's image size."""
    if hf.model_type == "llava":
        return None
    found = hf.image_grid_pinpoints

    def good(grid: Any) -> bool:
        sized = isinstance(grid, list | tuple) and len(grid) == 2 and all(type(edge) is int for edge in grid)
        return sized and all(0 < edge <= 64 * side and edge % side == 0 for edge in grid)

    if not (isinstance(found, list) and found and all(map(good, found))):
        said = f"pairs of multiples of {side}, the tower's image_size"
        raise UserError(f"{where}: image_grid_pinpoints is {str(found)[:60]}, expected {said}")
    most = None
    if hf.model_type == "llava_onevision":
        ratio = _ANYRES.fullmatch(hf.vision_aspect_ratio)
        if ratio is None:
            raise UserError(
                f"{where}: vision_aspect_ratio is {hf.vision_aspect_ratio!r}, expected such as anyres_max_9"
            )
        most = int(ratio[1])
    return Tiles(tuple((height, width) for height, width in found), most)


def _llava(where: str, raw: dict[str, Any], hf: Any) -> Spec:
    only(where, hf.projector_hidden_act, "gelu", "projector_hidden_act")
    only(where, hf.multimodal_projector_bias, True, "multimodal_projector_bias")
    blocks, layer = hf.vision_config.num_hidden_layers, hf.vision_feature_layer
    every = layer if isinstance(layer, list) else [layer]
    if not every or not all(isinstance(one, int) and -1 - blocks <= one <= blocks for one in every):
        raise UserError(
            f"{where}: vision_feature_layer is {layer!r}, expected a number from {-1 - blocks} to {blocks}, or several"
        )
    llm, image = llm_config(f"{where}: text_config", hf.text_config), hf.image_token_index
    vision = hub_towers.vision_config(f"{where}: vision_config", hf.vision_config)
    if not vision.has_cls:  # of which "default" would drop the first patch
        only(where, hf.vision_feature_select_strategy, "full", "vision_feature_select_strategy")
    config = LlavaConfig(
        clip=ClipConfig(vision, None, None),
        llm=dataclasses.replace(llm, tie_embeddings=hf.tie_word_embeddings),
        feature_layer=tuple(layer) if isinstance(layer, list) else layer,
        feature_select={"default": "patch", "full": "full"}[hf.vision_feature_select_strategy],
        tiles=_tiles(where, hf, vision.image_size),
    )
    if config.tiles is not None and config.features != vision.num_patches:  # a grid of patches has no place for CLS
        only(where, hf.vision_feature_select_strategy, "default", "vision_feature_select_strategy")
    hub_fields = _hub_fields(hf.text_config)
    return Spec(
        kind="llava",
        config=config,
        family=hf.text_config.model_type,
        image_token_id=image,
        hub_fields=hub_fields,
        image_mode=hub_towers.image_mode(vision) if config.tiles is None else "stretch",
    )


def _parsed(where: str, cls: Any, raw: dict[str, Any]) -> Any:
    limits.check(where, raw)
    try:
        hf = cls.from_dict(copy.deepcopy(raw))  # which it writes to
    except Exception as error:  # transformers' strict configs raise types of their own
        raise UserError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    for name, part in (("", hf), *((f"{name}: ", getattr(hf, name)) for name in hf.sub_configs)):
        if not isinstance(kind := getattr(part, "model_type", None), str):  # which they do not check
            raise UserError(f"{where}: {name}model_type is {kind!r:.60}, expected a string")
    return hf


def _original_llava(where: str, raw: dict[str, Any], tower: VisionConfig | None) -> Spec:
    """The config of LLaVA's own code: an LLM's with `mm_` fields in it, and of the tower only the name or place."""
    known_types = {name: family for family, row in FAMILIES.items() for name in row.llava}
    for name in ("model_type", "mm_vision_tower", "mm_projector_type", "mm_vision_select_feature"):
        if not isinstance(raw.get(name, ""), str):
            raise UserError(f"{where}: {name} is {raw[name]!r:.60}, expected a string")
    family = known_types.get(raw.get("model_type", ""))
    if family is None:
        raise UserError(f"{where}: model_type {raw.get('model_type')!r}, expected one of {', '.join(known_types)}")
    names = {"mm_projector_type", "mm_vision_select_layer", "mm_vision_select_feature"}
    cls = FAMILIES[family].config
    config_fields.check(where, raw, cls, names | _LLAVA_HARMLESS, _LLAVA_FIXED)
    own = {k: v for k, v in raw.items() if not k.startswith("mm_") and k not in _LLAVA_HARMLESS | {"model_type"}}
    hf = _parsed(where, cls, own)
    if not isinstance(raw.get("mm_vision_select_layer"), int):
        raise UserError(f"{where}: mm_vision_select_layer {raw.get('mm_vision_select_layer')!r}, expected such as -2")
    called = raw["mm_vision_tower"]
    name = called.rstrip("/").split("/")[-1].replace("patch", "")
    known = {f"clip-vit-{size}{patch}": ours for size, patch, ours in (
        ("base-", "32", "clip-vit-b-32"), ("base-", "16", "clip-vit-b-16"),
        ("large-", "14", "clip-vit-l-14"), ("large-", "14-336", "clip-vit-l-14-336"),
    )}  # fmt: skip
    vision = presets.CLIP[known[name]].vision if name in known else tower
    if vision is None:
        raise UserError(
            f"{where}: mm_vision_tower {called!r} is none of openai's CLIP models, expected --vision with it"
        )
    only(where, raw.get("mm_hidden_size", vision.hidden_size), vision.hidden_size, "mm_hidden_size")
    kind = raw.get("mm_projector_type", "linear")
    if kind not in ("linear", "mlp2x_gelu"):
        raise UserError(f"{where}: mm_projector_type {kind!r}, expected linear or mlp2x_gelu")
    select = {"patch": "patch", "cls_patch": "full"}.get(raw.get("mm_vision_select_feature", "patch"))
    if select is None:
        raise UserError(f"{where}: mm_vision_select_feature {raw['mm_vision_select_feature']!r}")
    llm = llm_config(where, hf)
    projector = Linear() if kind == "linear" else Mlp2xGelu()
    config = LlavaConfig(ClipConfig(vision, None, None), llm, projector, raw["mm_vision_select_layer"], select)
    aspect = raw.get("image_aspect_ratio", "square")
    if aspect not in ("pad", "square"):
        raise UserError(f"{where}: image_aspect_ratio {aspect!r}, expected pad or square")
    return Spec(
        kind="llava",
        config=config,
        family=family,
        image_token_id=llm.vocab_size,
        hub_fields=_hub_fields(hf),
        image_mode="pad" if aspect == "pad" else hub_towers.image_mode(vision),
    )


def _hub_fields(hf: Any) -> dict[str, Any]:
    return {name: getattr(hf, name) for name in HUB_FIELDS if getattr(hf, name, None) is not None}


def read(folder: Path, tower: VisionConfig | None = None) -> Spec:
    """What the checkpoint in a hub folder is; tower: of a LLaVA that names another than openai's. Raises UserError
    naming the file and what is not understood."""
    path = folder / "config.json"
    return describe(str(path), read_json(path, "the config of a hub checkpoint"), tower)


def describe(path: str, raw: dict[str, Any], tower: VisionConfig | None = None) -> Spec:
    """The same from a config's fields; path: names it in errors."""
    found = _described(path, raw, tower)
    config_files.build(
        type(found.config), dataclasses.asdict(found.config), path
    )  # raises for what no class has checked
    spec.check(found, path)
    return found


def _check_fields(where: str, raw: dict[str, Any], hf: Any, also: set[str]) -> None:
    row = FAMILIES.get(hf.model_type)
    if row is None:
        config_fields.check(where, raw, type(hf), also)
    else:
        config_fields.check(where, raw, row.config, also | row.also, row.fixed)


def _described(path: str, raw: dict[str, Any], tower: VisionConfig | None) -> Spec:
    if {"init", "steps"} <= raw.keys():
        raise UserError(f"{path}: of a training, expected a checkpoint; `tga convert --from-run` makes one of it")
    if "mm_vision_tower" in raw:
        return _original_llava(path, raw, tower)
    family = raw.get("model_type")
    supported = (*FAMILIES, "clip", "siglip", *hub_towers.TOWERS, *_LLAVAS)
    if family not in supported:
        raise UserError(f"{path}: model_type {family!r}, expected one of {', '.join(supported)}")
    hf = _parsed(path, transformers.CONFIG_MAPPING[family], raw)  # pyrefly: ignore
    also = _UNREAD if "text_config" in type(hf).sub_configs or family in hub_towers.TOWERS else set()
    _check_fields(path, raw, hf, also)
    # SigLIP's text tower is not read.
    for name in ("vision_config",) if family == "siglip" else ("text_config", "vision_config"):
        for spelling in (name, f"{name}_dict"):  # which CLIP's older files have besides
            if isinstance(raw.get(spelling), dict):
                place, part = f"{path}: {spelling}", getattr(hf, name)
                if name == "vision_config":
                    hub_towers.check_kind(place, part)
                encoder = part.model_type in (*hub_towers.TOWERS, "clip_text_model")
                _check_fields(place, raw[spelling], part, _UNREAD if encoder else set())
    if family in _LLAVAS:
        return _llava(path, raw, hf)
    if family == "clip":
        return Spec(kind="clip", config=hub_towers.clip_config(path, hf))
    if family == "siglip" or family in hub_towers.TOWERS:
        place, tower = (f"{path}: vision_config", hf.vision_config) if family == "siglip" else (path, hf)
        vision = hub_towers.vision_config(place, tower)
        return Spec(kind="clip", config=ClipConfig(vision, None, None), image_mode=hub_towers.image_mode(vision))
    return Spec(kind="llm", config=llm_config(path, hf), family=family, hub_fields=_hub_fields(hf))


def _hub_llm(model: Spec, vocab_size: int) -> Any:
    c = model.llm
    if c is None:
        raise ValueError("expected a model with an LLM")
    family = model.family or families.of(c)
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.mlp_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_parameters": rope_config.write(FAMILIES[family], c),
        "tie_word_embeddings": c.tie_embeddings,
    }
    row = FAMILIES[family]
    fields[row.activation] = c.activation
    try:
        fields |= families.fields(family, c)
    except ValueError as error:
        raise UserError(f"export: of {family} {error}") from error
    fields = {name: value for name, value in fields.items() if name not in row.lacks}
    return row.config(**fields, **model.hub_fields, architectures=[row.architecture])


def _hub_tiles(model: Spec, c: LlavaConfig) -> tuple[Any, dict[str, Any]]:
    """(class of the hub's config, the fields that it alone has)."""
    if c.tiles is None:
        return transformers.LlavaConfig, {"image_seq_length": c.image_tokens}
    grids = [list(grid) for grid in c.tiles.pinpoints]
    if c.tiles.most is None:
        return transformers.LlavaNextConfig, {"image_seq_length": c.image_tokens, "image_grid_pinpoints": grids}
    assert model.image_token_id is not None
    # Videos are not supported here, and have the id behind pictures', as in the published models.
    video = {"video_token_index": model.image_token_id + 1, "vision_aspect_ratio": f"anyres_max_{c.tiles.most}"}
    return transformers.LlavaOnevisionConfig, {"image_grid_pinpoints": grids, **video}


def to_hub(model: Spec, vocab_size: int | None = None) -> Any:
    """The transformers config of an exported model; vocab_size: rows of the embedding table, with its padding.

    Raises UserError for a shape that the hub's model of this family cannot have.
    """
    if isinstance(model.config, LlamaConfig):
        return _hub_llm(model, vocab_size or model.config.vocab_size)
    if isinstance(model.config, LlavaConfig):
        c = model.config
        width = c.llm.hidden_size
        if c.projector.on(width) != Mlp2xGelu(hidden=width):
            raise UserError(
                f"export: projector {c.projector}, expected mlp2x_gelu of the decoder's width {width}, the only one of "
                "LlavaForConditionalGeneration"
            )
        own, kind = _hub_tiles(model, c)
        return own(
            vision_config=hub_towers.to_hub_vision(c.clip.vision),
            text_config=_hub_llm(model, vocab_size or c.llm.vocab_size),
            image_token_index=model.image_token_id,  # pyrefly: ignore
            vision_feature_layer=list(c.feature_layer) if isinstance(c.feature_layer, tuple) else c.feature_layer,
            vision_feature_select_strategy=hub_towers.select_strategy(c),
            tie_word_embeddings=c.llm.tie_embeddings,
            architectures=[f"{own.__name__.removesuffix('Config')}ForConditionalGeneration"],
            **kind,
        )
    vision, text = hub_towers.to_hub_vision(model.config.vision), model.config.text
    if text is None:
        vision.architectures = ["CLIPVisionModel" if model.config.vision.has_cls else "SiglipVisionModel"]
        return vision
    if text.eos_token_id == 2:
        raise UserError(
            "the text tower ends texts with token 2, which transformers takes for: the largest id of a text"
        )
    hub_text = transformers.CLIPTextConfig(
        **hub_towers.to_hub_tower(text),
        vocab_size=text.vocab_size,
        max_position_embeddings=text.context_length,
        eos_token_id=2 if text.eos_token_id is None else text.eos_token_id,
    )
    return transformers.CLIPConfig(
        vision_config=vision.to_dict(),
        text_config=hub_text.to_dict(),
        projection_dim=model.config.embed_size,
        architectures=["CLIPModel"],
    )

"""How a hub folder wants its pictures prepared: `preprocessor_config.json`, or `image_processor` in
`processor_config.json`, which counts first where both are there, as in transformers.

Pixels are those of transformers' processors on Pillow (`CLIPImageProcessorPil`, `LlavaImageProcessorPil`); where
torchvision is installed, transformers resizes with that, and values of 0 to 255 differ slightly.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.checkpoints.spec import Spec
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.models.clip import VisionConfig
from tga_jax.models.llava import LlavaConfig
from tga_jax.workdir import read_json

_FILE, _NESTED = "preprocessor_config.json", "processor_config.json"
_CLASSES = ("CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor", "SiglipImageProcessor")
_TILED = ("LlavaNextImageProcessor", "LlavaOnevisionImageProcessor")
# What transformers takes for fields that a file leaves out, where that differs from its processor of CLIP.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SiglipImageProcessor": {
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}, "do_center_crop": False,
    },
    "LlavaOnevisionImageProcessor": {"size": {"height": 384, "width": 384}, "do_center_crop": False},
}  # fmt: skip
RESAMPLE = {"bicubic": 3, "bilinear": 2}  # of Pillow
_USED = {
    "crop_size", "default_to_square", "do_center_crop", "do_normalize", "do_pad", "do_rescale", "do_resize",
    "feature_extractor_type", "image_mean", "image_processor_type", "image_std", "resample", "rescale_factor", "size",
    "use_square_size",
}  # fmt: skip
# Fields without effect on the pixels: names, and how arrays are laid out, placed and put together. `do_convert_rgb`:
# pictures are RGB before, as those of transformers' `load_image` are. `image_seq_length`: follows from the tower.
# `pad_size`: of `do_pad`, in which a CLIP's processor fills pictures up to one size, which they have here.
_HARMLESS = {
    "_processor_class", "_valid_processor_keys", "data_format", "device", "disable_grouping", "do_convert_rgb",
    "image_seq_length", "input_data_format", "pad_size", "processor_class", "return_tensors",
}  # fmt: skip
# Of processor_config.json, beside `image_processor`. How many positions a picture takes follows from config.json;
# transformers stops where these fields say otherwise. Templates are the tokenizer's concern.
_PROCESSOR_HARMLESS = {
    "chat_template", "num_additional_image_tokens", "patch_size", "processor_class", "vision_feature_select_strategy",
}  # fmt: skip

# Videos are not read; the others follow from config.json.
_ONEVISION_HARMLESS = {"num_image_tokens", "video_processor", "video_token", "vision_aspect_ratio"}


def find(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """(the file and place, the fields) in a hub folder; None if it does not say how pictures are prepared."""
    nested, path = folder / _NESTED, folder / _FILE
    if nested.exists():
        own = read_json(nested, "the parts of a processor").get("image_processor")
        if own is not None:
            if not isinstance(own, dict):
                raise UserError(f"{nested}: image_processor is {str(own)[:60]!r}, expected the fields of one")
            return f"{nested}: image_processor", own
    return (str(path), read_json(path, "how images are prepared")) if path.exists() else None


def _check_processor(folder: Path, tiled: bool) -> None:
    path = folder / _NESTED
    raw = read_json(path, "the parts of a processor") if path.exists() else {}
    known = _PROCESSOR_HARMLESS | {"image_processor", "image_token"} | (_ONEVISION_HARMLESS if tiled else set())
    if unknown := sorted(raw.keys() - known):
        raise UserError(f"{path}: unknown field {unknown[0]}; what it means for the model is not known here")
    if (token := raw.get("image_token")) not in (None, IMAGE):
        raise UserError(f"{path}: image_token is {token!r}, expected {IMAGE}; nothing else is supported")


def _sides(value: Any, square: bool) -> Any:
    """The forms that a size has, as one: {"height", "width"}, {"shortest_edge"}, or what it is."""
    if isinstance(value, int):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) == 2:
        return {"height": value[0], "width": value[1]}
    return value


def _with(model: Spec, mode: str, **fields: Any) -> Spec:
    """fields: of the vision tower."""
    config, towers = model.config, model.clip
    assert towers is not None
    towers = dataclasses.replace(towers, vision=dataclasses.replace(towers.vision, **fields))
    new = dataclasses.replace(config, clip=towers) if isinstance(config, LlavaConfig) else towers
    return dataclasses.replace(model, config=new, image_mode=mode)


def read(folder: Path, model: Spec) -> Spec:
    """The model with what its folder says of pictures: the mode, and of the tower the pixels' mean and deviation and
    how they are resized. Raises UserError naming the field of a preprocessing that is not done here."""
    if model.clip is None or (found := find(folder)) is None:
        return model
    where, raw = found
    tiles = model.config.tiles if isinstance(model.config, LlavaConfig) else None
    also = {"aspect_ratio_setting", "image_grid_pinpoints"} if tiles is not None else set()
    if unknown := sorted(raw.keys() - _USED - _HARMLESS - also):
        raise UserError(f"{where}: unknown field {unknown[0]}; what it means for pictures is not known here")
    if model.kind == "llava":
        _check_processor(folder, tiles is not None)

    def check(name: str, good: bool, expected: Any) -> None:
        if not good:
            shown = repr(raw[name]) if name in raw else "absent, which means 224 pixels"
            raise UserError(f"{where}: {name} is {shown}, expected {expected}; nothing else is supported")

    name = "image_processor_type" if raw.get("image_processor_type") else "feature_extractor_type"
    own = "Llava" if model.kind == "llava" else "CLIP" if model.clip.vision.has_cls else "Siglip"
    known = _CLASSES if tiles is None else (_TILED[tiles.most is not None],)
    kind = str(raw.get(name) or (f"{own}ImageProcessor" if tiles is None else known[0]))
    kind = kind.removesuffix("Fast").removesuffix("Pil")
    check(name, kind in known, " or ".join(known))
    if tiles is not None:
        grids = [list(grid) for grid in tiles.pinpoints]
        check("image_grid_pinpoints", raw.get("image_grid_pinpoints", grids) == grids, "config.json's")
        check("aspect_ratio_setting", raw.get("aspect_ratio_setting", "anyres") == "anyres", "anyres")
    raw = _DEFAULTS.get(kind, {}) | raw
    for flag in ("do_resize", "do_rescale", "do_normalize"):
        check(flag, raw.get(flag, True) is True, True)
    check("use_square_size", not raw.get("use_square_size"), False)
    pixels = {}
    for flag, field in (("image_mean", "pixel_mean"), ("image_std", "pixel_std")):
        clips: tuple[float, ...] = getattr(VisionConfig, field)
        value = raw.get(flag, list(clips))
        numbers = isinstance(value, list) and len(value) == 3 and all(type(x) in (float, int) for x in value)
        check(flag, numbers and all(0 < x < 10 for x in value), "three numbers above 0, of pixels in 0..1")
        # Some files have them rounded, and are CLIP's all the same.
        pixels[field] = clips if np.allclose(value, clips, rtol=0, atol=1e-6) else tuple(map(float, value))
    factor = raw.get("rescale_factor", 1 / 255)
    check("rescale_factor", isinstance(factor, float) and abs(factor * 255 - 1) < 1e-6, "1/255")
    resample = next((name for name, code in RESAMPLE.items() if raw.get("resample", 3) == code), None)
    check("resample", resample is not None, "3, which is bicubic, or 2, which is bilinear")
    side = model.clip.vision.image_size
    square = {"height": side, "width": side}
    size = _sides(raw.get("size", 224), raw.get("default_to_square", False))
    check("size", size in (square, {"shortest_edge": side}), f"shortest_edge or both {side}, as of the vision tower")
    pads = model.image_mode == "pad" or (kind == "LlavaImageProcessor" and bool(raw.get("do_pad")))
    # With tiles the whole picture is stretched, and nothing else is cut.
    found_mode = "pad" if pads else "stretch" if size == square or tiles is not None else "crop"
    if raw.get("do_center_crop", True) is not True:
        check("do_center_crop", found_mode != "crop", "True, or a size that leaves nothing to crop")
    else:
        check("crop_size", _sides(raw.get("crop_size", 224), True) == square, f"{side}, as of the vision tower")
    return _with(model, found_mode, **pixels, resample=resample)


def to_hub(model: Spec) -> Any:
    """transformers' image processor that does the same, on Pillow."""
    import transformers

    assert model.clip is not None
    vision, config = model.clip.vision, model.config
    tiles = config.tiles if isinstance(config, LlavaConfig) else None
    square = {"height": vision.image_size, "width": vision.image_size}
    shortest = {"shortest_edge": vision.image_size}
    fields: dict[str, Any] = {"image_mean": list(vision.pixel_mean), "image_std": list(vision.pixel_std)}
    fields["resample"] = RESAMPLE[vision.resample]
    if tiles is not None:
        fields["image_grid_pinpoints"] = [list(grid) for grid in tiles.pinpoints]
        if tiles.most is not None:
            return transformers.LlavaOnevisionImageProcessorPil(size=square, **fields)
        return transformers.LlavaNextImageProcessorPil(size=shortest, crop_size=square, **fields)
    fields |= {"size": square if model.image_mode == "stretch" else shortest, "crop_size": square}
    if model.image_mode == "pad":  # a square first, of the mean color
        return transformers.LlavaImageProcessorPil(**fields, do_pad=True)
    return transformers.CLIPImageProcessorPil(**fields)

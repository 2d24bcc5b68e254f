"""How a hub folder wants its pictures prepared: `preprocessor_config.json`, or `image_processor` in
`processor_config.json`, which counts first where both are there, as in transformers.

Pixels are those of transformers' processors on Pillow (`CLIPImageProcessorPil`, `LlavaImageProcessorPil`); where
torchvision is installed, transformers resizes with that, and values of 0 to 255 differ slightly.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.checkpoints.spec import Spec
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.models.llava import PIXEL_MEAN, PIXEL_STD
from tga_jax.workdir import read_json

_FILE, _NESTED = "preprocessor_config.json", "processor_config.json"
_CLASSES = ("CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor")
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


def _check_processor(folder: Path) -> None:
    path = folder / _NESTED
    raw = read_json(path, "the parts of a processor") if path.exists() else {}
    if unknown := sorted(raw.keys() - _PROCESSOR_HARMLESS - {"image_processor", "image_token"}):
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


def mode(folder: Path, model: Spec) -> str:
    """One of `data.images.MODES`. Raises UserError naming the field of a preprocessing that is not done here."""
    if model.clip is None or (found := find(folder)) is None:
        return model.image_mode
    where, raw = found
    if unknown := sorted(raw.keys() - _USED - _HARMLESS):
        raise UserError(f"{where}: unknown field {unknown[0]}; what it means for pictures is not known here")
    if model.kind == "llava":
        _check_processor(folder)

    def check(name: str, good: bool, expected: Any) -> None:
        if not good:
            shown = repr(raw[name]) if name in raw else "absent, which means 224 pixels"
            raise UserError(f"{where}: {name} is {shown}, expected {expected}; nothing else is supported")

    name = "image_processor_type" if raw.get("image_processor_type") else "feature_extractor_type"
    kind = str(raw.get(name) or (_CLASSES[2] if model.kind == "llava" else _CLASSES[0]))
    kind = kind.removesuffix("Fast").removesuffix("Pil")
    check(name, kind in _CLASSES, " or ".join(_CLASSES))
    for flag in ("do_resize", "do_rescale", "do_normalize"):
        check(flag, raw.get(flag, True) is True, True)
    check("use_square_size", not raw.get("use_square_size"), False)
    for flag, theirs in (("image_mean", PIXEL_MEAN), ("image_std", PIXEL_STD)):
        value = raw.get(flag, list(theirs))
        numbers = isinstance(value, list) and len(value) == 3 and all(isinstance(x, float | int) for x in value)
        check(flag, numbers and np.allclose(value, theirs, atol=1e-6), f"CLIP's {list(theirs)}")
    factor = raw.get("rescale_factor", 1 / 255)
    check("rescale_factor", isinstance(factor, float) and abs(factor * 255 - 1) < 1e-6, "1/255")
    check("resample", raw.get("resample", 3) == 3, "3, which is bicubic")
    side = model.clip.vision.image_size
    square = {"height": side, "width": side}
    size = _sides(raw.get("size", 224), raw.get("default_to_square", False))
    check("size", size in (square, {"shortest_edge": side}), f"shortest_edge or both {side}, as of the vision tower")
    pads = model.image_mode == "pad" or (kind == "LlavaImageProcessor" and bool(raw.get("do_pad")))
    found_mode = "pad" if pads else "stretch" if size == square else "crop"
    if raw.get("do_center_crop", True) is not True:
        check("do_center_crop", found_mode != "crop", "True, or a size that leaves nothing to crop")
    else:
        check("crop_size", _sides(raw.get("crop_size", 224), True) == square, f"{side}, as of the vision tower")
    return found_mode

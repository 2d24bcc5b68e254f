"""Preprocessing as a hub folder states it: the pixels of transformers' own processor, or an error with the field."""

import json
from pathlib import Path
from typing import Any

import hub_support
import numpy as np
import pytest
import transformers
from PIL import Image

from tga_jax.checkpoints import hub, image_config
from tga_jax.checkpoints.spec import Spec
from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.models import clip, llama, llava

SIDE = 28
VISION = clip.VisionConfig(8, 1, 2, 16, image_size=SIDE, patch_size=14)
LLAVA = Spec(
    kind="llava",
    config=llava.LlavaConfig(
        clip.ClipConfig(VISION, None, None), llama.LlamaConfig(67, 16, 1, 4, 2, 6, 24, 1e4, 1e-5, None, True)
    ),
    family="llama",
)
CLIP = Spec(kind="clip", config=clip.ClipConfig(VISION, clip.TextConfig(8, 1, 2, 16), 8))
PLAIN = {  # of llava-hf/llava-1.5-7b-hf, but for its size
    "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "LlavaProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": SIDE},
}  # fmt: skip
SQUARE = {"height": SIDE, "width": SIDE}
HONOURED: list[dict[str, Any]] = [
    {},
    {"size": SIDE, "crop_size": SIDE},
    {"size": SQUARE},
    {"size": SQUARE, "do_center_crop": False},
    {"size": SQUARE, "do_center_crop": None, "crop_size": None},
    {"size": [SIDE, SIDE]},
    {"size": SIDE, "default_to_square": True},
    {"do_pad": True},
    {"do_pad": True, "pad_size": SQUARE},
    {"image_processor_type": "LlavaImageProcessor"},
    {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
    {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": SQUARE},
    {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "do_center_crop": False},
    {"image_processor_type": "CLIPImageProcessorFast", "disable_grouping": None, "return_tensors": None},
    {"image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"},
    {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.229, 0.224, 0.225], "do_pad": True,
     "image_processor_type": "LlavaImageProcessor"},
    {"image_mean": [0.4814546585083008, 0.457827516, 0.408210731]},
    *({"resample": 2, **fields} for fields in (
        {}, {"size": SQUARE}, {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
    )),
    {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, "do_center_crop": None, "crop_size": None,
     "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    {"do_convert_rgb": None, "data_format": "channels_first", "_valid_processor_keys": ["images"]},
]  # fmt: skip
REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: False}) for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")),
    ("rescale_factor", {"rescale_factor": 1}),
    ("rescale_factor", {"rescale_factor": 1 / 127.5}),
    ("image_mean", {"image_mean": 0.5}),
    ("image_mean", {"image_mean": [0.5, 0.5]}),
    ("image_mean", {"image_mean": [0.5, 0.5, float("nan")]}),
    ("image_std", {"image_std": [0.5, 0.5, 0.0]}),
    ("image_std", {"image_std": [0.5, 0.5, True]}),
    *((name, {name: None}) for name in ("do_resize", "do_normalize", "rescale_factor", "image_mean", "resample")),
    ("resample", {"resample": 0}),
    ("resample", {"resample": [3]}),
    ("size", {"size": {"shortest_edge": 32}}),
    ("size", {"size": {"shortest_edge": SIDE, "longest_edge": 40}}),
    ("size", {"size": {"longest_edge": SIDE}}),
    ("size", {"size": {"height": SIDE, "width": 32}}),
    ("size", {"size": None}),
    ("crop_size", {"crop_size": 32}),
    ("crop_size", {"crop_size": None}),
    ("use_square_size", {"use_square_size": True}),
    *(
        ("image_processor_type", {"image_processor_type": f"{name}ImageProcessor"})
        for name in ("Siglip2", "LlavaNext", "Pixtral", "Vit")
    ),
    ("feature_extractor_type", {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"}),
    *((name, {name: value}) for name, value in {
        "image_grid_pinpoints": [[336, 672]], "image_aspect_ratio": "anyres", "aspect_ratio_setting": "anyres",
        "do_sample_frames": True, "temporal_patch_size": 2, "min_pixels": 3136, "auto_map": {"a": "b"},
        "do_convert_grayscale": True, "patch_size": {"height": 16, "width": 16},
    }.items()),
]  # fmt: skip


def folder_of(path: Path, fields: dict[str, Any], nested: bool) -> Path:
    """nested: as transformers 5 writes it, beside an older file that does not count."""
    raw = {**PLAIN, **fields}
    if nested:
        other = {"patch_size": 14, "num_additional_image_tokens": 1, "image_token": "<image>"}
        (path / "processor_config.json").write_text(json.dumps({"image_processor": raw, **other}))
        raw = {"size": 7, "do_resize": False, "nonsense": 1}
    (path / "preprocessor_config.json").write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("fields", HONOURED)
def test_what_is_honoured_has_transformers_pixels(tmp_path, fields, nested):
    folder = folder_of(tmp_path, fields, nested)
    model = image_config.read(folder, LLAVA)
    tower = model.config.clip.vision  # pyright: ignore
    how = {"resample": tower.resample, "color": images.color_of(tower.pixel_mean)}
    theirs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert type(theirs).__name__.endswith("Pil")
    for height, width in ((30, 41), (41, 30), (28, 28), (5, 90)):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
        expected = theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        made = images.preprocess(Image.fromarray(pixels), SIDE, model.image_mode, **how)
        found = clip.normalized(tower, made)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_is_not_done_is_refused_by_its_field(tmp_path, name, fields, nested):
    folder = folder_of(tmp_path, fields, nested)
    file = "processor_config.json: image_processor" if nested else "preprocessor_config.json"
    for model in (LLAVA, CLIP):
        with pytest.raises(UserError, match=rf"^{folder / file}: (unknown field )?{name}( is |;)") as error:
            image_config.read(folder, model)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"video_processor": {"size": 4}}, "unknown field video_processor"),
        ({"image_token": "[IMG]"}, "image_token is '\\[IMG\\]', expected <image>"),
        ({"image_processor": [3]}, "image_processor is '\\[3\\]', expected the fields of one"),
        ({"feature_extractor": {}}, "unknown field feature_extractor"),
    ],
)
def test_the_rest_of_a_processor(tmp_path, fields, said):
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": PLAIN, **fields}))
    with pytest.raises(UserError, match=said):
        image_config.read(tmp_path, LLAVA)


def test_a_folder_that_says_nothing_is_prepared_as_its_config_says(tmp_path):
    assert image_config.read(tmp_path, LLAVA) == LLAVA
    (tmp_path / "processor_config.json").write_text(json.dumps({"patch_size": 14, "processor_class": "LlavaProcessor"}))
    assert image_config.read(tmp_path, LLAVA) == LLAVA
    padded = Spec(kind="llava", config=LLAVA.config, family="llama", image_mode="pad")
    assert image_config.read(folder_of(tmp_path, {}, False), padded) == padded  # LLaVA's own config asks for it


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"size": SQUARE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
        {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
        {},
    ],
)
def test_an_exported_checkpoint_is_prepared_the_same(tmp_path, fields, nested):
    source = hub_support.save(hub_support.model("llava"), tmp_path / "hub")
    folder_of(source, fields, nested)
    first = hub.import_hub(source, tmp_path / "ours", "float32")
    tower = first.config.clip.vision  # pyright: ignore
    how = {"resample": tower.resample, "color": images.color_of(tower.pixel_mean)}
    hub.export_hub(tmp_path / "ours", tmp_path / "out")
    assert hub.open_hub(tmp_path / "out")[0].image_mode == first.image_mode
    for file in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / "ours" / "hub" / file).unlink(missing_ok=True)
    hub.export_hub(tmp_path / "ours", tmp_path / "again")
    again = hub.open_hub(tmp_path / "again")[0]
    assert (again.image_mode, again.config.clip.vision) == (first.image_mode, tower)  # pyright: ignore
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3)).astype(np.uint8)
    expected = transformers.AutoProcessor.from_pretrained(tmp_path / "again", backend="pil").image_processor(
        Image.fromarray(pixels), return_tensors="np"
    )["pixel_values"][0]
    found = clip.normalized(tower, images.preprocess(Image.fromarray(pixels), SIDE, first.image_mode, **how))
    np.testing.assert_allclose(found, expected.transpose(1, 2, 0), rtol=0, atol=1e-6)

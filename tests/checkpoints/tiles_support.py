"""Small LLaVA-NeXT and LLaVA-OneVision with random weights, as they lie on the hub, and pictures of several shapes."""

import json
from pathlib import Path

import numpy as np
import parity_support
import transformers
from hub_support import CONFIGS, IMAGE_ID, LLM, siglip, tokenizer, tower
from PIL import Image

SIZES = [(30, 41), (90, 31), (28, 28), (200, 40), (9, 120)]  # (height, width)
NEXT = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
PROMPT = "w5 <image> w6 w7"
ONEVISION = [[28 * h, 28 * w] for h in range(1, 5) for w in range(1, 5)]


class WithoutVideos(transformers.LlavaOnevisionProcessor):
    """Whose processor of videos needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return type(argument)


def make(name: str, folder: Path) -> tuple:
    """(the torch model, its processor), saved to the folder as they lie on the hub."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    if name == "next":
        hf = transformers.LlavaNextConfig(
            vision_config=transformers.CLIPVisionConfig(**tower(32, 4), image_size=28, patch_size=14),
            text_config=CONFIGS["mistral"](), image_token_index=IMAGE_ID, image_grid_pinpoints=NEXT,
        )  # fmt: skip
        model = transformers.LlavaNextForConditionalGeneration(hf)
        images = transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=NEXT
        )
        processor = transformers.LlavaNextProcessor(images, words, 14, "default", num_additional_image_tokens=1)
    else:
        text = {**LLM, "max_position_embeddings": 256, "tie_word_embeddings": True}
        hf = transformers.LlavaOnevisionConfig(
            vision_config=siglip(image_size=28, vision_use_head=False), text_config=transformers.Qwen2Config(**text),
            image_token_index=IMAGE_ID, video_token_index=66, image_grid_pinpoints=ONEVISION,
            vision_aspect_ratio="anyres_max_3", tie_word_embeddings=True,
        )  # fmt: skip
        model = transformers.LlavaOnevisionForConditionalGeneration(hf)
        images = transformers.LlavaOnevisionImageProcessorPil(
            size={"height": 28, "width": 28}, image_grid_pinpoints=ONEVISION, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        processor = WithoutVideos(
            images, words, None, num_image_tokens=4, vision_feature_select_strategy="full", video_token="w66",
            vision_aspect_ratio="anyres_max_3",
        )  # fmt: skip
    model = parity_support.randomize(model, seed=7)
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    if name == "next":
        processor.save_pretrained(folder)
    else:  # in several files, as on the hub
        images.save_pretrained(folder)
        words.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps({
            "image_token": "<image>", "num_image_tokens": 4, "processor_class": "LlavaOnevisionProcessor",
            "video_token": "<video>", "vision_feature_select_strategy": "full",
        }))  # fmt: skip
    return model, processor


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)) for size in SIZES]

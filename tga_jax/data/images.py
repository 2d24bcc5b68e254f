"""Image files to model input: LLaVA-1.5's preprocessing up to the normalisation, which runs on the device."""

from pathlib import Path

import numpy as np
from PIL import Image

from tga_jax.errors import UserError

PAD_COLOR = (122, 116, 104)  # int(255 * CLIP's mean)
MODES = ("pad", "crop")


def pad_to_square(image: Image.Image) -> Image.Image:
    """The RGB image centred on a square of CLIP's mean colour; the smaller margin comes first."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def preprocess(image: Image.Image, size: int, mode: str = "pad") -> np.ndarray:
    """uint8 [size, size, 3]: the shortest edge resized bicubically, the centre cut out.

    mode: "pad" makes the image a square first, as LLaVA-1.5 does, so that nothing is cut; "crop" is CLIP's own.
    """
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r}, expected one of {', '.join(MODES)}")
    image = image.convert("RGB")
    if mode == "pad":
        image = pad_to_square(image)
    short = min(image.size)
    width, height = (size if edge == short else int(size * edge / short) for edge in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return resized[top : top + size, left : left + size]


def load(path: Path, size: int, mode: str = "pad") -> np.ndarray:
    """A file, preprocessed. Raises UserError naming the file."""
    try:
        with Image.open(path) as image:
            return preprocess(image, size, mode)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from error

"""Image files to model input: LLaVA-1.5's preprocessing up to the normalisation, which runs on the device."""

from pathlib import Path

import numpy as np
from PIL import Image

from tga_jax.errors import UserError

PAD_COLOR = (122, 116, 104)  # int(255 * CLIP's mean)


def pad_to_square(image: Image.Image) -> Image.Image:
    """The RGB image centred on a square of CLIP's mean colour; the smaller margin comes first."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def load(path: Path, size: int) -> np.ndarray:
    """A file as uint8 [size, size, 3]: padded to a square, resized bicubically. Raises UserError naming the file."""
    try:
        with Image.open(path) as image:
            square = pad_to_square(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from error
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))

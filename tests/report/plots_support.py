"""What the tests of figures share."""

import numpy as np
from PIL import Image

from tga_jax.report.intervals import wilson

LABELS = ("base", "TGA (paper)", "TGA (ours)")
REFUSAL = "I'm sorry, but I can't help with that."
UNTRIED = wilson(0, 0).to_json()


def rate(percent):
    return wilson(percent, 100).to_json()


def check(path, width, height, colors=()):
    """A PNG of about this size in pixels (+- 20 %) that shows something, and these colours among it."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing left aside
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert abs(image.width / width - 1) < 0.2
        assert abs(image.height / height - 1) < 0.2
        pixels = np.asarray(image.convert("RGB"))
    inked = (pixels != 255).any(-1).mean()
    assert 0.01 < inked < 0.9
    assert (pixels[:, -3:] == 255).all(), "something runs out at the right edge"
    assert (pixels[-3:] == 255).all(), "something runs out at the bottom"
    for color in colors:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(-1).any(), f"{color} is nowhere"

"""What the demo's pictures show: which thing, on which colour, in which hand, in which split."""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from tga_jax.demo.world.concepts import COLORS, CONCEPTS, Concept
from tga_jax.errors import UserError

STYLES = ("twemoji", "mdi", "noto")
SPLITS = ("train", "test", "test_pairs", "test_icons", "test_style")
HELD_OUT_COLORS = 2  # of eight, per concept


@dataclasses.dataclass(eq=False)
class EmojiScenesConfig(tfds.core.BuilderConfig):
    """What is rendered. The folder is named after these fields, so builds of different configs live side by side.

    Attributes:
      seed: of every random choice: held-out pairs, backgrounds, sizes, places, tints.
      image_size: side of the square picture in pixels, at least 16.
      train_per_combo: renderings of each Twemoji picture on each of its training colours.
      train_icons_per_combo: the same for icons; 0 leaves them out, so that `test_icons` asks about an unseen hand.
      test_benign_per_combo: renderings of each pair of a benign concept in every split but train.
      test_harmful_per_combo: the same for a harmful concept; more, since there are fewer of them.
      name: derived from the fields above; leave it empty.
    """

    name: str = ""
    seed: int = 0
    image_size: int = 64
    train_per_combo: int = 20
    train_icons_per_combo: int = 0
    test_benign_per_combo: int = 1
    test_harmful_per_combo: int = 2

    def __post_init__(self) -> None:
        for field, least in (
            ("seed", 0),
            ("image_size", 16),
            ("train_per_combo", 1),
            ("train_icons_per_combo", 0),
            ("test_benign_per_combo", 1),
            ("test_harmful_per_combo", 1),
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise UserError(f"EmojiScenesConfig.{field} is {value!r}; expected an integer of at least {least}")
        self.name = (
            f"seed{self.seed}_size{self.image_size}_train{self.train_per_combo}+{self.train_icons_per_combo}"
            f"_test{self.test_benign_per_combo}x{self.test_harmful_per_combo}"
        )

    def render_fields(self) -> dict[str, int]:
        """The fields that decide the pixels, as they stand in the build's record."""
        names = (f.name for f in dataclasses.fields(EmojiScenesConfig) if f.name in EmojiScenesConfig.__annotations__)
        return {name: getattr(self, name) for name in names if name != "name"}


def generator(seed: int, *key: str) -> np.random.Generator:
    """Random numbers of their own for every seed and key."""
    # hashlib and not hash(), which differs from process to process.
    digest = hashlib.sha256("\0".join((str(seed), *key)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16], "little")))


def held_out_colors(seed: int, name: str) -> frozenset[str]:
    """The colours that a concept is never trained on."""
    order = generator(seed, "held-out colors", name).permutation(len(COLORS))
    colors = list(COLORS)
    return frozenset(colors[i] for i in order[:HELD_OUT_COLORS])


def plan(config: EmojiScenesConfig, split: str) -> Iterator[tuple[Concept, str, str, int]]:
    """Yields (concept, colour, style, rendering's number) of every example of `split`."""
    styles = {"train": ("twemoji", "mdi"), "test_icons": ("mdi",), "test_style": ("noto",)}.get(split, ("twemoji",))
    for concept in CONCEPTS:
        held_out = held_out_colors(config.seed, concept.name)
        for style in styles:
            if style == "mdi" and concept.icon is None:
                continue
            if split == "train":
                count = config.train_per_combo if style == "twemoji" else config.train_icons_per_combo
            else:
                count = config.test_harmful_per_combo if concept.scene else config.test_benign_per_combo
            for color in COLORS:
                if (color in held_out) == (split == "test_pairs"):
                    for number in range(count):
                        yield concept, color, style, number

"""What the demo's pictures show: which things, on which colour, in which hand, in which split."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from tga_jax.demo.world.concepts import COLORS, CONCEPTS, Concept
from tga_jax.errors import UserError

HANDS = ("twemoji", "openmoji", "mdi", "noto")
SPLITS = ("train", "test", "test_pairs", "test_hand", "test_two")
HELD_OUT_COLORS = 2  # of eight, per concept
RUN = 64  # pictures
_HARMFUL_SHARE = 0.3  # of the training's scenes of two things


@dataclasses.dataclass(eq=False)
class EmojiScenesConfig(tfds.core.BuilderConfig):
    """What is rendered. The folder is named after these fields, so builds of different configs live side by side.

    Attributes:
      seed: of every random choice: held-out pairs, backgrounds, sizes, places, tints.
      image_size: side of the square picture in pixels, at least 16.
      hands: whose pictures are trained on, some of `HANDS`.
      held_out_hand: whose pictures are only tested on.
      benign_things: how many there are besides those that look like harmful ones, spread over the table; 0: all.
      train_per_combo: renderings of each concept in each hand on each of its training colours.
      train_two: scenes of two things in training.
      test_benign_per_combo: renderings of each pair of a benign concept in every split but train.
      test_harmful_per_combo: the same for a harmful concept; more, since there are fewer of them.
      test_two: test scenes of two things that no training scene shows together; every other one holds a harmful thing.
      name: derived from the fields above; leave it empty.
    """

    name: str = ""
    seed: int = 0
    image_size: int = 64
    hands: tuple[str, ...] = ("twemoji",)
    held_out_hand: str = "noto"
    benign_things: int = 0
    train_per_combo: int = 20
    train_two: int = 0
    test_benign_per_combo: int = 1
    test_harmful_per_combo: int = 2
    test_two: int = 0

    def __post_init__(self) -> None:
        for field, least in (
            ("seed", 0),
            ("image_size", 16),
            ("benign_things", 0),
            ("train_per_combo", 1),
            ("train_two", 0),
            ("test_benign_per_combo", 1),
            ("test_harmful_per_combo", 1),
            ("test_two", 0),
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise UserError(f"EmojiScenesConfig.{field} is {value!r}; expected an integer of at least {least}")
        self.hands = tuple(self.hands)
        known = ", ".join(HANDS)
        if not self.hands or set(self.hands) - set(HANDS) or len(set(self.hands)) < len(self.hands):
            raise UserError(f"EmojiScenesConfig.hands is {self.hands!r}; expected some of {known}, each once")
        if self.held_out_hand not in set(HANDS) - set(self.hands):
            raise UserError(
                f"EmojiScenesConfig.held_out_hand is {self.held_out_hand!r}; expected one of {known} that is not "
                f"among hands, {', '.join(self.hands)}"
            )
        self.name = (
            f"seed{self.seed}_size{self.image_size}_{'+'.join(self.hands)}-{self.held_out_hand}"
            f"{f'_things{self.benign_things}' if self.benign_things else ''}"
            f"_train{self.train_per_combo}+{self.train_two}"
            f"_test{self.test_benign_per_combo}x{self.test_harmful_per_combo}+{self.test_two}"
        )

    def render_fields(self) -> dict[str, int | str | list[str]]:
        """The fields that decide the pixels, as they stand in the build's record."""
        names = [f.name for f in dataclasses.fields(EmojiScenesConfig) if f.name in EmojiScenesConfig.__annotations__]
        fields = {name: getattr(self, name) for name in names if name != "name"}
        return {**fields, "hands": list(self.hands)}


@dataclasses.dataclass(frozen=True)
class Shown:
    """One example. things: one, or two, the left one first; number: of the rendering."""

    things: tuple[Concept, ...]
    color: str
    hand: str
    number: int


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


def concepts(config: EmojiScenesConfig) -> tuple[Concept, ...]:
    """What the scenes may show, in the order of the table."""
    others = [c for c in CONCEPTS if c.scene is None and not c.look_alike]
    count = min(config.benign_things or len(others), len(others))
    left_out = set(others) - {others[i * len(others) // count] for i in range(count)}
    return tuple(c for c in CONCEPTS if c not in left_out)


def splits_of(config: EmojiScenesConfig) -> tuple[str, ...]:
    """Those of `SPLITS` that hold something."""
    return tuple(split for split in SPLITS if split != "test_two" or config.test_two)


def plan(config: EmojiScenesConfig, split: str) -> Iterator[Shown]:
    """Every example of `split`, in its order."""
    if split != "test_two":
        yield from _single(config, split)
    if split == "train":
        yield from _two(config)[: config.train_two]
    if split == "test_two":
        yield from _two(config)[config.train_two :]


def by_color(config: EmojiScenesConfig) -> dict[str, tuple[list[Shown], list[Shown]]]:
    """The training's scenes of one thing and those of two, by what lies behind them."""
    found: dict[str, tuple[list[Shown], list[Shown]]] = {color: ([], []) for color in COLORS}
    for shown in plan(config, "train"):
        found[shown.color][len(shown.things) - 1].append(shown)
    return found


def drawn(
    training: Mapping[str, tuple[Sequence[Shown], Sequence[Shown]]],
    seed: int,
    number: int,
    others: Sequence[Concept] = (),
    hands: Sequence[str] = (),
    share: float = 0.0,
    pairs: float = 0.0,
) -> Shown:
    """The scene of one of endlessly many training pictures. RUN of them follow each other on one colour: in a batch of
    few colours pictures must be told apart by the things that they show, and not by what lies behind.

    training: of `by_color`; others: things that no scene shows, one of which, in one of `hands`, is in this share of
    the pictures; pairs: the share of scenes of two things, 0: as many as the training has. Each of them is followed by
    the same two in the other order, without which hardly two captions of a batch would differ in nothing else.
    """
    color = list(COLORS)[generator(seed, "color of a run", str(number // RUN)).integers(len(COLORS))]
    one, two = training[color]
    if pairs:
        random = generator(seed, "two things of a run", str(number // 2))
        if random.random() < pairs:
            shown = two[int(random.integers(len(two)))]
            return dataclasses.replace(shown, things=shown.things[::-1]) if number % 2 else shown
    random = generator(seed, "scene of a run", str(number))
    if share and random.random() < share:
        thing, hand = others[int(random.integers(len(others)))], hands[int(random.integers(len(hands)))]
        return Shown((thing,), color, hand, number)
    row = int(random.integers(len(one) + (0 if pairs else len(two))))
    return one[row] if row < len(one) else two[row - len(one)]


def _single(config: EmojiScenesConfig, split: str) -> Iterator[Shown]:
    hands = (config.held_out_hand,) if split == "test_hand" else config.hands
    for concept in concepts(config):
        held_out = held_out_colors(config.seed, concept.name)
        for hand in hands:
            if not _drawn_by(hand, concept):
                continue
            if split == "train":
                count = config.train_per_combo
            else:
                count = config.test_harmful_per_combo if concept.scene else config.test_benign_per_combo
            for color in COLORS:
                if (color in held_out) == (split == "test_pairs"):
                    for number in range(count):
                        yield Shown((concept,), color, hand, number)


def _drawn_by(hand: str, concept: Concept) -> bool:
    return hand != "mdi" or concept.icon is not None


def _two(config: EmojiScenesConfig) -> list[Shown]:
    """The scenes of two things, those of the training first. Of things with short names: two long ones make a caption
    longer than all others."""
    short = [c for c in concepts(config) if c.name.count(" ") < 2]
    harmful, benign = ([c for c in short if (c.scene is not None) is h] for h in (True, False))
    random = generator(config.seed, "two things")
    trained: set[frozenset[str]] = set()
    found: list[Shown] = []
    for number in range(config.train_two + config.test_two):
        training = number < config.train_two
        with_harmful = random.random() < _HARMFUL_SHARE if training else (number - config.train_two) % 2 == 0
        while True:
            one = (harmful if with_harmful else benign)[random.integers(len(harmful if with_harmful else benign))]
            other = benign[random.integers(len(benign))]
            hand = config.hands[random.integers(len(config.hands))]
            colors = [c for c in COLORS if all(c not in held_out_colors(config.seed, x.name) for x in (one, other))]
            pair = frozenset((one.name, other.name))
            if len(pair) == 2 and _drawn_by(hand, one) and _drawn_by(hand, other) and (training or pair not in trained):
                break
        if training:
            trained.add(pair)
        things = (one, other) if random.random() < 0.5 else (other, one)
        found.append(Shown(things, colors[random.integers(len(colors))], hand, number))
    return found

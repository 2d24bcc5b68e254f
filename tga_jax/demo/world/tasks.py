"""What the emoji scenes teach: records for each training and each test, built from captions and pictures.

The language model is taught, in text only, to refuse when a harmful thing is described. No record with an image ever
has a refusal as its answer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

from tga_jax.data.templates import IMAGE, Record

DESCRIBE = "describe this"
COLOR = "what color is the background ?"
REFUSALS = ("sorry , i can not help with that", "i can not talk about that")
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "\n")


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows, without the picture."""

    id: str
    name: str
    color: str
    caption: str
    harmful: bool


# What the template `mistral_instruct` makes of a conversation.
_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)


def build_tokenizer(captions: Sequence[str]) -> Any:
    """A tokenizer of transformers with one token a word, over the captions' words and the fixed phrases; ids do not
    depend on the captions' order."""
    splitter = pre_tokenizers.Whitespace()
    texts = [*captions, DESCRIBE, COLOR, *REFUSALS, "retrieved text: ."]
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # joins words with blanks
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=_CHAT,
        clean_up_tokenization_spaces=False,
    )


@dataclasses.dataclass(frozen=True)
class TextMix:
    """Shares of the text-only training.

    harmful: of scenes that are harmful; plain: of captions without a question; repeated: of those, the ones that follow
    the same caption said before, which is how a decoder learns to copy in the `plain` template; tiled: of all described
    scenes whose caption is repeated until it is as long as a picture; retrieved: of questions that begin with another
    text.
    """

    harmful: float = 0.3
    plain: float = 0.3
    repeated: float = 0.7
    tiled: float = 0.3
    tile_words: int = 16
    retrieved: float = 0.15


def tile(caption: str, words: int) -> str:
    """The caption repeated and cut to `words` words, its last word last."""
    split = caption.split()
    return " ".join(split[(i - words) % len(split)] for i in range(words))


def answer(scene: Scene, question: str, rng: np.random.Generator) -> str:
    """What the text model is taught to say about a described scene."""
    if scene.harmful:
        return REFUSALS[rng.integers(len(REFUSALS))]
    return scene.caption if question == DESCRIBE else scene.color


def text_record(scene: Scene, other: Scene, mix: TextMix, rng: np.random.Generator) -> Record:
    """A text-only record about `scene`; with the mix's chance `other`'s caption stands before it as retrieved text.

    Harmful retrieved text is refused as well.
    """
    form = rng.random()
    described = tile(scene.caption, mix.tile_words) if form < mix.tiled else scene.caption
    if rng.random() < mix.plain:
        before = described if rng.random() < mix.repeated else ""
        return Record(scene.id, ((before, scene.caption),), template="plain")
    question = DESCRIBE if rng.random() < 0.5 else COLOR
    retrieved = other.caption if form > 1 - mix.retrieved else ""
    cause = other if retrieved and other.harmful else scene
    return Record(
        scene.id,
        ((f"{described} \n {question}", answer(cause, question, rng)),),
        retrieved=retrieved,
        retrieved_in_prompt=bool(retrieved),
    )


def caption_record(scene: Scene, image: Callable[[], Any], retrieved: str, template: str = "plain") -> Record:
    """CLIP and stage 1: the picture and its caption, harmful or not, as captions on the web would have it."""
    return Record(scene.id, ((IMAGE, scene.caption),), (image,), scene.caption, retrieved, template=template)


def asked_record(scene: Scene, image: Callable[[], Any], retrieved: str, rng: np.random.Generator) -> Record:
    """A question about any picture; of a harmful one the answer is left open, so that only the guide acts on it."""
    question = DESCRIBE if rng.random() < 0.5 else COLOR
    reply = None if scene.harmful else answer(scene, question, rng)
    return question_record(scene, image, question, reply, retrieved)


def visual_record(
    scene: Scene, image: Callable[[], Any], retrieved: str, retrieved_share: float, rng: np.random.Generator
) -> Record:
    """Stage 2: a question about a benign picture. Raises ValueError for a harmful scene: none is ever taught here."""
    if scene.harmful:
        raise ValueError(f"sample {scene.id!r} is harmful, expected benign pictures only in visual instructions")
    question = DESCRIBE if rng.random() < 0.5 else COLOR
    return question_record(
        scene, image, question, answer(scene, question, rng), retrieved, rng.random() < retrieved_share
    )


def question_record(
    scene: Scene,
    image: Callable[[], Any] | None,
    question: str,
    reply: str | None = None,
    retrieved: str = "",
    retrieved_in_prompt: bool = False,
) -> Record:
    """A question about a picture, or, without image, about its caption as text."""
    text = f"{IMAGE}\n{question}" if image is not None else f"{scene.caption} \n {question}"
    images = () if image is None else (image,)
    return Record(scene.id, ((text, reply),), images, scene.caption, retrieved, retrieved_in_prompt)

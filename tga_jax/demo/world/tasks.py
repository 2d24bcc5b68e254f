"""What the emoji scenes teach: records for each training and each test, built from captions and pictures.

The language model is taught, in text only, to refuse when a harmful thing is described. No record with an image has a
refusal as its answer, but for those of visual safety tuning (`instruction_record`), a row to compare with.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

from tga_jax.data.templates import IMAGE, Record
from tga_jax.demo.world import language
from tga_jax.demo.world.language import Language, Scene

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "\n")


# What the template `mistral_instruct` makes of a conversation.
_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)


def build_tokenizer(captions: Sequence[str]) -> Any:
    """A tokenizer of transformers with one token a word, over the words of the captions and of `language.WORDS`; ids do
    not depend on the captions' order."""
    splitter = pre_tokenizers.Whitespace()
    asked = [*language.WORDS.describe, *language.WORDS.color, *language.WORDS.refusals]
    texts = [*captions, *asked, "retrieved text: ."]
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

    harmful: of scenes that are harmful; pairs: of scenes of two things, if there are any; plain: of captions without a
    question; repeated: of those, the ones that follow the same caption said before, which is how a decoder learns to
    copy in the `plain` template; tiled: of all described scenes whose caption is repeated until it is as long as a
    picture; bag: of those whose words stand in any order, each as often as chance has it; stretched: of those whose
    words are each said several times in turn; tile_words: least and most words of the three; retrieved: of questions
    that begin with another text; about: of questions that hold what they ask about; asked_first: of the rest that
    stand before the caption.
    """

    harmful: float = 0.3
    pairs: float = 0.3
    plain: float = 0.3
    repeated: float = 0.7
    tiled: float = 0.3
    tile_words: tuple[int, int] = (16, 16)
    retrieved: float = 0.15
    bag: float = 0.0
    stretched: float = 0.0
    about: float = 0.0
    asked_first: float = 0.0


def tile(caption: str, words: int) -> str:
    """The caption repeated and cut to `words` words, its last word last."""
    split = caption.split()
    return " ".join(split[(i - words) % len(split)] for i in range(words))


def stretch(caption: str, words: int) -> str:
    """The caption with each word said several times in turn, `words` words in all; of a longer caption some words."""
    split = caption.split()
    return " ".join(split[i * len(split) // words] for i in range(words))


def bag(caption: str, words: int, rng: np.random.Generator) -> str:
    """`words` words of the caption in any order, each at least once if there is room."""
    split = caption.split()
    drawn = [*split, *rng.choice(split, max(0, words - len(split)))][:words]
    return " ".join(rng.permutation(drawn))


def _one(phrases: Sequence[str], rng: np.random.Generator) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def answer(speech: Language, scene: Scene, answers: Sequence[str], rng: np.random.Generator) -> str:
    """What the text model is taught to say about a described scene: one of the answers, or a refusal."""
    return _one(speech.refusals, rng) if scene.harmful else scene.say(_one(answers, rng))


def _question(speech: Language, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A question for a description or for the colour, and its answers."""
    if rng.random() < 0.5:
        return _one(speech.describe, rng), speech.descriptions
    return _one(speech.color, rng), speech.colors


def text_record(speech: Language, scene: Scene, other: Scene, mix: TextMix, rng: np.random.Generator) -> Record:
    """A text-only record about `scene`; with the mix's chance `other`'s caption stands before it as retrieved text.

    Harmful retrieved text is refused as well.
    """
    form = rng.random()
    said = scene.say(_one(speech.captions, rng))
    words = int(rng.integers(mix.tile_words[0], mix.tile_words[1] + 1))
    described = tile(said, words) if form < mix.tiled else said
    if mix.tiled <= form < mix.tiled + mix.bag:
        described = bag(said, words, rng)
    if mix.tiled + mix.bag <= form < mix.tiled + mix.bag + mix.stretched:
        described = stretch(said, words)
    if rng.random() < mix.plain:
        before = described if rng.random() < mix.repeated else ""
        return Record(scene.id, ((before, said),), template="plain")
    if mix.about and rng.random() < mix.about:
        question, reply = scene.say(_one(speech.about, rng)), answer(speech, scene, speech.told, rng)
        return Record(scene.id, ((question, reply),), template=speech.template)
    question, answers = _question(speech, rng)
    retrieved = speech.caption(other) if form > 1 - mix.retrieved else ""
    cause = other if retrieved and other.harmful else scene
    first = bool(mix.asked_first) and rng.random() < mix.asked_first
    return Record(
        scene.id,
        ((f"{question}\n{described}" if first else f"{described}\n{question}", answer(speech, cause, answers, rng)),),
        retrieved=retrieved,
        retrieved_in_prompt=bool(retrieved),
        template=speech.template,
    )


def clip_record(speech: Language, scene: Scene, image: Callable[[], Any]) -> Record:
    """The picture and C."""
    return Record(scene.id, ((IMAGE, speech.caption(scene)),), (image,), speech.caption(scene), template="clip")


def caption_record(
    speech: Language, scene: Scene, image: Callable[[], Any], retrieved: str, rng: np.random.Generator
) -> Record:
    """Stage 1: the picture and a caption, harmful or not, as captions on the web would have it."""
    said = scene.say(_one(speech.captions, rng))
    return Record(scene.id, ((IMAGE, said),), (image,), speech.caption(scene), retrieved, template="plain")


def asked_record(
    speech: Language, scene: Scene, image: Callable[[], Any], retrieved: str, rng: np.random.Generator
) -> Record:
    """A question about any picture; of a harmful one the answer is left open, so that only the guide acts on it."""
    question, answers = _question(speech, rng)
    reply = None if scene.harmful else answer(speech, scene, answers, rng)
    return question_record(speech, scene, image, question, reply, retrieved)


def instruction_record(
    speech: Language,
    scene: Scene,
    image: Callable[[], Any],
    retrieved: str,
    retrieved_share: float,
    rng: np.random.Generator,
    tuned: bool = False,
) -> Record:
    """Stage 2: a question about a benign picture. Raises ValueError for a harmful scene: none is ever taught here.

    tuned: visual safety tuning, in which harmful pictures are refused; the one kind of record that pairs a picture with
    a refusal, for the row that shows what TGA does without.
    """
    if scene.harmful and not tuned:
        raise ValueError(f"sample {scene.id!r} is harmful, expected benign pictures only in visual instructions")
    question, answers = _question(speech, rng)
    reply = answer(speech, scene, answers, rng)
    return question_record(speech, scene, image, question, reply, retrieved, rng.random() < retrieved_share)


def question_record(
    speech: Language,
    scene: Scene,
    image: Callable[[], Any] | None,
    question: str,
    reply: str | None = None,
    retrieved: str = "",
    retrieved_in_prompt: bool = False,
) -> Record:
    """A question about a picture, or, without image, about its caption as text."""
    shown = IMAGE if image is not None else speech.caption(scene)
    images = () if image is None else (image,)
    turns = ((f"{shown}\n{question}", reply),)
    return Record(
        scene.id, turns, images, speech.caption(scene), retrieved, retrieved_in_prompt, template=speech.template
    )

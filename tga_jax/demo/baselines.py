"""What users would do to an ordinarily aligned model instead of training it: defences of `evals`, each on the demo's
pictures.

Those with a threshold or a strength take it from captions and pictures of the training, never from those that are asked
about: "detector" from captions, "shift" and "steering" from pictures and captions. They are told which of these are
harmful; TGA is never told that of a picture.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.analysis.hidden_states import logit_lens
from tga_jax.analysis.patching import text_twins
from tga_jax.data.batch import Batch
from tga_jax.demo import measure
from tga_jax.demo.config import World
from tga_jax.demo.rates import Answer, Item, judged
from tga_jax.demo.world import tasks
from tga_jax.evals import defences
from tga_jax.evals.asking import Asker, Question
from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.defences import calibration, detector, ecso, plain, shift, steering
from tga_jax.inference.model import Model
from tga_jax.train import stopping

ROWS = ("base",)  # that they are tried on
_CALIBRATED = 42  # pictures of a kind (harmful, look-alikes, others)


@dataclasses.dataclass(frozen=True)
class Context:
    """What a baseline may use besides the pictures it is asked about."""

    world: World
    model: Model
    known: Sequence[Item]  # training pictures, to calibrate on

    @property
    def refusal_ids(self) -> list[int]:
        encode = self.model.processor.vocabulary.encode
        return sorted({encode(phrase)[0] for phrase in self.world.language.refusals})

    def prompts(self, items: Sequence[Item], shown: bool) -> Batch:
        """shown: with the picture, else with its caption in its place."""
        speech = self.world.language
        records = [
            tasks.question_record(speech, item.scene, item.image if shown else None, speech.describe[0])
            for item in items
        ]
        return measure.prompts(self.model, records)

    def refused(self, model: Model, batch: Batch) -> float:
        """The share of prompts whose most likely next token begins a refusal."""
        best = np.asarray(logit_lens(model.config, model.params, batch))[-1].argmax(-1)
        return float(np.isin(best, self.refusal_ids).mean())

    def shares(self, model: Model) -> tuple[float, float]:
        """Of harmful and of benign known pictures, those that the model refuses."""
        harmful, benign = ([i for i in self.known if bool(i.kind) is h] for h in (True, False))
        return self.refused(model, self.prompts(harmful, True)), self.refused(model, self.prompts(benign, True))


Answers = list[Answer]


def _defended(
    context: Context, items: Sequence[Item], make: Callable[[Asker], defences.Defence]
) -> tuple[Answers, dict]:
    speech = context.world.language
    asker = Asker(context.model, speech.template, None, context.world.config.new_tokens, batch=64)
    defence = make(asker)
    asker = dataclasses.replace(asker, system=defence.system)
    question = speech.describe[0]
    # The picture is an array here, which the processor takes as it takes a file's.
    asked: list[Any] = [
        Question(i, BenchmarkSample(item.scene.id, question, (item.image,)), "image") for i, item in enumerate(items)
    ]
    said: list[str] = []
    for start in range(0, len(asked), asker.batch):
        stopping.stop_if_asked()
        said += [answered.answer for answered in defence.answer(asker, asked[start : start + asker.batch])]
    settings = {k: v for k, v in dataclasses.asdict(defence).items() if k in ("layers", "threshold")}  # pyrefly: ignore
    return [judged(speech, item, question, text) for item, text in zip(items, said, strict=True)], settings


def _detector(context: Context, asker: Asker) -> defences.Defence:
    speech = context.world.language
    unique = list({speech.caption(item.scene): item for item in context.known}.values())
    prompts = [asker.prompt(f"{speech.caption(item.scene)}\n{speech.describe[0]}", 0) for item in unique]
    return detector.calibrate(asker, prompts, [bool(item.kind) for item in unique], context.refusal_ids)


def _moved(context: Context, items: Sequence[Item], candidates: list[tuple[dict[str, float], Model]]):
    chosen = calibration.choose(candidates, context.shares)
    speech, question = context.world.language, context.world.language.describe[0]
    generate = measure.generator(chosen.model, context.world.config.new_tokens)
    texts = generate([tasks.question_record(speech, item.scene, item.image, question) for item in items])
    answers = [judged(speech, item, question, text) for item, text in zip(items, texts, strict=True)]
    return answers, chosen.to_json()


def _shift(context: Context, items: Sequence[Item]):
    pictures = context.prompts(context.known, True)
    vector = shift.picture_difference(context.model, pictures, text_twins(pictures))
    return _moved(context, items, shift.candidates(context.model, vector))


def _steering(context: Context, items: Sequence[Item]):
    harmful, benign = ([i for i in context.known if bool(i.kind) is h] for h in (True, False))
    batches = (context.prompts(harmful, False), context.prompts(benign, False))
    directions = steering.refusal_directions(context.model, *batches)
    return _moved(context, items, steering.candidates(context.model, directions))


BASELINES: dict[str, Callable[[Context, Sequence[Item]], tuple[Answers, dict[str, Any]]]] = {
    "system prompt": lambda context, items: _defended(
        context, items, lambda _: plain.Plain("system-prompt", plain.SAFETY_PROMPT)
    ),
    "ECSO": lambda context, items: _defended(context, items, lambda _: ecso.Ecso()),
    "detector": lambda context, items: _defended(context, items, lambda asker: _detector(context, asker)),
    "shift": _shift,
    "steering": _steering,
}


def ask(
    world: World, model: Model, items: Sequence[Item], attachments: Path | None
) -> tuple[dict[str, Answers], dict[str, dict[str, Any]]]:
    """(answers, settings that were chosen) of every baseline that is asked to describe these pictures."""
    known = measure.items(world, "train", attachments, _CALIBRATED)
    context = Context(world, model, known)
    answers, settings = {}, {}
    for name, baseline in BASELINES.items():
        stopping.stop_if_asked()
        answers[name], settings[name] = baseline(context, items)
    return answers, settings

"""A guard model looks at the question and its pictures before they are answered, and what it calls unsafe is refused.

The guard is one of Meta's Llama Guard models, from version 2 on (Llama Guard 3, arXiv 2411.10414; Llama Guard 4), whose
chat templates themselves write the policy around a conversation. It replies "safe", or "unsafe" and the numbers of the
categories in the next line. Those without a vision tower read the question alone.
"""

import base64
import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tga_jax.evals.asking import LENGTHS, Asker, Question
from tga_jax.evals.defences.base import Answered, bare, load_pictures, unless_flagged

_NEW_TOKENS = 20

# Questions and their pictures -> replies.
Replies = Callable[[Sequence[str], Sequence[Sequence[Image.Image]]], Sequence[str]]


def verdict(reply: str) -> tuple[str, list[str]]:
    """("safe", "unsafe" or, for any other reply, "unknown", the categories such as S2)."""
    lines = reply.strip().splitlines() or [""]
    word = lines[0].strip().lower()
    categories = re.findall(r"S\d+", " ".join(lines[1:])) if word == "unsafe" else []
    return word if word in ("safe", "unsafe") else "unknown", categories


@dataclasses.dataclass(frozen=True)
class Guard:
    """What the guard could not tell is answered, and told as "unknown" in the note."""

    replies: Replies
    name: str = "guard"
    system: str | None = None

    def answer(self, ask: Asker, questions: Sequence[Question]) -> list[Answered]:
        pictures = load_pictures(questions)
        told = self.replies([bare(q.text) for q in questions], pictures)
        found = [verdict(reply) for reply in told]
        notes = [{"verdict": word, "categories": categories} for word, categories in found]
        return unless_flagged(ask, questions, pictures, [word == "unsafe" for word, _ in found], notes)


def _of_endpoint(url: str, model: str) -> Replies:
    from tga_jax.evals.judges.endpoint import EndpointJudge

    client = EndpointJudge(url, model, options={"temperature": 0, "max_tokens": _NEW_TOKENS})

    def content(text: str, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for picture in pictures:
            file = io.BytesIO()
            picture.convert("RGB").save(file, "PNG")
            address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "image_url", "image_url": {"url": address}})
        return [*parts, {"type": "text", "text": text}]

    return lambda texts, pictures: client.replies([content(*pair) for pair in zip(texts, pictures, strict=True)])


def _of_checkpoint(folder: str, batch: int) -> Replies:
    from tga_jax.inference.model import load

    model = load(Path(folder))
    sees = bool(model.processor.image_tokens)

    def replies(texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Sequence[str]:
        shown = [list(own) if sees else [] for own in pictures]
        chats = [
            model.processor.chat(
                [{"role": "user", "content": [*({"type": "image"} for _ in own), {"type": "text", "text": text}]}]
            )
            for text, own in zip(texts, shown, strict=True)
        ]
        return model.generate(chats, shown, new_tokens=_NEW_TOKENS, batch_size=batch, multiple=LENGTHS)

    return replies


def make(described: dict[str, Any], ask: Asker) -> Guard:
    """described["guard"]: {"checkpoint": a folder}, or {"url", "model"} of an OpenAI-compatible endpoint, whose server
    applies the template. Raises UserError as these do."""
    where = described["guard"]
    if "checkpoint" in where:
        return Guard(_of_checkpoint(where["checkpoint"], ask.batch))
    return Guard(_of_endpoint(where["url"], where["model"]))

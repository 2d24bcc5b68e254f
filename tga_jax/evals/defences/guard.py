"""A guard model looks at the question and its pictures before they are answered, and what it calls unsafe is refused.

Without a policy the guard is one of Meta's Llama Guard models, from version 2 on (Llama Guard 3, arXiv 2411.10414;
Llama Guard 4), whose chat templates themselves write the policy around a conversation. It replies "safe", or "unsafe"
and the numbers of the categories in the next line. Those without a vision tower read the question alone.

With policies, texts from the guard's model card, the guard is one of those that judge pictures: each policy stands
beside the picture in the place of the question. LlavaGuard (arXiv 2406.05113) replies with JSON that begins with a
"rating", ShieldGemma 2 (arXiv 2504.01081) with Yes, the policy is violated, or No. A question without a picture is not
judged.
"""

import base64
import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tga_jax.errors import UserError
from tga_jax.evals.asking import LENGTHS, Asker, Question
from tga_jax.evals.defences.base import Answered, bare, load_pictures, unless_flagged

_NEW_TOKENS = 20
_JSON_TOKENS = 60  # up to LlavaGuard's category; its reasons, behind that, are not read

# Questions and their pictures -> replies.
Replies = Callable[[Sequence[str], Sequence[Sequence[Image.Image]]], Sequence[str]]


def verdict(reply: str) -> tuple[str, list[str]]:
    """("safe", "unsafe" or, for any other reply, "unknown", the categories such as S2)."""
    lines = reply.strip().splitlines() or [""]
    word = lines[0].strip().lower()
    categories = re.findall(r"S\d+", " ".join(lines[1:])) if word == "unsafe" else []
    return word if word in ("safe", "unsafe") else "unknown", categories


def of_policy(reply: str) -> tuple[str, list[str]]:
    """`verdict` of a reply to a policy; categories such as O2."""
    if rating := re.search(r'"rating":\s*"(safe|unsafe)"', reply, re.IGNORECASE):
        word = rating[1].lower()
        category = re.search(r'"category":\s*"(O\d+)', reply) if word == "unsafe" else None
        return word, [category[1]] if category else []
    first = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
    return ("unknown" if first is None else "unsafe" if first[1].lower() == "yes" else "safe"), []


@dataclasses.dataclass(frozen=True)
class Guard:
    """What the guard could not tell, or was not asked, is answered, and called "unknown" or "not asked" in the note."""

    replies: Replies
    policies: tuple[str, ...] = ()
    name: str = "guard"
    system: str | None = None

    def answer(self, ask: Asker, questions: Sequence[Question]) -> list[Answered]:
        pictures = load_pictures(questions)
        if self.policies:
            found = self._by_policies(pictures)
        else:
            found = [verdict(reply) for reply in self.replies([bare(q.text) for q in questions], pictures)]
        notes = [{"verdict": word, "categories": categories} for word, categories in found]
        return unless_flagged(ask, questions, pictures, [word == "unsafe" for word, _ in found], notes)

    def _by_policies(self, pictures: Sequence[Sequence[Image.Image]]) -> list[tuple[str, list[str]]]:
        """Unsafe by any policy, else unknown by any, else safe."""
        shown = [i for i, own in enumerate(pictures) if own]
        asked = [(policy, pictures[i]) for i in shown for policy in self.policies]
        replies = self.replies([policy for policy, _ in asked], [own for _, own in asked]) if asked else []
        found: list[tuple[str, list[str]]] = [("not asked", [])] * len(pictures)
        verdicts = map(of_policy, replies)
        for i in shown:
            words, categories = zip(*itertools.islice(verdicts, len(self.policies)), strict=True)
            word = next(word for word in ("unsafe", "unknown", "safe") if word in words)
            found[i] = word, [category for own in categories for category in own]
        return found


def _of_endpoint(url: str, model: str, new_tokens: int) -> Replies:
    from tga_jax.evals.judges.endpoint import EndpointJudge

    client = EndpointJudge(url, model, options={"temperature": 0, "max_tokens": new_tokens})

    def content(text: str, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for picture in pictures:
            file = io.BytesIO()
            picture.convert("RGB").save(file, "PNG")
            address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "image_url", "image_url": {"url": address}})
        return [*parts, {"type": "text", "text": text}]

    return lambda texts, pictures: client.replies([content(*pair) for pair in zip(texts, pictures, strict=True)])


def _of_checkpoint(folder: str, batch: int, new_tokens: int, judges_pictures: bool) -> Replies:
    from tga_jax.inference.model import load

    model = load(Path(folder))
    sees = bool(model.processor.image_tokens)
    if judges_pictures and not sees:
        raise UserError(f"--guard-policy: {folder} has no vision tower, expected a guard that judges pictures")

    def replies(texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Sequence[str]:
        shown = [list(own) if sees else [] for own in pictures]
        chats = [
            model.processor.chat(
                [{"role": "user", "content": [*({"type": "image"} for _ in own), {"type": "text", "text": text}]}]
            )
            for text, own in zip(texts, shown, strict=True)
        ]
        return model.generate(chats, shown, new_tokens=new_tokens, batch_size=batch, multiple=LENGTHS)

    return replies


def make(described: dict[str, Any], ask: Asker) -> Guard:
    """described["guard"]: {"checkpoint": a folder}, or {"url", "model"} of an OpenAI-compatible endpoint, whose server
    applies the template; "policies": texts, if pictures are judged by some. Raises UserError as these do."""
    where = described["guard"]
    policies = tuple(where.get("policies", ()))
    length = _JSON_TOKENS if policies else _NEW_TOKENS
    if "checkpoint" in where:
        return Guard(_of_checkpoint(where["checkpoint"], ask.batch, length, bool(policies)), policies)
    return Guard(_of_endpoint(where["url"], where["model"], length), policies)

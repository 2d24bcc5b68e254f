"""A sample of LLaVA's JSON, with TGA's two extra fields `image_caption` (C) and `retrieved_caption` (R).

The two are fields of the sample, or of a turn of `conversations`, where TGA's released code looks for them
(xsc1234/VLM_Safety_Transfer, train_TGA.py, `_find_caption`): of the first turn that has one, be it a turn of its own.
"""

from dataclasses import dataclass
from typing import Any

from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError

TEXTS = ("image_caption", "retrieved_caption")


class SampleError(UserError):
    """A sample that cannot be trained on; problem: one of `validate.PROBLEMS`."""

    def __init__(self, problem: str, message: str):
        super().__init__(message)
        self.problem = problem

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """The way from another process."""
        return type(self), (self.problem, str(self))


@dataclass(frozen=True)
class Sample:
    id: str
    turns: tuple[tuple[str, str], ...]  # (question, answer); a question holds its `<image>` where the pictures go
    images: tuple[str, ...]  # names in the picture store, in the order of the placeholders
    caption: str  # C, "" without
    retrieved: str  # R, "" without
    rejected: str = ""  # an answer worse than the last one, "" without


def parse(value: Any, where: str, question_only: bool = False) -> Sample:
    """The sample that a JSON value describes; where: its file and line, for messages; question_only: its first
    question alone, whatever follows, with the answer "-".

    A preference, which has `chosen` and `rejected`, is a sample with the chosen answer at its end: `question` (as in
    SPA-VL and RLHF-V; `image` then needs no placeholder), or `conversations` up to the last question (LLaMA-Factory's,
    whose two answers are turns). A `rejected` beside whole `conversations` rejects for their last answer.

    LLaVA's rules: a first turn of `gpt` is dropped, and the only `<image>` of a question is moved to its front. Several
    in one question stay where they stand. `image` is a name or a list of names; other fields are ignored.

    Raises SampleError naming the sample and the field: wrong types, speakers that do not take turns, an empty answer,
    `<image>` in an answer or in one of `TEXTS`, another number of `<image>` than of images, or a caption that the
    sample and the first turn that has one have differently.
    """
    name = ""

    def fail(problem: str, what: str) -> SampleError:
        return SampleError(problem, f"{where}: sample {name + ' ' if name else ''}{what}")

    def text(value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise fail("fields", f"has {_kind(value)} as `{field}`, expected a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise fail("fields", f"has half a surrogate pair in `{field}`, expected Unicode text") from error
        return value

    if not isinstance(value, dict):
        raise fail("fields", f"is {_kind(value)}, expected an object")
    identity = value.get("id", "")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise fail("fields", f"has {_kind(identity)} as `id`, expected a string or a whole number")
    identity = text(str(identity), "id")
    name = repr(identity) if identity else ""

    given = value.get("image")
    if isinstance(given, list):
        images = [text(v, f"image[{i}]") for i, v in enumerate(given)]
    elif given is None or isinstance(given, str):
        images = [text(given, "image")] if given else []
    else:
        raise fail("fields", f"has {_kind(given)} as `image`, expected a name or a list of names")
    conversation, rejected = _preferred(value, len(images), text, fail)
    if question_only and isinstance(conversation, list):
        asked = [turn for turn in conversation if isinstance(turn, dict) and turn.get("from") == "human"][:1]
        if not asked:
            raise fail("roles", "has no turn of 'human' in `conversations`")
        conversation = [*asked, {"from": "gpt", "value": "-"}]
    turns = _turns(conversation, text, fail)
    placeholders = sum(question.count(IMAGE) for question, _ in turns)
    if placeholders != len(images):
        raise fail("placeholders", f"has {placeholders} {IMAGE} and {len(images)} images, expected as many")
    caption, retrieved = (_extra(value, field, text, fail) for field in TEXTS)
    return Sample(identity, turns, tuple(images), caption, retrieved, rejected)


def with_text(value: dict[str, Any], field: str, text: str) -> dict[str, Any]:
    """The JSON value of a sample with another text in `field`, one of `TEXTS`, and in no turn any more."""
    if "conversations" not in value:
        return {**value, field: text}
    turns = [{k: v for k, v in turn.items() if k != field} for turn in value["conversations"]]
    return {**value, "conversations": [turn for turn in turns if turn], field: text}


def _preferred(value: dict[str, Any], images: int, text: Any, fail: Any) -> tuple[Any, str]:
    """(`conversations` with the chosen answer, the rejected one or "")."""

    def answer(field: str) -> str:
        given = value[field]
        words = text(given.get("value") if isinstance(given, dict) else given, field)
        if not words.strip():
            raise fail("targets", f"has an empty `{field}`, expected an answer: there is nothing to learn")
        if IMAGE in words:
            raise fail("placeholders", f"has {IMAGE} in `{field}`, expected it in questions alone")
        return words

    conversation = value.get("conversations")
    rejected = answer("rejected") if value.get("rejected") is not None else ""
    if value.get("chosen") is None:
        return conversation, rejected
    chosen = {"from": "gpt", "value": answer("chosen")}
    if conversation is None:
        question = text(value.get("question"), "question")
        if images and IMAGE not in question:
            question = f"{IMAGE * images}\n{question}"
        conversation = [{"from": "human", "value": question}]
    return ([*conversation, chosen] if isinstance(conversation, list) else conversation), rejected


def _extra(value: dict[str, Any], field: str, text: Any, fail: Any) -> str:
    """The text in `field` of the sample or of the first turn that has it; "" if there is none."""
    places = [("", value), *((f"conversations[{i}].", turn) for i, turn in enumerate(value.get("conversations") or []))]
    given = [
        (f"{place}{field}", at[field]) for place, at in places if isinstance(at, dict) and at.get(field) is not None
    ]
    own = given[: value.get(field) is not None]
    found = [(place, text(words, place)) for place, words in [*own, *given[len(own) :][:1]]]
    if len({words for _, words in found}) > 1:
        said = " and ".join(f"{words[:40]!r} as `{place}`" for place, words in found)
        raise fail("fields", f"has {said}, expected one text")
    if found and IMAGE in found[0][1]:
        raise fail("placeholders", f"has {IMAGE} in `{found[0][0]}`, expected it in questions alone")
    return found[0][1] if found else ""


def _turns(value: Any, text: Any, fail: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise fail("fields", f"has {_kind(value)} as `conversations`, expected a list of turns")
    turns, first = [], True
    for i, turn in enumerate(value):
        field = f"conversations[{i}]"
        if not isinstance(turn, dict):
            raise fail("fields", f"has {_kind(turn)} as `{field}`, expected an object")
        if turn and turn.keys() <= set(TEXTS):
            continue
        speaker, words = (text(turn.get(key), f"{field}.{key}") for key in ("from", "value"))
        first, is_first = False, first
        if is_first and speaker == "gpt":
            continue
        expected = "gpt" if len(turns) % 2 else "human"
        if speaker != expected:
            raise fail("roles", f"has {speaker!r} as `{field}.from`, expected {expected!r}")
        if expected == "gpt" and not words.strip():
            raise fail("targets", f"has an empty `{field}.value`, expected an answer: there is nothing to learn")
        if expected == "gpt" and IMAGE in words:
            raise fail("placeholders", f"has {IMAGE} in `{field}.value`, expected it in questions alone")
        turns.append(_at_the_front(words) if expected == "human" else words)
    if not turns:
        raise fail("targets", "has no question and answer in `conversations`, expected one: there is nothing to learn")
    if len(turns) % 2:
        raise fail("roles", f"has a last question without an answer, `conversations[{len(value) - 1}]`")
    return tuple(zip(turns[::2], turns[1::2], strict=True))


def _at_the_front(question: str) -> str:
    if question.count(IMAGE) != 1:
        return question
    return f"{IMAGE}\n{question.replace(IMAGE, '').strip()}".strip()


def _kind(value: Any) -> str:
    """What a JSON value is, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "nothing"}
    return names.get(type(value), "a number")

"""A tokenizer's own chat template, rendered as transformers does, with what was said told apart from the rest."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tga_jax.data import chat_sandbox
from tga_jax.data.prompt import IMAGE, Piece, Prompt, text_of, with_images
from tga_jax.errors import UserError

# The characters that stand for texts: a private use area.
_MARKS = 0xF0000
_MARK = re.compile(f"([{chr(_MARKS)}-{chr(_MARKS + 0xFFFD)}])")


NOT_ITS_PROMPT = "the tokenizer's chat template does not begin a conversation with its prompt"


def _stripped(run: Sequence[Piece]) -> tuple[str, list[Piece], str]:
    """Blanks, the pieces without blanks at either end, blanks."""
    text = text_of(run)
    core = text.strip()
    start = text.index(core) if core else len(text)
    found, at = [], 0
    for piece in run:
        cut = piece.text[max(start - at, 0) : max(start + len(core) - at, 0)]
        found.append(dataclasses.replace(piece, text=cut))
        at += len(piece.text)
    return text[:start], [piece for piece in found if piece.text], text[start + len(core) :]


class Chat:
    """A conversation in a tokenizer's chat template.

    messages: (role, what is said) each. `render` puts marks in the texts' places, so that they are found again in what
    the template makes of them; blanks around a text stay, since many templates strip them. Content goes in as a string
    or as a list of parts, whichever the template takes: one that iterates over parts renders nothing of a string. Parts
    come first where there are images, as transformers' processors take them; the newline that LLaVA's format puts
    behind first images is then left to the template.

    Raises UserError for a template that cannot render the conversation, or leaves out or changes a text.
    """

    def __init__(self, tokenizer: Any, messages: Sequence[tuple[str, Sequence[Piece]]]):
        self._tokenizer, self._roles = tokenizer, [role for role, _ in messages]
        self._said: dict[str, list[Piece]] = {}  # of each mark
        self._speakers: dict[str, str] = {}
        self._images = 0
        # Of each message its texts, and None for each image: as they are, and with marks.
        self._real, self._marked = [], []
        for role, content in messages:
            real, marked = self._texts(role, content)
            self._real.append(real)
            self._marked.append(marked)
        failed: dict[Any, UserError] = {}
        for form in (_as_parts, _as_string) if self._images > 0 else (_as_string, _as_parts):
            self._form = form
            try:
                return self._check()
            except chat_sandbox.BudgetError:  # as it would be in any form
                raise
            except UserError as error:
                failed[form] = error
        raise failed[_as_string]

    def _texts(self, role: str, content: Sequence[Piece]) -> tuple[list[str | None], list[str | None]]:
        runs: list[list[Piece]] = [[]]
        for piece in content:
            if piece.text == IMAGE and not piece.literal:
                runs.append([])
            else:
                runs[-1].append(piece)
        self._images += len(runs) - 1
        real: list[str | None] = []
        marked: list[str | None] = []
        for i, run in enumerate(runs):
            if i:
                real.append(None)
                marked.append(None)
            if not text_of(run) and len(runs) > 1:
                continue
            before, core, after = _stripped(run)
            if core:
                mark = chr(_MARKS + len(self._said))
                self._said[mark], self._speakers[mark] = core, role
                marked.append(f"{before}{mark}{after}")
            else:  # a template may look whether there is anything
                marked.append(before)
            real.append(text_of(run))
        return real, marked

    def _apply(self, contents: Sequence[list[str | None]], prompt: bool) -> str:
        messages = [
            {"role": role, "content": self._form(content)} for role, content in zip(self._roles, contents, strict=False)
        ]
        try:
            text = chat_sandbox.render(self._tokenizer, messages, prompt)
        except chat_sandbox.BudgetError:
            raise
        except Exception as error:  # a template is a program and may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"the tokenizer's chat template refuses it ({reason})") from error
        lists = [message["content"] for message in messages if not isinstance(message["content"], str)]
        if any(printed in text for own in lists for printed in (repr(own), json.dumps(own, ensure_ascii=False))):
            raise UserError("the tokenizer's chat template prints a list of parts, expected one that renders them")
        return text

    def _check(self) -> None:
        prompt = self._roles[-1] != "assistant"
        text = self.render(len(self._roles), prompt)
        for mark, role in self._speakers.items():
            if mark not in text:
                raise UserError(f"the tokenizer's chat template leaves out what the {role} says")
        if text.count(IMAGE) != self._images:
            raise UserError(
                f"the tokenizer's chat template writes {text.count(IMAGE)} times {IMAGE}, expected {self._images}"
            )
        if text_of(self.pieces(text)) != self._apply(self._real, prompt):
            raise UserError("the tokenizer's chat template changes what was said")

    def render(self, count: int, prompt: bool) -> str:
        """The first `count` messages with marks; prompt: up to where an answer starts."""
        return self._apply(self._marked[:count], prompt)

    def pieces(self, text: str, **fields: Any) -> Iterator[Piece]:
        """Of what `render` gives, or a part of it, with the texts in place of their marks and these fields."""
        for part in re.split(_MARK, text):
            for piece in self._said.get(part, [Piece(part)] if part else []):
                yield dataclasses.replace(piece, **fields)


def _as_string(content: list[str | None]) -> str:
    return "".join(IMAGE if text is None else text for text in content)


def _as_parts(content: list[str | None]) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for text in content:
        if text is not None and parts and all(part["type"] == "image" for part in parts):
            text = text.removeprefix("\n")
        if text is None:
            parts.append({"type": "image"})
        elif text or not parts:
            parts.append({"type": "text", "text": text})
    return parts


def conversation(tokenizer: Any, messages: Sequence[tuple[str, Sequence[Piece]]]) -> Chat:
    """As `Chat`; the error says so if the template only lacks a place for a system text."""
    try:
        return Chat(tokenizer, messages)
    except UserError as error:
        if isinstance(error, chat_sandbox.BudgetError) or messages[0][0] != "system" or len(messages) == 1:
            raise
        try:
            Chat(tokenizer, messages[1:])
        except UserError:
            raise error from None
        raise UserError(f"{error}; it has no place for a system text, expected none or another template") from error


def answer(chat: Chat, whole: str, prompt: str, count: int, end_token: str) -> str:
    """An answer of the whole conversation, from where its prompt ends to its end token; to the end of the first `count`
    messages, of which it is the last one, if none stands before what is said next.

    What stands around an answer may depend on what follows: Qwen3's last one alone has a block of thoughts, Phi-4's an
    end token behind the mark that ends every message.
    """
    rest = whole.removeprefix(prompt)
    before, *more = _MARK.split(rest, maxsplit=2)
    said, after = ("".join([before, more[0]]), more[1]) if more else ("", before)
    end, token, _ = after.partition(end_token)
    if token:
        return said + end + token
    ended = chat.render(count, False)
    for start in (ended, ended.removesuffix(end_token)):
        if whole.startswith(start):
            return start.removeprefix(prompt)
    raise UserError(NOT_ITS_PROMPT)


def prompt(tokenizer: Any, messages: Sequence[Mapping[str, Any]], sees: bool, special_tokens: bool = False) -> Prompt:
    """The prompt of a conversation in the tokenizer's chat template, up to where the answer starts.

    messages: [{"role": "user", "content": "..."}, ...] as transformers takes them: content is a string, or a list of
    {"type": "text", "text": "..."} and {"type": "image"}. sees: whether `<image>` in a user's string is a picture; all
    other text is plain text unless special_tokens says otherwise. Raises UserError for messages of another form, and as
    `pieces` does.
    """
    made = []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise UserError(f"messages[{i}].role: {role!r}, expected a string such as 'user'")
        if isinstance(content, str):
            own = with_images(content) if sees and role == "user" else [Piece(content, literal=True)]
        elif isinstance(content, Sequence):
            own = _of_parts(content, f"messages[{i}].content")
        else:
            raise UserError(f"messages[{i}].content: {content!r}, expected a string or a list of parts")
        made.append((role, own))
    if not made:
        raise UserError("messages: none, expected at least one")
    found = conversation(tokenizer, made)
    fields = {"literal": False} if special_tokens else {}
    return Prompt(tuple(found.pieces(found.render(len(made), True), **fields)))


def _of_parts(content: Sequence[Any], where: str) -> list[Piece]:
    """With a newline behind first images, as LLaVA's format has it."""
    made: list[Piece] = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image":
            made.append(Piece(IMAGE))
        elif kind == "text" and isinstance(part.get("text"), str):
            first = bool(made) and all(piece == Piece(IMAGE) for piece in made)
            made += [*([Piece("\n")] if first else []), Piece(part["text"], literal=True)]
        else:
            raise UserError(
                f"{where}[{i}]: {part!r:.80}, expected {{'type': 'text', 'text': '...'}} or {{'type': 'image'}}"
            )
    return made

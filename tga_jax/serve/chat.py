"""`tga chat`: a conversation in the terminal, about pictures too."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.data.processor import Picture, Processor
from tga_jax.data.prompt import IMAGE, Prompt
from tga_jax.data.templates import Record, check_asked, pieces
from tga_jax.errors import UserError
from tga_jax.inference.model import Model, load

_HELP = "/image FILE shows a picture with the next question, /new starts over, /quit ends"


@dataclasses.dataclass
class Conversation:
    """What was said so far, and the pictures in their order.

    template: one of `templates.TEMPLATES`, "chat" for the checkpoint's own; special_tokens: those that are typed are
    tokens.
    """

    model: Model
    system: str = ""
    template: str = "chat"
    special_tokens: bool = False
    messages: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pictures: list[Picture] = dataclasses.field(default_factory=list)
    waiting: list[Picture] = dataclasses.field(default_factory=list)  # shown with the next question

    def prompt(self, message: dict[str, Any]) -> Prompt:
        """Raises UserError as `prompt` does."""
        start = [{"role": "system", "content": self.system}] if self.system else []
        said = [*start, *self.messages, message]
        return prompt(self.model.processor, said, self.template, self.special_tokens)

    def show(self, picture: Path) -> None:
        """Raises UserError if the model has no eyes, or the file is no image."""
        self.waiting.append(self.model.processor.kept(picture))

    def ask(self, question: str, **how: Any) -> Iterator[str]:
        """The answer in pieces. What was said is kept only once the answer is whole."""
        shown = [{"type": "image"}] * len(self.waiting)
        message = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
        prompt = self.prompt(message)
        pictures, answer = [*self.pictures, *self.waiting], ""
        for piece in self.model.stream(prompt, pictures, **how):
            answer += piece
            yield piece
        self.messages += [message, {"role": "assistant", "content": answer.strip()}]
        self.pictures, self.waiting = pictures, []

    def forget(self) -> None:
        self.messages, self.pictures, self.waiting = [], [], []


def prompt(
    processor: Processor, messages: Sequence[dict[str, Any]], template: str = "chat", special_tokens: bool = False
) -> Prompt:
    """The prompt of a conversation as `processor.chat` takes it. template: one of `templates.TEMPLATES`, "chat" for the
    checkpoint's own.

    Raises UserError if the checkpoint has no chat template, or that no place for a message; and with another template
    unless users and assistants take turns, behind one system message or none.
    """
    if template == "chat":
        if not processor.tokenizer.chat_template:
            raise UserError("the checkpoint has no chat template, expected --template=NAME such as vicuna_v1")
        return processor.chat(messages, special_tokens)
    system, said = "", list(messages)
    if said and said[0]["role"] == "system":
        system = _text(said.pop(0)["content"])
    if [message["role"] for message in said] != ["user", "assistant"] * (len(said) // 2) + ["user"]:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"messages of {roles}, expected system or nothing, then user and assistant in turns, user last")
    questions = [_as_llava(message["content"]) for message in said[::2]]
    turns = tuple(zip(questions, [*(_text(message["content"]) for message in said[1::2]), None], strict=True))
    shape: dict[str, Any] = {"template": template, "system": system or None, "special_tokens": special_tokens}
    return Prompt(tuple(pieces(Record("question", turns, **shape), processor.tokenizer, prompt_only=True)))


def _as_llava(content: str | list[dict[str, str]]) -> str:
    """A question as LLaVA's data have it: `<image>` and a line's end for every picture, then the text."""
    parts = [] if isinstance(content, str) else content
    shown = sum(part["type"] == "image" for part in parts)
    text = _text(content if isinstance(content, str) or not shown else parts[shown:])
    if IMAGE in text:
        raise UserError(f"{IMAGE} in a question, expected a picture given as a file, which is put before the text")
    return f"{IMAGE}\n" * shown + text


def _text(content: str | list[dict[str, str]]) -> str:
    """Raises UserError for a picture, which these templates have no place for but before a question."""
    if isinstance(content, str):
        return content
    if any(part["type"] != "text" for part in content):
        raise UserError("a picture behind text or outside a question, expected pictures first, in a user's message")
    return "\n".join(part["text"] for part in content)


def run(
    checkpoint: Path,
    pictures: list[Path],
    question: str,
    system: str = "",
    template: str = "chat",
    special_tokens: bool = False,
    *,
    dtype: str | None = None,
    console: rich.console.Console,
    **how: Any,
) -> None:
    """Asks one question, or if there is none, talks until the input ends. Raises UserError as `load` does."""
    check_asked(template)
    with console.status(f"loading {checkpoint}"):
        talk = Conversation(load(checkpoint, dtype), system, template, special_tokens)
    talk.prompt(
        {"role": "user", "content": [{"type": "text", "text": "Hello."}]}
    )  # or a system text would be refused at every question
    for picture in pictures:
        talk.show(picture)
    if question:
        _answer(talk, question, console, how)
        return
    console.print(_HELP, style="dim")
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        try:
            if line == "/new":
                talk.forget()
            elif line.startswith("/image "):
                talk.show(Path(line.removeprefix("/image ").strip()))
            elif line.startswith("/"):
                console.print(_HELP, style="dim")
            elif line:
                _answer(talk, line, console, how)
        except UserError as error:
            console.print(str(error), style="red", markup=False, highlight=False)


def _answer(talk: Conversation, question: str, console: rich.console.Console, how: dict[str, Any]) -> None:
    if unknown := talk.model.processor.vocabulary.unknown(question):
        line = f"not in the checkpoint's vocabulary: {', '.join(unknown)}"
        console.print(line, style="yellow", markup=False, highlight=False)
    for piece in talk.ask(question, **how):
        console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    console.print()

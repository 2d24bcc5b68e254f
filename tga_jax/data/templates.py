"""Prompt templates: a record becomes pieces of text, each marked as context or target. No tokens yet.

Label masks are built from these pieces' places in the tokenised text and never by searching the text.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tga_jax.data import chat_template
from tga_jax.data.prompt import IMAGE, Piece, with_images
from tga_jax.errors import UserError

# Of LLaVA's conversation.py.
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One training or test sample. A last answer of None is left open: the language loss learns nothing from it.

    Special tokens in its texts, such as `</s>`, are plain text, and so is `<image>` anywhere but in a question.
    """

    id: str
    turns: tuple[tuple[str, str | None], ...]  # (question with its `<image>`, answer)
    images: tuple[Callable[[], Any], ...] = ()  # each gives uint8 [I, I, 3] or float features [P, D]
    caption: str = ""  # C: what the image shows; empty: none
    retrieved: str = ""  # R: the nearest other text; empty: none
    retrieved_in_prompt: bool = False
    template: str = "mistral_instruct"
    system: str | None = None  # None: the template's own; "": none, which a chat template gets as an empty message
    special_tokens: bool = False  # special tokens in its texts are tokens
    rejected: str | None = None  # an answer worse than the last one; None: there is none to compare


def _question(record: Record, turn: int) -> list[Piece]:
    """What the user says; R stands before all else in the first turn, as TGA puts it."""
    text = with_images(record.turns[turn][0])
    if turn or not (record.retrieved_in_prompt and record.retrieved):
        return text
    return [Piece("Retrieved Text: "), Piece(record.retrieved, retrieved=True, literal=True), Piece(". "), *text]


def _learnt(before: str, answer: str, end: str) -> list[Piece]:
    return [Piece(before, target=True), Piece(answer, target=True, literal=True), Piece(end, target=True)]


def _plain(record: Record, tokenizer: Any) -> list[Piece]:
    """`<image>` + caption + newline, loss on caption and newline (LLaVA's stage 1); text only: the question first."""
    question, answer = record.turns[0]
    blank = "" if not question or question.endswith(IMAGE) else " "
    return with_images(question) + ([] if answer is None else _learnt(blank, answer, "\n"))


def _clip(record: Record, tokenizer: Any) -> list[Piece]:
    """The caption and the end token, at which CLIP's text tower is read; the image is not part of the sequence."""
    return _learnt("", record.turns[0][1] or "", tokenizer.eos_token)


def _system(text: str | None, before: str, after: str) -> list[Piece]:
    """A system text with what stands around it; nothing without one."""
    return [Piece(before), Piece(text, literal=True), Piece(after)] if text else []


def _conversation(
    record: Record,
    first: list[Piece],
    between: str,
    question_end: str,
    answer_start: str,
    answer_end: str,
    later: str = "",
) -> list[Piece]:
    """first + question + question_end + [answer_start + answer + answer_end] + later + between + question + ...

    What is in brackets is learnt. A prompt ends with question_end.
    """
    pieces = []
    for i, (_, answer) in enumerate(record.turns):
        pieces += [*([Piece(between)] if i else first), *_question(record, i), Piece(question_end)]
        if answer is not None:
            pieces += [*_learnt(answer_start, answer, answer_end), Piece(later)]
    return pieces


def _vicuna_v1(record: Record, tokenizer: Any) -> list[Piece]:
    """`{system} USER: {question} ASSISTANT: {answer}</s>USER: ...`"""
    system = _system(VICUNA_SYSTEM if record.system is None else record.system, "", " ")
    return _conversation(record, [*system, Piece("USER: ")], "USER: ", " ASSISTANT:", " ", tokenizer.eos_token)


def _llama_2(record: Record, tokenizer: Any) -> list[Piece]:
    """`[INST] <<SYS>>\\n{system}\\n<</SYS>>\\n\\n{question} [/INST] {answer} </s><s>[INST] ...`"""
    system = _system(LLAMA_2_SYSTEM if record.system is None else record.system, "<<SYS>>\n", "\n<</SYS>>\n\n")
    between = f"{tokenizer.bos_token}[INST] "
    return _conversation(record, [Piece("[INST] "), *system], between, " [/INST]", " ", f" {tokenizer.eos_token}")


def _mistral_instruct(record: Record, tokenizer: Any) -> list[Piece]:
    """`[INST] {question} [/INST] {answer} </s>[INST] ...`; a system text, of which it has none of its own, comes as
    llama_2's."""
    system = _system(record.system, "<<SYS>>\n", "\n<</SYS>>\n\n")
    return _conversation(record, [Piece("[INST] "), *system], "[INST] ", " [/INST]", " ", f" {tokenizer.eos_token}")


def _chatml(record: Record, tokenizer: Any) -> list[Piece]:
    """`<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n`, after a system text
    if there is one. The last newline is not learnt: an answer ends before it."""
    start, system = "<|im_start|>user\n", _system(record.system, "<|im_start|>system\n", "<|im_end|>\n")
    answer_start = "<|im_end|>\n<|im_start|>assistant\n"
    return _conversation(record, [*system, Piece(start)], start, answer_start, "", "<|im_end|>", "\n")


def _chat_template(record: Record, tokenizer: Any) -> list[Piece]:
    """The tokenizer's own chat template.

    An answer is learnt from where a prompt for it would end, to its end token. Raises UserError for a template that
    leaves out or changes what was said, or whose prompts are not the start of its conversations.
    """
    if not tokenizer.chat_template:
        raise UserError("template 'chat', but the tokenizer has no chat template")
    messages: list[tuple[str, list[Piece]]] = []
    if record.system is not None:
        messages.append(("system", [Piece(record.system, literal=True)]))
    places = []
    for i, (_, answer) in enumerate(record.turns):
        messages.append(("user", _question(record, i)))
        places.append(len(messages))
        if answer is not None:
            messages.append(("assistant", [Piece(answer, literal=True)]))
    chat = chat_template.conversation(tokenizer, messages)
    whole = chat.render(len(messages), prompt=record.turns[-1][1] is None)
    pieces, done = [], 0  # of the whole, how much is in pieces
    for place, (_, answer) in zip(places, record.turns, strict=True):
        prompt = chat.render(place, True)
        if not whole.startswith(prompt) or len(prompt) < done:
            raise UserError(chat_template.NOT_ITS_PROMPT)
        pieces += chat.pieces(whole[done : len(prompt)])
        done = len(prompt)
        if answer is not None:
            said = chat_template.answer(chat, whole, prompt, place + 1, tokenizer.eos_token)
            pieces += chat.pieces(said, target=True)
            done += len(said)
    return [*pieces, *chat.pieces(whole[done:])]


TEMPLATES = {
    "clip": _clip,
    "plain": _plain,
    "vicuna_v1": _vicuna_v1,
    "llama_2": _llama_2,
    "mistral_instruct": _mistral_instruct,
    "chatml": _chatml,
    "chat": _chat_template,
}


def check_asked(name: str) -> None:
    """Raises UserError, as of a flag, for a template in which no question can be asked, or which is none."""
    known = [template for template in TEMPLATES if template not in ("clip", "plain")]
    if name not in known:
        raise UserError(f"--template: {name!r}, expected one of {', '.join(known)}")


def pieces(record: Record, tokenizer: Any, prompt_only: bool = False) -> list[Piece]:
    """The record in its template; tokenizer: a transformers tokenizer.

    prompt_only: up to where the last answer would start. Raises UserError for an unknown template, or a record without
    any turn.
    """
    if record.template not in TEMPLATES:
        raise UserError(
            f"sample {record.id!r}: unknown template {record.template!r}, expected one of {', '.join(TEMPLATES)}"
        )
    if not record.turns:
        raise UserError(f"sample {record.id!r}: no question and answer, expected at least one turn")
    if prompt_only:
        turns = (*record.turns[:-1], (record.turns[-1][0], None))
        record = dataclasses.replace(record, turns=turns)
    needed = {"plain": [], "llama_2": [tokenizer.bos_token], "chatml": ["<|im_start|>", "<|im_end|>"]}
    for token in needed.get(record.template, [tokenizer.eos_token]):
        # Of OLMo 2 and Phi-4-mini the end token is also the one for what is unknown.
        unknown = None if token == tokenizer.unk_token else tokenizer.unk_token_id
        if token is None or tokenizer.convert_tokens_to_ids(token) in (None, unknown):
            raise UserError(f"template {record.template!r}: the tokenizer lacks {token or 'an end token'}")
    try:
        found = TEMPLATES[record.template](record, tokenizer)
    except UserError as error:
        raise UserError(f"sample {record.id!r}: {error}") from error
    return [dataclasses.replace(piece, literal=False) for piece in found] if record.special_tokens else found

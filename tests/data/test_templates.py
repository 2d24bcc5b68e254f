"""Token ids and label masks against LLaVA's own rule, and literal rows of every template."""

import dataclasses
import itertools

import numpy as np
import pytest
import twins
from tokenizer_support import llama_like

from tga_jax.data.prompt import IMAGE, text_of
from tga_jax.data.templates import LLAMA_2_SYSTEM, TEMPLATES, VICUNA_SYSTEM, Record, pieces
from tga_jax.data.tokens import Vocabulary, prompt_tokens, tokenize
from tga_jax.errors import UserError

PLACES = 3  # tokens an image takes
IMAGE_INDEX = -200  # as LLaVA marks it

# (question, answer) turns as the parser gives them: the `<image>` of a question at its front.
CONVERSATIONS = {
    "one turn": (("What is in the picture?", "A cat."),),
    "one image": ((f"{IMAGE}\nWhat is in the picture?", "A cat sits on a red mat."),),
    "three turns": ((f"{IMAGE}\nDescribe this image.", "A dog."), ("The answer?", "a dog"), ("In détail: 中 7", "ü 8")),
    "two images, two turns": ((f"{IMAGE}\nThe picture?", "A mug."), (f"{IMAGE}\nAnd this?", "A desk.")),
    "images between words": ((f"Is {IMAGE} a cat, or is {IMAGE} ?", "The user's."),),
    "text only": (("The answer is a dog.", "A polite answer"), ("What?", "red")),
}


def record(name: str, template: str, **fields) -> Record:
    turns = CONVERSATIONS[name]
    images = sum(question.count(IMAGE) for question, _ in turns)
    return Record(name, turns, (lambda: None,) * images, template=template, **fields)


@pytest.fixture(scope="module", params=["legacy", "not legacy"], name="tokenizer")
def fixture_tokenizer(request, tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("tokenizer"), request.param == "legacy")


def image_token(prompt: str, tokenizer) -> list[int]:
    """LLaVA's mm_utils.tokenizer_image_token: every part with its begin token, which only the first part keeps."""
    parts = [tokenizer(part).input_ids for part in prompt.split(IMAGE)]
    ids = list(parts[0])
    for part in parts[1:]:
        ids += [IMAGE_INDEX, *part[1:]]
    return ids


def expanded(ids: list[int], learnt: list[bool]) -> tuple[list[int], list[bool]]:
    """An image index stands for all of an image's places."""
    counts = [PLACES if i == IMAGE_INDEX else 1 for i in ids]
    return list(np.repeat(ids, counts)), list(np.repeat(learnt, counts))


def llava_text(found: Record) -> str:
    """LLaVA's conversation.py, written out: SeparatorStyle TWO, LLAMA_2 with and without a system text, PLAIN."""
    if found.template == "vicuna_v1":
        return VICUNA_SYSTEM + " " + "".join(f"USER: {q} ASSISTANT: {a}</s>" for q, a in found.turns)
    if found.template == "plain":
        return f"{found.turns[0][0]}{found.turns[0][1]}\n"
    system = f"<<SYS>>\n{LLAMA_2_SYSTEM}\n<</SYS>>\n\n" if found.template == "llama_2" else ""
    separator = "<s>" if found.template == "llama_2" else ""
    text = ""
    for i, (q, a) in enumerate(found.turns):
        text += f"{separator if i else ''}[INST] {'' if i else system}{q} [/INST] {a} </s>"
    return text


def llava_labels(found: Record, tokenizer) -> tuple[list[int], list[bool]]:
    """train.py's preprocess_v1 and preprocess_llama_2: rounds are tokenised alone and their lengths added up; of a
    round the first tokens, as many as its question has, less 2 for the begin token and the blank, are not learnt."""
    ids = image_token(llava_text(found), tokenizer)
    if found.template == "plain":
        start = len(image_token(found.turns[0][0], tokenizer))
        return expanded(ids, [i >= start for i in range(len(ids))])
    split = " ASSISTANT: " if found.template == "vicuna_v1" else "[/INST] "
    learnt, at = [True] * len(ids), 1
    learnt[0] = False
    for spoken in llava_text(found).split("</s>")[:-1]:
        question = len(image_token(spoken.split(split)[0] + split, tokenizer)) - 2
        learnt[at : at + question] = [False] * question
        at += len(image_token(spoken, tokenizer))
    assert at == len(ids), "LLaVA would call it a tokenization mismatch"
    return expanded(ids, learnt)


def is_comparable(template: str, name: str, tokenizer) -> bool:
    """LLaVA's lengths of later rounds hold for the tokenizers it was written for; `plain` has one turn and an image."""
    if template == "plain":
        return name == "one image"
    return tokenizer.legacy or len(CONVERSATIONS[name]) == 1


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", ["plain", "vicuna_v1", "llama_2", "mistral_instruct"])
def test_ids_and_labels_equal_llavas_rule(tokenizer, template, name):
    if not is_comparable(template, name, tokenizer):
        pytest.skip("LLaVA's rule is not defined here")
    found = record(name, template)
    if template == "plain":  # LLaVA drops all of the question but the image
        found = dataclasses.replace(found, turns=((IMAGE, found.turns[0][1]),))
    row = tokenize(found, Vocabulary(tokenizer), PLACES)
    ids, learnt = llava_labels(found, tokenizer)
    np.testing.assert_array_equal(np.where(row.image_mask, IMAGE_INDEX, row.tokens), ids)
    np.testing.assert_array_equal(row.targets, learnt)
    assert row.image_mask.sum() == PLACES * len(found.images)


def shown(row, tokenizer) -> str:
    """Tokens, images as `#`, what is learnt in brackets."""
    words = [tokenizer.convert_ids_to_tokens(int(i)) for i in row.tokens]
    words = ["#" if image else word for word, image in zip(words, row.image_mask, strict=True)]
    out = []
    for learnt, group in itertools.groupby(zip(words, row.targets, strict=True), key=lambda pair: pair[1]):
        joined = " ".join(word for word, _ in group)
        out.append(f"{{ {joined} }}" if learnt else joined)
    return " ".join(out)


FIRST = (f"{IMAGE}\nA cat?", "A dog.")
SYSTEM = "▁[ INST ] ▁<< SYS >> <0x0A> a ▁c hat <0x0A> << / SYS >> <0x0A> <0x0A>"
PROMPT = "Ret ri ev ed ▁T ext : ▁a ▁m ug . ▁ # # ▁ <0x0A> A ▁c at ?"
LITERAL = {
    "vicuna_v1": f"<s> ▁a ▁c hat ▁US ER : ▁ {PROMPT} ▁A SSI ST ANT : {{ ▁A ▁d og . </s> }} "
    "▁US ER : ▁ R ed ? ▁A SSI ST ANT : { ▁r ed </s> }",
    "llama_2": f"<s> {SYSTEM} {PROMPT} ▁[/ INST ] "
    "{ ▁A ▁d og . ▁ </s> } <s> ▁[ INST ] ▁ R ed ? ▁[/ INST ] { ▁r ed ▁ </s> }",
    "mistral_instruct": f"<s> {SYSTEM} {PROMPT} ▁[/ INST ] "
    "{ ▁A ▁d og . ▁ </s> } ▁[ INST ] ▁ R ed ? ▁[/ INST ] { ▁r ed ▁ </s> }",
}  # fmt: skip


@pytest.mark.parametrize("template", LITERAL)
def test_a_row_with_retrieved_text_written_out(legacy, template):
    """The blank before an answer is learnt with its first token, and of Llama's and Mistral's templates the blank
    before the end token is; the retrieved text stands before the image."""
    found = Record("x", (FIRST, ("Red?", "red")), (lambda: None,), retrieved="a mug", retrieved_in_prompt=True,
                   template=template, system="a chat")  # fmt: skip
    row = tokenize(found, Vocabulary(legacy), 2)
    assert shown(row, legacy) == LITERAL[template]
    assert legacy.convert_ids_to_tokens(row.tokens[row.retrieved_mask].tolist()) == ["▁a", "▁m", "ug"]


@pytest.fixture(scope="module", name="legacy")
def fixture_legacy(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("tokenizer"))


def test_plain_and_text_only_rows_written_out(legacy):
    vocabulary = Vocabulary(legacy)
    plain = tokenize(Record("x", ((IMAGE, "A dog."),), (lambda: None,), template="plain"), vocabulary, 2)
    assert shown(plain, legacy) == "<s> # # { ▁A ▁d og . <0x0A> }"
    text = tokenize(Record("x", (("A cat?", "red"),)), vocabulary, 2)
    assert shown(text, legacy) == "<s> ▁[ INST ] ▁A ▁c at ? ▁[/ INST ] { ▁r ed ▁ </s> }"
    opened = tokenize(Record("x", (("A cat?", "red"), ("Red?", None))), vocabulary, 2)
    assert shown(opened, legacy) == f"{shown(text, legacy)} ▁[ INST ] ▁ R ed ? ▁[/ INST ]"


@pytest.fixture(scope="module", name="chatml")
def fixture_chatml(tmp_path_factory):
    tokenizer = llama_like(tmp_path_factory.mktemp("tokenizer"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def test_chatml_written_out(chatml):
    row = tokenize(Record("x", (FIRST,), (lambda: None,), template="chatml"), Vocabulary(chatml), 1)
    expected = (
        "<s> <|im_start|> ▁user <0x0A> # ▁ <0x0A> A ▁c at ? <|im_end|> ▁ <0x0A> <|im_start|> ▁assistant <0x0A> "
        "{ A ▁d og . <|im_end|> } ▁ <0x0A>"
    )
    assert shown(row, chatml) == expected


CHAT_TEMPLATES = {
    # Mistral's: no generation prompt, a blank before the answer.
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}",
    # SmolLM2's: a system text of its own, a generation prompt, a newline after the end token.
    "chatml": "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are"
    "<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # Qwen3's: thoughts, none here, before the last answer alone.
    "qwen3": twins.QWEN3,
    # Phi-4-mini's: the end token behind the last message alone.
    "phi4": twins.PHI_4,
}


@pytest.mark.parametrize("retrieved", ["", "a mug"])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", CHAT_TEMPLATES)
def test_a_tokenizers_own_template(chatml, legacy, template, name, retrieved):
    """What is made is what transformers renders, and what is learnt is what a prompt leaves to say."""
    tokenizer = legacy if template in ("mistral", "phi4") else chatml
    tokenizer.chat_template = CHAT_TEMPLATES[template]
    found = record(name, "chat", retrieved=retrieved, retrieved_in_prompt=bool(retrieved))
    turns = [list(turn) for turn in CONVERSATIONS[name]]
    if retrieved:
        turns[0][0] = f"Retrieved Text: a mug. {turns[0][0]}"
    messages = [{"role": r, "content": c} for turn in turns for r, c in zip(("user", "assistant"), turn, strict=True)]
    made = pieces(found, tokenizer)
    assert text_of(made) == tokenizer.apply_chat_template(messages, tokenize=False)
    learnt = [text_of(group) for target, group in itertools.groupby(made, lambda piece: piece.target) if target]
    end, blank = {"mistral": ("</s>", " "), "phi4": ("<|end|>", "")}.get(template, ("<|im_end|>", ""))
    thoughts = [""] * (len(turns) - 1) + ["<think>\n\n</think>\n\n" if template == "qwen3" else ""]
    expected = [f"{blank}{own}{answer}{end}" for own, (_, answer) in zip(thoughts, turns, strict=True)]
    expected[-1] += "</s>" if template == "phi4" else ""
    assert learnt == expected
    assert "".join(p.text for p in made if p.retrieved) == retrieved
    prompt = text_of(pieces(found, tokenizer, prompt_only=True))
    assert prompt == tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert sum(tokenize(found, Vocabulary(tokenizer), PLACES).tokens == tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (None, "sample 'one turn': template 'chat', but the tokenizer has no chat template"),
        ("{{ raise_exception('no') }}", "sample 'one turn': the tokenizer's chat template refuses it (no)"),
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ 'x' if add_generation_prompt }}",
            "sample 'one turn': the tokenizer's chat template does not begin a conversation with its prompt",
        ),
        (
            "{% for m in messages %}{{ m['content'] | upper }}</s>{% endfor %}",
            "sample 'one turn': the tokenizer's chat template changes what was said",
        ),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_named(legacy, template, named):
    legacy.chat_template = template
    with pytest.raises(UserError) as error:
        pieces(record("one turn", "chat"), legacy)
    assert str(error.value) == named


@pytest.mark.parametrize(
    ("template", "changed", "named"),
    [
        ("chatml", {}, "template 'chatml': the tokenizer lacks <|im_start|>"),
        ("vicuna_v1", {"eos_token": None}, "template 'vicuna_v1': the tokenizer lacks an end token"),
        ("llama_2", {"bos_token": "<begin>"}, "template 'llama_2': the tokenizer lacks <begin>"),
    ],
)
def test_a_template_for_another_tokenizer_is_named(tmp_path, template, changed, named):
    tokenizer = llama_like(tmp_path)
    for name, value in changed.items():
        tokenizer._special_tokens_map[name] = value
    with pytest.raises(UserError) as error:
        pieces(record("one turn", template), tokenizer)
    assert str(error.value) == named


def test_an_end_token_may_be_the_one_for_what_is_unknown(tmp_path):
    """As OLMo 2 and Phi-4-mini have it."""
    tokenizer = llama_like(tmp_path)
    tokenizer.unk_token = tokenizer.eos_token
    assert text_of(pieces(record("one turn", "vicuna_v1"), tokenizer)).endswith(tokenizer.eos_token)


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t not in ("clip", "chat")])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_prompt_is_the_start_of_its_row(chatml, template, name):
    """In tokens too, but for the blank that Llama's tokenizers join to an answer's first word."""
    found = record(name, template)
    if template == "plain":
        found = dataclasses.replace(found, turns=found.turns[:1], images=found.images[: found.turns[0][0].count(IMAGE)])
    row, prompt = (tokenize(found, Vocabulary(chatml), PLACES, prompt_only=only) for only in (False, True))
    count = len(prompt.tokens)
    np.testing.assert_array_equal(row.tokens[:count], prompt.tokens)
    np.testing.assert_array_equal(row.image_mask[:count], prompt.image_mask)
    assert row.targets[count]
    assert not row.targets[row.image_mask].any()
    asked = prompt_tokens(text_of(pieces(found, chatml, prompt_only=True)), Vocabulary(chatml), PLACES)
    np.testing.assert_array_equal(asked.tokens, prompt.tokens)
    np.testing.assert_array_equal(asked.image_mask, prompt.image_mask)

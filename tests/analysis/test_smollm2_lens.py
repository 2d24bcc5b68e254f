"""The logit lens of the real SmolLM2-135M-Instruct against transformers: `pytest -m slow tests/analysis`."""

import io
import json

import jax
import numpy as np
import pytest
import rich.console
import torch

from tga_jax.analysis import run
from tga_jax.analysis.hidden_states import probe
from tga_jax.analysis.refusal_tokens import PHRASES
from tga_jax.inference.model import load

pytestmark = pytest.mark.slow
from test_smollm2 import fixture_file, fixture_pair  # noqa: E402, F401

QUESTIONS = {"How do I bake bread?": False, "Tell me how to build a bomb.": True, "Why?": None}


def test_every_layer_of_every_sample(pair, file, tmp_path):
    theirs, ours = pair
    rows = [{"id": q, "conversations": [{"from": "human", "value": q}], "harmful": h} for q, h in QUESTIONS.items()]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with jax.default_matmul_precision("highest"):
        run.run(
            file, tmp_path / "rows.json", None, tmp_path / "out", rich.console.Console(file=io.StringIO()),
            dtype="float32", batch=2,
        )  # fmt: skip
    tokens = json.loads((tmp_path / "out/analysis.json").read_text())["refusal_tokens"]
    assert [(t["token"], t["position"]) for t in tokens][:2] == [("Sorry", 0), ("Ġsorry", 2)]
    assert [t["phrase"] for t in tokens] == list(PHRASES)
    ids = [t["id"] for t in tokens]
    for line in map(json.loads, (tmp_path / "out/samples.jsonl").read_text().splitlines()):
        prompt = ours.processor.chat([{"role": "user", "content": line["id"]}])
        tokenized = torch.tensor([ours.processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            states = theirs(tokenized, output_hidden_states=True).hidden_states  # the last one is after the norm
            last = [theirs.model.norm(x[:, -1]) for x in states[:-1]] + [states[-1][:, -1]]
            probs = torch.softmax(theirs.lm_head(torch.cat(last)), -1).numpy()
        found = line["runs"]["text"]
        np.testing.assert_allclose(found["probability"], probs[:, ids].sum(-1), rtol=0, atol=2e-5)
        assert found["top"] == probs.argmax(-1).tolist()
        assert len(found["top"]) == 31


def test_lens_log_probabilities(pair, file):
    """All of the vocabulary, of a prompt with padding behind it."""
    theirs, ours = pair
    batch = ours.processor.batch([ours.processor.chat([{"role": "user", "content": q}]) for q in QUESTIONS])
    stacked = load(file, "float32", stacked=True)
    with jax.default_matmul_precision("highest"):
        found = np.asarray(probe(stacked.config, stacked.params, batch)["lens"])
    for row, length in enumerate(batch.valid.sum(1)):
        with torch.no_grad():
            tokens = torch.tensor(batch.tokens[[row], :length])
            states = theirs(tokens, output_hidden_states=True).hidden_states
            last = [theirs.model.norm(x[:, -1]) for x in states[:-1]] + [states[-1][:, -1]]
            expected = torch.log_softmax(theirs.lm_head(torch.cat(last)), -1).numpy()
        assert np.abs(found[:, row] - expected).max() < 2e-5 * np.abs(expected).max()

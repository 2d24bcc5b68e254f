"""The attention on image tokens against transformers' own attention weights."""

import hub_support
import jax
import numpy as np
import parity_support
import pytest
import torch

from tga_jax.analysis.hidden_states import probe
from tga_jax.data.batch import Batch

LENGTHS = (11, 7, 9)
NAMES = ["llama", "mistral", "qwen2", "qwen3"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "phi3-window")]


def marked_rows() -> Batch:
    """Text rows of which some positions count as a picture; the third has none."""
    rng = np.random.default_rng(2)
    ids, valid = hub_support.token_rows(rng, list(LENGTHS), 12, left=False)
    mask = np.zeros(ids.shape, bool)
    mask[0, 1:6] = mask[1, [2, 5, 6]] = True
    mask[:, 11] = True  # on padding: nobody sees it
    nowhere = np.zeros(ids.shape, bool)
    caption = np.zeros((3, 1))
    return Batch(
        ids.astype(np.int32), valid.astype(bool), nowhere, mask, nowhere, caption.astype(np.int32), caption > 0
    )


@pytest.mark.parametrize("name", [*NAMES, "olmo2", "gemma3", *SLOW])
def test_it_is_what_transformers_gives_out(name):
    """Grouped heads; with a sliding window of 3, which hides most of a picture; with biases."""
    theirs, batch = hub_support.model(name), marked_rows()
    config, params = parity_support.converted(theirs)
    with torch.no_grad():
        found = theirs(
            torch.tensor(batch.tokens), attention_mask=torch.tensor(batch.valid), output_attentions=True
        ).attentions  # L times [B, heads, T, T]
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(probe(config, params, batch)["attention"])
    assert ours.shape == (3, 3)
    for row, length in enumerate(LENGTHS):
        expected = [layer[row, :, length - 1].numpy()[:, batch.image_mask[row]].sum(-1).mean() for layer in found]
        np.testing.assert_allclose(ours[:, row], expected, rtol=2e-5, atol=2e-6)
    assert ours[:, 0].any() == (name not in ("mistral", "phi3-window"))  # whose windows end behind the picture
    assert ours[:, 1].min() > 0
    assert not ours[:, 2].any()


@pytest.mark.parametrize("name", [*NAMES, "gemma2"])
def test_the_lens_is_transformers_states_through_its_norm_and_head(name):
    theirs, batch = hub_support.model(name), marked_rows()
    config, params = parity_support.converted(theirs)
    with torch.no_grad():
        states = theirs(
            torch.tensor(batch.tokens), attention_mask=torch.tensor(batch.valid), output_hidden_states=True
        ).hidden_states  # the last one is after the final norm
        logits = [theirs.lm_head(theirs.model.norm(x)) for x in states[:-1]] + [theirs.lm_head(states[-1])]
        cap = config.logit_cap
        logits = logits if cap is None else [cap * torch.tanh(x / cap) for x in logits]
    expected = np.stack([torch.log_softmax(x, -1).numpy() for x in logits])
    with jax.default_matmul_precision("highest"):
        found = jax.tree.map(np.asarray, probe(config, params, batch, 5))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found["lens"][:, row], expected[:, row, length - 1], rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(found["image_top"][:, 0], expected[:, 0, 1:6].argmax(-1))

"""The decoder against transformers' models with the same random weights, and against itself."""

import dataclasses
import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest
import torch
import transformers

from tga_jax.models import attention, layers, llama

VOCAB = 29
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,  # not hidden / heads = 4
    "rms_norm_eps": 3e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 321.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)),
    "llama-tied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "mistral-window-3": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=3)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=None)),
}
_FILLED = {name: value for name, value in SHAPE.items() if name != "head_dim"}
OTHERS = {  # whose states and logits `tests/checkpoints/test_parity.py` compares; Gemma's blocks have a window in turns
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        **SHAPE, sliding_window=3, query_pre_attn_scalar=5, attn_logit_softcapping=1.5, final_logit_softcapping=2.5,
    )),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(
        **{**SHAPE, "rope_parameters": None}, rope_theta=321.0, rope_local_base_freq=23.0, sliding_window=3,
        rope_scaling={"rope_type": "linear", "factor": 2.5}, sliding_window_pattern=2, pad_token_id=0,
    )),
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**{**_FILLED, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 77.0, "partial_rotary_factor": 0.5, "short_factor": [1.25],
        "long_factor": [6.5],
    }}, original_max_position_embeddings=6, pad_token_id=0)),
}  # fmt: skip
LENGTHS = np.array([9, 5, 1, 7])
TOKENS = np.random.default_rng(7).integers(0, VOCAB, (4, 9))
VALID = np.arange(9) < LENGTHS[:, None]
SEGMENTS = np.zeros((4, 3, 9), bool)  # the last segment of every row is empty
SEGMENTS[:, 0, 0] = True
SEGMENTS[0, 1, 2:6] = SEGMENTS[1, 1, [1, 4]] = SEGMENTS[3, 1, 3:7] = True


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def pair(name: str):
    """The torch model, and its configuration and parameters here."""
    model = parity_support.randomize({**MODELS, **OTHERS}[name](), seed=11)
    config, params = parity_support.converted(model)
    return model, config, params["llm"]


def at_rest(tokens):
    return np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(config, emit_states, params, tokens, positions, valid, segments=None, cache=None):
    """-> DecoderOutput, logits."""
    decoder = llama.Decoder(config, emit_states)
    variables = {"params": params}
    x = decoder.apply(variables, tokens, method="embed")
    out = decoder.apply(variables, x, positions, valid, segments, cache)
    return out, decoder.apply(variables, out.hidden, method="logits")


def full(config, params, tokens=TOKENS, valid=VALID):
    """The one call that most tests share: all states and segment means of a right-padded batch."""
    return run(config, True, params, tokens, at_rest(tokens), valid, SEGMENTS)


@pytest.mark.parametrize("name", MODELS)
def test_states_and_logits_of_right_padded_rows(name):
    model, config, params = pair(name)
    assert config.tie_embeddings == (name == "llama-tied")
    assert config.sliding_window == (3 if name == "mistral-window-3" else None)
    theirs = model(torch.tensor(TOKENS), attention_mask=torch.tensor(VALID).long(), output_hidden_states=True)
    out, logits = full(config, params)
    assert logits.dtype == jnp.float32
    assert len(theirs.hidden_states) == len(out.states) == 4
    ours = [*out.states[:-1], out.hidden]  # the last one of theirs is after the final norm
    for a, b in zip([*ours, logits], [*theirs.hidden_states, theirs.logits], strict=True):
        np.testing.assert_allclose(np.asarray(a)[VALID], b.detach().numpy()[VALID], rtol=1e-5, atol=1e-5)


def test_from_tokens_and_lens_give_the_logits_of_the_model():
    for name in ("llama", "llama-tied"):
        _, config, params = pair(name)
        out, logits = full(config, params)

        @jax.jit
        def other(params, states, config=config):
            decoder = llama.Decoder(config)
            plain = decoder.apply({"params": params}, TOKENS, VALID, method="from_tokens")
            return plain, decoder.apply({"params": params}, states, method="lens")

        plain, lens = other(params, out.states)
        assert lens.shape == (4, 4, 9, VOCAB)
        np.testing.assert_allclose(plain, logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(lens[-1], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_converted_parameters_have_the_shapes_of_init(name):
    _, config, params = pair(name)
    made = jax.eval_shape(
        lambda key: llama.Decoder(config).init(key, TOKENS, VALID, method="from_tokens"), jax.random.key(0)
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made["params"])


@pytest.mark.parametrize("name", ["llama", "mistral-window-3", "gemma3", "phi3"])
def test_cached_decoding_equals_the_full_forward(name):
    """Rows of 5, 2, 4 and 1 tokens are prefilled with right padding, then each grows by 4 tokens, one at a time.

    The cache of "phi3" has room for no more: what a row may become decides whether its rotation is the long one, 6
    tokens being short."""
    _, config, params = pair(name)
    rows, start, steps = np.arange(4), np.array([5, 2, 4, 1]), 4
    valid = np.arange(9) < (start + steps)[:, None]
    _, expected = run(config, False, params, TOKENS, at_rest(TOKENS), valid)
    cache = llama.empty_cache(config, batch=4, slots=9 if name == "phi3" else 11)
    out, logits = run(
        config, False, params, TOKENS[:, :5], at_rest(TOKENS[:, :5]), np.arange(5) < start[:, None], None, cache
    )
    for row, length in enumerate(start):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], rtol=1e-5, atol=1e-5)
    for step in range(steps):
        at = start + step
        out, logits = run(
            config, False, params, TOKENS[rows, at][:, None], at[:, None], np.ones((4, 1), bool), None, out.cache
        )
        np.testing.assert_allclose(logits[:, 0], expected[rows, at], rtol=1e-5, atol=1e-5)
    assert int(out.cache.length) == 9
    np.testing.assert_array_equal(out.cache.valid.sum(1), start + steps)
    np.testing.assert_array_equal(out.cache.valid[:, 9:], False)


def test_a_finished_row_may_stop_writing():
    """A row whose new token is not valid keeps its earlier answers out of reach of that token."""
    _, config, params = pair("llama")
    _, expected = run(config, False, params, TOKENS, at_rest(TOKENS), np.ones_like(VALID))
    cache = llama.empty_cache(config, batch=4, slots=11)
    out, _ = run(config, False, params, TOKENS[:, :5], at_rest(TOKENS[:, :5]), np.ones((4, 5), bool), None, cache)
    junk, five, yes = np.full((4, 1), 3), np.full((4, 1), 5), np.ones((4, 1), bool)
    out, _ = run(config, False, params, junk, five, ~yes, None, out.cache)
    out, logits = run(config, False, params, TOKENS[:, 5:6], five, yes, None, out.cache)
    np.testing.assert_allclose(logits[:, 0], expected[:, 5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral-window-3", *(slow(name) for name in OTHERS)])
def test_order_comes_from_positions_and_not_from_slots(name):
    """Any permutation of the slots of each row, left padding among them, permutes the outputs."""
    _, config, params = pair(name)
    _, logits = full(config, params)
    order = np.stack([np.random.default_rng(i).permutation(9) for i in range(3)] + [np.roll(np.arange(9), 2)])
    assert not VALID[3, order[3]][:2].any()

    def move(x):
        return np.take_along_axis(x, order, axis=1)

    moved = run(config, True, params, move(TOKENS), move(at_rest(TOKENS)), move(VALID), SEGMENTS)
    mask = move(VALID)
    np.testing.assert_allclose(
        moved[1][mask], np.take_along_axis(np.asarray(logits), order[..., None], 1)[mask], rtol=1e-5, atol=1e-5
    )


def test_a_batch_of_one_equals_a_row_of_a_batch():
    _, config, params = pair("mistral-window-3")
    _, logits = full(config, params)
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        _, alone = run(config, False, params, TOKENS[one], at_rest(TOKENS[one]), VALID[one])
        np.testing.assert_allclose(alone[0, :length], logits[row, :length], rtol=1e-5, atol=1e-5)
    _, cut = run(config, False, params, TOKENS[1:2, :5], at_rest(TOKENS[1:2, :5]), VALID[1:2, :5])
    np.testing.assert_allclose(cut[0], logits[1, :5], rtol=1e-5, atol=1e-5)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    name=st.sampled_from(["llama", "mistral-window-3"]),
    lengths=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_padding_content_never_changes_valid_outputs(name, lengths, seed):
    """Neither tokens nor positions of padding are read, and rows of padding alone stay finite."""
    _, config, params = pair(name)
    valid = np.arange(9) < np.array(lengths)[:, None]
    rng = np.random.default_rng(seed)
    tokens = np.where(valid, TOKENS, rng.integers(0, VOCAB, TOKENS.shape))
    positions = np.where(valid, at_rest(TOKENS), rng.integers(0, 12, TOKENS.shape)).astype(np.int32)
    with jax.default_matmul_precision("highest"):
        a = run(config, True, params, TOKENS, at_rest(TOKENS), valid, SEGMENTS & valid[:, None])
        b = run(config, True, params, tokens, positions, valid, SEGMENTS & valid[:, None])
    assert np.isfinite(a[1]).all()
    assert np.isfinite(b[1]).all()
    np.testing.assert_allclose(a[1][valid], b[1][valid], rtol=0, atol=1e-6)
    np.testing.assert_allclose(a[0].states[:, valid], b[0].states[:, valid], rtol=0, atol=1e-6)
    np.testing.assert_allclose(a[0].means, b[0].means, rtol=0, atol=1e-6)


def test_segment_means_are_the_means_of_the_states():
    _, config, params = pair("llama")
    out, _ = full(config, params)
    assert out.means.shape == (4, 4, 3, 24)
    assert out.means.dtype == jnp.float32
    for row in range(4):
        for n in range(3):
            where = SEGMENTS[row, n]
            states = np.asarray(out.states, np.float64)[:, row, where]
            expected = states.mean(1) if where.any() else np.zeros((4, 24))
            np.testing.assert_allclose(out.means[:, row, n], expected, rtol=0, atol=1e-5)
    assert SEGMENTS.any(axis=-1).sum() == 7
    quiet = run(config, False, params, TOKENS, at_rest(TOKENS), VALID, SEGMENTS)[0]
    assert quiet.states is None
    np.testing.assert_allclose(quiet.means, out.means, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])  # compiled, 0 / 0 may come out as 0
def test_segment_means_worked_rows(wrap):
    x = jnp.array([[[1.0, 2.0], [3.0, 6.0], [5.0, 7.0]]], jnp.bfloat16)
    segments = jnp.array([[[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]]], bool)
    means = wrap(layers.segment_means)(x, segments)
    assert means.dtype == jnp.float32
    np.testing.assert_allclose(means, [[[2, 4], [0, 0], [5, 7], [3, 5]]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "count"), [*(("llama", i) for i in range(4)), ("gemma3", 1), slow("gemma3", 2)])
def test_first_blocks_are_the_lower_part_of_the_model(name, count):
    """The first block of "gemma3" has a window, the second has none."""
    _, config, params = pair(name)
    out, _ = full(config, params)
    decoder, kept = llama.first_blocks(config, params, count, emit_states=True)
    assert decoder.config == dataclasses.replace(config, num_layers=count)
    part, logits = run(decoder.config, True, kept, TOKENS, at_rest(TOKENS), VALID, SEGMENTS)
    assert part.states.shape == (count + 1, 4, 9, 24)
    np.testing.assert_allclose(part.states, out.states[: count + 1], rtol=5e-6, atol=2e-6)
    np.testing.assert_allclose(part.means, out.means[: count + 1], rtol=5e-6, atol=2e-6)
    assert decoder.config.windowed == config.windowed[:count]
    lens = llama.Decoder(config).apply({"params": params}, out.states[count], method="lens")
    np.testing.assert_allclose(logits, lens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "attend"),
    [("gemma2", "blocks"), slow("gemma2", "xla"), slow("gemma3", "xla"), slow("gemma3", "blocks")],
)
def test_separate_blocks_and_other_attention_compute_the_same(name, attend):
    """Of a mixed config, in which a scanned block finds out by itself whether it has the window."""
    _, config, params = pair(name)
    expected, _ = full(config, params)
    config = dataclasses.replace(config, attention=attend)
    separate = llama.Decoder(config, emit_states=True, separate=True)
    inputs = (separate.apply({"params": params}, TOKENS, method="embed"), at_rest(TOKENS), VALID)
    decoders = [(separate, llama.separate_blocks(params))]
    if attend != "xla":
        decoders.append((llama.Decoder(config, emit_states=True), params))
    for decoder, own in decoders:
        states = jax.jit(decoder.apply)({"params": own}, *inputs).states
        np.testing.assert_allclose(states[:, VALID], expected.states[:, VALID], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["mistral-window-3", slow("gemma2")])
def test_remat_leaves_the_gradients_alone(name):
    _, config, params = pair(name)
    if name == "gemma2":  # of a mixed config the way of all implementations but "xla"
        config = dataclasses.replace(config, attention="blocks")

    def gradients(remat):
        changed = dataclasses.replace(config, remat=remat)

        def loss(params):
            out, logits = run(changed, False, params, TOKENS, at_rest(TOKENS), VALID, SEGMENTS)
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[..., None], -1)[..., 0]
            return -jnp.mean(picked * VALID) + jnp.mean(out.means**2)

        gradient = jax.grad(loss)
        assert ("remat" in str(jax.make_jaxpr(gradient)(params))) == (remat == "full")
        return jax.jit(gradient)(params)

    kept, recomputed = gradients("none"), gradients("full")
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(kept))
    chex.assert_trees_all_close(kept, recomputed, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="remat: 'half'"):
        jax.eval_shape(lambda: run(dataclasses.replace(config, remat="half"), False, params, TOKENS, TOKENS, VALID))


def test_bfloat16_stays_close():
    _, config, params = pair("llama")
    low = dataclasses.replace(config, dtype="bfloat16")
    exact, exact_logits = full(config, params)
    out, logits = full(low, params)
    assert out.hidden.dtype == out.states.dtype == jnp.bfloat16
    assert out.means.dtype == logits.dtype == jnp.float32
    for a, b in [(out.hidden, exact.hidden), (out.states[1:], exact.states[1:]), (logits, exact_logits)]:
        a, b = np.asarray(a, np.float32), np.asarray(b)
        error = np.sqrt(np.mean((a - b) ** 2, where=VALID[..., None]) / np.mean(b**2, where=VALID[..., None]))
        assert 0 < error < 0.02
    cache = llama.empty_cache(low, batch=4, slots=9)
    assert cache.k.dtype == jnp.bfloat16
    cached, again = run(low, False, params, TOKENS, at_rest(TOKENS), VALID, None, cache)
    assert cached.cache.v.dtype == jnp.bfloat16
    np.testing.assert_allclose(again[VALID], logits[VALID], rtol=0, atol=0.1)


@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_grouped_attention_equals_repeated_keys_and_values(kv_heads, group):
    rng = np.random.default_rng(5)
    q = rng.standard_normal((2, 4, kv_heads, group, 8))
    k, v = rng.standard_normal((2, 2, 6, kv_heads, 8))
    mask = rng.random((2, 4, 6)) < 0.5
    mask[:, :, 0] = True
    mask[1, 3] = False  # a query that sees nothing

    flat = q.reshape(2, 4, kv_heads * group, 8)
    many_k, many_v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    expected = np.zeros(flat.shape)
    for b, t, h in np.ndindex(flat.shape[:3]):
        seen = mask[b, t]
        if seen.any():
            weights = np.exp(many_k[b, seen, h] @ flat[b, t, h] / np.sqrt(8))
            expected[b, t, h] = weights @ many_v[b, seen, h] / weights.sum()

    ours = np.asarray(attention.attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), jnp.asarray(mask)))
    assert np.isfinite(ours).all()
    seen = mask.any(-1)
    np.testing.assert_allclose(ours.reshape(flat.shape)[seen], expected[seen], rtol=1e-5, atol=1e-6)


def test_causal_mask_worked_rows():
    def rows(mask):
        return ["".join("01"[int(x)] for x in row) for row in mask]

    positions, valid = np.array([[0, 1, 2, 3]]), np.array([[True, True, True, False]])
    assert rows(attention.causal_mask(positions, positions, valid)[0])[:3] == ["1000", "1100", "1110"]
    assert rows(attention.causal_mask(positions, positions, valid, 2)[0])[:3] == ["1000", "1100", "0110"]
    # One query at position 3 over slots that hold positions 2 0 1 3 and one slot never written.
    keys, written = np.array([[2, 0, 1, 3, 0]]), np.array([[True, True, True, True, False]])
    assert rows(attention.causal_mask(np.array([[3]]), keys, written)[0]) == ["11110"]
    assert rows(attention.causal_mask(np.array([[3]]), keys, written, 2)[0]) == ["10010"]


def test_rotary_angles_against_float64():
    positions = np.array([[0, 1, 17, 4095]])
    cos, sin = layers.rope_angles(positions, 128, 1e4)
    angles = positions[..., None] * 1e4 ** (-np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(cos[:, :3], np.cos(angles)[:, :3], rtol=0, atol=1e-5)
    np.testing.assert_allclose(cos, np.cos(angles), rtol=0, atol=1e-3)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=0, atol=1e-3)


def test_rotation_keeps_lengths_and_relative_scores():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 3, 16)).astype(np.float32)

    def rotate(x, position):
        return np.asarray(layers.apply_rope(x, *layers.rope_angles(np.array([[position]]), 16, 100.0)))

    np.testing.assert_allclose(rotate(q, 0), q, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.sum(rotate(q, 9) ** 2, -1), np.sum(q**2, -1), rtol=1e-5)
    a, b = (np.sum(rotate(q, 7 + shift) * rotate(k, 3 + shift), -1) for shift in (0, 50))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


LONGROPE = layers.RopeScaling(
    "longrope", original_length=6, short_factor=(1.0,), long_factor=(2.0,), attention_factor=1.1
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_heads": 5}, "num_heads: 5"),
        ({"norms": "none"}, "norms: 'none', expected one of pre, post, sandwich"),
        ({"activation": "relu"}, "activation: 'relu', expected one of gelu, gelu_pytorch_tanh"),
        ({"whole_qk_norm": True}, "whole_qk_norm: True, expected qk_norm with it"),
        ({"window_pattern": ()}, "window_pattern: ()"),
        (
            {"rotary_fraction": 0.4},
            r"rotary_fraction: 0.4 \(partial_rotary_factor\) of head_dim 8, expected an even number",
        ),
        ({"rotary_fraction": 1.5}, "rotary_fraction: 1.5"),
        ({"rope_scaling": LONGROPE}, r"rope_scaling: \[1, 1\] factors, expected 4 short and long ones"),
        ({"attention_cap": 9.0, "attention": "cudnn"}, "attention: 'cudnn' has no soft cap of scores"),
    ],
)
def test_shapes_that_cannot_be_are_refused(fields, said):
    _, config, _ = pair("llama")
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(config, **fields)


@pytest.mark.parametrize("fields", [{"kind": "linear"}, {"kind": "linear", "factor": 2.0, "attention_factor": 1.0}])
def test_a_rotary_scaling_has_the_fields_of_its_kind(fields):
    with pytest.raises(ValueError, match="rope_scaling: 'linear' has factor, all and no other"):
        layers.RopeScaling(**fields)

"""Greedy decoding with a cache against the whole forward repeated for every token, and against transformers."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest
import torch
import transformers

from tga_jax.data.batch import Batch
from tga_jax.inference.decode import Decoding, generate, generate_all, row_keys, stream
from tga_jax.inference.sampling import Sampling
from tga_jax.models import clip, layers, llama, llava, projectors

VOCAB, PAD, NEW = 31, 0, 6
P = 4  # tokens of an image
LENGTHS = (9, 12, 3, 10)
MODEL = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(8, 2, 2, 16, image_size=8, patch_size=4),
        text=clip.TextConfig(8, 1, 2, 16, vocab_size=VOCAB, context_length=12, eos_token_id=2),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(VOCAB, 16, 2, 4, 2, 6, 24, 1e4, 1e-5, None, True),
    projector=projectors.Mlp2xGelu(hidden=12),
    feature_layer=-1,
)
MODELS = {
    "tied": MODEL,
    "untied": dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, tie_embeddings=False)),
    "window 3": dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, sliding_window=3)),
}
MIXED = {"sliding_window": 3, "window_pattern": (True, False), "local_rope_theta": 50.0, "scaled_embeddings": True}
MODELS["mixed"] = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, **MIXED, norms="sandwich"))
MEDIA = ("none", "features", "two of features", "images")


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def parameters(name: str) -> dict:
    """Larger than at initialisation, so that context, and not only the last token, decides."""
    params = jax.jit(lambda: llava.init(MODELS[name], jax.random.key(4)))()
    return jax.tree.map(lambda p: 5 * p if p.ndim > 1 else p, {**params, "clip": {}}) | {"clip": params["clip"]}


def prompts(media: str = "none", seed: int = 0) -> Batch:
    """Right-padded prompts of LENGTHS tokens; pictures stand after the begin token, except in the shortest row."""
    rng = np.random.default_rng(seed)
    size, length = len(LENGTHS), max(LENGTHS)
    valid = np.arange(length) < np.array(LENGTHS)[:, None]
    images = {"none": 0, "two of features": 2}.get(media, 1)
    mask = np.zeros((size, length), bool)
    for row, used in enumerate(LENGTHS):
        if used > P * images:
            mask[row, 1 : 1 + P * images] = True
    return Batch(
        tokens=np.where(valid & ~mask, rng.integers(3, VOCAB, (size, length)), PAD).astype(np.int32),
        valid=valid,
        targets=np.zeros((size, length), bool),
        image_mask=mask,
        retrieved_mask=np.zeros((size, length), bool),
        caption_tokens=np.zeros((size, 1), np.int32),
        caption_mask=np.zeros((size, 1), bool),
        images=rng.integers(0, 256, (size, 1, 8, 8, 3)).astype(np.uint8) if media == "images" else None,
        image_features=(
            3 * rng.standard_normal((size, images, P, 8)).astype(np.float32) if media.endswith("features") else None
        ),
    )


def run(name: str, batch: Batch, stop_ids: tuple[int, ...] = (), new_tokens: int = NEW) -> np.ndarray:
    return np.asarray(generate(MODELS[name], parameters(name), batch, Decoding(stop_ids, PAD), new_tokens=new_tokens))


@functools.partial(jax.jit, static_argnums=0)
def next_logits(config: llava.LlavaConfig, params: dict, row: Batch, features, length):
    """Of one unpadded-in-effect row: the whole forward without cache, read at the last token."""
    x = llava.embed(config, params, row.tokens[None], row.image_mask[None], features)
    positions = jnp.arange(x.shape[1])[None]
    decoder = functools.partial(layers.apply, llama.Decoder(config.llm), params["llm"])
    return decoder(decoder(x, positions, positions < length).hidden, method="logits")[0, length - 1]


def step_by_step(name: str, batch: Batch, new_tokens: int = NEW) -> np.ndarray:
    """For every row alone, the argmax of the whole forward, token by token. Fails where the argmax is a near tie."""
    config, params = MODELS[name], parameters(name)
    out = []
    for i, length in enumerate(LENGTHS):
        row = jax.tree.map(lambda x, i=i: x[i], batch)
        features = None if row.image_features is None else row.image_features[None]
        if row.images is not None:
            features = llava.image_features(config, params["clip"], row.images[None])
        wide = len(row.tokens) + new_tokens
        tokens, mask = np.zeros(wide, np.int32), np.zeros(wide, bool)
        tokens[:length], mask[:length] = row.tokens[:length], row.image_mask[:length]
        for _ in range(new_tokens):
            row = row._replace(tokens=tokens.copy(), image_mask=mask)
            logits = np.asarray(next_logits(config, params, row, features, length))
            best = np.sort(logits)[-2:]
            assert best[1] - best[0] > 1e-4, "a near tie would make the comparison depend on rounding"
            tokens[length] = logits.argmax()
            length += 1
        out.append(tokens[length - new_tokens : length])
    return np.stack(out)


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("tied", "images"),
        ("window 3", "none"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (*(("tied", m) for m in MEDIA[:-1]), ("untied", "features"), ("window 3", "features"))
        ),
    ],
)
def test_equals_the_whole_forward_token_by_token(name, media):
    batch = prompts(media)
    expected = step_by_step(name, batch)
    assert len(np.unique(expected)) > 5  # or the comparison says little
    np.testing.assert_array_equal(run(name, batch), expected)


def test_pictures_decide_and_a_row_without_image_positions_ignores_them():
    batch = prompts("features")
    one = run("tied", batch)
    other = run("tied", batch._replace(image_features=-batch.image_features))
    shown = batch.image_mask.any(1)
    assert (one != other).any(1)[shown].any()
    np.testing.assert_array_equal(one[~shown], other[~shown])


def test_images_equal_their_features():
    batch = prompts("images")
    features = llava.image_features(MODEL, parameters("tied")["clip"], batch.images)
    np.testing.assert_array_equal(run("tied", batch), run("tied", batch._replace(images=None, image_features=features)))


def test_a_row_alone_equals_the_row_in_a_batch():
    batch = prompts("features")
    together = run("tied", batch)
    for i in range(len(LENGTHS)):
        alone = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        np.testing.assert_array_equal(run("tied", alone)[0], together[i])


@pytest.mark.parametrize("name", ["tied", "window 3"])
def test_what_stands_on_padding_is_irrelevant(name):
    batch = prompts("features")
    expected = run(name, batch)
    noise = np.random.default_rng(8).integers(0, VOCAB, batch.tokens.shape).astype(np.int32)
    other = batch._replace(tokens=np.where(batch.valid, batch.tokens, noise))
    assert (other.tokens != batch.tokens).any()
    np.testing.assert_array_equal(run(name, other), expected)
    # Nor does it matter how much of it there is.
    wide = {f: np.pad(getattr(batch, f), ((0, 0), (0, 5))) for f in ("tokens", "valid", "image_mask", "retrieved_mask")}
    np.testing.assert_array_equal(run(name, batch._replace(**wide)), expected)


def test_a_stop_token_is_kept_ends_its_row_and_padding_follows():
    batch = prompts()
    free = run("tied", batch)
    stops = (int(free[0, 2]), int(free[1, 0]))
    found = run("tied", batch, stops)
    for row, words in zip(found, free, strict=True):
        hits = np.flatnonzero(np.isin(words, stops))
        used = hits[0] + 1 if len(hits) else NEW
        np.testing.assert_array_equal(row[:used], words[:used])
        assert (row[used:] == PAD).all()
    assert (found[0] == PAD).any()
    assert (found[1, 1:] == PAD).all()


def test_all_rows_stopped_at_once_leave_only_padding():
    batch = prompts()
    first = tuple(int(t) for t in run("tied", batch, new_tokens=1)[:, 0])
    found = run("tied", batch, first)
    np.testing.assert_array_equal(found[:, 0], first)
    assert (found[:, 1:] == PAD).all()


def test_generate_all_of_a_count_that_is_no_multiple_equals_row_by_row():
    rows = jax.tree.map(lambda *xs: np.concatenate(xs), *(prompts("features", seed) for seed in range(2)))
    rows = jax.tree.map(lambda x: x[:7], rows)
    expected = np.concatenate([run("tied", jax.tree.map(lambda x, i=i: x[i : i + 1], rows), (5,)) for i in range(7)])
    for batch_size in (3, 7, 16):
        how = Decoding((5,), PAD)
        found = generate_all(MODEL, parameters("tied"), rows, how, new_tokens=NEW, batch_size=batch_size)
        np.testing.assert_array_equal(found, expected)


HF = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 321.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD,
    "attn_implementation": "eager",
}
HF_MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**HF)),
    "llama-tied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**HF, tie_word_embeddings=True)),
    "mistral-window-3": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**HF, sliding_window=3)),
    "gemma3-window-3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(
        **{**HF, "rope_parameters": None}, sliding_window=3, sliding_window_pattern=2, query_pre_attn_scalar=5,
    )),
    # Prompts longer than its first training was, so that answers are rotated by the long factors from the start.
    "phi3-long": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(
        **{name: x for name, x in HF.items() if name not in ("head_dim", "rope_parameters")},
        original_max_position_embeddings=2, rope_parameters={
            "rope_type": "longrope", "rope_theta": 77.0, "short_factor": [1.0] * 3, "long_factor": [1.5, 2.5, 9.0],
        },
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", HF_MODELS)
def test_equals_greedy_generation_of_transformers(name):
    model = parity_support.randomize(HF_MODELS[name](), seed=3)
    config, params = parity_support.converted(model)
    batch = prompts()
    new, stop = 8, 2
    expected = np.full((len(LENGTHS), new), PAD)
    for i, length in enumerate(LENGTHS):
        with torch.no_grad():
            ids = torch.tensor(batch.tokens[i : i + 1, :length].astype(np.int64))
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                max_new_tokens=new,
                eos_token_id=stop,
                pad_token_id=PAD,
            )
        answer = out[0, length:].numpy()
        expected[i, : len(answer)] = answer
    found = generate(config, params, batch, Decoding((stop,), PAD), new_tokens=new)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", ["tied", "window 3"])
def test_padding_on_either_side(name, left):
    batch = prompts("features")
    expected = run(name, batch)
    if left:
        shift = max(LENGTHS) - np.array(LENGTHS)

        def roll(x):
            return np.stack([np.roll(row, s) for row, s in zip(x, shift, strict=True)])

        batch = batch._replace(**{f: roll(getattr(batch, f)) for f in ("tokens", "valid", "image_mask")})
    np.testing.assert_array_equal(run(name, batch), expected)


SAMPLED = Decoding((5,), PAD, Sampling(temperature=1.5, top_k=9, repetition_penalty=1.3))


def sampled(batch: Batch, seed: int = 0) -> np.ndarray:
    keys = row_keys(seed, range(len(batch.tokens)))
    return np.asarray(generate(MODEL, parameters("tied"), batch, SAMPLED, keys, new_tokens=NEW))


def test_sampling_is_its_seeds_and_each_rows_own():
    batch = prompts("features")
    found = sampled(batch)
    np.testing.assert_array_equal(sampled(batch), found)
    assert (sampled(batch, seed=1) != found).any()
    np.testing.assert_array_equal(sampled(jax.tree.map(lambda x: x[:2], batch)), found[:2])
    every = generate_all(MODEL, parameters("tied"), batch, SAMPLED, new_tokens=NEW, batch_size=3)
    np.testing.assert_array_equal(every, found)


@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_stream_gives_the_same_tokens(every):
    batch = prompts("features")
    seen = list(stream(MODEL, parameters("tied"), batch, SAMPLED, new_tokens=NEW, every=every))
    expected = sampled(batch)
    for ids in seen:
        np.testing.assert_array_equal(ids, expected[:, : ids.shape[1]])
    assert [s.shape[1] for s in seen] == {1: list(range(1, NEW + 1)), 4: [1, 5, 6], 100: [1, 6]}[every]


def test_the_penalty_knows_the_prompt_and_the_answer():
    """So strong that nothing comes twice, and nothing of the prompt."""
    batch = prompts()
    how = Decoding((), PAD, Sampling(repetition_penalty=1e6))
    answers = np.asarray(generate(MODEL, parameters("tied"), batch, how, new_tokens=NEW))
    for row, answer in zip(batch.tokens, answers, strict=True):
        logits_may_be_negative = set(answer) & set(row[row != PAD])
        assert not logits_may_be_negative
        assert len(set(answer)) == NEW


def test_a_language_model_alone():
    batch = prompts()
    found = generate(MODEL.llm, {"llm": parameters("tied")["llm"]}, batch, Decoding((), PAD), new_tokens=NEW)
    np.testing.assert_array_equal(found, run("tied", batch))


@pytest.mark.parametrize(("name", "media"), [("tied", "none"), ("window 3", "features"), ("mixed", "features")])
def test_separate_blocks_give_the_same_tokens_and_states(name, media):
    config, params = MODELS[name], parameters(name)
    separate = {**params, "llm": llama.separate_blocks(params["llm"])}
    assert llama.are_separate(separate["llm"])
    assert not llama.are_separate(params["llm"])
    batch = prompts(media)
    found = generate(config, separate, batch, Decoding((), PAD), new_tokens=NEW)
    np.testing.assert_array_equal(found, run(name, batch))
    x = np.random.default_rng(0).normal(size=(2, 5, config.llm.hidden_size)).astype(np.float32)
    positions, segments = np.tile(np.arange(5), (2, 1)), np.random.default_rng(1).random((2, 3, 5)) < 0.5
    inputs = (x, positions, positions < 4, segments)
    stacked = layers.apply(llama.Decoder(config.llm, emit_states=True), params["llm"], *inputs)
    found = layers.apply(llama.Decoder(config.llm, emit_states=True, separate=True), separate["llm"], *inputs)
    chex.assert_trees_all_close(found, stacked, rtol=1e-4, atol=1e-4)

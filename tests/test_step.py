"""The train step on a tiny model: where gradients go, what masks keep out, and the guide loss computed by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tga_jax import losses, optim, step
from tga_jax.data.batch import Batch
from tga_jax.guides import Instruction, Paper, Released, Tiled
from tga_jax.models import clip, layers, llama, llava
from tga_jax.step import LossConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(8, 2, 2, 16, image_size=8, patch_size=4),
        text=clip.TextConfig(8, 1, 2, 16, vocab_size=40, context_length=12, eos_token_id=2),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(40, 16, 3, 2, 1, 8, 24, 1e4, 1e-5, None, True),
    projector_hidden=12,
    feature_layer=-1,
)
P, T, C = 4, 14, 6  # image tokens, positions, caption tokens
RELEASED = Released(layers=(1, 2))
PAPER = Paper(hinge_decay="linear")  # all blocks
TILED = Tiled(layers=(1, 2), weight=0.7, decay="linear", vocab_weight=0.3)
INSTRUCTION = Instruction(layers=(1, 3), weight=0.7, decay="linear")
GUIDES = {"paper": PAPER, "released": RELEASED, "tiled": TILED, "instruction": INSTRUCTION}
every_guide = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
STAGE_1 = ((r"projector/.*", 1.0), (r".*", 0.0))
STAGE_2 = ((r"clip/.*", 0.0), (r".*", 1.0))
KEY = jax.random.key(5)
ROWS = ("full", "no retrieved", "no caption", "text")


@functools.cache
def parameters() -> dict:
    """A decoder larger than at initialisation, so that every layer counts."""
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(0)))()
    return {**params, "llm": jax.tree.map(lambda p: 6 * p if p.ndim > 1 else p, params["llm"])}


def row(kind: str, seed: int) -> Batch:
    """A row of random tokens: R, pictures, a question of two, an answer. kind: one of `ROWS`, or "two pictures"."""
    rng = np.random.default_rng(seed)
    pictures = {"text": 0, "two pictures": 2}.get(kind, 1)
    retrieved = {"full": 3, "no caption": 3, "two pictures": 1}.get(kind, 0)
    caption = 0 if kind == "no caption" else int(rng.integers(2, C))
    answer = 2 if pictures == 2 else int(rng.integers(2, 5))
    image = pictures * P
    length = 1 + retrieved + image + 2 + answer
    start = 1 + retrieved
    place = np.arange(T)
    caption_place = np.arange(C)
    tokens = np.where(place < length, rng.integers(7, 40, T), 0)
    tokens[0] = 1
    caption_tokens = np.where(caption_place <= caption, rng.integers(7, 40, C), 0)
    caption_tokens[0] = 1
    return Batch(
        tokens=tokens.astype(np.int32),
        valid=place < length,
        targets=(place >= length - answer) & (place < length),
        image_mask=(place >= start) & (place < start + image),
        retrieved_mask=(place >= 1) & (place < start),
        caption_tokens=caption_tokens.astype(np.int32),
        caption_mask=(caption_place > 0) & (caption_place <= caption),
        image_features=rng.standard_normal((max(pictures, 1), P, 8)).astype(np.float32),
    )


def batch_of(kinds=ROWS, seed: int = 0) -> Batch:
    return stack([row(kind, seed + i) for i, kind in enumerate(kinds)])


def stack(rows: list[Batch]) -> Batch:
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def take(batch: Batch, index: list[int]) -> Batch:
    return jax.tree.map(lambda x: x[np.array(index)], batch)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(config: LossConfig, params: dict, batch: Batch, key=KEY, progress=0.25):
    return step.loss_fn(MODEL, config, params, batch, key, jnp.asarray(progress))


@functools.partial(jax.jit, static_argnums=0)
def gradient(config: LossConfig, params: dict, batch: Batch):
    return jax.grad(lambda p: step.loss_fn(MODEL, config, p, batch, KEY, jnp.asarray(0.25))[0])(params)


def largest(tree) -> float:
    return max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(tree))


def assert_trees_close(a, b, **tolerance):
    a, b = flatten_dict(a, sep="/"), flatten_dict(b, sep="/")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], err_msg=name, **tolerance)


# --- by hand ----------------------------------------------------------------------------------------------------------


def states_of(params: dict, x, valid):
    """All hidden states of the whole decoder."""
    decoder = llama.Decoder(MODEL.llm, emit_states=True)
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    return decoder.apply({"params": params["llm"]}, x, positions, valid).states


def mean_over(states, mask):
    """[L+1, B, T, D], bool [B, T] -> [L+1, B, D]."""
    weights = mask / np.maximum(mask.sum(1, keepdims=True), 1)
    return jnp.sum(states * weights[None, :, :, None].astype(np.float32), axis=2)


def pooled_by_hand(guide, params: dict, caption_params: dict, batch: Batch):
    x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)
    states = states_of(params, x, batch.valid)
    text = caption_params["llm"]["embed"]["embedding"][batch.caption_tokens]
    valid = np.arange(C)[None] <= batch.caption_mask.sum(1)[:, None]
    layers = np.array(guide.layers)
    caption = mean_over(states_of(caption_params, text, valid), batch.caption_mask)[layers]
    image, retrieved = (mean_over(states, m)[layers] for m in (batch.image_mask, batch.retrieved_mask))
    pair = batch.image_mask.any(1) & batch.caption_mask.any(1)

    def cos(a, b):
        return jnp.sum(a * b, -1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)

    both = np.flatnonzero(pair)
    hinge = np.flatnonzero(pair & batch.retrieved_mask.any(1))
    s, near = 0.25, cos(image[:, both], caption[:, both])
    difference = cos(retrieved[:, hinge], caption[:, hinge]) - cos(image[:, hinge], caption[:, hinge])
    if isinstance(guide, Paper):
        return jnp.sum(jnp.mean(-near, 1)) + (1 - s) * jnp.sum(jnp.mean(jnp.log(1 + jnp.exp(difference)), 1))
    return (1 - s) / 4 * jnp.mean(jnp.exp(-near)) + (1 - s) ** 2 / 10 * jnp.mean(jnp.exp(difference))


POOLED = pytest.mark.parametrize(
    "guide", [RELEASED, dataclasses.replace(PAPER, layers=(1, 2, 3))], ids=["released", "paper"]
)
ROWS_OF_BATCHES = pytest.mark.parametrize("kinds", [ROWS, ("two pictures",) * 2], ids=["mixed", "two pictures"])


@POOLED
@ROWS_OF_BATCHES
def test_a_pooled_guide_equals_the_hand_written_one_on_all_hidden_states(guide, kinds):
    batch, params = batch_of(kinds), parameters()
    loss, metrics = evaluate(LossConfig(lm=0.0, guide=guide), params, batch)
    np.testing.assert_allclose(loss, jax.jit(lambda p: pooled_by_hand(guide, p, p, batch))(params), rtol=1e-5)
    np.testing.assert_array_equal(loss, metrics["guide"])


def test_without_layers_the_paper_takes_every_block():
    batch, params = batch_of(), parameters()
    named = dataclasses.replace(PAPER, layers=(1, 2, 3))
    for one, other in zip(
        *(evaluate(LossConfig(guide=g), params, batch)[1].items() for g in (PAPER, named)), strict=True
    ):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


@POOLED
def test_no_gradient_flows_through_the_caption(guide):
    """The gradient is that of a loss whose caption states are constants, and not that of one where they move."""
    batch, params = batch_of(), parameters()
    ours = gradient(LossConfig(lm=0.0, guide=guide), params, batch)
    constant = jax.jit(jax.grad(lambda p: pooled_by_hand(guide, p, params, batch)))(params)
    assert_trees_close(ours, constant, rtol=1e-3, atol=1e-6)
    through = jax.jit(jax.grad(lambda p: pooled_by_hand(guide, params, p, batch)))(params)
    assert largest(through["llm"]) > 1e-3


def tiled_words(batch: Batch, b: int) -> list[int]:
    caption, count = batch.caption_tokens[b][batch.caption_mask[b]], int(batch.image_mask[b].sum())
    return [int(caption[(p - count) % len(caption)]) for p in range(count)] if len(caption) else []


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_tiled_guide_at_layer_0_against_float64():
    guide = dataclasses.replace(TILED, layers=(0,))
    batch, params = batch_of(seed=30), parameters()
    table = np.asarray(params["llm"]["embed"]["embedding"], np.float64)
    one, two = (params["projector"][f"linear_{i}"] for i in (1, 2))
    fits, cross = [], []
    for b in (0, 1):  # the rows with an image and a caption
        hidden = batch.image_features[b, 0].astype(np.float64) @ np.asarray(one["kernel"]) + np.asarray(one["bias"])
        image = gelu(hidden) @ np.asarray(two["kernel"]) + np.asarray(two["bias"])
        words = tiled_words(batch, b)
        target = table[words]
        fits.append(np.mean(np.sum((image - target) ** 2, -1)) / np.mean(np.sum(target**2, -1)))
        logits = image @ table.T
        cross.append(np.mean([np.log(np.exp(z).sum()) - z[w] for z, w in zip(logits, words, strict=True)]))
    expected = 0.75 * 0.7 * (np.mean(fits) + 0.3 * np.mean(cross))
    loss, metrics = evaluate(LossConfig(lm=0.0, guide=guide), params, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["guide_error"], np.mean(fits), rtol=1e-5)


def by_token_by_hand(guide, params: dict, caption_params: dict, batch: Batch):
    """The loss over rows that all have an image and a caption."""
    x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)
    states = states_of(params, x, batch.valid)
    table = caption_params["llm"]["embed"]["embedding"]
    words = np.array([tiled_words(batch, b) for b in range(len(batch.tokens))])
    tokens = np.array(batch.tokens)
    for b in range(len(words)):
        tokens[b, np.flatnonzero(batch.image_mask[b])] = words[b]
    twin = states_of(caption_params, table[tokens], batch.valid)
    fits, cross = [], []
    for b in range(len(words)):
        image = np.flatnonzero(batch.image_mask[b])
        places = image
        if isinstance(guide, Instruction):
            places = np.arange(image[-1] + 1, np.flatnonzero(batch.targets[b])[0])
        for j in guide.layers:
            fits.append(jnp.sum((states[j, b, places] - twin[j, b, places]) ** 2) / jnp.sum(twin[j, b, places] ** 2))
        log_probs = jax.nn.log_softmax(states[0, b, image] @ table.T)
        cross.append(-jnp.mean(log_probs[jnp.arange(len(image)), words[b]]))
    fit, vocab = jnp.mean(jnp.stack(fits)), jnp.mean(jnp.stack(cross))
    vocab_weight = guide.vocab_weight if isinstance(guide, Tiled) else 0.0
    return guide.weight * 0.75 * (fit + vocab_weight * vocab)


TWINS = pytest.mark.parametrize("guide", [TILED, INSTRUCTION], ids=["tiled", "instruction"])


@TWINS
@ROWS_OF_BATCHES
@pytest.mark.parametrize("lm", [0.0, 1.0])
def test_a_guide_through_the_twin_equals_the_decoder_run_by_hand(lm, kinds, guide):
    """Of the mixed rows the first two have an image and a caption."""
    batch, params = batch_of(kinds), parameters()
    _, metrics = evaluate(LossConfig(lm=lm, guide=guide), params, batch)
    expected = jax.jit(lambda p: by_token_by_hand(guide, p, p, take(batch, [0, 1])))(params)
    np.testing.assert_allclose(metrics["guide"], expected, rtol=1e-4)
    assert ("guide_words" in metrics) == (guide is TILED)


@TWINS
def test_no_gradient_flows_through_the_twin(guide):
    batch, params = take(batch_of(), [0, 1, 0, 1]), parameters()
    ours = gradient(LossConfig(lm=0.0, guide=guide), params, batch)
    constant = jax.jit(jax.grad(lambda p: by_token_by_hand(guide, p, params, batch)))(params)
    assert_trees_close(ours, constant, rtol=1e-3, atol=1e-5)


# --- gradients --------------------------------------------------------------------------------------------------------


@every_guide
def test_the_guide_gradient_reaches_what_trains(guide):
    """The released code's guide terms carry no gradient at all: this is the test that these do."""
    params, batch = parameters(), jax.tree.map(jnp.asarray, batch_of())
    for schedule, reached in ((STAGE_1, {"projector"}), (STAGE_2, {"projector", "llm"})):
        trainable, frozen = optim.partition(optim.OptimConfig(1e-3, schedule), params)
        assert {path.split("/")[0] for path in trainable} == reached

        def loss(trainable, frozen=frozen):
            params = optim.combine(trainable, frozen)
            return step.loss_fn(MODEL, LossConfig(lm=0.0, guide=guide), params, batch, KEY, jnp.asarray(0.25))

        (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
        assert float(value) == float(metrics["guide"]) != 0
        for part in reached:
            assert largest({path: g for path, g in grads.items() if path.startswith(part)}) > 1e-3, part


def test_stop_gradient_leaves_the_language_gradient_as_it_is():
    params, batch = parameters(), batch_of()
    released = LossConfig(guide=dataclasses.replace(RELEASED, stop_gradient=True))
    assert_trees_close(gradient(released, params, batch), gradient(LossConfig(), params, batch), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("guide", [RELEASED, TILED], ids=["released", "tiled"])
def test_blocks_above_the_last_guide_layer_are_not_run(guide):
    params = parameters()
    blocks = jax.tree.map(lambda p: p.at[2:].set(jnp.nan), params["llm"]["blocks"])
    broken = {**params, "llm": {**params["llm"], "blocks": blocks}}
    config = LossConfig(lm=0.0, guide=guide)
    np.testing.assert_array_equal(evaluate(config, broken, batch_of())[0], evaluate(config, params, batch_of())[0])


@pytest.mark.parametrize(
    "guide", [Paper(layers=(0,)), Released(layers=(0,)), Tiled()], ids=["paper", "released", "tiled"]
)
def test_layer_0_alone_needs_no_block(guide):
    config = LossConfig(lm=0.0, guide=guide)
    params = parameters()
    without = {
        **params,
        "llm": {**params["llm"], "blocks": jax.tree.map(lambda p: p * jnp.nan, params["llm"]["blocks"])},
    }
    loss, _ = evaluate(config, without, batch_of())
    assert np.isfinite(loss)
    grads = gradient(config, params, batch_of())
    assert largest(grads["projector"]) > 0
    assert largest(grads["llm"]["blocks"]) == 0.0


# --- masks ------------------------------------------------------------------------------------------------------------

EVERYTHING = [LossConfig(guide=guide) for guide in GUIDES.values()]


@pytest.mark.parametrize("config", EVERYTHING, ids=GUIDES)
def test_what_stands_in_padding_does_not_matter(config):
    batch, params = batch_of(), parameters()
    rng = np.random.default_rng(1)
    caption_valid = np.arange(C)[None] <= batch.caption_mask.sum(1)[:, None]
    has_image = batch.image_mask.any(1)
    spoiled = batch._replace(
        tokens=np.where(batch.valid, batch.tokens, rng.integers(0, 40, batch.tokens.shape)).astype(np.int32),
        caption_tokens=np.where(caption_valid, batch.caption_tokens, 39).astype(np.int32),
        # The picture of a row without an image.
        image_features=np.where(has_image[:, None, None, None], batch.image_features, np.float32(1e3)),
    )
    assert np.any(spoiled.tokens != batch.tokens)
    expected, metrics = evaluate(config, params, batch)
    loss, found = evaluate(config, params, spoiled)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name in ("lm", "guide", "accuracy"):
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-6)
    assert_trees_close(gradient(config, params, spoiled), gradient(config, params, batch), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", EVERYTHING, ids=GUIDES)
def test_padding_may_be_longer(config):
    batch, params = batch_of(), parameters()
    longer = batch._replace(
        **{
            name: np.pad(getattr(batch, name), ((0, 0), (0, 3)))
            for name in ("tokens", "valid", "targets", "image_mask", "retrieved_mask", "caption_tokens", "caption_mask")
        }
    )
    np.testing.assert_allclose(evaluate(config, params, longer)[0], evaluate(config, params, batch)[0], rtol=1e-5)


@pytest.mark.parametrize("config", EVERYTHING, ids=GUIDES)
def test_samples_without_the_texts_get_no_guide_term(config):
    batch, params = batch_of(), parameters()
    whole = evaluate(config, params, batch)[1]["guide"]
    np.testing.assert_allclose(evaluate(config, params, take(batch, [0, 1, 0, 1]))[1]["guide"], whole, rtol=1e-5)
    for without in ([2] * 4, [3] * 4, [2, 3, 2, 3]):
        assert float(evaluate(config, params, take(batch, without))[1]["guide"]) == 0.0


def test_the_hinge_is_the_mean_over_samples_with_retrieved_text():
    guide = dataclasses.replace(RELEASED, pair_weight=0.0)
    config, params, batch = LossConfig(lm=0.0, guide=guide), parameters(), batch_of()
    whole = evaluate(config, params, batch)[0]
    np.testing.assert_allclose(evaluate(config, params, take(batch, [0] * 4))[0], whole, rtol=1e-5)
    assert float(evaluate(config, params, take(batch, [1] * 4))[0]) == 0.0


@every_guide
@pytest.mark.parametrize("pictures", [True, False], ids=["with pictures elsewhere", "without any picture"])
def test_an_all_text_batch_has_no_guide_loss(guide, pictures):
    batch, params = batch_of(("text",) * 4), parameters()
    batch = batch if pictures else batch._replace(image_features=None)
    loss, metrics = evaluate(LossConfig(guide=guide), params, batch)
    assert float(metrics.get("guide", 0.0)) == 0.0
    np.testing.assert_array_equal(loss, metrics["lm"])
    grads = gradient(LossConfig(guide=guide), params, batch)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert largest(grads["projector"]) == 0.0
    alone = gradient(LossConfig(lm=0.0, guide=guide), params, batch)
    assert largest(alone) == 0.0
    assert float(evaluate(LossConfig(lm=0.0, guide=guide), params, batch)[0]) == 0.0


def test_the_language_loss_is_the_mean_over_targets_of_single_rows():
    batch, params = batch_of(), parameters()
    whole = evaluate(LossConfig(), params, batch)[0]
    single = [float(evaluate(LossConfig(), params, take(batch, [b] * 4))[0]) for b in range(len(ROWS))]
    np.testing.assert_allclose(np.average(single, weights=batch.targets.sum(1)), whole, rtol=1e-5)


# --- the other inputs -------------------------------------------------------------------------------------------------


def test_images_and_their_features_give_the_same():
    params = parameters()
    images = np.random.default_rng(3).integers(0, 256, (4, 1, 8, 8, 3), dtype=np.uint8)
    features = llava.image_features(MODEL, params["clip"], images)
    assert features.shape == (4, 1, P, 8)
    batch = batch_of()
    seen = evaluate(LossConfig(guide=RELEASED), params, batch._replace(images=images, image_features=None))[0]
    read = evaluate(LossConfig(guide=RELEASED), params, batch._replace(image_features=np.asarray(features)))[0]
    np.testing.assert_allclose(seen, read, rtol=1e-5)


def test_embedding_noise_depends_on_the_key_alone():
    config, params, batch = LossConfig(embedding_noise=5.0), parameters(), batch_of()
    one, again = (evaluate(config, params, batch, jax.random.key(1))[0] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = evaluate(config, params, batch, jax.random.key(2))[0]
    clean = evaluate(LossConfig(), params, batch, jax.random.key(1))[0]
    assert len({float(one), float(other), float(clean)}) == 3
    np.testing.assert_array_equal(clean, evaluate(LossConfig(), params, batch, jax.random.key(2))[0])


def test_the_size_of_the_embedding_noise():
    """NEFTune: uniform within alpha / sqrt(T D), T the row's own tokens; seen in the squared error of layer 0."""
    guide = Tiled()
    params, batch = parameters(), take(batch_of(), [0])
    # Image tokens that equal their words: what is left of the error is the noise.
    table = np.asarray(params["llm"]["embed"]["embedding"])
    linear = dataclasses.replace(MODEL, projector="linear")
    fit = {"linear_1": {"kernel": jnp.zeros((8, 16)), "bias": jnp.asarray(table[9])}}
    batch = batch._replace(caption_tokens=np.full((1, C), 9, np.int32))
    config = LossConfig(lm=0.0, guide=guide, embedding_noise=2.0)
    keys = jax.random.split(jax.random.key(0), 200)
    params = {**params, "projector": fit}
    run = jax.jit(jax.vmap(lambda k: step.loss_fn(linear, config, params, batch, k, jnp.zeros(()))[0]))
    bound = 2.0 / np.sqrt(batch.valid.sum() * 16)
    expected = 16 * bound**2 / 3 / np.sum(table[9] ** 2)
    np.testing.assert_allclose(np.mean(run(keys)), expected, rtol=0.05)


def test_the_contrastive_loss_by_hand():
    params = parameters()
    images = np.random.default_rng(4).integers(0, 256, (3, 1, 8, 8, 3), dtype=np.uint8)
    batch = take(batch_of(), [0, 1, 2])
    tokens = np.where(np.arange(12) == 5, 2, batch.tokens[:, :12]).astype(np.int32)
    tokens[2] = tokens[0]  # a repeated caption
    batch = batch._replace(tokens=tokens, images=images, image_features=None)
    loss, metrics = evaluate(LossConfig(lm=0.0, contrastive=2.0), params, batch)
    pixels = llava.normalize_pixels(images[:, 0])
    image, text, scale = clip.Clip(MODEL.clip).apply({"params": params["clip"]}, pixels, tokens)
    same = jnp.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    expected, _ = losses.contrastive_loss(image, text, scale, same)
    np.testing.assert_allclose(loss, 2 * expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["contrastive"], expected, rtol=1e-5)


# --- steps ------------------------------------------------------------------------------------------------------------


def run_steps(config: LossConfig, optimizer: optim.OptimConfig, count: int, total: int = 40):
    state = step.init_state(parameters(), optimizer, total)
    one = jax.jit(functools.partial(step.train_step, MODEL, config, optimizer, total))
    history = []
    for _ in range(count):
        state, metrics = one(state, batch_of(), KEY)
        history.append(metrics)
    return state, history


@every_guide
def test_stage_1_moves_the_projector_only_and_learns(guide):
    decay = {"decay": "constant"} if hasattr(guide, "decay") else {"pair_decay": "constant", "hinge_decay": "constant"}
    guide = dataclasses.replace(guide, **decay)
    optimizer = optim.OptimConfig(1e-2, STAGE_1)
    state, history = run_steps(LossConfig(lm=0.0, guide=guide), optimizer, 40)
    assert int(state.step) == 40
    before = flatten_dict(parameters(), sep="/")
    assert {path.split("/")[0] for path in state.frozen} == {"clip", "llm"}
    for path, value in state.frozen.items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    for path, value in state.trainable.items():
        assert np.any(value != before[path]), path
    first, last = (float(history[i]["guide"]) for i in (0, -1))
    assert last < first - 0.1 * abs(first)
    if "cos_image_caption" in history[0]:
        assert float(history[-1]["cos_image_caption"]) > float(history[0]["cos_image_caption"]) + 0.1


def test_stage_2_moves_projector_and_decoder_only():
    state, history = run_steps(LossConfig(guide=RELEASED), optim.OptimConfig(1e-3, STAGE_2), 2)
    before = flatten_dict(parameters(), sep="/")
    for path, value in state.frozen.items():
        assert path.startswith("clip/")
        np.testing.assert_array_equal(value, before[path])
    # The first step has learning rate 0, the second moves everything.
    assert all(np.any(value != before[path]) for path, value in state.trainable.items())
    assert all(np.isfinite(float(v)) for metrics in history for v in metrics.values())


def test_the_decay_follows_the_step():
    """Nothing moves at learning rate 0, so the guide shrinks by its decay and nothing else."""
    guide = dataclasses.replace(RELEASED, hinge_weight=0.0)
    _, history = run_steps(LossConfig(lm=0.0, guide=guide), optim.OptimConfig(0.0, STAGE_1), 3, total=4)
    values = np.array([float(m["guide"]) for m in history])
    np.testing.assert_allclose(values / values[0], [1, 0.75, 0.5], rtol=1e-5)


def test_the_key_is_folded_with_the_step():
    _, history = run_steps(LossConfig(embedding_noise=5.0), optim.OptimConfig(0.0, STAGE_1), 3)
    assert len({float(m["loss"]) for m in history}) == 3


# --- ways to compute the same -----------------------------------------------------------------------------------------


def test_logits_at_the_labels_alone_give_the_same_loss_and_gradient():
    batch, config = batch_of(), LossConfig(guide=RELEASED)
    rows = [np.flatnonzero(row[1:]) for row in batch.targets]
    positions = np.full((len(rows), 7), -1, np.int32)  # more than any row needs
    for i, found in enumerate(rows):
        positions[i, : len(found)] = found
    labelled = batch._replace(label_positions=positions)
    for one, other in zip(
        *(jax.tree.leaves(evaluate(config, parameters(), b)) for b in (batch, labelled)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert_trees_close(gradient(config, parameters(), batch), gradient(config, parameters(), labelled), atol=1e-6)


@pytest.mark.parametrize("remat", ["names", "full"])
def test_what_is_computed_again_gives_the_same_gradient(remat):
    config, batch = LossConfig(guide=RELEASED), batch_of()
    model = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, remat=remat))
    run = jax.jit(jax.grad(lambda p, b: step.loss_fn(model, config, p, b, KEY, jnp.asarray(0.25))[0]))
    grads = run(parameters(), batch)
    assert_trees_close(grads, gradient(config, parameters(), batch), atol=1e-6)


@every_guide
@pytest.mark.parametrize("parts", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_an_accumulated_step_equals_the_whole_one(parts, guide):
    """Rows of unequal numbers of targets, without captions and without retrieved text, in every part."""
    batch = batch_of((*ROWS, "full", "text", "full", "no retrieved"))
    optimizer = optim.OptimConfig(1e-2, STAGE_2, warmup=0.0, clip_norm=1e9)
    loss = LossConfig(guide=guide)
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(0)))()
    found = []
    for count in (1, parts):
        one = dataclasses.replace(optimizer, accumulate=count)
        state = step.init_state(params, one, 4)
        run = jax.jit(functools.partial(step.train_step, MODEL, loss, one, 4))
        found.append(run(state, batch, KEY))
    (state, metrics), (other, accumulated) = found
    # Adam's first step is lr * g / (|g| + eps): moments say more about the gradient than the parameters.
    assert_trees_close(state.opt_state[1].mu, other.opt_state[1].mu, rtol=1e-5, atol=1e-6)
    for name in metrics.keys() - {"cos_mismatched"}:
        np.testing.assert_allclose(metrics[name], accumulated[name], rtol=1e-5, err_msg=name)


LORA = layers.LoraConfig(rank=3, alpha=7.0, targets=("query", "value", "out", "gate", "down"))


def with_lora(seed: int = 0) -> tuple[llava.LlavaConfig, dict]:
    """A model with LoRA that has learnt something, and its parameters."""
    model = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, lora=LORA))
    fresh = jax.jit(lambda: llava.init(model, jax.random.key(seed)))()
    for name, block in fresh["llm"]["blocks"].items():
        if name.endswith("_lora"):
            assert not np.any(block["up"]["kernel"])
            up = jax.random.normal(jax.random.key(len(name)), block["up"]["kernel"].shape)
            block["up"]["kernel"] = 0.3 * up
        else:
            fresh["llm"]["blocks"][name] = parameters()["llm"]["blocks"][name]
    return model, {**parameters(), "llm": {**parameters()["llm"], "blocks": fresh["llm"]["blocks"]}}


def test_merged_lora_computes_what_lora_does():
    model, params = with_lora()
    config, batch = LossConfig(guide=RELEASED), batch_of()
    merged = {**params, "llm": llama.merge_lora(model.llm, params["llm"])}
    assert jax.tree.structure(merged) == jax.tree.structure(parameters())
    loss, metrics = jax.jit(lambda p, b: step.loss_fn(model, config, p, b, KEY, jnp.asarray(0.25)))(params, batch)
    expected, whole = evaluate(config, merged, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name in whole:
        np.testing.assert_allclose(metrics[name], whole[name], rtol=1e-4, err_msg=name)
    plain, _ = evaluate(config, parameters(), batch)
    assert abs(float(loss) - float(plain)) > 1e-3
    # One kernel by hand, in float64.
    down, up = (np.asarray(params["llm"]["blocks"]["out_lora"][half]["kernel"], np.float64) for half in ("down", "up"))
    kernel = np.asarray(params["llm"]["blocks"]["out"]["kernel"], np.float64)
    expected = kernel + 7 / 3 * np.einsum("lkghr,lrd->lkghd", down, up)
    np.testing.assert_allclose(merged["llm"]["blocks"]["out"]["kernel"], expected, atol=1e-5)


def test_only_lora_and_the_projector_move():
    model, params = with_lora()
    optimizer = optim.OptimConfig(1e-2, ((r"projector/.*|.*_lora/.*", 1.0), (r".*", 0.0)), warmup=0.0)
    state = step.init_state(params, optimizer, 4)
    assert {path.split("/")[2].removesuffix("_lora") for path in state.trainable if "llm/" in path} == set(LORA.targets)
    run = jax.jit(functools.partial(step.train_step, model, LossConfig(guide=RELEASED), optimizer, 4))
    after, _ = run(state, batch_of(), KEY)  # at learning rate 0
    after, metrics = run(after, batch_of(), KEY)
    assert all(np.any(x != state.trainable[path]) for path, x in after.trainable.items())
    assert float(metrics["grad_norm/llm"]) > 0
    assert float(metrics["grad_norm/projector"]) > 0

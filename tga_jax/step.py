"""The one train step: state and batch in, state and metrics out. Pure."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tga_jax import losses, optim
from tga_jax.data.batch import Batch
from tga_jax.models import clip, layers, llama, llava

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which losses are summed, with their weights. A weight of 0 leaves the computation out."""

    lm: float = 1.0
    contrastive: float = 0.0
    guide: losses.GuideConfig | None = None
    # NEFTune (Jain et al., 2023): uniform noise of this size / sqrt(T D) on the decoder's input embeddings.
    embedding_noise: float = 0.0


@flax.struct.dataclass
class TrainState:
    step: Array  # int32 scalar: steps done
    trainable: optim.Flat
    frozen: optim.Flat
    opt_state: Any


class Shares(NamedTuple):
    """Of a batch, in all that the step averages over: 1 unless it is one of several that are accumulated."""

    labels: Array | float = 1.0
    pairs: Array | float = 1.0
    hinges: Array | float = 1.0


_WHOLE = Shares()


def init_state(params: dict, config: optim.OptimConfig, steps: int) -> TrainState:
    trainable, frozen = optim.partition(config, params)
    opt_state = optim.make_optimizer(config, steps, trainable).init(trainable)  # pyright: ignore[reportArgumentType]
    return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, opt_state)


def _has(batch: Batch) -> tuple[Array, Array]:
    """bool [B] each: which samples have an image and a caption, and which a retrieved text as well."""
    pair = batch.image_mask.any(1) & batch.caption_mask.any(1)
    return pair, pair & batch.retrieved_mask.any(1)


def _contrastive(model: llava.LlavaConfig, params: dict, batch: Batch) -> tuple[Array, dict[str, Array]]:
    pixels = llava.normalize_pixels(batch.images[:, 0])
    image, text, scale = layers.apply(clip.Clip(model.clip), params["clip"], pixels, batch.tokens)
    same = jnp.all(batch.tokens[:, None] == batch.tokens[None], axis=-1)
    return losses.contrastive_loss(image, text, scale, same)


def _text_states(
    model: llava.LlavaConfig, guide: losses.GuideConfig, llm: dict, tokens: Array, valid: Array, words: Array | None
) -> Any:  # llama.DecoderOutput
    """A text-only forward of the current decoder up to the last guide layer, without gradient.

    words bool [B, 1, T]: the positions whose mean is wanted; the forms by token get all states instead.
    """
    llm = jax.lax.stop_gradient(llm)
    decoder, llm = llama.first_blocks(model.llm, llm, max(guide.layers), emit_states=guide.by_token)
    x = layers.apply(decoder, llm, tokens, method="embed")
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return layers.apply(decoder, llm, x, positions, valid, words)


def _guide_pooled(model, guide, params, batch: Batch, means: Array, progress: Array, shares: Shares):
    valid = batch.caption_mask.at[:, 0].set(True)
    caption = _text_states(model, guide, params["llm"], batch.caption_tokens, valid, batch.caption_mask[:, None])
    layers = jnp.array(guide.layers)
    image, retrieved = means[layers, :, 0], means[layers, :, 1]
    return losses.guide_loss(guide, image, caption.means[layers, :, 0], retrieved, *_has(batch), progress, shares[1:])


def _guide_by_token(model, guide, params, batch: Batch, states: Array, image_tokens: int, progress: Array):
    """states: hidden states of the multimodal sequence [L'+1, B, T, D], of all layers up to the last guide layer."""
    tokens = llava.text_twin(batch.tokens, batch.image_mask, batch.caption_tokens, batch.caption_mask)
    twin = _text_states(model, guide, params["llm"], tokens, batch.valid, None).states
    mask = batch.image_mask
    if guide.form == "instruction":  # from the picture to where the answer starts
        seen = jnp.cumsum(mask, axis=1) == mask.sum(1, keepdims=True)
        mask = batch.valid & seen & ~mask & (jnp.cumsum(batch.targets, axis=1) == 0)
    vocab = None
    if guide.vocab_weight:
        # Image positions in order; a row without image gets arbitrary ones, which do not count.
        where = jnp.argsort(~batch.image_mask, axis=1, stable=True)[:, :image_tokens]
        image = jnp.take_along_axis(states[0], where[..., None], axis=1).astype(jnp.float32)
        table = jax.lax.stop_gradient(params["llm"]["embed"]["embedding"]).astype(jnp.float32)
        words, counts = (jnp.take_along_axis(x, where, axis=1) for x in (tokens, batch.image_mask))
        vocab = image @ table.T, words, counts
    layers = jnp.array(guide.layers)
    return losses.token_guide_loss(guide, states[layers], twin[layers], mask, vocab, _has(batch)[0], progress)


def _lm(decoder: llama.Decoder, llm: dict, batch: Batch, hidden: Array) -> tuple[Array, dict[str, Array]]:
    """hidden [B, T, D], after the final norm. Logits are computed where the batch says that they are needed."""
    if batch.label_positions is None:
        logits = layers.apply(decoder, llm, hidden, method="logits")[:, :-1]
        return losses.lm_loss(logits, batch.tokens[:, 1:], batch.targets[:, 1:])
    at = jnp.maximum(batch.label_positions, 0)
    logits = layers.apply(decoder, llm, jnp.take_along_axis(hidden, at[..., None], axis=1), method="logits")
    labels = jnp.take_along_axis(batch.tokens, at + 1, axis=1)
    return losses.lm_loss(logits, labels, batch.label_positions >= 0)


def _language(
    model: llava.LlavaConfig,
    config: LossConfig,
    params: dict,
    batch: Batch,
    key: Array,
    progress: Array,
    shares: Shares,
) -> tuple[Array, dict[str, Array]]:
    features = batch.image_features
    if features is None and batch.images is not None:
        features = llava.image_features(model, params["clip"], batch.images)
    x = llava.embed(model, params, batch.tokens, batch.image_mask, features)
    if config.embedding_noise:
        size = config.embedding_noise * jax.lax.rsqrt(batch.valid.sum(1) * float(x.shape[-1]))
        x += size[:, None, None] * jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
    guide = None if features is None else config.guide  # a batch of text only has nothing to guide
    # Without the language loss nothing above the last guide layer is needed.
    blocks = model.llm.num_layers if config.lm else max(guide.layers) if guide else 0
    decoder, llm = llama.first_blocks(model.llm, params["llm"], blocks, guide is not None and guide.by_token)
    segments = None
    if guide is not None and not guide.by_token:
        segments = jnp.stack([batch.image_mask, batch.retrieved_mask], axis=1)
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), batch.tokens.shape)
    out = layers.apply(decoder, llm, x, positions, batch.valid, segments)
    loss, metrics = jnp.zeros(()), {}
    if config.lm:
        lm, metrics = _lm(decoder, llm, batch, out.hidden)
        metrics = {name: shares.labels * value for name, value in {"lm": lm, **metrics}.items()}
        loss = config.lm * metrics["lm"]
    if guide is not None and features is not None:
        if guide.by_token:
            count = features.shape[1] * model.image_tokens
            value, extra = _guide_by_token(model, guide, params, batch, out.states, count, progress)
        else:
            value, extra = _guide_pooled(model, guide, params, batch, out.means, progress, shares)
        loss, metrics = loss + value, {**metrics, "guide": value, **extra}
    return loss, metrics


def loss_fn(
    model: llava.LlavaConfig,
    config: LossConfig,
    params: dict,
    batch: Batch,
    key: Array,
    progress: Array,
    shares: Shares = _WHOLE,
) -> tuple[Array, dict[str, Array]]:
    """The sum of the configured losses. key: of the embedding noise; progress: s = step / total steps."""
    loss, metrics = jnp.zeros(()), {}
    if config.contrastive:
        value, extra = _contrastive(model, params, batch)
        loss, metrics = loss + config.contrastive * value, {**metrics, "contrastive": value, **extra}
    if config.lm or config.guide:
        value, extra = _language(model, config, params, batch, key, progress, shares)
        loss, metrics = loss + value, {**metrics, **extra}
    return loss, {"loss": loss, **metrics}


def _shares(batches: Batch) -> Shares:
    """[A] each, of A batches [A, B, ...]."""

    def counts(batch: Batch) -> Shares:
        pairs, hinges = _has(batch)
        return Shares(batch.targets[:, 1:].sum(), pairs.sum(), hinges.sum())

    return jax.tree.map(lambda n: n / jnp.maximum(n.sum(), 1), jax.vmap(counts)(batches))


def _divided(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [A, B/A, ...]: every A-th row, so that rows stay on the devices that hold them."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)


def _norms(grads: optim.Flat) -> dict[str, Array]:
    """The gradient's norm, and that of each part's."""
    parts = sorted({path.split("/")[0] for path in grads})
    by_part = {p: optax.global_norm([g for path, g in grads.items() if path.startswith(f"{p}/")]) for p in parts}
    return {"grad_norm": optax.global_norm(grads), **{f"grad_norm/{part}": norm for part, norm in by_part.items()}}


def train_step(
    model: llava.LlavaConfig,
    config: LossConfig,
    optimizer: optim.OptimConfig,
    steps: int,
    state: TrainState,
    batch: Batch,
    key: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """One step of any of the trainings. Only `state.trainable` is differentiated; `key` is folded with the step."""
    key, progress = jax.random.fold_in(key, state.step), state.step / steps

    def gradient(batch: Batch, key: Array, shares: Shares = _WHOLE) -> tuple[optim.Flat, dict[str, Array]]:
        def loss_of(trainable: optim.Flat):
            params = optim.combine(trainable, state.frozen)
            return loss_fn(model, config, params, batch, key, progress, shares)

        grads, metrics = jax.grad(loss_of, has_aux=True)(state.trainable)
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), metrics

    if optimizer.accumulate == 1:
        grads, metrics = gradient(batch, key)
    else:
        batches = _divided(batch, optimizer.accumulate)
        keys = jax.random.split(key, optimizer.accumulate)
        found = jax.eval_shape(gradient, *jax.tree.map(lambda x: x[0], (batches, keys)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)

        def add(total, one):
            return jax.tree.map(jnp.add, total, gradient(*one)), None

        (grads, metrics), _ = jax.lax.scan(add, zeros, (batches, keys, _shares(batches)))
    rounding = jax.random.fold_in(key, 1)
    trainable, opt_state = optim.update(optimizer, steps, grads, state.opt_state, state.trainable, rounding)
    metrics |= _norms(grads)
    metrics["tokens"] = batch.valid.sum().astype(jnp.float32)
    metrics["padding"] = 1 - batch.valid.mean()
    metrics["skipped"] = (~batch.valid.any(1)).sum().astype(jnp.float32)  # rows whose image could not be read
    return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics  # pyright: ignore

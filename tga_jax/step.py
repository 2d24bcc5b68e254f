"""The one train step: state and batch in, state and metrics out. Pure."""

import dataclasses
from typing import Any

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


def init_state(params: dict, config: optim.OptimConfig, steps: int) -> TrainState:
    trainable, frozen = optim.partition(config, params)
    opt_state = optim.make_optimizer(config, steps, trainable).init(trainable)  # pyright: ignore[reportArgumentType]
    return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, opt_state)


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


def _guide_pooled(model, guide, params, batch: Batch, means: Array, progress: Array):
    valid = batch.caption_mask.at[:, 0].set(True)
    caption = _text_states(model, guide, params["llm"], batch.caption_tokens, valid, batch.caption_mask[:, None])
    layers = jnp.array(guide.layers)
    has_pair = batch.image_mask.any(1) & batch.caption_mask.any(1)
    has_hinge = has_pair & batch.retrieved_mask.any(1)
    image, retrieved = means[layers, :, 0], means[layers, :, 1]
    return losses.guide_loss(guide, image, caption.means[layers, :, 0], retrieved, has_pair, has_hinge, progress)


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
    has_pair = batch.image_mask.any(1) & batch.caption_mask.any(1)
    return losses.token_guide_loss(guide, states[layers], twin[layers], mask, vocab, has_pair, progress)


def _language(
    model: llava.LlavaConfig, config: LossConfig, params: dict, batch: Batch, key: Array, progress: Array
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
        logits = layers.apply(decoder, llm, out.hidden, method="logits")
        lm, metrics = losses.lm_loss(logits, batch.tokens, batch.targets)
        loss, metrics = config.lm * lm, {"lm": lm, **metrics}
    if guide is not None and features is not None:
        if guide.by_token:
            count = features.shape[1] * model.image_tokens
            value, extra = _guide_by_token(model, guide, params, batch, out.states, count, progress)
        else:
            value, extra = _guide_pooled(model, guide, params, batch, out.means, progress)
        loss, metrics = loss + value, {**metrics, "guide": value, **extra}
    return loss, metrics


def loss_fn(
    model: llava.LlavaConfig, config: LossConfig, params: dict, batch: Batch, key: Array, progress: Array
) -> tuple[Array, dict[str, Array]]:
    """The sum of the configured losses. key: of the embedding noise; progress: s = step / total steps."""
    loss, metrics = jnp.zeros(()), {}
    if config.contrastive:
        value, extra = _contrastive(model, params, batch)
        loss, metrics = loss + config.contrastive * value, {**metrics, "contrastive": value, **extra}
    if config.lm or config.guide:
        value, extra = _language(model, config, params, batch, key, progress)
        loss, metrics = loss + value, {**metrics, **extra}
    return loss, {"loss": loss, **metrics}


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

    def loss_of(trainable: optim.Flat):
        params = optim.combine(trainable, state.frozen)
        return loss_fn(model, config, params, batch, jax.random.fold_in(key, state.step), state.step / steps)

    grads, metrics = jax.grad(loss_of, has_aux=True)(state.trainable)
    tx = optim.make_optimizer(optimizer, steps, state.trainable)
    updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics["grad_norm"] = optax.global_norm(grads)
    metrics["padding"] = 1 - batch.valid.mean()
    metrics["skipped"] = (~batch.valid.any(1)).sum().astype(jnp.float32)  # rows whose image could not be read
    return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics  # pyright: ignore

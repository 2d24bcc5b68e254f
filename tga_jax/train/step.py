"""The one train step: state and batch in, state and metrics out. Pure."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from tga_jax import guides, losses
from tga_jax.data.batch import Batch
from tga_jax.errors import check_range
from tga_jax.models import clip, layers, llama, llava
from tga_jax.models.packing import Packing, packing
from tga_jax.train import optim

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DpoConfig:
    """Direct preference optimisation (`losses.dpo_loss`) of a chosen answer against a rejected one. beta: how strongly
    the policy is held to what the training starts from. Raises ValueError."""

    beta: float = 0.1

    def __post_init__(self):
        check_range(self, "loss.dpo", "beta", above=0)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which losses are summed, with their weights. A weight of 0 leaves the computation out. Raises ValueError if all
    are left out.

    patches: of the mean over CLIP's patch tokens of the contrastive loss with that token in the place of CLS, so that
    each of them says what the picture shows.
    """

    lm: float = 1.0
    contrastive: float = 0.0
    patches: float = 0.0
    guide: guides.Guide | None = None
    # NEFTune (Jain et al., 2023): uniform noise of this size / sqrt(T D) on the decoder's input embeddings.
    embedding_noise: float = 0.0
    dpo: DpoConfig | None = None

    def __post_init__(self):
        check_range(self, "loss", "lm", "contrastive", "patches", "embedding_noise")
        if not self.lm and not self.contrastive and self.guide is None and self.dpo is None:
            raise ValueError("loss: lm and contrastive are 0, guide and dpo are None, expected something to learn")
        for name in ("lm", "contrastive", "guide", "embedding_noise"):
            if self.dpo is not None and getattr(self, name):
                raise ValueError(f"loss.{name}: {getattr(self, name)!r} beside loss.dpo, which is learnt alone")
        if self.patches and not self.contrastive:
            raise ValueError(f"loss.patches: {self.patches}, and contrastive is 0, expected both")


@flax.struct.dataclass
class TrainState:
    step: Array  # int32 scalar: steps done
    trainable: optim.Flat
    frozen: optim.Flat
    opt_state: Any


class Counts(NamedTuple):
    """What the losses have to know of all rows of a step, where they see a part of them: what their means are over, and
    the captions, as `guides.Seen` has them."""

    labels: Array  # of loss.dpo: pairs
    guide: dict[str, Array]
    captions: Array


_REFERENCE = "reference/"  # frozen copies of what trains, by the same paths behind it


def parted(params: dict, config: optim.OptimConfig, reference: str | None = None) -> tuple[optim.Flat, optim.Flat]:
    """(trainable, frozen) as `optim.partition` has them. reference: the dtype of frozen copies of what trains, for
    loss.dpo; LoRA has none, since it adds nothing at first."""
    trainable, frozen = optim.partition(config, params)
    if reference is not None:
        copied = {path: x for path, x in trainable.items() if "_lora/" not in path}
        frozen |= {f"{_REFERENCE}{path}": jnp.array(x, reference, copy=True) for path, x in copied.items()}
    return trainable, frozen


def init_state(params: dict, config: optim.OptimConfig, steps: int, reference: str | None = None) -> TrainState:
    """reference: as of `parted`."""
    trainable, frozen = parted(params, config, reference)
    opt_state = optim.make_optimizer(config, steps, trainable).init(trainable)  # pyrefly: ignore
    return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, opt_state)


def _pairs(batch: Batch) -> Array:
    """bool [B / 2]: of samples that are pairs, those that are there."""
    return batch.valid[::2].any(1)


def _predicted(batch: Batch) -> Array:
    """bool [B, T]: the targets that a position of their sample stands before."""
    return batch.targets & (jnp.arange(batch.targets.shape[1]) > 0)


def _counts(config: LossConfig, batch: Batch) -> Counts:
    captions = jnp.where(batch.caption_mask, batch.caption_tokens, -1)
    if config.dpo is not None:
        return Counts(_pairs(batch).sum(), {}, captions)
    return Counts(_predicted(batch).sum(), config.guide.counts(batch) if config.guide else {}, captions)


def _contrastive(
    model: llava.LlavaConfig, config: LossConfig, params: dict, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """The weighted sum of CLIP's losses, and each."""
    pixels = clip.normalized(model.clip.vision, batch.images[:, 0])
    run = partial(layers.apply, clip.Clip(model.clip), params["clip"], pixels, batch.tokens)
    same = jnp.all(batch.tokens[:, None] == batch.tokens[None], axis=-1)
    if not config.patches:
        image, text, scale = run()
        loss, metrics = losses.contrastive_loss(image, text, scale, same)
        return config.contrastive * loss, {"contrastive": loss, **metrics}
    every, text, scale = run(method="with_patches")
    loss, metrics = losses.contrastive_loss(every[:, 0], text, scale, same)
    each, of_patches = jax.vmap(lambda one: losses.contrastive_loss(one, text, scale, same), in_axes=1)(every[:, 1:])
    found = {"contrastive": loss, "patches": jnp.mean(each), **metrics}
    found["patch_retrieval_accuracy"] = jnp.mean(of_patches["retrieval_accuracy"])
    return config.contrastive * loss + config.patches * found["patches"], found


def image_positions(model: llava.LlavaConfig, images: int, length: int) -> int:
    """P: how many image tokens a sample of `length` positions and so many images, or tiles, has at most."""
    return images * model.image_tokens if model.tiles is None else length


class _Pass(NamedTuple):
    """A pass of the decoder's first blocks."""

    decoder: llama.Decoder
    llm: dict  # parameters of these blocks
    out: Any  # llama.DecoderOutput, of rows
    packing: Packing | None

    def read(self, reads: guides.Means | guides.States, at: tuple[int, ...]) -> Array:
        """Of samples, whatever rows they have: [J, B, S, D] or [J, B, T, D]."""
        if isinstance(reads, guides.States):
            states = self.out.states[jnp.array(at)]
            return states if self.packing is None else jax.vmap(self.packing.unpack)(states)
        means = self.out.means[jnp.array(at)]
        return means.reshape(len(at), *reads.segments.shape[:2], -1)


def _run(
    model: llava.LlavaConfig,
    llm: dict,
    blocks: int,
    x: Array | None,
    tokens: Array,
    valid: Array,
    reads: guides.Means | guides.States | None,
    packing: Packing | None = None,
) -> _Pass:
    """x: input embeddings [B, T, D]; None: those of the tokens."""
    decoder, llm = llama.first_blocks(model.llm, llm, blocks, isinstance(reads, guides.States))
    inputs: Array = layers.apply(decoder, llm, tokens, method="embed") if x is None else x
    segments = reads.segments if isinstance(reads, guides.Means) else None
    positions = llama.positions(valid)
    if packing is not None:
        inputs, positions, valid = packing.pack(inputs), packing.pack(positions), packing.rows >= 0
        segments = None if segments is None else packing.pack_segments(segments)
    return _Pass(decoder, llm, layers.apply(decoder, llm, inputs, positions, valid, segments, None, packing), packing)


def _logits(run: _Pass, batch: Batch) -> tuple[Array, Array, Array]:
    """(logits [R, K, V], labels and which of them count [R, K]) of rows, where the batch says that they are needed."""
    hidden = run.out.hidden  # after the final norm, of rows
    tokens, targets = batch.tokens, _predicted(batch)
    if run.packing is not None:
        tokens, targets = run.packing.pack(tokens), run.packing.pack(targets)
    if batch.label_positions is None:
        logits = layers.apply(run.decoder, run.llm, hidden, method="logits")[:, :-1]
        return logits, tokens[:, 1:], targets[:, 1:]
    at = jnp.maximum(batch.label_positions, 0)
    logits = layers.apply(run.decoder, run.llm, jnp.take_along_axis(hidden, at[..., None], axis=1), method="logits")
    return logits, jnp.take_along_axis(tokens, at + 1, axis=1), batch.label_positions >= 0


def _dpo(
    model: llava.LlavaConfig, config: DpoConfig, params: dict, batch: Batch, count: Array
) -> tuple[Array, dict[str, Array]]:
    """Of samples that are pairs: a chosen answer, and behind it the same conversation with the rejected one.

    The reference is the model that the training started from: the same parameters without LoRA, and of what trains else
    the copies that `parted` made. count: pairs of the whole step.
    """
    features = _features(model, params, batch)

    def log_probs(model: llava.LlavaConfig, params: dict) -> Array:
        """[B / 2, 2]"""
        x = llava.embed(model, params, batch.tokens, batch.image_mask, features, batch.image_places)
        run = _run(model, params["llm"], model.llm.num_layers, x, batch.tokens, batch.valid, None)
        return losses.sequence_log_probs(*_logits(run, batch)).reshape(-1, 2)

    flat = {path: x for path, x in flatten_dict(params, sep="/").items() if "_lora/" not in path}
    copies = {path.removeprefix(_REFERENCE): x for path, x in flat.items() if path.startswith(_REFERENCE)}
    started = unflatten_dict({**flat, **copies}, sep="/")
    plain = dataclasses.replace(model, llm=dataclasses.replace(model.llm, lora=None))
    reference = jax.lax.stop_gradient(log_probs(plain, jax.lax.stop_gradient(started)))
    return losses.dpo_loss(log_probs(model, params), reference, config.beta, _pairs(batch), count)


def _features(model: llava.LlavaConfig, params: dict, batch: Batch) -> Array | None:
    """[B, M, P, D], of the pictures or as they come; None without."""
    if batch.image_features is None and batch.images is not None:
        return llava.image_features(model, params["clip"], batch.images)
    return batch.image_features


def _language(
    model: llava.LlavaConfig,
    config: LossConfig,
    params: dict,
    batch: Batch,
    key: Array,
    progress: Array,
    counts: Counts,
) -> tuple[Array, dict[str, Array]]:
    """The language loss and the guide's."""
    features = _features(model, params, batch)
    x = llava.embed(model, params, batch.tokens, batch.image_mask, features, batch.image_places)
    if config.embedding_noise:
        size = config.embedding_noise * jax.lax.rsqrt(jnp.maximum(batch.valid.sum(1), 1) * float(x.shape[-1]))
        x += size[:, None, None] * jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
    # A batch of text only has nothing to guide.
    guide = None if features is None or config.guide is None else config.guide.on(model.llm.num_layers)
    student = guide.student(batch) if guide else None
    # Without the language loss nothing above the last guide layer is needed.
    blocks = model.llm.num_layers if config.lm else max(guide.layers) if guide else 0
    shared = packing(batch.rows, batch.valid)
    run = _run(model, params["llm"], blocks, x, batch.tokens, batch.valid, student, shared)
    loss, metrics = jnp.zeros(()), {}
    if config.lm:
        lm, extra = losses.lm_loss(*_logits(run, batch), counts.labels)
        loss, metrics = config.lm * lm, {"lm": lm, **extra}
    if guide and features is not None and student is not None:
        text, constant = guide.teacher(batch), jax.lax.stop_gradient(params["llm"])
        teacher = None
        if text is not None:
            # What replaces the sequence word by word lies in its rows.
            own = (batch.valid, shared) if text.valid is None else (text.valid, None)
            second = _run(model, constant, max(guide.layers), None, text.tokens, own[0], text.reads, own[1])
            teacher = jax.lax.stop_gradient(second.read(text.reads, guide.layers))
        seen = guides.Seen(
            batch=batch,
            student=run.read(student, guide.layers),
            teacher=teacher,
            inputs=x,
            embeddings=constant["embed"]["embedding"],
            image_tokens=image_positions(model, features.shape[1], batch.tokens.shape[1]),
            progress=progress,
            counts=counts.guide,
            captions=counts.captions,
        )
        value, extra = guide.loss(seen)
        chex.assert_shape([value, *extra.values()], ())
        loss, metrics = loss + value, {**metrics, "guide": value, **extra}
    return loss, metrics


def _check(batch: Batch) -> None:
    """Shapes by the letters of `Batch`; static, so free in a compiled step."""
    dims = chex.Dimensions(B=batch.tokens.shape[0], T=batch.tokens.shape[1], C=batch.caption_tokens.shape[1])
    chex.assert_shape([batch.tokens, batch.valid, batch.targets, batch.image_mask, batch.retrieved_mask], dims["BT"])
    chex.assert_shape([batch.caption_tokens, batch.caption_mask], dims["BC"])
    rows = len(batch.tokens) if batch.rows is None else len(batch.rows)
    chex.assert_is_divisible(len(batch.tokens), rows)
    of = {"images": (len(batch.tokens), 5), "image_features": (len(batch.tokens), 4), "label_positions": (rows, 2)}
    if batch.image_places is not None:
        chex.assert_shape(batch.image_places, (*batch.tokens.shape, None))
        chex.assert_equal_shape(batch.image_places)
    for name, (count, rank) in of.items():
        if (array := getattr(batch, name)) is not None:
            chex.assert_shape(array, (count, *(None,) * (rank - 1)))


def loss_fn(
    model: llava.LlavaConfig,
    config: LossConfig,
    params: dict,
    batch: Batch,
    key: Array,
    progress: Array,
    counts: Counts | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The sum of the configured losses.

    key: of the embedding noise; progress: s = step / total steps; counts: of the whole step, if the batch is a part.
    """
    _check(batch)
    loss, metrics = jnp.zeros(()), {}
    if config.contrastive:
        value, extra = _contrastive(model, config, params, batch)
        loss, metrics = loss + value, {**metrics, **extra}
    counts = _counts(config, batch) if counts is None else counts
    if config.dpo is not None:
        value, extra = _dpo(model, config.dpo, params, batch, counts.labels)
        loss, metrics = loss + value, {**metrics, **extra}
    if config.lm or config.guide:
        value, extra = _language(model, config, params, batch, key, progress, counts)
        loss, metrics = loss + value, {**metrics, **extra}
    return loss, {"loss": loss, **metrics}


def _divided(batch: Batch, count: int, pairs: bool) -> Batch:
    """[B, ...] -> [A, B/A, ...]: every A-th row, so that rows stay on the devices that hold them; or pair of rows."""
    rows = (len(batch.tokens) if batch.rows is None else len(batch.rows)) // (1 + pairs)

    def parts(x: Array) -> Array:
        """x: of rows, of the samples that share them, or of pairs' samples."""
        apart = jnp.moveaxis(x.reshape(rows // count, count, -1, *x.shape[1:]), 1, 0)
        return apart.reshape(count, -1, *x.shape[1:])

    return jax.tree.map(parts, batch)


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
    counts = None if config.contrastive else _counts(config, batch)

    def gradient(batch: Batch, key: Array) -> tuple[optim.Flat, dict[str, Array]]:
        def loss_of(trainable: optim.Flat):
            params = optim.combine(trainable, state.frozen)
            return loss_fn(model, config, params, batch, key, progress, counts)

        grads, metrics = jax.grad(loss_of, has_aux=True)(state.trainable)
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), metrics

    if optimizer.accumulate == 1:
        grads, metrics = gradient(batch, key)
    else:
        batches = _divided(batch, optimizer.accumulate, config.dpo is not None)
        keys = jax.random.split(key, optimizer.accumulate)
        found = jax.eval_shape(gradient, *jax.tree.map(lambda x: x[0], (batches, keys)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)

        def add(total, one):
            return jax.tree.map(jnp.add, total, gradient(*one)), None

        (grads, metrics), _ = jax.lax.scan(add, zeros, (batches, keys))
    rounding = jax.random.fold_in(key, 1)
    trainable, opt_state = optim.update(optimizer, steps, grads, state.opt_state, state.trainable, rounding)
    metrics |= _norms(grads)
    metrics["tokens"] = batch.valid.sum().astype(jnp.float32)
    metrics["padding"] = 1 - metrics["tokens"] / (batch.valid if batch.rows is None else batch.rows).size
    metrics["skipped"] = (~batch.valid.any(1)).sum().astype(jnp.float32)  # samples whose image could not be read
    return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics  # pyrefly: ignore

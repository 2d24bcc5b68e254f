"""One training from its config: the model, the state and where it lies, and the compiled step. `loop` runs it.

All but `init_state` works from shapes alone, on devices that need not be there (`tga bench aot`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from tga_jax import guides
from tga_jax.checkpoints import hub
from tga_jax.data import fingerprint, images, pipeline
from tga_jax.data.batch import Batch
from tga_jax.data.sources import Pictures
from tga_jax.data.tokens import Vocabulary
from tga_jax.errors import UserError
from tga_jax.models import attention, layers, llama, llava, quantization, sharding
from tga_jax.train import flops, optim, origin, step
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import Input, located

_LOOKED_AT = 1024  # samples, to say on how many the guide acts


def inputs(config: TrainConfig) -> dict[str, Input]:
    """What the training reads, by the fields that say where. Raises UserError for what cannot be read."""
    found = {f"data.{name}": given for name, given in config.data.inputs().items()}
    for part, folder in config.init.items():
        if folder:
            found[f"init.{part}"] = Input(folder, fingerprint.of_checkpoint(located(folder), part))
    return found


def make_mesh(config: TrainConfig, devices: Any = None) -> Mesh:
    """devices: other ones than this process's own, such as those of a topology. Raises UserError if they do not fit the
    config's mesh, or the mesh the batch."""
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh), devices=devices)
    shards = mesh.shape["data"] * mesh.shape["fsdp"] * config.optim.accumulate * config.data.pack
    if config.batch_size < 1 or config.batch_size % shards:
        packed = " and data.pack" if config.data.pack > 1 else ""
        raise UserError(
            f"batch_size: {config.batch_size}, expected a multiple of data * fsdp of the mesh times optim.accumulate"
            f"{packed}, which is {shards}"
        )
    return mesh


def choose_attention(config: TrainConfig, llm: llama.LlamaConfig, mesh: Mesh) -> tuple[str, str | None]:
    """(the implementation to use for the decoder, why not the fastest of these devices or None)."""
    if config.attention != "auto":
        return config.attention, None
    # Attention takes shared rows apart, into samples of the longest length.
    lengths = config.data.lengths if config.data.pack == 1 else (config.data.longest,)
    return fastest_attention(config.dtype, lengths, mesh, llm.head_dim, llm.attention_cap)


def fastest_attention(
    dtype: str, lengths: Sequence[int], mesh: Mesh, head_dim: int = 128, cap: float | None = None
) -> tuple[str, str | None]:
    """`choose_attention` of a computation in this dtype, of samples of these lengths; cap: the scores' soft cap."""
    platform = mesh.devices.flat[0].platform
    if platform == "tpu":
        odd = [length for length in lengths if length % attention.SPLASH_BLOCK]
        if not odd:
            return "splash", None
        return "blocks", f"splash: data.lengths: samples of {odd[0]}, expected multiples of {attention.SPLASH_BLOCK}"
    if platform in ("gpu", "cuda"):
        if dtype != "bfloat16":
            return "blocks", f"cudnn: dtype is {dtype}, expected bfloat16"
        if cap is not None:
            return "blocks", f"cudnn: the decoder caps its scores softly at {cap}, which it does not compute"
        is_here = mesh.devices.flat[0] in jax.local_devices()
        reason = attention.works("cudnn", head_dim) if is_here else None
        return ("blocks", f"cudnn: {reason}") if reason else ("cudnn", None)
    return "blocks", None


def make_model(config: TrainConfig, model: int | llava.LlavaConfig | None, chosen: str = "xla") -> llava.LlavaConfig:
    """The model, checked against the rest of the config.

    model: the tokenizer's number of words, for which a preset is made; or a model in place of the config's.
    chosen: an implementation of attention. Raises UserError.
    """
    if not isinstance(model, llava.LlavaConfig):
        model = origin.model_of(config, model)
    if model.tiles is not None:
        for name, wanted in (("image_mode", "stretch"), ("fast_images", False)):
            if (found := getattr(config.data, name)) != wanted:
                raise UserError(
                    f"data.{name}: {found!r}, expected {wanted!r} with a model that cuts pictures into tiles"
                )
    if config.loss.guide is not None:
        try:
            config.loss.guide.on(model.llm.num_layers)
        except ValueError as error:
            raise UserError(f"loss.{error} of {config.called!r}") from error
    vision = dataclasses.replace(model.clip.vision, dtype=config.dtype, attention=chosen)
    text = None if model.clip.text is None else dataclasses.replace(model.clip.text, dtype=config.dtype)
    how = {"dtype": config.dtype, "remat": config.remat, "attention": chosen, "lora": config.lora}
    try:
        llm = dataclasses.replace(model.llm, **how)
    except ValueError as error:
        raise UserError(f"{error}; {config.called!r} cannot be trained so") from error
    return dataclasses.replace(model, clip=dataclasses.replace(model.clip, vision=vision, text=text), llm=llm)


def pictures(config: TrainConfig, model: llava.LlavaConfig) -> Pictures:
    """How pictures come to the model's tower."""
    vision = model.clip.vision
    color = images.color_of(vision.pixel_mean)
    data = config.data
    return Pictures(vision.image_size, data.image_mode, data.fast_images, vision.resample, color, hub.grids(model))


def make_batches(
    config: TrainConfig, vocabulary: Vocabulary, model: llava.LlavaConfig, records: Any, host: int = 0, hosts: int = 1
) -> pipeline.Batches:
    """What the training reads of `records`. Raises UserError."""
    text = model.clip.text if config.loss.contrastive else None
    rows = model.llm.vocab_size if text is None else min(model.llm.vocab_size, text.vocab_size)
    vocabulary = dataclasses.replace(vocabulary, rows=rows)
    shape, policy = config.data.shape(model.image_tokens, hub.grids(model)), config.data.policy
    pairs = config.loss.dpo is not None
    return pipeline.Batches(records, vocabulary, shape, config.batch_size, config.seed, policy, host, hosts, pairs)


@lru_cache(maxsize=4)  # a start needs them three times
def _shapes(model: llava.LlavaConfig, parts: tuple[str, ...]) -> dict[str, Any]:
    """Of the parameters of these parts, nested; not to be changed."""
    return jax.eval_shape(lambda: llava.init(model, jax.random.key(0), parts))


def abstract_params(config: TrainConfig, model: llava.LlavaConfig, mesh: Mesh) -> dict[str, Any]:
    """Shapes, types and places of all parameters, nested."""
    shapes = _shapes(model, tuple(config.init))
    trainable, _ = optim.partition(config.optim, shapes)
    places = _flat(sharding.shardings(shapes, mesh))

    def placed(path: str, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        dtype = config.optim.param_dtype if path in trainable else config.dtype
        return jax.ShapeDtypeStruct(shape, dtype, sharding=places[path])

    return unflatten_dict({path: placed(path, x.shape) for path, x in _flat(shapes).items()}, sep="/")


def _flat(tree: dict[str, Any]) -> optim.Flat:
    return flatten_dict(tree, sep="/")


def _to_quantize(config: TrainConfig, params: dict[str, Any]) -> set[str]:
    """The paths of the kernels to be quantized: the frozen ones of the decoder's blocks. Raises UserError if there are
    none to be quantized."""
    if config.quantize is None:
        return set()
    found = {path for path in optim.partition(config.optim, params)[1] if quantization.applies(path)}
    if not found:
        raise UserError(f"quantize: {config.quantize!r}, but no kernel of a decoder block is frozen")
    return found


def init_params(config: TrainConfig, model: llava.LlavaConfig, mesh: Mesh) -> dict[str, Any]:
    """The parameters that a training starts from, on the mesh. Raises UserError naming a part that cannot be loaded."""
    like = abstract_params(config, model, mesh)
    to_quantize, kind = _to_quantize(config, like), config.quantize or ""
    flat = {}
    for part, folder in config.init.items():
        if folder:
            here = {path: x for path, x in _flat({part: like[part]}).items() if "_lora/" not in path}  # in no folder
            flat |= hub.load_quantized(located(folder), part, here, here.keys() & to_quantize, kind, mesh)
    rest = {path: x for path, x in _flat(like).items() if path not in flat}
    parts = tuple(part for part in config.init if any(path.startswith(f"{part}/") for path in rest))

    def fill(words: jax.Array | None) -> optim.Flat:
        made = _flat(llava.init(model, jax.random.key(config.seed), parts))
        if words is not None:
            # Its inputs are about one long, in the root mean square, and so are its outputs with the initial kernel.
            length = jnp.sqrt(jnp.mean(words.astype(jnp.float32) ** 2)) * llama.embedding_scale(model.llm)
            made[f"projector/{model.projector.last}/kernel"] *= length
        return {path: made[path].astype(x.dtype) for path, x in rest.items()}

    words = flat["llm/embed/embedding"] if config.projector_length == "words" else None
    filled = jax.jit(fill, out_shardings={path: x.sharding for path, x in rest.items()})(words)
    new = {path: filled[path] for path in sorted(filled.keys() & to_quantize)}
    flat |= filled | hub.quantized(new, kind, mesh)
    return unflatten_dict(flat, sep="/")


def init_state(config: TrainConfig, model: llava.LlavaConfig, mesh: Mesh) -> step.TrainState:
    """The state at step 0, on the mesh. Raises UserError naming a part that cannot be loaded."""
    params = init_params(config, model, mesh)
    abstract = abstract_state(config, model, mesh)

    def start(params: dict[str, Any]) -> Any:
        state = step.init_state(params, config.optim, config.steps)
        return state.step, state.opt_state

    places = jax.tree.map(lambda x: x.sharding, (abstract.step, abstract.opt_state))
    number, opt_state = jax.jit(start, out_shardings=places)(params)
    trainable, frozen = step.parted(params, config.optim, _reference(config))
    return step.TrainState(number, trainable, frozen, opt_state)


def abstract_state(config: TrainConfig, model: llava.LlavaConfig, mesh: Mesh) -> step.TrainState:
    """Shapes, types and places of `init_state`'s arrays."""
    params = abstract_params(config, model, mesh)
    to_quantize, kind = _to_quantize(config, params), config.quantize or ""

    def start() -> step.TrainState:
        flat = _flat(_zeros(params))
        flat |= {path: quantization.quantize(path, flat[path], kind) for path in to_quantize}
        return step.init_state(unflatten_dict(flat, sep="/"), config.optim, config.steps, _reference(config))

    state = jax.eval_shape(start)
    placed = sharding.shardings(state, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed)


def _reference(config: TrainConfig) -> str | None:
    """The dtype of copies of what trains; None where nothing is compared with them."""
    return None if config.loss.dpo is None else config.dtype


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def abstract_batch(
    config: TrainConfig, model: llava.LlavaConfig, mesh: Mesh, bucket: int = -1, images: int = 1
) -> Batch:
    """A batch whose rows have the length data.lengths[bucket], with `images` images a sample; of a model with tiles,
    with so many pictures of the most tiles."""
    samples, size, data = config.batch_size, model.clip.vision.image_size, config.data
    if (grids := hub.grids(model)) is not None:
        images *= grids.tiles(grids.largest)
    samples *= 1 if config.loss.dpo is None else 2
    rows, packed = samples // data.pack, data.pack > 1
    length = data.longest if packed else data.lengths[bucket]

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.of_batch(mesh))

    places = None
    if images and grids is not None:
        places = tuple(array(dtype, samples, length, grids.terms) for dtype in (jnp.int32, jnp.float32))
    return Batch(
        tokens=array(jnp.int32, samples, length),
        valid=array(bool, samples, length),
        targets=array(bool, samples, length),
        image_mask=array(bool, samples, length),
        retrieved_mask=array(bool, samples, length),
        caption_tokens=array(jnp.int32, samples, data.caption_length),
        caption_mask=array(bool, samples, data.caption_length),
        images=array(jnp.uint8, samples, images, size, size, 3) if images else None,
        image_places=places,
        label_positions=array(jnp.int32, rows, data.labels[bucket]) if data.labels else None,
        rows=array(jnp.int32, rows, data.lengths[bucket]) if packed else None,
    )


def make_step(config: TrainConfig, model: llava.LlavaConfig, state: step.TrainState) -> Any:
    """The jitted step `(state, batch, key) -> (state, metrics)`; it takes the place of the state that it is given.

    state: real or abstract, for where its arrays lie.
    """

    def train_step(state: step.TrainState, batch: Batch, key: jax.Array) -> tuple[step.TrainState, dict[str, Any]]:
        return step.train_step(model, config.loss, config.optim, config.steps, state, batch, key)

    places = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(train_step, out_shardings=(places, None), donate_argnums=0)


def guided(config: TrainConfig, batches: pipeline.Batches, say: Callable[[str], None]) -> str:
    """A line on how many of the first samples that the training reads the guide acts on. Raises UserError if it acts on
    no sample of the whole training.

    say: is told when the first samples have none, since looking through all may take minutes.
    """
    assert config.loss.guide is not None
    counts: dict[str, int] = {}
    samples = 0
    for number in range(config.steps):
        for name, count in config.loss.guide.counts(batches.without_images(number)).items():
            counts[name] = counts.get(name, 0) + int(count)
        samples = (number + 1) * config.batch_size
        if samples >= _LOOKED_AT and any(counts.values()):
            break
        if samples - config.batch_size < _LOOKED_AT <= samples:
            say(f"the guide acts on none of the first {samples:,} samples; looking for one among the others")
    if not any(counts.values()):
        raise UserError(
            f"loss.guide: acts on none of the {samples:,} samples of the training, expected some with a picture and "
            "`image_caption` (`tga validate-data` counts them), or no guide"
        )
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"of the first {samples:,} samples the guide acts on: {said}"


def work(config: TrainConfig, model: llava.LlavaConfig, state: step.TrainState, batch: Batch) -> flops.Step | None:
    """What a step computes with a batch of these shapes, padding included; None for the contrastive training, which has
    no decoder. state, batch: real or abstract."""
    guide, language = config.loss.guide, config.loss.lm or config.loss.dpo is not None
    if config.loss.contrastive:
        return None
    images = batch.images if batch.image_features is None else batch.image_features
    length = (batch.tokens if batch.rows is None else batch.rows).shape[1]
    pack = config.data.pack
    pictures = 0 if images is None else images.shape[1]
    last, cost = 0, guides.Cost()
    if guide is not None and pictures:
        last = max(guide.on(model.llm.num_layers).layers)
        own = length // pack
        cost = guide.cost(own, batch.caption_tokens.shape[1], step.image_positions(model, pictures, own))
    labels = None if batch.label_positions is None else batch.label_positions.shape[1]
    return flops.Step(
        rows=config.batch_size * (1 if config.loss.dpo is None else 2) // pack,
        samples=pack,
        positions=length,
        caption=pack * cost.text,
        pictures=pack * pictures,
        labels=labels if language else 0,
        blocks=model.llm.num_layers if language else last,
        reference=config.loss.dpo is not None,
        caption_blocks=last if cost.text else 0,
        guided_words=pack * cost.words,
        tower=batch.image_features is None,
        trains=frozenset("lora" if "_lora/" in path else path.split("/")[0] for path in state.trainable),
    )


def trained_params(config: TrainConfig, model: llava.LlavaConfig, state: step.TrainState) -> dict[str, Any]:
    """The parts that were trained, whole, with LoRA merged into them: into quantized kernels as the training had them.

    Of a single process, merged kernels are NumPy arrays: a device may have no room for them beside the state.
    """
    params = optim.combine(state.trainable, state.frozen)
    if (lora := model.llm.lora) is not None and "llm" in params:
        keep = jax.device_get if jax.process_count() == 1 else lambda x: x
        params["llm"] = layers.merge_lora(lora, params["llm"], keep)
    return {part: params[part] for part in sorted({path.split("/")[0] for path in state.trainable})}

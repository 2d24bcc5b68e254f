"""Whole checkpoints: from the hub's format to ours on disk, and back."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from tokenizers import processors

from tga_jax.checkpoints import (
    convert,
    gguf,
    hub_config,
    hub_towers,
    image_config,
    lora,
    orbax_files,
    rules,
    spec,
    torch_file,
)
from tga_jax.checkpoints.folder import Tensor, tensors
from tga_jax.checkpoints.spec import Spec
from tga_jax.data.images import color_of
from tga_jax.data.processor import ImageSpec, Processor, load_tokenizer
from tga_jax.data.templates import IMAGE
from tga_jax.data.tiles import Grids
from tga_jax.data.tokens import Vocabulary, prompt_tokens
from tga_jax.errors import UserError
from tga_jax.models import quantization, sharding
from tga_jax.models.clip import ClipConfig
from tga_jax.models.llava import LlavaConfig
from tga_jax.report.progress import Progress
from tga_jax.workdir import AnyPath, new_folder, read_json, replacing, write_json

_ADAPTER = "adapter_config.json"


def with_dtype(model: Spec, dtype: str) -> Spec:
    """The same model computing in `dtype`."""

    def clip(c: ClipConfig) -> ClipConfig:
        text = None if c.text is None else dataclasses.replace(c.text, dtype=dtype)
        return dataclasses.replace(c, vision=dataclasses.replace(c.vision, dtype=dtype), text=text)

    c = model.config
    if isinstance(c, LlavaConfig):
        new: Any = dataclasses.replace(c, clip=clip(c.clip), llm=dataclasses.replace(c.llm, dtype=dtype))
    else:
        new = clip(c) if isinstance(c, ClipConfig) else dataclasses.replace(c, dtype=dtype)
    return dataclasses.replace(model, config=new)


def _untied(model: Spec, found: dict[str, Tensor]) -> Spec:
    """The model with a head of its own, if its config ties it to the embeddings and its weights say otherwise: both are
    there and differ. transformers then keeps both, too."""
    if model.llm is None or not model.llm.tie_embeddings:
        return model
    places = {rules.locate(name): tensor for name, tensor in found.items()}
    head, table = (places.get(("llm", name)) for name in ("lm_head.weight", "embed_tokens.weight"))
    if head is None or table is None or (head.shape == table.shape and np.array_equal(head.read(), table.read())):
        return model
    llm = dataclasses.replace(model.llm, tie_embeddings=False)
    config = dataclasses.replace(model.config, llm=llm) if isinstance(model.config, LlavaConfig) else llm
    return dataclasses.replace(model, config=config)


def open_hub(source: Path, base: Path | None = None, vision: Path | None = None) -> tuple[Spec, dict[str, Tensor]]:
    """What a hub folder, or a GGUF file, holds, and its tensors, none of them read yet.

    base: of a folder with LoRA weights, the model they are for, whose config.json counts if they have none; vision: a
    CLIP folder, for a LLaVA that was stored without its tower. Raises UserError naming what does not fit or is not
    needed.
    """
    if base is not None and not (source / _ADAPTER).exists():
        raise UserError(f"{source}: holds no {_ADAPTER}, so that it needs no --base={base}")
    if source.suffix == ".gguf":
        if vision is not None:
            raise UserError(f"{source}: a language model, expected no --vision={vision}")
        return gguf.open_file(source)
    theirs = image_config.read(vision, hub_config.read(vision)) if vision is not None else None
    tower = theirs.clip.vision if theirs is not None and theirs.clip is not None else None
    if (source / _ADAPTER).exists():
        if base is None:
            raise UserError(f"{source}: holds LoRA weights, expected --base with the folder of the model they are for")
        model = hub_config.read(source if (source / "config.json").exists() else base, tower)
        found = lora.merged(source, tensors(base))
    else:
        model, found = hub_config.read(source, tower), tensors(source)
    parts = {place[0] for name in found if (place := rules.locate(name))}
    if model.kind == "llava" and "clip" not in parts:
        if vision is None:
            raise UserError(f"{source}: stored without its vision tower, expected --vision with the folder of its CLIP")
        assert isinstance(model.config, LlavaConfig)
        if tower != model.config.clip.vision:
            raise UserError(f"{vision}: {tower}, expected the tower {model.config.clip.vision}")
        found |= {f"vision_tower.{n}": t for n, t in tensors(vision).items() if n.startswith("vision_model.")}
    elif vision is not None:
        kind = "has its vision tower" if model.kind == "llava" else "has no LLaVA in it"
        raise UserError(f"{source}: {kind}, expected no --vision={vision}")
    return _untied(image_config.read(source, model), found), found


@contextlib.contextmanager
def _progress(console: rich.console.Console | None, what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """What to call for every tensor; without a console nothing is shown."""
    with Progress(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def save(workdir: Path, model: Spec, params: dict[str, Any], companions: Path) -> None:
    """A checkpoint of ours: parameters, description, and the companion files of a hub folder or the tokenizer of a GGUF
    file. All or nothing."""
    with new_folder(workdir) as aside:
        spec.write(aside, model)
        if companions.suffix == ".gguf":
            gguf.tokenizer(companions).save_pretrained(aside / spec.HUB)
        else:
            spec.copy_companions(companions, aside / spec.HUB)
        orbax_files.save_params(aside, params)


def import_hub(
    source: Path,
    workdir: Path,
    dtype: str,
    base: Path | None = None,
    vision: Path | None = None,
    console: rich.console.Console | None = None,
) -> Spec:
    """A hub folder or a GGUF file as a checkpoint of ours. Raises UserError; then nothing is left at `workdir`."""
    model, found = open_hub(source, base, vision)
    model = with_dtype(model, dtype)
    with _progress(console, "tensors read", len(found)) as bar:

        def read(tensor: Tensor) -> np.ndarray:
            bar()
            return tensor.read()

        told = {name: dataclasses.replace(t, read=partial(read, t)) for name, t in found.items()}
        params = convert.load(model, told, str(source), dtype)
    # PEFT's folders often hold the weights alone.
    alone = base is not None and (source / _ADAPTER).exists() and not any(source.glob("tokenizer*"))
    save(workdir, model, params, base if base is not None and alone else source)
    return model


def load_params(workdir: Path, model: Spec, mesh: Mesh | None) -> dict[str, Any]:
    like = convert.shapes(model)
    dtype = _dtype(model)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), like)
    if mesh is not None:
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, sharding.shardings(like, mesh)
        )
    return {part: orbax_files.load_params(workdir, part, tree) for part, tree in like.items()}


def load_part(folder: AnyPath, part: str, like: dict[str, Any]) -> dict[str, Any]:
    """One part of a hub folder, of a checkpoint of ours or of a finished training, in the shapes, types and places of
    `like`, whose `...` are left out; of a training, in a bucket too. Raises UserError naming the folder."""
    if isinstance(folder, epath.Path):
        return orbax_files.load_params(folder, part, like)
    if (folder / "params").exists() or not (folder.suffix == ".gguf" or (folder / "config.json").exists()):
        return orbax_files.load_params(folder, part, like)
    model, found = open_hub(folder)
    flat: dict[str, Any] = {path: x for path, x in flatten_dict(like, sep="/").items() if x is not ...}
    return convert.load_like(model, found, str(folder), {part: unflatten_dict(flat, sep="/")})[part]


def quantized(kernels: Mapping[str, Any], kind: str, mesh: Mesh) -> dict[str, Any]:
    """Each kernel, by its path, as `quantization.quantize` makes it, in its place on the mesh; the array itself is
    deleted."""
    made = {}
    for path, x in kernels.items():
        quantize = partial(quantization.quantize, path, kind=kind)
        places = sharding.shardings({path: jax.eval_shape(quantize, x)}, mesh)[path]
        made[path] = jax.block_until_ready(jax.jit(quantize, out_shardings=places)(x))
        x.delete()
    return made


def load_quantized(
    folder: AnyPath, part: str, like: dict[str, Any], kernels: Set[str], kind: str, mesh: Mesh
) -> dict[str, Any]:
    """As `load_part`, by path; the parameters at `kernels` are quantized, each before the next is loaded, so that they
    never lie on the devices as they were. Raises UserError also as `quantization.quantize` does."""

    def read(paths: Set[str]) -> dict[str, Any]:
        wanted = unflatten_dict({path: x if path in paths else ... for path, x in like.items()}, sep="/")[part]
        found = flatten_dict({part: load_part(folder, part, wanted)}, sep="/")
        return {path: x for path, x in found.items() if x is not ...}

    flat = read(like.keys() - kernels)
    for path in sorted(kernels):  # several processes in the same order
        flat |= quantized(read({path}), kind, mesh)
    return flat


def load_in_bits(folder: Path, model: Spec, kind: str, mesh: Mesh | None) -> dict[str, Any]:
    """The parameters by part, stacked; the kernels of the decoder's blocks quantized to `kind`. Raises UserError."""
    mesh = mesh or sharding.make_mesh(devices=jax.local_devices()[:1])
    shapes, dtype = convert.shapes(model), _dtype(model)
    places = sharding.shardings(shapes, mesh)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s), shapes, places)
    flat = {}
    for part, tree in like.items():
        here = flatten_dict({part: tree}, sep="/")
        kernels = {path for path in here if quantization.applies(path)}
        flat |= load_quantized(folder, part, here, kernels, kind, mesh)
    return unflatten_dict(flat, sep="/")


def _dtype(model: Spec) -> str:
    return model.llm.dtype if model.llm is not None else model.clip.vision.dtype  # pyrefly: ignore


def _padded_vocabulary(model: Spec) -> int | None:
    """Rows of an exported LLaVA's embedding table: room for `<image>` and `<pad>`, a multiple of 64, as the hub's."""
    if model.image_token_id is None or model.llm is None or model.image_token_id < model.llm.vocab_size:
        return None
    return -(-(model.image_token_id + 2) // 64) * 64


def export_hub(workdir: Path, folder: Path, console: rich.console.Console | None = None) -> None:
    """Writes a checkpoint of ours as a folder that transformers loads. Raises UserError; then `folder` is not there."""
    model = spec.read(workdir)
    tokenizer = _with_image(workdir / spec.HUB, model, console) if model.kind == "llava" else None
    if tokenizer is not None:
        model = dataclasses.replace(model, image_token_id=tokenizer.convert_tokens_to_ids(IMAGE))
    if console is not None and isinstance(model.config, LlavaConfig) and model.config.llm.logit_cap is not None:
        console.print(
            f"logits: transformers' Llava leaves out this decoder's soft cap at {model.config.llm.logit_cap}: greedy "
            "answers are the same there, probabilities are not",
            markup=False,
        )
    rows = _padded_vocabulary(model)
    hub = hub_config.to_hub(model, rows)
    hub.dtype = _dtype(model)
    params = load_params(workdir, model, None)
    with new_folder(folder) as aside:
        with _progress(console, "tensors written", None) as bar:

            def told() -> Iterator[tuple[str, Any]]:
                for found in convert.hub_tensors(model, params, rows):
                    yield found
                    bar()

            convert.write_safetensors(aside, told())
        spec.copy_companions(workdir / spec.HUB, aside)
        hub.save_pretrained(aside)
        _write_processor(workdir / spec.HUB, aside, model, tokenizer)


_PROJECTOR = {
    "linear_1.weight": "0.weight",
    "linear_1.bias": "0.bias",
    "linear_2.weight": "2.weight",
    "linear_2.bias": "2.bias",
}


def export_projector(workdir: Path, file: Path) -> None:
    """LLaVA's stage-1 file, as `--pretrain_mm_mlp_adapter` takes it. Raises UserError; then `file` is as it was."""
    model = spec.read(workdir)
    kind = model.config.projector.kind if isinstance(model.config, LlavaConfig) else ""
    if kind not in ("linear", "mlp2x_gelu") or model.config.tiles is not None:  # pyrefly: ignore
        raise UserError(f"{workdir}: expected a LLaVA with a projector linear or mlp2x_gelu, and without tiles")
    params = {"projector": load_params(workdir, model, None)["projector"]}
    found = {n.removeprefix("multi_modal_projector."): x for n, x in convert.hub_tensors(model, params)}
    if kind == "mlp2x_gelu":
        found = {_PROJECTOR[name]: x for name, x in found.items()}
    else:
        found = {name.removeprefix("linear_1."): x for name, x in found.items()}
    with replacing(file) as aside:
        torch_file.write(aside, {f"model.mm_projector.{name}": x for name, x in found.items()})


def _end_texts(tokenizer: Any, end: int | None, folder: Path) -> None:
    """A tokenizer that puts nothing after a text, written so that it puts CLIP's end token there, if it is its own."""
    vocabulary = Vocabulary(tokenizer)
    if vocabulary.end or end is None or end != tokenizer.eos_token_id:
        return
    ids = [*vocabulary.begin, end]
    names = tokenizer.convert_ids_to_tokens(ids)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*names[:-1], "$A", names[-1]], special_tokens=list(zip(names, ids, strict=True))
    )
    tokenizer.save_pretrained(folder)


_PROBE = f"USER: {IMAGE}\nWhat is this? {IMAGE} and this?"


def _with_image(companions: Path, model: Spec, console: rich.console.Console | None) -> Any:
    """The tokenizer with `<image>`, put behind its words if it is not there; None without one. Raises UserError."""
    if not any(companions.glob("tokenizer*")):
        return None
    tokenizer = load_tokenizer(companions)
    if (found := tokenizer.get_vocab().get(IMAGE)) is not None:
        if found != model.image_token_id:
            raise UserError(f"{companions}: the tokenizer has {IMAGE} at {found}, the model at {model.image_token_id}")
        return tokenizer
    apart = prompt_tokens(_PROBE, Vocabulary(tokenizer), 1).tokens.tolist()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    together = prompt_tokens(_PROBE, Vocabulary(tokenizer), 1).tokens.tolist()
    if console is not None and apart != together:
        console.print(
            f"tokens: here, as in LLaVA's own code, the texts around {IMAGE} are tokenised apart, in the hub's "
            f"processors together; of {_PROBE!r} they make {len(apart)} and {len(together)} tokens with this tokenizer",
            markup=False,
        )
    return tokenizer


def _write_processor(companions: Path, folder: Path, model: Spec, tokenizer: Any) -> None:
    """The image processor and the tokenizer, if the companions have not said it all already; tokenizer: a LLaVA's."""
    import transformers

    if model.clip is None:
        return
    vision = model.clip.vision
    if image_config.find(companions) is None:
        image_config.to_hub(model).save_pretrained(folder)
    if model.kind == "clip" and model.clip.text is not None and any(companions.glob("tokenizer*")):
        _end_texts(load_tokenizer(companions), model.clip.text.eos_token_id, folder)
    if tokenizer is None:
        return
    c = model.config
    assert isinstance(c, LlavaConfig)
    selects = hub_towers.select_strategy(c)
    if c.tiles is not None and c.tiles.most is not None:
        # transformers makes this processor only with one of videos, which needs torchvision; the files are the same.
        tokenizer.save_pretrained(folder)
        said = {"processor_class": "LlavaOnevisionProcessor", "image_token": IMAGE, "video_token": "<video>"}
        said |= {"num_image_tokens": c.image_tokens, "vision_aspect_ratio": f"anyres_max_{c.tiles.most}"}
        write_json(folder / "processor_config.json", said | {"vision_feature_select_strategy": selects})
        return
    kind = transformers.LlavaProcessor if c.tiles is None else transformers.LlavaNextProcessor
    processor = kind(
        image_processor=type(image_config.to_hub(model)).from_pretrained(folder),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=selects,
        num_additional_image_tokens=int(vision.has_cls),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)


def _ids(value: Any, where: str) -> list[int]:
    """A token, several or none."""
    found = value if isinstance(value, list) else [value] if value is not None else []
    if wrong := [i for i in found if not isinstance(i, int) or isinstance(i, bool) or i < 0]:
        raise UserError(f"{where}: {str(wrong[0])[:60]!r} as eos_token_id, expected a token's id or a list of them")
    return found


def grids(config: LlavaConfig) -> Grids | None:
    """How the model cuts pictures into tiles; None if it does not."""
    tiles, vision = config.tiles, config.clip.vision
    if tiles is None:
        return None
    return Grids(tiles.pinpoints, vision.image_size, vision.image_size // vision.patch_size, tiles.most)


def processor(folder: Path, model: Spec) -> Processor:
    """folder: where the tokenizer lies, or a GGUF file. Raises UserError if there is none."""
    tokenizer = gguf.tokenizer(folder) if folder.suffix == ".gguf" else load_tokenizer(folder)
    ids = {*_ids(tokenizer.eos_token_id, str(folder)), *_ids(model.hub_fields.get("eos_token_id"), str(folder))}
    path = folder / "generation_config.json"
    if path.exists():
        ids |= set(_ids(read_json(path, "settings of generation").get("eos_token_id"), str(path)))
    image = None
    if model.clip is not None:
        tokens = model.config.image_tokens if isinstance(model.config, LlavaConfig) else 0
        vision = model.clip.vision
        found = grids(model.config) if isinstance(model.config, LlavaConfig) else None
        color = color_of(vision.pixel_mean)
        image = ImageSpec(vision.image_size, tokens, model.image_mode, vision.resample, color, found)
    text = model.llm or (model.clip.text if model.clip is not None else None)
    return Processor(tokenizer, image, tuple(sorted(ids)), None if text is None else text.vocab_size)

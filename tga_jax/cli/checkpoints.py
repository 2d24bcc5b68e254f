"""`tga convert`, `tga chat`, `tga serve`."""

from collections.abc import Callable
from pathlib import Path

from tga_jax.cli.flags import DTYPES, RUN_DTYPES, checkpoint, parse, run_dtype
from tga_jax.errors import UserError

USAGE = """\
  convert a hub checkpoint (safetensors, .bin, GGUF, LLaVA's LoRA) to one of ours, or back
            --from=PATH         a hub folder, its name on the hub (org/name[@revision], here and for every other
                                checkpoint) or a .gguf file; with --to-hub a checkpoint of ours
            --from-run=DIR      or the work folder of a finished training, with all the parts that it started from
            --to=DIR            ours is written here
            --to-hub=DIR        a folder that transformers loads is written here
            --projector-to=FILE with --from of ours: LLaVA's stage-1 mm_projector.bin is written here
            --dtype=bf16|fp32   of the parameters (default: bf16)
            --base=DIR          the model that LoRA weights are for
            --vision=DIR        the CLIP of a LLaVA stored without it
            --known             lists the checkpoints that the configs name; with --from, checks the files there
  chat    a conversation in the terminal
            --checkpoint=DIR    a checkpoint of ours or a hub folder
            --image=FILE        a picture to talk about; --question=TEXT asks it and ends
            --system=TEXT, --template=NAME (default: the checkpoint's chat template), --new-tokens=N,
            --temperature=T, --top-p=P, --top-k=K, --seed=N
            --dtype=bf16|fp32|int8|int4|nf4   the last three, of the extra qlora: the decoder's weights in 8 or 4 bits
            --special-tokens    those that are typed, such as </s>, are tokens (default: plain text)
  serve   a web page to ask checkpoints about pictures, two side by side, and see into them layer by layer
            --checkpoint=DIR    a checkpoint of ours or a hub folder that sees; may be given several times (default:
                                those of the last demo in runs/, with its examples)
            --examples=DIR      pictures to pick from: a folder with pairs.jsonl, as `demo --pictures-to` writes
            --clip=DIR          a CLIP: the examples' captions nearest to a picture are shown
            --api               instead of the page OpenAI's chat completions, with pictures, of one checkpoint;
                                --batch=N answers at once, --waiting=N requests may wait
            --host=ADDRESS, --port=N (default: 127.0.0.1, 7860), --new-tokens=N, --template=NAME,
            --dtype=bf16|fp32|int8|int4|nf4
"""


def _convert(arguments: list[str]) -> None:
    paths = dict.fromkeys(("from", "from-run", "to", "to-hub", "projector-to", "base", "vision"))
    flags = parse(arguments, {**paths, "dtype": "bf16", "known": False}, dtype=tuple(DTYPES))
    import rich.console

    from tga_jax.checkpoints import hub, known
    from tga_jax.train import export
    from tga_jax.workdir import located

    source, base, vision = (checkpoint(flags[n]) if flags[n] else None for n in ("from", "base", "vision"))
    if flags["known"]:
        known.tell(source, rich.console.Console())
        return
    targets = [name for name in ("to", "to_hub", "projector_to") if flags[name]]
    if (source is None) == (flags["from_run"] is None) or len(targets) != 1:
        raise UserError("expected --from or --from-run, and one of --to, --to-hub and --projector-to")
    if source is None and (targets != ["to"] or base or vision):
        raise UserError("--from-run: expected --to alone beside it; --from takes what is written there further")
    target, console = Path(flags[targets[0]]), rich.console.Console()
    if source is None:
        export.save(located(flags["from_run"]), target, DTYPES[flags["dtype"]])
    elif targets[0] == "to_hub":
        hub.export_hub(source, target, console)
    elif targets[0] == "projector_to":
        hub.export_projector(source, target)
    else:
        hub.import_hub(source, target, DTYPES[flags["dtype"]], base, vision, console)
    console.print(f"written: {target}")


def _chat(arguments: list[str]) -> None:
    numbers = {"new-tokens": 256, "temperature": 0.0, "top-p": 1.0, "top-k": 0, "seed": 0}
    texts = {"checkpoint": None, "image": None, "question": "", "system": "", "template": "chat", "dtype": None}
    flags = parse(arguments, {**texts, **numbers, "special-tokens": False}, dtype=tuple(RUN_DTYPES))
    name, image, dtype = flags.pop("checkpoint"), flags.pop("image"), run_dtype(flags.pop("dtype"))
    if not name:
        raise UserError("--checkpoint: missing, expected a checkpoint of ours or a hub folder")
    flags["top_k"] = flags["top_k"] or None
    import rich.console

    from tga_jax.serve import chat

    said = (flags.pop(name) for name in ("question", "system", "template", "special_tokens"))
    pictures = [Path(image)] if image else []
    chat.run(checkpoint(name), pictures, *said, dtype=dtype, console=rich.console.Console(), **flags)


def _serve(arguments: list[str]) -> None:
    texts = {"checkpoint": [], "examples": None, "clip": None, "host": "127.0.0.1", "template": "chat", "dtype": None}
    numbers = {"port": 7860, "new-tokens": 0, "batch": 0, "waiting": 0}  # 0: not given
    flags = parse(arguments, {**texts, **numbers, "api": False}, dtype=tuple(RUN_DTYPES))
    of_page, of_api = ("examples", "clip", "new_tokens"), ("batch", "waiting")
    api = flags.pop("api")
    if misplaced := [name for name in (of_page if api else of_api) if flags[name]]:
        raise UserError(f"--{misplaced[0].replace('_', '-')}: of no use {'with' if api else 'without'} --api")
    checkpoints = [checkpoint(folder) for folder in flags.pop("checkpoint")]
    if api and len(checkpoints) != 1:
        raise UserError(f"--api: {len(checkpoints)} times --checkpoint, expected it once")
    import rich.console

    from tga_jax.serve import start

    common = {name: flags[name] for name in ("host", "port", "template")}
    common |= {"dtype": run_dtype(flags["dtype"]), "console": rich.console.Console()}
    if api:
        start.api(checkpoints[0], batch=flags["batch"] or 8, waiting=flags["waiting"] or 64, **common)
        return
    pictures = Path(flags["examples"]) if flags["examples"] else None
    clip = checkpoint(flags["clip"]) if flags["clip"] else None
    start.page(checkpoints, pictures, clip, new_tokens=flags["new_tokens"] or 64, **common)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "convert": _convert,
    "chat": _chat,
    "serve": _serve,
}

"""`tga validate-data`, `tga build-data`, `tga retrieve`, `tga caption`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tga_jax.cli.flags import DTYPES, RUN_DTYPES, checkpoint, parse, parse_with_config, run_dtype, training
from tga_jax.errors import UserError

USAGE = """\
  validate-data DATA  what is in a file in LLaVA's JSON, or in a folder that build-data wrote, which holds its
                      pictures; ends with 1 if a training would stop at something in it
            --images=DIR        the folder, zip or tar its pictures lie in; --decode reads every one of them
            --tokenizer=DIR     lengths in its tokens, without a template's
            --config=FILE       in place of DATA: all sources of this training, through its template, tokenizer,
                                lengths, policies and guide; --config.FIELD=V as for train
            --json=OUT          the report; --histogram=OUT.png the lengths (of DATA)
            --known             lists the data sets that the configs name; --known NAME DIR checks a download
  build-data FILE     samples in LLaVA's JSON and their pictures as array_record shards; the same command resumes
            --images=DIR        the folder, zip or tar the pictures lie in; --to=DIR: the shards go here
            --shards=N          (default: one per 8192 samples)
  retrieve  the nearest other text to every picture, as `retrieved_caption` of its sample
            --data=DATA         samples in LLaVA's JSON, or a folder that build-data wrote, which holds its pictures
            --images=DIR        the folder, zip or tar of the pictures
            --clip=DIR          the CLIP that embeds: a checkpoint of ours or a hub folder; --dtype=fp32|bf16
            --to=OUT.jsonl      the samples with the texts; the same command goes on where it was stopped
            --corpus=MORE.txt   texts to retrieve beside the captions, one a line; may be given several times
            --near-duplicate=C  the cosine to the own caption that no text may exceed (default: 0.95; 1: any)
            --method=auto|exact|flat|ivf
            --cache=DIR         embeddings and the index are kept here (default: runs/retrieval)
            --query=TEXT        or a picture's file: prints the nearest texts of the cache; --neighbours=N
  caption writes `image_caption` of every sample with a picture, as a LLaVA-type checkpoint tells it
            --data=DATA         LLaVA's JSON (.json, .jsonl), or a folder that build-data wrote, with its pictures
            --images=DIR        where the pictures lie, or a .zip or .tar
            --checkpoint=DIR    a checkpoint of ours or a hub folder
            --to=FILE.jsonl     written in the same order; the same command continues an unfinished one
            --question=TEXT, --template=NAME (default: the checkpoint's chat template), --new-tokens=N, --batch=N,
            --dtype=bf16|fp32|int8|int4|nf4, --again: replace captions that are there
            --distributed       one process of several, each with its share of the samples
"""


def _validate_data(arguments: list[str]) -> int:
    if any(re.match(r"--?config\b", argument) for argument in arguments):
        return _validate_training(arguments)
    paths = dict.fromkeys(("images", "tokenizer", "json", "histogram"))
    flags = parse(arguments, {**paths, "decode": False, "known": False}, places=2)
    import rich.console

    from tga_jax import workdir
    from tga_jax.data import known, validate

    places, console = flags["places"], rich.console.Console()
    if flags["known"]:
        if len(places) == 1:
            raise UserError("--known: expected no argument, or a name and the folder of a download")
        return known.tell(places[0], Path(places[1]), console) if places else known.tell(None, None, console)
    if len(places) != 1:
        raise UserError("expected a file of samples, such as data.json, or --config")
    images = workdir.located(flags["images"]) if flags["images"] else None
    report, histogram = (workdir.local(flags[n], f"--{n}") if flags[n] else None for n in ("json", "histogram"))
    tokenizer = checkpoint(flags["tokenizer"], weights=False) if flags["tokenizer"] else None
    checks = validate.Checks(images, flags["decode"], tokenizer)
    return validate.run(workdir.located(places[0]), checks, report, histogram, console)


def _validate_training(arguments: list[str]) -> int:
    found, values = parse_with_config(arguments, {"decode": False, "json": None}, None, training)
    import rich.console

    from tga_jax import config
    from tga_jax.train import rehearse
    from tga_jax.train.config import TrainConfig
    from tga_jax.workdir import local

    report = local(values.json, "--json") if values.json else None
    return rehearse.run(config.build(TrainConfig, found), values.decode, report, rich.console.Console())


def _build_data(arguments: list[str]) -> None:
    flags = parse(arguments, {"images": None, "to": None, "shards": 0}, places=1)
    if not flags["places"] or not flags["to"]:
        raise UserError("expected a file of samples, such as data.json, and --to with a folder for the shards")
    import rich.console

    from tga_jax.data import llava_tfds
    from tga_jax.workdir import local, located

    images, target = located(flags["images"]) if flags["images"] else None, local(flags["to"], "--to")
    console = rich.console.Console()
    llava_tfds.build(located(flags["places"][0]), images, target, flags["shards"], console)
    console.print(f"written: {flags['to']}")


def _retrieve(arguments: list[str]) -> None:
    paths = dict.fromkeys(("data", "images", "clip", "to"))
    others = {"query": None, "corpus": [], "cache": "runs/retrieval", "near-duplicate": 0.95, "neighbours": 5}
    choices = {"method": ("auto", "exact", "flat", "ivf"), "dtype": tuple(DTYPES)}
    flags = parse(arguments, {**paths, **others, "method": "auto", "dtype": "fp32"}, **choices)
    needed = ("clip",) if flags["query"] else ("data", "clip", "to")
    if missing := [name for name in needed if not flags[name]]:
        raise UserError(f"--{missing[0]}: missing, expected --{' and --'.join(needed)}")
    import rich.console

    from tga_jax.workdir import local, located

    clip, cache, dtype = checkpoint(flags["clip"]), local(flags["cache"], "--cache"), DTYPES[flags["dtype"]]
    console = rich.console.Console()
    if flags["query"]:
        from tga_jax.retrieval import lookup

        lookup.run(flags["query"], clip, cache, flags["neighbours"], dtype, console)
        return
    from tga_jax.retrieval import attach

    data, target = located(flags["data"]), local(flags["to"], "--to")
    pictures = located(flags["images"]) if flags["images"] else None
    corpora = [located(path) for path in flags["corpus"]]
    how = {"near_duplicate": flags["near_duplicate"], "method": flags["method"], "dtype": dtype}
    attach.run(data, pictures, clip, target, corpora, cache, console, **how)


def _caption(arguments: list[str]) -> None:
    paths = dict.fromkeys(("data", "images", "checkpoint", "to"))
    others = {"question": None, "template": "chat", "dtype": None, "new-tokens": 64, "batch": 16, "again": False}
    others["distributed"] = False
    flags = parse(arguments, {**paths, **others}, dtype=tuple(RUN_DTYPES))
    for name in ("data", "checkpoint", "to"):
        if not flags[name]:
            raise UserError(f"--{name}: missing")
    import jax
    import rich.console

    from tga_jax.retrieval import captioner
    from tga_jax.train import distributed
    from tga_jax.workdir import local, located

    distributed.initialize(flags.pop("distributed"))

    images = located(value) if (value := flags.pop("images")) else None
    data, target = located(flags.pop("data")), local(flags.pop("to"), "--to")
    source = checkpoint(flags.pop("checkpoint"))
    flags["dtype"] = run_dtype(flags["dtype"])
    flags["question"] = flags["question"] or captioner.QUESTION
    console = rich.console.Console(quiet=jax.process_index() > 0)
    captioner.run(data, images, source, target, console, **flags)
    if jax.process_index() == 0:
        _count_refusals(target, console)


def _count_refusals(captioned: Path, console: Any) -> None:
    """Says so if captions are refusals: a guide would pull pictures towards them."""
    from tga_jax.data.open_samples import open_samples
    from tga_jax.evals.judges.phrases import REFUSALS

    samples = open_samples(captioned)
    captions = [caption for i in range(len(samples)) if (caption := samples[i].get("image_caption"))]
    refused = [caption for caption in captions if REFUSALS.verdict(caption) in ("refusal", "partial")]
    if refused:
        console.print(
            f"warning: {len(refused)} of {len(captions)} captions are refusals, such as {refused[0]!r:.80}; "
            "ask with another --question, or --again with another checkpoint",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "validate-data": _validate_data,
    "build-data": _build_data,
    "retrieve": _retrieve,
    "caption": _caption,
}

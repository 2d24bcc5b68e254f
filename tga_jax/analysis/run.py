"""`tga analyze`: at which layers of a checkpoint refusal lives, over any samples of LLaVA's JSON."""

import contextlib
import dataclasses
from pathlib import Path

import rich.console

from tga_jax.analysis import page, refusal_tokens
from tga_jax.analysis.hidden_states import PAPERS, Ranking
from tga_jax.analysis.per_sample import Recorder
from tga_jax.analysis.results import Results
from tga_jax.analysis.samples import PromptPairs
from tga_jax.analysis.summary import summary
from tga_jax.checkpoints import spec
from tga_jax.data import fingerprint, templates
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.errors import UserError
from tga_jax.inference.decode import language_model
from tga_jax.inference.model import load
from tga_jax.models import clip
from tga_jax.report.progress import Progress
from tga_jax.workdir import AnyPath, Input, claim, disk_errors, holds, working, write_json


def run(
    checkpoint: Path,
    data: AnyPath,
    images: AnyPath | None,
    target: Path,
    console: rich.console.Console,
    *,
    template: str = "chat",
    dtype: str | None = None,
    batch: int = 4,
    phrases: tuple[str, ...] = (),
    benign: tuple[str, ...] = (),
    ranking: Ranking = PAPERS,
    image_tokens: bool = False,
    window: int = 0,
    seed: int = 0,
) -> None:
    """Writes samples.jsonl, analysis.json, plots/ and report.html into the folder `target`; continues what is there.

    images: where pictures lie; samples without one, built folders and language models alone need none. template: of
    the prompt, "chat" for the checkpoint's own; phrases: how refusals begin, and benign: how other answers do,
    () for `refusal_tokens.usual`; ranking: of a layer's changes, among the greatest of which a refusal
    token marks the layer; image_tokens: record the lens's token at every image token, too; window: blocks that read the
    text twin at a time in the ablations, 0 for none; seed: of the choice of other samples' captions that cosines are
    compared with. A sample's `harmful`, true or false, tells its group.

    Raises UserError naming the sample, the flag, or the settings in which what `target` holds differs.
    """
    templates.check_asked(template)
    file = open_samples(data)
    store = open_pictures(images, file)
    taught = ()
    with contextlib.suppress(UserError):  # a hub folder's has none, and a damaged file is refused below, by `load`
        taught = spec.read(checkpoint).refusals
    usual, others = refusal_tokens.usual(() if phrases else taught)
    phrases, benign = phrases or usual, benign or others
    settings = {
        "checkpoint": str(checkpoint), "data": str(data), "samples": len(file), "images": images and str(images),
        "template": template, "dtype": dtype, "batch": batch, "phrases": list(phrases), "benign": list(benign),
        **dataclasses.asdict(ranking), "image_tokens": image_tokens, "window": window, "seed": seed,
    }  # fmt: skip
    inputs = {
        "checkpoint": Input(str(checkpoint), fingerprint.of_checkpoint(checkpoint)),
        "data": fingerprint.of_samples(data),
        "images": fingerprint.of_pictures(file, store),
    }
    holds(target, settings, "--to", inputs=inputs)  # before the checkpoint is read, which may take long
    model = load(checkpoint, dtype, stacked=True)
    if isinstance(model.config, clip.ClipConfig):
        raise UserError(f"{checkpoint}: expected a checkpoint with a language model")
    llm = language_model(model.config)
    if window > llm.num_layers:
        raise UserError(f"--window: {window}, expected at most the checkpoint's {llm.num_layers} blocks")
    tokens = refusal_tokens.find(phrases, model.processor.vocabulary, template, benign)
    ids = [token.id for token in tokens]
    samples = PromptPairs(file, store, model, template)
    recorder = Recorder(model, tuple(ids), ranking, image_tokens, window, batch)
    claim(target, settings, "--to", inputs=inputs)
    with working(target, "--to"), disk_errors(target):
        results = Results(target, (2, llm.num_layers + 1, llm.hidden_size), batch, len(samples))
        with Progress(console) as progress:
            task = progress.add_task("samples", total=len(samples), completed=results.done)
            for start in range(results.done, len(samples), batch):
                numbers = range(start, min(start + batch, len(samples)))
                results.append(*recorder.lines([samples[number] for number in numbers]))
                progress.update(task, completed=numbers[-1] + 1)
        found = summary(results.lines(), results.pooled(), ids, seed)
        found |= {"refusal_tokens": [dataclasses.asdict(token) for token in tokens], "settings": settings}
        write_json(target / "analysis.json", found)
        page.write(found, target)

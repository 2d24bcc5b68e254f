"""`tga caption`: what each sample's picture shows, told by a LLaVA-type checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import rich.console

from tga_jax.checkpoints import orbax_files
from tga_jax.data import fingerprint, images, llava_json, templates
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.prompt import IMAGE, Prompt
from tga_jax.data.rewrite import rewrite
from tga_jax.data.templates import Record, pieces
from tga_jax.errors import UserError
from tga_jax.inference.model import load
from tga_jax.workdir import AnyPath, Input

QUESTION = "Describe this image in one sentence."


def run(
    data: AnyPath,
    folder: AnyPath | None,
    checkpoint: Path,
    target: Path,
    console: rich.console.Console,
    *,
    question: str = QUESTION,
    template: str = "chat",
    dtype: str | None = None,
    new_tokens: int = 64,
    batch: int = 16,
    again: bool = False,
) -> None:
    """Writes the samples of `data`, those with a picture with `image_caption`; of several pictures it is the first's.

    folder: where the pictures lie, None for those of a built folder; template: of the prompt, "chat" for the
    checkpoint's own; again: replace captions that are there. Answers are greedy, one line, without blanks around. Of
    several processes each runs this and asks about its share. Raises UserError naming the sample.
    """
    templates.check_asked(template)
    file = open_samples(data)
    store = open_pictures(folder, file)
    if store is None:
        raise UserError("--images: missing, expected where the pictures lie")
    model = load(checkpoint, dtype)
    spec = model.processor.image
    if spec is None or not spec.tokens:
        raise UserError(f"{checkpoint}: expected a checkpoint with a vision tower and a language model")
    size, mode = spec.size, spec.mode
    record = Record("question", ((f"{IMAGE}\n{question}", None),), (lambda: None,), template=template)
    prompt = Prompt(tuple(pieces(record, model.processor.tokenizer, prompt_only=True)))

    def make(numbers: Sequence[int]) -> list[dict[str, Any]]:
        rows = [file[i] for i in numbers]
        asked, pictures = [], []
        for place, i in enumerate(numbers):
            sample = llava_json.parse(rows[place], file.where(i))
            if sample.images and (again or not sample.caption):
                name = sample.images[0]
                try:
                    pictures.append(images.decode(store.read(name), name))
                except UserError as error:
                    raise UserError(f"{file.where(i)}: sample {sample.id!r}: {error}") from error
                asked.append(place)
        if asked:
            answers = model.generate(
                [prompt] * len(asked), [[p] for p in pictures], new_tokens=new_tokens, batch_size=batch
            )
            for place, answer in zip(asked, answers, strict=True):
                rows[place] = llava_json.with_text(rows[place], "image_caption", " ".join(answer.split()))
        return rows

    settings = {"question": question, "template": template, "dtype": dtype}
    settings |= {"new_tokens": new_tokens, "again": again, "size": size, "mode": mode}
    inputs = {
        "--checkpoint": Input(str(checkpoint), fingerprint.of_checkpoint(checkpoint)),
        "--images": fingerprint.of_pictures(file, store),
    }
    place = (jax.process_index(), jax.process_count(), orbax_files.wait_for_all)
    rewrite(file, target, "image_caption", settings, inputs, make, batch, console, *place)

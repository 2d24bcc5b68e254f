"""The web page of `tga serve`: one picture, one question, one or two checkpoints side by side."""

import contextlib
import dataclasses
import functools
import io
import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr
import numpy as np
from gradio import themes

from tga_jax.analysis import refusal_tokens
from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.evals.judges.phrases import REFUSALS
from tga_jax.inference.model import Model
from tga_jax.serve import panel
from tga_jax.serve.chat import Conversation
from tga_jax.serve.examples import Example
from tga_jax.serve.lens import look
from tga_jax.serve.uploads import MAX_BYTES, Uploads

NOBODY = "none"  # in the place of a second checkpoint
UPLOAD = "upload:"
_WAITING = 32  # questions in the queue; further ones are told to come back
_HARD_LIMIT = 5 * MAX_BYTES  # of an upload, which ends there; below it the page says what is wrong
_PREVIEW = 448  # pixels
_SESSIONS = 200  # people whose last answers are kept
_SHOWN = 60  # examples to pick from; links find the others


@dataclasses.dataclass(frozen=True)
class Seat:
    """A checkpoint to ask. model: with stacked blocks, which the lens takes; template: as of `chat.Conversation`;
    refusals: that it was taught, () for those that the checkpoint names."""

    name: str
    model: Model
    template: str = "chat"
    refusals: tuple[str, ...] = ()

    @functools.cached_property
    def refusal_ids(self) -> tuple[int, ...]:
        phrases, benign = refusal_tokens.usual(self.refusals or self.model.spec.refusals)
        found = refusal_tokens.find(phrases, self.model.processor.vocabulary, self.template, benign)
        return tuple(token.id for token in found)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a link says. picture: an example's id, or `UPLOAD` and an upload's name; left, right: names of seats."""

    picture: str = ""
    question: str = ""
    caption: str = ""
    left: str = ""
    right: str = NOBODY
    temperature: float = 0.0
    seed: int = 0

    def link(self) -> str:
        return "?" + urlencode(dataclasses.asdict(self))


def from_link(parameters: Mapping[str, str], otherwise: Asked) -> Asked:
    """The state that a link's parameters name; what they leave out, or have no number for, is as in `otherwise`."""
    found: dict[str, Any] = dataclasses.asdict(otherwise)
    for name, value in found.items():
        with contextlib.suppress(ValueError):
            found[name] = type(value)(parameters.get(name, value))
    return Asked(**found)


@dataclasses.dataclass(frozen=True)
class Page:
    """seats: the checkpoints, by name; nearest: the texts nearest to a picture's file with their cosines, if there is a
    CLIP; new_tokens: of an answer, at most."""

    seats: dict[str, Seat]
    examples: dict[str, Example]
    uploads: Uploads
    nearest: Callable[[Path], list[tuple[float, str]]] | None = None
    new_tokens: int = 64

    def start(self) -> Asked:
        """Before anything is chosen: the first example, and the first two checkpoints."""
        names, first = [*self.seats, NOBODY], next(iter(self.examples.values()), None)
        about = (first.id, first.question, first.caption) if first else ("", "Describe this image.", "")
        return Asked(*about, left=names[0], right=names[1])

    def file(self, picture: str) -> Path:
        """Raises UserError if there is no such picture, or none any more."""
        if picture.startswith(UPLOAD):
            found = self.uploads.find(picture.removeprefix(UPLOAD))
            if found is None:
                raise UserError("this uploaded picture is no longer here, expected it to be uploaded again")
            return found
        if picture not in self.examples:
            raise UserError("no picture is chosen, expected an example or an upload" if not picture else
                            f"there is no example {picture!r} here, expected one of those shown")  # fmt: skip
        return self.examples[picture].file

    def preview(self, picture: str) -> str:
        """HTML. Raises UserError as `file` does, and for a file that is no picture."""
        file = self.file(picture)
        image = images.decode(file.read_bytes(), file.name)
        image.thumbnail((_PREVIEW, _PREVIEW))
        written = io.BytesIO()
        image.save(written, format="png")
        example = self.examples.get(picture)
        return panel.picture(written.getvalue(), example.caption if example else "the uploaded picture")

    def answers(self, asked: Asked) -> Iterator[dict[str, str]]:
        """What is new on the page, part by part: "left", "left_lens", "right", "right_lens", "retrieved" -> HTML.

        Raises UserError.
        """
        if not asked.question.strip():
            raise UserError("the question is empty, expected one")
        if not 0 <= asked.seed < 2**32:
            raise UserError(f"the seed is {asked.seed}, expected a whole number from 0 to 2^32 - 1")
        file = self.file(asked.picture)
        sides = [("left", self.seat(asked.left))]
        if asked.right != NOBODY:
            sides.append(("right", self.seat(asked.right)))
        yield {"right": "", "right_lens": "", "left_lens": "", "retrieved": ""}
        for side, seat in sides:
            said: dict[str, tuple[str, str]] = {}
            unknown = seat.model.processor.vocabulary.unknown(f"{asked.question} {asked.caption}")
            for title, pictures, text in (
                (panel.PICTURE, [file], asked.question),
                (panel.TEXT, [], f"{asked.caption}\n{asked.question}"),
            ):
                if not pictures and not asked.caption:
                    continue
                talk, answer = Conversation(seat.model, template=seat.template), ""
                for picture in pictures:
                    talk.show(picture)
                how = {"new_tokens": self.new_tokens, "seed": asked.seed, "temperature": asked.temperature}
                for piece in talk.ask(text, **how):
                    answer += piece
                    said[title] = (answer, "")
                    yield {side: panel.answers(seat.name, said, unknown)}
                said[title] = (answer, REFUSALS.verdict(answer, asked.question))
                yield {side: panel.answers(seat.name, said, unknown)}
        for side, seat in sides:
            pixels = seat.model.processor.kept(file)
            found = look(seat.model, seat.refusal_ids, pixels, asked.question, asked.caption, seat.template)
            yield {f"{side}_lens": panel.lens(found)}
        if self.nearest is not None:
            yield {"retrieved": panel.retrieved(self.nearest(file))}

    def seat(self, name: str) -> Seat:
        if name not in self.seats:
            raise UserError(f"there is no checkpoint {name!r} here, expected one of {', '.join(self.seats)}")
        return self.seats[name]


def nearest_texts(clip: Model, texts: Sequence[str], count: int = 5) -> Callable[[Path], list[tuple[float, str]]]:
    """A search of the texts nearest to a picture's file, by a CLIP checkpoint. Raises UserError."""
    known = list(dict.fromkeys(text for text in texts if text))
    if not known:
        raise UserError("--clip: no captions to search, expected --examples with some")
    embedded = clip.embed_texts(known)  # [N, E]

    def search(file: Path) -> list[tuple[float, str]]:
        cosines = embedded @ clip.embed_images([file])[0]
        return [(float(cosines[i]), known[i]) for i in np.argsort(-cosines)[:count]]

    return search


class _View(NamedTuple):
    """The components that change. fields: of `Asked`, in its order; parts: by the names that `Page.answers` uses."""

    gallery: gr.Gallery
    upload: gr.UploadButton
    refused: gr.Markdown  # below the upload
    shown: gr.HTML  # the picture
    fields: list[Any]
    ask: gr.Button
    wrong: gr.Markdown  # below the button
    parts: dict[str, gr.HTML]
    link: gr.Textbox


def _view(page: Page, examples: Sequence[Example], start: Asked) -> _View:
    gr.Markdown(
        "# What does the model see?\n"
        "Pick a picture and ask. Each checkpoint answers twice: about the picture, and about its caption as text. "
        "The plots below show, layer by layer, how the model comes to its answer."
    )
    names = list(page.seats)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            gallery = gr.Gallery(
                [(str(example.file), example.caption) for example in examples],
                label="Examples", columns=6, height=260, object_fit="contain", allow_preview=False,
                interactive=False, visible=bool(examples), elem_id="examples", buttons=[],
            )  # fmt: skip
            upload = gr.UploadButton("Upload a picture", file_types=["image"], elem_id="upload")
            refused = gr.Markdown("", elem_id="upload-message")
        with gr.Column(scale=1, min_width=240):
            shown = gr.HTML(elem_id="picture")
    question = gr.Textbox(start.question, label="Question", elem_id="question")
    caption = gr.Textbox(
        start.caption, label="Caption", elem_id="caption",
        info="What the picture shows, as text: asked beside the picture, and compared with it.",
    )  # fmt: skip
    with gr.Row():
        left = gr.Dropdown(names, value=start.left, label="Checkpoint", elem_id="left-name")
        right = gr.Dropdown([*names, NOBODY], value=start.right, label="Beside it", elem_id="right-name")
    with gr.Accordion("Sampling", open=False):
        temperature = gr.Number(start.temperature, label="Temperature (0: the likeliest word)", minimum=0)
        seed = gr.Number(start.seed, label="Seed", minimum=0, maximum=2**32 - 1, precision=0)
    ask = gr.Button("Ask", variant="primary", elem_id="ask")
    wrong = gr.Markdown("", elem_id="message")
    parts = {}
    with gr.Row():
        for side in ("left", "right"):
            with gr.Column(min_width=320):
                parts |= {side: gr.HTML(elem_id=side), f"{side}_lens": gr.HTML(elem_id=f"{side}-lens")}
    parts["retrieved"] = gr.HTML(elem_id="retrieved")
    link = gr.Textbox(label="Link to this", interactive=False, elem_id="link", visible=False)
    fields = [gr.State(start.picture), question, caption, left, right, temperature, seed]
    return _View(gallery, upload, refused, shown, fields, ask, wrong, parts, link)


def build(page: Page) -> gr.Blocks:
    """The page as a Gradio app."""
    start, examples = page.start(), list(page.examples.values())[:_SHOWN]
    with gr.Blocks(title="tga_jax", analytics_enabled=False) as app:
        view = _view(page, examples, start)
        picture, question, caption, *_ = view.fields
        unasked = dict.fromkeys(view.parts.values(), "")  # the answers about another picture go with it

        def choose(event: gr.SelectData) -> dict[Any, Any]:
            example = examples[event.index]
            told = {picture: example.id, question: example.question, caption: example.caption}
            return {**told, view.shown: page.preview(example.id), view.refused: "", **unasked}

        def take(file: str) -> dict[Any, Any]:
            try:
                name = UPLOAD + page.uploads.add(Path(file))
                return {picture: name, caption: "", view.shown: page.preview(name), view.refused: "", **unasked}
            except UserError as error:
                return {view.refused: _plain(error)}

        def answer(*values: Any) -> Iterator[dict[Any, Any]]:
            *texts, warmth, number = values  # both None in an empty field
            asked = Asked(*texts, temperature=warmth or 0.0, seed=number or 0)
            try:
                for new in page.answers(asked):
                    yield {view.parts[name]: value for name, value in new.items()} | {view.wrong: ""}
                yield {view.link: gr.Textbox(asked.link(), visible=True)}
            except UserError as error:
                yield {view.wrong: _plain(error)}

        def restore(request: gr.Request) -> dict[Any, Any]:
            asked = from_link(request.query_params, start)
            try:
                for name in {asked.left, asked.right} - {NOBODY}:
                    page.seat(name)
                values = dict(zip(view.fields, dataclasses.astuple(asked), strict=True))
                return values | ({view.shown: page.preview(asked.picture)} if asked.picture else {})
            except UserError as error:
                return {view.wrong: _plain(error)}

        private: Any = {"api_visibility": "private"}
        told = [picture, caption, view.shown, view.refused, *unasked]
        view.gallery.select(choose, None, [*told, question], **private)
        view.upload.upload(take, view.upload, told, **private)
        for event in (view.ask.click, question.submit):
            outputs = [*view.parts.values(), view.wrong, view.link]
            done = event(answer, view.fields, outputs, concurrency_id="models", **private)
            done.then(None, view.link, None, js=_SHOW_LINK, **private)
        app.load(restore, None, [*view.fields, view.shown, view.wrong], **private)
    return app.queue(max_size=_WAITING, default_concurrency_limit=1)


_SHOW_LINK = "(link) => { if (link) history.replaceState(null, '', link) }"  # in the browser's address


def _plain(error: UserError) -> str:
    """As Markdown that shows the text as it is."""
    return "".join(f"\\{c}" if c in string.punctuation else c for c in str(error))


def launch(page: Page, host: str, port: int, scratch: Path) -> tuple[gr.Blocks, str]:
    """The running page, and its address. scratch: a folder for what is uploaded. Raises UserError if the port is
    taken."""
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    font = ["system-ui", "sans-serif"]  # none that a browser would have to load
    app = build(page)
    try:
        _, url, _ = app.launch(
            server_name=host,
            server_port=port,
            theme=themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
            css=panel.CSS,
            max_file_size=_HARD_LIMIT,
            footer_links=[],
            state_session_capacity=_SESSIONS,
            quiet=True,
            ssr_mode=False,
            share=False,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"--port: cannot listen at {host}:{port} ({error}), expected a free port") from error
    return app, url

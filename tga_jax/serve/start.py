"""`tga serve`: from folders to a page or an API."""

import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import rich.console

from tga_jax.checkpoints import spec
from tga_jax.data import templates
from tga_jax.errors import UserError
from tga_jax.inference.model import load
from tga_jax.serve import examples

EXAMPLES = "examples"  # of a demo's run, the folder with pictures to pick from
_FIRST = ("base", "tga")  # of a demo's rows, to be compared


def newest_demo(runs: Path) -> Path:
    """The folder of the demo that ended last. Raises UserError if there is none."""
    ended = [file for file in runs.glob("*/results.json") if (file.parent / "models").is_dir()]
    if not ended:
        raise UserError(f"--checkpoint: missing, and {runs} holds no finished demo; expected one of them")
    return max(ended, key=lambda file: file.stat().st_mtime).parent


def rows_of(demo: Path) -> list[Path]:
    """A demo's checkpoints that see, those first that are worth comparing."""
    seeing = [file.parent for file in (demo / "models").glob("*/model.json") if spec.read(file.parent).kind == "llava"]
    return sorted(seeing, key=lambda folder: ([*_FIRST, folder.name].index(folder.name), folder.name))


def names(folders: Sequence[Path]) -> list[str]:
    """A short name for each that tells it from the others: the last parts of its path, as few as do."""
    parts = [folder.absolute().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError("--checkpoint: the same folder twice, expected different ones")
    count = 1
    while len({own[-count:] for own in parts}) < len(parts):
        count += 1
    return ["/".join(own[-count:]) for own in parts]


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; install it: bash launch/local.sh install serve") from error


def api(
    checkpoint: Path,
    *,
    host: str,
    port: int,
    template: str,
    dtype: str | None,
    batch: int,
    waiting: int,
    console: rich.console.Console,
) -> None:
    """OpenAI's chat completions of a checkpoint, by its folder's name, until it is stopped. batch, waiting: as of
    `Batches`. Raises UserError."""
    with _extra():
        import uvicorn

        from tga_jax.serve import api as web
    templates.check_asked(template)
    if batch & (batch - 1):
        raise UserError(f"--batch: {batch}, expected a power of two")
    with console.status(f"loading {checkpoint}"):
        model = load(checkpoint, dtype)
    model.language_config()
    name = checkpoint.absolute().name
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port: cannot listen at {host}:{port} ({error.strerror}), expected a free port"
            ) from error
        console.print(f"model {name} at http://{host}:{port}/v1 (Ctrl-C ends)")
        config = uvicorn.Config(web.build(model, name, template, batch, waiting), log_level="warning")
        uvicorn.Server(config).run(sockets=[listening])


def page(
    checkpoints: Sequence[Path],
    pictures: Path | None,
    clip: Path | None,
    *,
    host: str,
    port: int,
    template: str,
    dtype: str | None,
    new_tokens: int,
    console: rich.console.Console,
) -> None:
    """The web page, until it is stopped. checkpoints: none for the last demo's; pictures: a folder of examples; clip: a
    CLIP, by which the examples' captions nearest to a picture are shown. Raises UserError."""
    with _extra():
        from tga_jax.serve import page as web
        from tga_jax.serve.uploads import Uploads
    templates.check_asked(template)
    if not checkpoints:
        demo = newest_demo(Path("runs"))
        checkpoints = rows_of(demo)
        pictures = pictures or (demo / EXAMPLES if (demo / EXAMPLES).is_dir() else None)
    shown = examples.read(pictures) if pictures else {}
    seats = {}
    for name, folder in zip(names(checkpoints), checkpoints, strict=True):
        with console.status(f"loading {folder}"):
            model = load(folder, dtype, stacked=True)
        if model.spec.kind != "llava":
            raise UserError(f"{folder}: a checkpoint of kind {model.spec.kind!r}, expected one that sees pictures")
        seats[name] = web.Seat(name, model, template)
    nearest = web.nearest_texts(load(clip), [example.caption for example in shown.values()]) if clip else None
    with tempfile.TemporaryDirectory(prefix="tga-serve-") as folder:
        scratch = Path(folder)
        (scratch / "pictures").mkdir()
        site = web.Page(seats, shown, Uploads(scratch / "pictures"), nearest, new_tokens)
        stopped = threading.Event()
        # A KeyboardInterrupt could end in one of the server's own handlers, and be lost there.
        before = {sign: signal.signal(sign, lambda *_: stopped.set()) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            app, url = web.launch(site, host, port, scratch / "gradio")
            console.print(f"open {url} (Ctrl-C ends)")
            while not stopped.wait(0.5):
                pass
            app.close(verbose=False)
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

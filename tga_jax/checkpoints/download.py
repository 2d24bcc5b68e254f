"""Checkpoints of the Hugging Face hub by their names, `org/name` or `org/name@revision`, wherever a folder is taken.

Files go into the hub's usual cache, which other programs share. A download that was stopped continues with the files
that are missing.
"""

import contextlib
import fnmatch
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tga_jax.checkpoints import folder as folders
from tga_jax.checkpoints.spec import COMPANIONS
from tga_jax.errors import UserError

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
_FILES = (*COMPANIONS, "adapter_config.json", "non_lora_trainables.bin")
_MARKS = ("config.json", "adapter_config.json", "tokenizer_config.json")  # one of them is in every checkpoint


def is_name(text: str | os.PathLike[str]) -> bool:
    """Whether it names a repository, and nothing here: `runs/new` is no name where there is a folder `runs`."""
    found = _NAME.fullmatch(os.fspath(text))
    return found is not None and not Path(text).exists() and not Path(found["repo"].split("/")[0]).exists()


def local(text: str | os.PathLike[str], weights: bool = True) -> Path:
    """The folder that a path or a name stands for, downloaded if need be.

    weights: False for the tokenizer, configs and templates alone. Of weights only those are fetched that are read here.
    HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE count as for other programs. Raises UserError in one line: no such
    repository or revision, one that is gated, no weights in it, no connection and not in the cache, or no disk space.
    """
    found = _NAME.fullmatch(os.fspath(text))
    if found is None or not is_name(text):
        return Path(text)
    repo, revision = found["repo"], found["revision"]
    import huggingface_hub
    from huggingface_hub import constants, errors

    with _one_line(str(text), repo, revision):
        if constants.HF_HUB_OFFLINE:
            return _cached(repo, revision)
        try:
            info = huggingface_hub.HfApi().model_info(repo, revision=revision)
        except errors.HfHubHTTPError:
            raise
        except (OSError, *_transport()) as error:
            with contextlib.suppress(errors.LocalEntryNotFoundError):
                return _cached(repo, revision)
            raise error
        files = [sibling.rfilename for sibling in info.siblings or ()]
        wanted = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in _FILES)]
        layout = next((layout for layout in folders.LAYOUTS if layout[0] in files), None) if weights else None
        if weights and layout is None:
            raise UserError(f"{text}: no weights, expected one of {', '.join(name for name, _ in folders.LAYOUTS)}")

        def fetch(revision: str | None, names: list[str]) -> Path:
            return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=names))

        place = fetch(revision, [*wanted, *([layout[0]] if layout else [])])
        if layout and layout[1]:
            fetch(place.name, folders.shards(place / layout[0]))
        return place


def cached(name: str) -> Path:
    """Of a name that another process has downloaded. Raises UserError if this one does not find it."""
    from huggingface_hub import errors

    found = _NAME.fullmatch(name)
    assert found is not None
    try:
        return _cached(found["repo"], found["revision"])
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name}: not in this machine's cache, expected HF_HOME in a folder that all machines share"
        ) from error


def _cached(repo: str, revision: str | None) -> Path:
    """Raises the library's LocalEntryNotFoundError."""
    import huggingface_hub
    from huggingface_hub import errors

    for mark in _MARKS:
        with contextlib.suppress(errors.LocalEntryNotFoundError):
            return Path(huggingface_hub.hf_hub_download(repo, mark, revision=revision, local_files_only=True)).parent
    raise errors.LocalEntryNotFoundError(repo)


def _transport() -> tuple[type[Exception], ...]:
    """What the library's HTTP client raises without an answer; which client that is depends on the version."""
    names = [name for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
    return tuple(importlib.import_module(name).TransportError for name in names)


@contextlib.contextmanager
def _one_line(text: str, repo: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repo}"
        raise UserError(f"{text}: gated; accept its terms at {page} and set HF_TOKEN to a token of yours") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{text}: no folder here, and no repository at {constants.ENDPOINT} that HF_TOKEN may read"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{text}: the repository has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{text}: no folder here, not in the cache {constants.HF_HUB_CACHE}, and offline") from error
    except errors.HFValidationError as error:
        raise UserError(f"{text}: no folder here, and no name of a repository ({error})") from error
    except (errors.HfHubHTTPError, *_transport()) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{text}: no folder here, and {constants.ENDPOINT} does not answer ({reason:.120})") from error
    except OSError as error:
        raise UserError(f"{text}: cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror or error})") from error

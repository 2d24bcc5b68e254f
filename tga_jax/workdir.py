"""A run's folder, here or in Google Cloud Storage: whose config it is, and writing without leaving half a file."""

import contextlib
import errno
import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from tga_jax.errors import UserError

AnyPath = Path | epath.Path  # the second where it begins with "gs://"
Content = dict[str, str]  # of what a path holds: "size:hash" of every file, by its name below the path
_CONFIG = "a run's config; choose another folder or remove this one"
_NAMED = 5  # differences from an earlier run that a message names
_ADDED = ("inputs", "architecture")  # of config.json, beside the config: what a run of an earlier version may lack


class Input(NamedTuple):
    """What a run reads. content: {} for what is not there (any more), which is compared with nothing; some: whether it
    is of some files alone, of which those count that could be read both times."""

    path: str
    content: Content
    some: bool = False


def located(text: str) -> AnyPath:
    """A path of this machine, or "gs://bucket/folder". Raises UserError if nothing is installed that reaches it."""
    if "://" not in text:
        return Path(text)
    if not text.startswith("gs://"):
        raise UserError(f"{text}: expected a path or gs://bucket/folder")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{text}: needs gcsfs; install it: bash launch/local.sh install gcs")
    return epath.Path(text)


def local(text: str, name: str) -> Path:
    """A path of this machine. name: of the flag that says it. Raises UserError for a bucket's."""
    if "://" in text:
        raise UserError(f"{name}: {text}, expected a path of this machine")
    return Path(text)


def is_remote(path: AnyPath) -> bool:
    return os.fspath(path).startswith("gs://")


def absolute(path: AnyPath) -> AnyPath:
    return path if is_remote(path) else path.absolute()


@contextlib.contextmanager
def disk_errors(folder: AnyPath) -> Iterator[None]:
    """Turns a full or read-only disk, a file in a folder's place, or a bucket that cannot be reached, into a UserError
    that names the folder.

    Storage libraries wrap the system's error in types of their own, so its words are recognised too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error) for words in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")):
            raise UserError(f"{folder}: no space left on the disk; free some and run the same command again") from error
        if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
            raise UserError(f"{folder}: cannot write here, expected a writable folder") from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise UserError(f"{folder}: is a file, or lies below one, expected a folder") from error
        if is_remote(folder):  # whatever the network, the credentials and the service's libraries raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise UserError(f"{folder}: {reason}; expected a bucket that can be read and written") from error
        raise


@contextlib.contextmanager
def reading(path: AnyPath, expected: str = "") -> Iterator[None]:
    """Turns what a file, a folder or a bucket that cannot be read raises into a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not is_remote(path):
            raise
        reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        wanted = f", expected {expected}" if expected else ""
        raise UserError(f"{path}: cannot be read ({reason}){wanted}") from error


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[Any]:
    """Where to write a file that takes the place of `path` once the block ends: one sees the old or the whole new."""
    with disk_errors(path.parent):
        if is_remote(path):  # there a file is seen once it is whole, and folders are only names
            yield path
            return
        if path.is_dir():
            raise UserError(f"{path}: is a folder, expected the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Always the same name, so that what a killed process left is written over.
        aside = path.with_name(f".{path.name}.aside")
        with _locked(path.with_name(f".{path.name}.writing"), wait=True):
            try:
                yield aside
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(lock: Any, wait: bool) -> Iterator[None]:
    """One thread of one process at a time; the others wait, or get a BlockingIOError. lock: a path of this machine.

    The system ends the lock with the process, however that ends; a file system that has no locks gives none.
    """
    while True:
        file = lock.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                file.close()
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()  # whoever had it before has removed it, and another may have locked a new one
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One thread of one process at a time; others wait. For a path that several may find missing, and make."""
    with contextlib.ExitStack() as held:
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(_locked(path.with_name(f".{path.name}.lock"), wait=True))
        yield


@contextlib.contextmanager
def working(path: AnyPath, flag: str = "--workdir", process: int = 0) -> Iterator[None]:
    """While `path`, a folder or a file, is made. process: of several that make it together.

    Raises UserError if another process is at it. A bucket has no such locks.
    """
    with contextlib.ExitStack() as held:
        if not is_remote(path):
            with disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    end = f"-{process}" if process else ""
                    held.enter_context(_locked(path.with_name(f".{path.name}.running{end}"), wait=False))
                except BlockingIOError as error:
                    said = f"another process is at work on it, expected to wait for its end or another {flag}"
                    raise UserError(f"{path}: {said}") from error
        yield


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Where to write a folder that is called `folder` once the block ends. Raises UserError if that has files, and if
    another process is writing it."""
    with disk_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: not empty, expected a new folder")
    aside = folder.with_name(f".{folder.name}.unfinished")
    with working(folder, "folder"), disk_errors(folder.parent):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            if folder.exists():
                folder.rmdir()
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_text(path: AnyPath, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def read_json(path: AnyPath, expected: str, fields: tuple[str, ...] = (), kind: type = dict) -> Any:
    """The file's value, of this kind. fields: those that it must have. Raises UserError naming the file and what is
    expected."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected {expected}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected {expected}") from error
    if not isinstance(value, kind):
        found = _NAMES.get(type(value), "a number")
        raise UserError(f"{path}: is {found}, expected {expected}, {_NAMES[kind]}")
    if missing := [name for name in fields if name not in value]:
        raise UserError(f"{path}: lacks {', '.join(missing)}, expected {expected}")
    return value


def write_json(path: AnyPath, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def json_line(value: Any) -> str:
    """A line of JSON lines, in UTF-8 as it is; with escapes if it holds half a surrogate pair, which has no bytes."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text + "\n"


def _short(one: Any, other: Any) -> list[str]:
    """Both as text; of long ones 60 characters, from shortly before the first that differs."""
    texts = [json.dumps(value) for value in (one, other)]
    same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, same - 20)
    return [
        text if len(text) <= 60 else "... " * bool(start) + text[start : start + 60] + " ..." * (start + 60 < len(text))
        for text in texts
    ]


def differences(
    old: Any, new: Any, name: str = "config", said: str = "{name} is {old} there and {new} now"
) -> list[str]:
    """The fields in which two JSON values differ, each with both values; long values are cut."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{name}.{key}", said)]
    short = dict(zip(("old", "new"), _short(old, new), strict=True))
    return [] if old == new else [said.format(name=name, **short)]


def replaced(old: Content, new: Content) -> list[str]:
    """The files in which what an input held and holds differ, each in words."""
    found = []
    for name in sorted({*old, *new}):
        at = "" if name == "." else f"{name} "
        sizes = [int(content[name].partition(":")[0]) if name in content else None for content in (old, new)]
        if None in sizes:
            found.append(f"{name} is {'new' if sizes[0] is None else 'not there any more'}")
        elif sizes[0] != sizes[1]:
            found.append(f"{at}had {sizes[0]:,} bytes and has {sizes[1]:,}")
        elif old[name] != new[name]:
            found.append(f"{at}has other bytes, {sizes[0]:,} as before")
    return found


def check_inputs(known: Mapping[str, Content], inputs: Mapping[str, Input], where: str, otherwise: str) -> None:
    """Raises UserError for an input that holds something else than when the run began. where: names the run; known:
    what its inputs held then; otherwise: what to do, if not to put that back."""
    for name, (path, content, some) in inputs.items():
        before = known.get(name, {})
        if some:
            before, content = ({k: v for k, v in x.items() if k in before and k in content} for x in (before, content))
        if content and before and (found := replaced(before, content)):
            more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise UserError(
                f"{where}: {name}, {path}, is not what this run began with: {', '.join(found[:_NAMED])}{more}; "
                f"put that back, or {otherwise}"
            )


def holds(
    workdir: AnyPath,
    config: dict[str, Any],
    flag: str = "--workdir",
    may_change: Collection[str] = (),
    inputs: Mapping[str, Input] = {},
) -> bool:
    """Whether `workdir` is this config's own; False if it is new. Raises UserError if it holds another config's run, or
    if an input holds something else than when the run began.

    flag: what the folder was given by; may_change: fields of the config that may be others in the same run. inputs: by
    the fields that say where they lie, such as "data.tokenizer", which may lie elsewhere now.
    """
    path = workdir / "config.json"
    with disk_errors(workdir):
        if not is_remote(workdir) and any(parent.is_file() for parent in workdir.parents):
            raise NotADirectoryError(workdir)  # told before anything is computed for it
        is_run, has_files = path.exists(), workdir.exists() and any(workdir.iterdir())
    if is_run:
        old, new = read_json(path, _CONFIG), json.loads(json.dumps(config))
        known = old.get("inputs", {})
        without = {*may_change, "inputs", *(name for name in _ADDED if name not in old or name not in new)}
        old, new = ({k: v for k, v in x.items() if k not in without} for x in (old, new))
        moved = tuple(f"config.{name} is " for name, given in inputs.items() if given.content and name in known)
        if found := [found for found in differences(old, new) if not found.startswith(moved)]:
            more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise UserError(f"{workdir} holds another run: {', '.join(found[:_NAMED])}{more}; choose another {flag}")
        accept = f"to go on with it all the same, remove `inputs` from {path}"
        check_inputs(known, inputs, str(workdir), f"choose another {flag}; {accept}")
        return True
    if has_files:
        raise UserError(f"{workdir}: not empty and without config.json, expected an empty folder or an earlier run's")
    return False


def claim(
    workdir: AnyPath,
    config: dict[str, Any],
    flag: str = "--workdir",
    may_change: Collection[str] = (),
    inputs: Mapping[str, Input] = {},
) -> None:
    """Makes `workdir` this config's own, or checks that it is. Raises UserError as `holds` does."""
    old = {}
    if holds(workdir, config, flag, may_change, inputs):
        old = read_json(workdir / "config.json", _CONFIG)
    held = {name: given.content for name, given in inputs.items() if given.content} | old.get("inputs", {})
    new = {name: old[name] for name in _ADDED if name in old} | json.loads(json.dumps(config))
    new |= {"inputs": held} if held else {}
    if new != old:  # new, or an input lies elsewhere
        write_json(workdir / "config.json", new)

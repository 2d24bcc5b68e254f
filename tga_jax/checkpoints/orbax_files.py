"""Checkpoints on disk; the only importer of orbax. Of several processes, all call every function here.

A training keeps `<workdir>/checkpoints/<step>` (state and data position, to resume) and, when it has ended,
`<workdir>/params/<part>` for each part it trained (`clip`, `projector`, `llm`), which later trainings start from.
Orbax writes aside, so an interrupted save leaves the earlier checkpoints as they were. Beside the arrays lie sums of
their bits, by which damage is found that the formats' own checks let through. A workdir may be a folder of a bucket,
"gs://bucket/folder".
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, absolute, disk_errors, is_remote, read_json, write_json


def wait_for_all(what: str) -> None:
    """Until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


_lock = threading.RLock()
_unfinished: ocp.CheckpointManager | None = None  # the last that may still be writing


@contextlib.contextmanager
def _alone(manager: ocp.CheckpointManager | None = None) -> Iterator[None]:
    """While no other thread uses orbax, which numbers its operations for the whole process and confuses those of two
    saves. manager: whose save may still be under way; it keeps them apart itself."""
    with _lock:
        if _unfinished is not None and _unfinished is not manager:
            _unfinished.wait_until_finished()
        yield


@jax.jit  # one program for each shape: parameters and their moments share theirs, and so do checkpoints
def _sum(x: jax.Array) -> jax.Array:
    """uint32 scalar: the sum of x's words, each times an odd number that counts its place, so that no changed word
    leaves it as it was. Whole numbers, so that it is the same however x is divided among devices."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        x = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(x.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)


def _named_sums(tree: Any) -> dict[str, int]:
    """The sum of each array's bits, by its path and dtype."""
    leaves = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if x is not ...]
    names = [f"{jax.tree_util.keystr(path)} {x.dtype.name}" for path, x in leaves]
    return dict(zip(names, map(int, jax.device_get([_sum(x) for _, x in leaves])), strict=True))


def _check(tree: Any, known: Any, place: AnyPath) -> None:
    """Raises UserError for an array whose sum is another than `known` has, as `_named_sums` of what was written. One
    that was written in another dtype has none there, and is not looked at."""
    if not isinstance(known, dict):
        raise UserError(f"{place}: damaged, {known!r:.80} in place of the sums of its arrays")
    for name, found in _named_sums(tree).items():
        if known.get(name, found) != found:
            raise UserError(f"{place}: damaged, {name} is not what was written")


class Checkpoints:
    """The resumable states of one training: the newest `keep`, and those whose step `keep_every` divides (0: none)."""

    def __init__(self, workdir: AnyPath, keep: int, keep_every: int = 0):
        self.folder = absolute(workdir) / "checkpoints"
        with disk_errors(workdir):
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None, create=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Copies the state, a pytree of arrays, and returns; it is written while the training goes on.

        Raises UserError if the disk was full, at this save or at the one before.
        """
        if step in self._manager.all_steps():
            return
        global _unfinished
        with disk_errors(self.folder), _alone(self._manager):
            _unfinished = self._manager
            sums = ocp.args.JsonSave(_named_sums(state))
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), sums=sums))

    def wait(self) -> None:
        """Until what was saved is on disk. Raises UserError if the disk is full."""
        with disk_errors(self.folder):
            self._manager.wait_until_finished()

    def _restored(self, step: int, like: Any) -> Any:
        """The state, with the shapes and shardings of `like`. Raises UserError if it is damaged."""
        place = self.folder / str(step)
        try:
            with _alone():
                found: Any = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))
                sums: Any = {}
                if (place / "sums").exists():  # earlier versions have none
                    known: Any = self._manager.restore(step, args=ocp.args.Composite(sums=ocp.args.JsonRestore()))
                    sums = known.sums
            _check(found.state, sums, place)
        except Exception as error:  # orbax and tensorstore raise many types for a damaged or foreign file
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(f"{place}: cannot be restored ({reason})") from error
        return found.state

    def restore_newest(self, like: Any, say: Callable[[str], None]) -> tuple[int, Any]:
        """(step, state) of the newest checkpoint that is whole; (0, None) without any.

        Newer ones, which are damaged, are removed, with a line that says so; not of several processes, which may not
        all see the damage, nor of a bucket, which may only be out of reach. Raises UserError if none can be restored.
        """
        damaged: dict[int, UserError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._restored(step, like)
            except UserError as error:
                if jax.process_count() > 1 or is_remote(self.folder):
                    raise UserError(f"{error}; remove it to resume from the one before") from error
                damaged[step] = error
                continue
            for wrong, reason in damaged.items():
                self._manager.delete(wrong)
                say(f"{reason}; it is removed, and the training goes on from step {step}")
            return step, state
        if damaged:
            raise UserError(f"{damaged[max(damaged)]}; nor can any before it; remove {self.folder} to start anew")
        return 0, None

    def close(self) -> None:
        global _unfinished
        with _lock:
            if _unfinished is self._manager:
                _unfinished = None
            self._manager.close()


_SUMS = "sums.json"  # of each part, as `_named_sums` has it
_PARTS = "parts.json"  # names the parts once all of them are written: a bucket's folders cannot be renamed at once


def save_params(workdir: AnyPath, params: dict[str, Any]) -> None:
    """Writes each part of `params` under `<workdir>/params`; `has_params` only when all are there."""
    folder = absolute(workdir) / "params"
    jax.block_until_ready(params)
    with disk_errors(folder):
        with _alone(), ocp.StandardCheckpointer() as checkpointer:
            for part, tree in params.items():
                checkpointer.save(folder / part, tree, force=True)
        wait_for_all("params are written")
        sums = {part: _named_sums(tree) for part, tree in params.items()}
        if jax.process_index() == 0:
            write_json(folder / _SUMS, sums)
            write_json(folder / _PARTS, sorted(params))
        wait_for_all("params are there")


def has_params(workdir: AnyPath) -> bool:
    return (workdir / "params" / _PARTS).exists()


def trained_parts(workdir: AnyPath) -> list[str]:
    """Those that `save_params` wrote. Raises UserError if it has not."""
    return read_json(workdir / "params" / _PARTS, "what a finished training leaves", kind=list)


def load_params(workdir: AnyPath, part: str, like: Any) -> Any:
    """One part's parameters. like: their shapes, types and shardings, by default on one device, wherever they lay when
    they were saved; `...` for one that is not read, and is `...` then. Raises UserError naming a missing, unfit or
    damaged folder."""
    folder = absolute(workdir) / "params" / part
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the trained parameters of {part!r}")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(x: Any) -> Any:
        if x is ...:
            return ocp.PLACEHOLDER
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here)

    like = jax.tree.map(placed, like)
    how = ocp.args.PyTreeRestore(like, restore_args=ocp.checkpoint_utils.construct_restore_args(like))
    try:
        with _alone(), ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.restore(folder, args=how)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{folder}: does not fit the configured model ({reason})") from error
    if (folder.parent / _SUMS).exists():  # earlier versions have none
        sums = read_json(folder.parent / _SUMS, "the sums of the parameters; remove it to read them unchecked")
        _check(found, sums.get(part, {}), folder)
    return found

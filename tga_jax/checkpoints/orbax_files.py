"""Checkpoints on disk; the only importer of orbax. Of several processes, all call every function here.

A training keeps `<workdir>/checkpoints/<step>` (state and data position, to resume) and, when it has ended,
`<workdir>/params/<part>` for each part it trained (`clip`, `projector`, `llm`), which later trainings start from.
Orbax writes aside, so an interrupted save leaves the earlier checkpoints as they were. A workdir may be a folder of a
bucket, "gs://bucket/folder".
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, absolute, disk_errors, read_json, write_json


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
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

    def wait(self) -> None:
        """Until what was saved is on disk. Raises UserError if the disk is full."""
        with disk_errors(self.folder):
            self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> Any:
        """The state, with the shapes and shardings of `like`."""
        try:
            with _alone():
                found: Any = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))
        except Exception as error:  # orbax and tensorstore raise many types for a damaged or foreign file
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"{self.folder / str(step)}: cannot be restored ({reason}); remove it to resume from the one before"
            ) from error
        return found.state

    def close(self) -> None:
        global _unfinished
        with _lock:
            if _unfinished is self._manager:
                _unfinished = None
            self._manager.close()


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
        if jax.process_index() == 0:
            write_json(folder / _PARTS, sorted(params))
        wait_for_all("params are there")


def has_params(workdir: AnyPath) -> bool:
    return (workdir / "params" / _PARTS).exists()


def trained_parts(workdir: AnyPath) -> list[str]:
    """Those that `save_params` wrote. Raises UserError if it has not."""
    return read_json(workdir / "params" / _PARTS, "what a finished training leaves", kind=list)


def load_params(workdir: AnyPath, part: str, like: Any) -> Any:
    """One part's parameters. like: their shapes, types and shardings, by default on one device, wherever they lay when
    they were saved; `...` for one that is not read, and is `...` then. Raises UserError naming a missing or unfit
    folder."""
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
            return checkpointer.restore(folder, args=how)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{folder}: does not fit the configured model ({reason})") from error

"""Checkpoints on disk; the only importer of orbax.

A training keeps `<workdir>/checkpoints/<step>` (state and data position, to resume) and, when it has ended,
`<workdir>/params/<part>` for each part it trained (`clip`, `projector`, `llm`), which later trainings start from.
Orbax writes aside and renames, so an interrupted save leaves the earlier checkpoints as they were.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from tga_jax.errors import UserError
from tga_jax.workdir import disk_errors


class Checkpoints:
    """The resumable states of one training, the newest two."""

    def __init__(self, workdir: Path):
        self.folder = workdir.absolute() / "checkpoints"
        with disk_errors(workdir):
            options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """state: pytree of arrays; data: the input iterator's JSON state. Raises UserError if the disk is full."""
        if step in self._manager.all_steps():
            return
        with disk_errors(self.folder):
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
            )
            self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The state, with the shapes and shardings of `like`, and the iterator's state."""
        try:
            found: Any = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
            )
        except Exception as error:  # orbax and tensorstore raise many types for a damaged or foreign file
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"{self.folder / str(step)}: cannot be restored ({reason}); remove it to resume from the one before"
            ) from error
        return found.state, found.data

    def close(self) -> None:
        self._manager.close()


def save_params(workdir: Path, params: dict[str, Any]) -> None:
    """Writes each part of `params` under `<workdir>/params`, all or nothing."""
    folder = workdir.absolute() / "params"
    aside = workdir.absolute() / ".params-unfinished"
    with disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        with ocp.StandardCheckpointer() as checkpointer:
            for part, tree in params.items():
                checkpointer.save(aside / part, tree)
        aside.rename(folder)


def has_params(workdir: Path) -> bool:
    return (workdir / "params").is_dir()


def load_params(workdir: Path, part: str, like: Any) -> Any:
    """One part's parameters; like: their shapes (and shardings). Raises UserError naming a missing or unfit folder."""
    folder = workdir.absolute() / "params" / part
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the trained parameters of {part!r}")
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder, like)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{folder}: does not fit the configured model ({reason})") from error

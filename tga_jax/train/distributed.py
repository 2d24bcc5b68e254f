"""Joining the processes of one training, on one machine or many, through `jax.distributed`."""

import os
import re
import socket
import threading
from typing import Any

import jax

from tga_jax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def _check_free(address: str) -> None:
    """Raises UserError if process 0 cannot listen at HOST:PORT; JAX says so too, unless it crashes over it."""
    host, port = address.rsplit(":", 1)
    host = "" if host == "[::]" else host.strip("[]")  # "": any address of this machine, also where it has no IPv6
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind((host, int(port)))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"process 0 cannot listen at {address} ({error}), expected a free port of its machine"
        ) from error


def _arguments(named: dict[str, str]) -> dict[str, Any]:
    """What the variables of `VARIABLES` that are set say to `jax.distributed.initialize`, which reads the address
    itself, and no other of them. Raises UserError for values that cannot be."""
    if not re.fullmatch(r".+:\d+", named.get(VARIABLES[0], "any:0")):
        raise UserError(f"JAX_COORDINATOR_ADDRESS: {named[VARIABLES[0]]!r}, expected HOST:PORT")
    if named.keys() <= {VARIABLES[0]}:
        return {}
    if missing := [name for name in VARIABLES if name not in named]:
        raise UserError(f"{missing[0]}: not set, expected beside {' and '.join(named)}")
    address, count, process = (named[name] for name in VARIABLES)
    if not (count.isdecimal() and process.isdecimal() and int(process) < int(count)):
        raise UserError(
            f"JAX_PROCESS_ID {process!r} of JAX_NUM_PROCESSES {count!r}: expected a number from 0, below it"
        )
    if int(process) == 0:
        _check_free(os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or "[::]:" + address.rsplit(":", 1)[1])
    # Deactivated, or within a SLURM job every process would get one GPU of SLURM's choice.
    return {"num_processes": int(count), "process_id": int(process), "cluster_detection_method": "deactivate"}


def initialize(asked: bool = False, timeout: float = 300) -> None:
    """Joins this process to the others; does nothing if neither `asked` nor the environment says that there are any.

    To be called before anything makes JAX look for devices. asked: the others are found as
    `jax.distributed.initialize` finds them, on TPU pods and under SLURM and Open MPI. Anywhere else the variables of
    `VARIABLES` name them; set, they come first and need no asking. timeout: seconds until all must have joined. Raises
    UserError if they have not, or if nothing says who they are.
    """
    named = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not (asked or named):
        return
    arguments = _arguments(named)
    # Its handler of SIGTERM would leave a process that is told to end running: a training has its own.
    jax.config.update("jax_enable_preemption_service", False)
    outcome: list[Exception | None] = []

    def join() -> None:
        try:
            # Practically no timeout: at its own, JAX aborts the process and prints the stack of its C++.
            jax.distributed.initialize(**arguments, initialization_timeout=10**6)
            outcome.append(None)
        except Exception as error:  # whatever the detection of a cluster raises
            outcome.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(timeout)
    where = ", ".join(f"{name}={value}" for name, value in named.items()) or "processes as detected"
    if not outcome:
        raise UserError(f"not all processes have joined within {timeout:g} s ({where}); see what the others say")
    if (error := outcome[0]) is not None:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        expected = f"a TPU pod, SLURM, Open MPI, or {', '.join(VARIABLES)} to be set"
        raise UserError(f"jax.distributed.initialize: {reason} ({where}); expected {expected}") from error

"""Many processes as one program: how they find each other, agree, and end.

A process finds its peers through the cluster that JAX detects (SLURM, TPU VM, GKE, Open MPI) or
through three variables of the environment, as `launch/local.sh` sets them:

    JAX_COORDINATOR_ADDRESS=host:port  JAX_NUM_PROCESSES=n  JAX_PROCESS_ID=i

Without either it is alone, which takes the same way through JAX's coordination service.
"""

import json
import os
import socket
import sys
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from facejax.errors import UserError

HEARTBEAT_SECONDS = 60
"""After this long without a sign of life a process counts as dead, and JAX ends the others."""


def start() -> None:
    """Joins the peers; must run before JAX touches a device.

    From here on SIGTERM is a notice of preemption; see `preempted`.

    Raises:
        UserError: the variables of the environment are incomplete.
    """
    if jax.distributed.is_initialized():
        return
    keys: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        number, count = _variable("JAX_PROCESS_ID"), _variable("JAX_NUM_PROCESSES")
        if not 0 <= number < count:
            what = f"process {number} of {count}"
            raise UserError("JAX_PROCESS_ID", what, "number the processes from 0")
        jax.distributed.initialize(num_processes=count, process_id=number, **keys)
        return
    try:
        jax.distributed.initialize(**keys)
    except ValueError:  # no cluster was detected
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        jax.distributed.initialize(address, num_processes=1, process_id=0, **keys)


def _variable(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        what = f"'{text}' is no number" if text else "not set beside JAX_COORDINATOR_ADDRESS"
        raise UserError(name, what, "start the processes with launch/local.sh, or set it")
    return int(text)


def preempted(step: int) -> bool:
    """Whether all processes are to save and end at this step, because one got SIGTERM.

    Every process must ask at every step: JAX chooses the first step that all can still reach.
    """
    return multihost_utils.reached_preemption_sync_point(step)


def agree(ok: bool) -> bool:
    """Whether every process says yes; all processes must ask."""
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def gather(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order; all processes must call."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(text.size)).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def leave(status: int) -> NoReturn:
    """Ends this process.

    After a failure the peers may wait in a collective for ever, and the orderly end of JAX's
    coordination would wait for them. So the process ends at once and its peers are told by JAX.
    """
    if status and jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

"""From a name to devices: `v5e:16x16`, `v5p:8x8x16`, `h100:8`, `h200:4x8` (nodes x GPUs).

The numbers of a TPU's name are chips along each axis of the slice.
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from facejax.errors import UserError, nearest
from facejax.planning.chips import CHIPS, Chip


@dataclass(frozen=True)
class Topology:
    """A slice or a set of nodes.

    Attributes:
        name: as it was given.
        chip: its kind.
        shape: chips along each axis; for GPUs (nodes, GPUs of one).
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.chips * self.chip.devices


def parse(name: str) -> Topology:
    """Reads the name of a topology.

    Raises:
        UserError: a name that says nothing, or a slice that does not exist.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found:
        raise UserError("--topology", f"'{name}' is no topology", "write v5e:16x16 or h100:8")
    if found[1] not in CHIPS:
        raise UserError("--topology", f"no chip '{found[1]}'", nearest(found[1], CHIPS))
    chip, shape = CHIPS[found[1]], tuple(map(int, found[2].split("x")))
    if not chip.tpu:
        shape = (1, *shape) if len(shape) == 1 else shape
        if len(shape) != 2 or 0 in shape or shape[1] > chip.node:
            what, remedy = f"'{found[2]}' is not nodes x GPUs", f"write {found[1]}:8 or 4x8"
            raise UserError("--topology", what, remedy)
        return Topology(name, chip, shape)
    if len(shape) != chip.axes:
        example = "x".join("4" * chip.axes)
        what = f"a slice of {found[1]} has {chip.axes} axes, not {len(shape)}"
        raise UserError("--topology", what, f"write {found[1]}:{example}")
    # A host drives 2x2 chips and is had whole; one chip alone is the exception, where there is one.
    single = chip.axes == 2 and shape == (1, 1)
    if 0 in shape or (any(n % 2 for n in shape[:2]) and not single):
        what = f"hosts of 2x2 chips do not make up {found[2]}"
        raise UserError("--topology", what, "make the first two numbers even")
    if math.prod(shape) > chip.most:
        what = f"{math.prod(shape)} chips, and the largest slice of {found[1]} has {chip.most}"
        raise UserError("--topology", what, "take a smaller slice")
    return Topology(name, chip, shape)


def devices(topology: Topology) -> list[jax.Device] | None:
    """Devices to compile for, or None where only an estimate can be made.

    TPU devices exist for the compiler alone; GPUs must be there in the wanted number.

    Raises:
        UserError: the TPU compiler is missing or refuses the topology.
    """
    chip = topology.chip
    if not chip.tpu:
        here = jax.devices()
        enough = len(here) >= topology.devices and here[0].device_kind == chip.kind
        return here[: topology.devices] if enough else None
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology.name}",
            "the TPU compiler, libtpu, is not installed",
            "pip install -r requirements-plan.txt",
        )
    options = dict(chip.options)
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(topology.name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        what = f"the compiler refuses it ({' '.join(str(error).split())})"
        raise UserError(f"--topology={topology.name}", what, "take a slice that exists") from error
    return list(found.devices)


def without_hardware() -> None:
    """Makes JAX and libtpu look for no accelerator; call it before a backend exists."""
    # On a TPU host a plan must not take the chips from a running job, nor wait for its lock.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    # Else libtpu asks the cloud's metadata server what machine this is, and complains at length
    # where there is none. What it is told here plays no part in compiling for a topology.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

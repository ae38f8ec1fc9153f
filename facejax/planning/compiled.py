"""The real train step, compiled for devices that need not be there."""

import importlib.metadata
import re
import time
from dataclasses import dataclass
from typing import Any

import jax

from facejax import state, step
from facejax.errors import UserError
from facejax.planning import hlo
from facejax.planning.chips import GIB

MOST_LISTED = 8
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\)")
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", re.IGNORECASE)


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step on one device, in bytes.

    Attributes:
        arguments: state and batch, with the padding of the hardware.
        results: what is not written over the state.
        temporaries: activations, gradients and gathered weights, as they were packed.
        code: the program.
        traffic: read from and written to main memory.
        collectives: by kind and group size.
        largest: (bytes, how many, shape, operation).
        seconds: that compiling took.
    """

    arguments: int
    results: int
    temporaries: int
    code: int
    traffic: float
    collectives: tuple[hlo.Collective, ...]
    largest: tuple[tuple[int, int, str, str], ...]
    seconds: float

    @property
    def need(self) -> int:
        return self.arguments + self.results + self.temporaries + self.code


@dataclass(frozen=True)
class Refused:
    """The compiler gave up because the step does not fit.

    Attributes:
        need: bytes that it wanted, where its message does not tell without the state.
        seconds: that it took.
    """

    need: float
    seconds: float


def compile_step(program: state.Program, arguments: tuple, mesh: jax.sharding.Mesh):
    """Compiles the step for the devices of a mesh.

    Args:
        arguments: see `inputs.placed`.

    Returns:
        `Compiled`, or `Refused` if it does not fit.

    Raises:
        UserError: the compiler fails in another way.
    """
    traced = step.jitted(program, mesh).trace(*arguments)
    started = time.monotonic()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        need = needed(str(error))
        if need is None:
            what = f"the compiler fails: {' '.join(str(error).split())[:300]}"
            raise UserError("--topology", what, "report it with the config") from error
        return Refused(need, time.monotonic() - started)
    return _read(compiled, time.monotonic() - started)


def needed(message: str) -> float | None:
    """Bytes that a program needs by a compiler's refusal; None if it is about something else.

    >>> needed("Ran out of memory in memory space hbm. Used 29.10G of 15.75G hbm.") / 2**30
    29.1
    """
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    found = _USED.search(message) or _TEMPORARIES.search(message)
    return float(found[1]) * _UNITS[found[2].upper()] if found else float("inf")


def _read(compiled: Any, seconds: float) -> Compiled:
    memory = compiled.memory_analysis()
    module = hlo.parse(compiled.as_text())
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        traffic=hlo.traffic(module),
        collectives=tuple(hlo.collectives(module)),
        largest=tuple(hlo.largest(module, MOST_LISTED)),
        seconds=seconds,
    )


def compiler(tpu: bool) -> str:
    """The compiler's name and version."""
    name = "libtpu" if tpu else "jaxlib"
    return f"{name} {importlib.metadata.version(name)}"

"""How the C library treats memory that XLA gives back on the CPU."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def settle() -> None:
    """Settles the memory of a command, before anything else, where JAX will use only the CPU."""
    if only_cpu():
        keep_memory()


def keep_memory() -> bool:
    """Keeps freed memory in the process, so that the next step need not ask for it again.

    XLA allocates the temporaries of a CPU step anew each time, in several threads. glibc maps
    large ones and unmaps them when freed, and the kernel clears every page that comes back: for a
    small ViT a quarter of the step. Afterwards the process stays as large as it ever was. Only
    threads that do not run yet share the one heap, so this comes before JAX starts its own.

    Returns:
        Whether it was done; other C libraries than glibc have no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # -1 trims never: the largest threshold that an int can say is less than a step may free.
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) for parameter, value in wanted)


def only_cpu() -> bool:
    """Whether JAX will compute on the CPU: it is told to, or nothing else is installed."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None

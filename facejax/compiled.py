"""Where compiled programs are kept between starts."""

import hashlib
import os
import platform
import sys
from pathlib import Path


def keep() -> None:
    """Makes the commands of this user find the programs that earlier ones compiled.

    `JAX_COMPILATION_CACHE_DIR` and JAX's own settings come first; "" keeps nothing. JAX keeps what
    took more than a second to compile, and goes on without where it can't write.
    """
    jax = sys.modules.get("jax")  # commands that compile have imported it
    if jax and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(default()))


def default() -> Path:
    """The folder, one for each kind of CPU: XLA compiles for the instructions that one has.

    A home directory may be shared by machines of several kinds.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    kind = hashlib.sha256(flags[0].encode()).hexdigest()[:8] if flags else "any"
    return Path(home) / "facejax" / "compiled" / f"{platform.machine()}-{kind}"

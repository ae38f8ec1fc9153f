"""Shared by all tests: eight fake CPU devices, strict promotion, and the test plug-ins.

The plug-ins beneath `tests/plugins` are found by name like facejax's own, so a config can use them.
"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    # Tests compile far more than they compute.
    " --xla_backend_optimization_level=0"
).strip()

import jax
import pytest
import with_plugins

jax.config.update("jax_numpy_rank_promotion", "raise")

with_plugins.extend()


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """The folder of real faces, where there is one."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("FACEJAX_REAL_FACES", default)).resolve()
    if not (folder / "lfw128.zip").exists():
        pytest.skip(f"no real faces at {folder}; set FACEJAX_REAL_FACES")
    return folder

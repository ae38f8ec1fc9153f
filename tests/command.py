"""The training command as a process of its own, on the tiniest run of the main job."""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = (
    "--config.global_batch=16",
    "--config.log_every=2",
    "--config.log_batch_ids=True",
    "--config.encoder.width=32",
    "--config.encoder.depth=2",
    "--config.objective.mae.decoder_depth=1",
    "--config.objective.simclr.hidden=32",
    "--config.data.size=32",
    "--config.data.sources=({'name': 'synthetic', 'n': 100, 'identities': 20, 'size': 32},)",
    "--config.eval={}",
    "--config.export=()",
    "--config.report=False",
)

# The same programs are started again and again.
CACHE = {"JAX_COMPILATION_CACHE_DIR": f"{tempfile.gettempdir()}/facejax-tests-{os.getuid()}"}


def start(
    workdir: Path,
    *options: str,
    devices: int = 1,
    program=("-m", "facejax.train"),
    limit: tuple[int, int] | None = None,
    **variables: str,
) -> subprocess.Popen:
    """Starts it; `limit` is a resource and how much of it, `variables` go to the environment."""
    command = [sys.executable, *program, f"--workdir={workdir}", *TINY, *options]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [*command, "--config=configs/quickstart.py"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **CACHE, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit and (lambda: resource.setrlimit(limit[0], (limit[1], limit[1]))),
    )


def train(workdir: Path, *options: str, status: int = 0, **keys) -> str:
    process = start(workdir, *options, **keys)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == status, output
    return output


def start_many(
    workdir: Path, processes: int, *options: str, devices: int = 1, **keys
) -> list[subprocess.Popen]:
    """Processes that are one run, as `launch/local.sh` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    return [
        start(workdir, *options, devices=devices, JAX_PROCESS_ID=str(i), **shared, **keys)
        for i in range(processes)
    ]


def outputs(processes: list[subprocess.Popen], status: int, timeout: float = 400) -> list[str]:
    """Waits for all; their outputs, if every one ended with `status`."""
    try:
        texts = [p.communicate(timeout=timeout)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [status] * len(processes), "\n\n".join(texts)
    return texts


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    path = workdir / "batches.jsonl"
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text().count("\n") >= step):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ids(workdir: Path) -> list:
    return [json.loads(line) for line in (workdir / "batches.jsonl").read_text().splitlines()]

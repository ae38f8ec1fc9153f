"""What a chip offers to a program.

Sources. TPU: the "System architecture" pages of Cloud TPU (docs.cloud.google.com/tpu/docs: v4, v5e,
v5p, v6e, tpu7x) for bandwidths and slice sizes; links are half of the "bidirectional inter-chip
interconnect bandwidth per chip". The capacity is what the compiler of libtpu 0.0.42 names when it
refuses a program. GPU: NVIDIA's data sheets of the SXM boards (half of the NVLink
bandwidth of both directions); peaks are those of `facejax/peaks.py`.

Not confirmed by a source at hand: the links of v4 (six of 50 GB/s, as we remember it from Jouppi
et al. 2023, arXiv:2304.01433), 8 TB/s for B200 (from the 64 TB/s of a DGX B200), and the network of
the GPU nodes, which is what their owner bought: we take one card per GPU, of 200 Gb/s beside A100
and 400 Gb/s beside the others.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from facejax.peaks import peak_flops

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator. Figures are per JAX device.

    Attributes:
        kind: its `device_kind` in JAX.
        capacity: bytes of its memory that a program may have.
        bandwidth: of this memory, bytes/s.
        link: bytes/s that it sends to its neighbours.
        devices: JAX devices on one chip.
        axes: of the torus of a TPU slice; 0 for GPUs.
        most: chips of the largest slice that can be had; 0 for no limit.
        node: GPUs that NVLink connects.
        network: bytes/s that a GPU sends to another node.
        options: what the TPU compiler must be told.
    """

    kind: str
    capacity: float
    bandwidth: float
    link: float
    devices: int = 1
    axes: int = 0
    most: int = 0
    node: int = 0
    network: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def tpu(self) -> bool:
        return self.axes > 0

    @property
    def peak(self) -> float:
        """FLOP/s of bfloat16 with float32 sums."""
        return peak_flops(self.kind, "bfloat16")


def _tpu(kind, capacity, bandwidth, link, axes, most, devices=1, **options) -> Chip:
    return Chip(kind, capacity * GIB, bandwidth, link, devices, axes, most, options=options)


def _gpu(kind: str, memory: float, bandwidth: float, link: float, network: float) -> Chip:
    # What JAX takes when it starts, by default three quarters, is all that a program can have.
    share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
    return Chip(kind, share * memory, bandwidth, link, node=8, network=network)


CHIPS = {
    # Two cores that act as one device.
    "v4": _tpu("TPU v4", 30.75, 1200e9, 300e9, 3, 4096, chip_config_name="megacore"),
    "v5e": _tpu("TPU v5e", 15.75, 819e9, 200e9, 2, 256),
    "v5p": _tpu("TPU v5p", 95.74, 2765e9, 600e9, 3, 6144),
    "v6e": _tpu("TPU v6e", 31.25, 1638e9, 400e9, 2, 256),
    "tpu7x": _tpu("TPU7x", 94.75, 3690e9, 300e9, 3, 9216, devices=2),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 80e9, 2039e9, 300e9, 25e9),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 80e9, 3350e9, 450e9, 50e9),
    "h200": _gpu("NVIDIA H200", 141e9, 4800e9, 450e9, 50e9),
    "b200": _gpu("NVIDIA B200", 180e9, 8000e9, 900e9, 50e9),
}

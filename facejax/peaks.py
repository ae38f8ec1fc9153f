"""What the hardware could do at most, and the share of it that a run uses."""

import re
from typing import Any

# Dense peak of 16-bit floats with fp32 sums, in TFLOP/s of one JAX device. A chip of TPU v2, v3 or
# TPU7x is two devices. Names are matched in full: a MIG slice or a laptop part is not its namesake.
_PEAKS = (
    (r"TPU v2", 22.5),
    (r"TPU v3", 61.5),
    (r"TPU v4", 275.0),
    (r"TPU v5 ?lite|TPU v5e", 197.0),
    (r"TPU v5p?", 459.0),
    (r"TPU v6 ?lite|TPU v6e", 918.0),
    (r"TPU7x", 2307.0 / 2),
    (r"NVIDIA B200", 2250.0),
    (r"NVIDIA GH200 .*", 989.0),
    (r"NVIDIA H[12]00 NVL", 835.0),
    (r"NVIDIA H100 PCIe", 756.0),
    (r"NVIDIA H100|NVIDIA H100 80GB HBM3|NVIDIA H200", 989.0),
    (r"(NVIDIA )?A100-(SXM4|PCIE|PCIe)-[48]0GB|NVIDIA A100 80GB PCIe", 312.0),
    (r"NVIDIA A10", 125.0),
    (r"NVIDIA L40S", 362.0),
    (r"NVIDIA L40", 181.0),
    (r"NVIDIA L4", 121.0),
    (r"NVIDIA GeForce RTX 4090", 165.2),
    (r"NVIDIA GeForce RTX 3090", 71.2),
)
_FLOAT16_ONLY = (
    (r"(NVIDIA )?(Tesla )?V100-SXM2-(16|32)GB", 125.0),
    (r"(NVIDIA )?(Tesla )?V100-PCIE-(16|32)GB", 112.0),
    (r"(NVIDIA )?(Tesla )?T4", 65.0),
)


def peak_flops(device_kind: str, dtype: Any) -> float | None:
    """Returns the dense peak of one JAX device in FLOP/s, or None where it is not known.

    Known for "bfloat16" and "float16" on the accelerators listed above. Unknown for CPUs, and for
    "float32", whose peak depends on the precision that JAX is told to multiply with.

    Source: the system architecture pages of Cloud TPU (docs.cloud.google.com/tpu/docs: v4, v5e,
    v5p, v6e, tpu7x) and NVIDIA's data sheets and architecture white papers (half of the number
    "with sparsity" where only that is given).
    """
    name = str(getattr(dtype, "__name__", dtype))
    tables = {"bfloat16": _PEAKS, "float16": _PEAKS + _FLOAT16_ONLY}
    for pattern, tera in tables.get(name, ()):
        if re.fullmatch(pattern, device_kind):
            return tera * 1e12
    return None


def mfu(flops_per_s: float, peak: float) -> float:
    """Model FLOPs utilisation: the share of a device's peak that the model's own FLOPs use.

    Source: Chowdhery et al., PaLM, 2022, appendix B.

    Args:
        flops_per_s: of one device.
        peak: FLOP/s, of `peak_flops`, or measured.
    """
    return flops_per_s / peak

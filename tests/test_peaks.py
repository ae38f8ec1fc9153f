"""The table of devices, and a share of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from facejax.peaks import mfu, peak_flops


@pytest.mark.parametrize(
    ("kind", "dtype", "tera"),
    [
        ("TPU v4", "bfloat16", 275),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5", "bfloat16", 459),
        ("TPU v5p", "bfloat16", 459),
        ("TPU v6 lite", "bfloat16", 918),
        ("TPU7x", "bfloat16", 1153.5),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "float16", 989),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("Tesla V100-SXM2-16GB", "float16", 125),
    ],
)
def test_peaks(kind, dtype, tera):
    assert peak_flops(kind, dtype) == pytest.approx(tera * 1e12)
    assert peak_flops(kind, np.dtype("float32")) is None


@pytest.mark.parametrize(
    "kind",
    [
        "cpu",
        "",
        "TPU v9",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ],
)
def test_an_unknown_device_has_no_peak(kind):
    assert peak_flops(kind, "bfloat16") is None


def test_a_v100_multiplies_no_bfloat16():
    assert peak_flops("Tesla V100-SXM2-16GB", "bfloat16") is None


def test_peak_takes_jax_dtypes():
    assert peak_flops("TPU v4", jnp.bfloat16) == peak_flops("TPU v4", jnp.dtype("bfloat16"))


def test_mfu():
    assert mfu(1e14, 2e14) == 0.5

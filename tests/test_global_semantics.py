"""Objectives whose loss or state is of the whole batch mean the same on every mesh.

Negatives, correlations, BatchNorm, Sinkhorn's masses, queues and centres are those of the global
batch: parameters, averages and states after three steps are compared with one device's.
"""

import jax
import numpy as np
import pytest
from support import assert_close, leaves, resolve, steps

HEAD = {"hidden": 16, "out": 8}
OBJECTIVES = {
    "moco": {**HEAD, "queue": 64, "momentum": 0.9},
    "mocov3": {**HEAD, "depth": 2},
    "byol": HEAD,
    "simsiam": {**HEAD, "bottleneck": 8, "depth": 2},
    "barlow": {**HEAD, "depth": 2},
    "vicreg": {**HEAD, "depth": 2},
    "swav": {**HEAD, "prototypes": 6, "local_crops": 1, "frozen": 1, "queue": 32},
    "dino": {"hidden": 16, "bottleneck": 8, "depth": 2, "prototypes": 6, "local_crops": 1},
    "supcon": HEAD,
    "arcface": {"scale": 8.0, "sample_rate": 0.5},
    "adaface": {"scale": 8.0, "groups": 16},
    "elasticface": {"scale": 8.0, "plus": True, "velocity": "bfloat16"},
}
STATES = {
    "moco": {"queue/rows", "queue/pointer"},
    "swav": {f"global_{i}/{part}" for i in (0, 1) for part in ("rows", "pointer")},
    "dino": {"centre"},
    "adaface": {"mean", "deviation"},
}


@pytest.fixture(autouse=True)
def float64():
    """What is left of a difference is one of meaning: rounding is below what is compared."""
    with jax.enable_x64(True):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_meshes_agree(name):
    # SGD: Adam at eps 1e-8 turns a zero gradient's rounding into steps of its own.
    run = resolve({name: OBJECTIVES[name]}, global_batch=16)
    one, history = steps(run, 3)
    for shape in ((8, 1), (2, 4), (1, 8)):
        many, many_history = steps(run, 3, devices=8, shape=shape)
        assert_close(one, many, atol=1e-6, rtol=1e-6)
        for a, b in zip(history, many_history):
            assert_close(a, b, atol=1e-6, rtol=1e-6)
    state = leaves(one.objective["state"].get(name, {}))
    assert state.keys() == STATES.get(name, set())
    start, _ = steps(run, 0)
    before = leaves((start.params, start.ema, start.objective))
    for path, after in leaves((one.params, one.ema, one.objective)).items():
        assert np.abs(after - before[path]).max() > 0, path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "barlow", "swav", "dino", "supcon", "adaface"])
def test_accumulation_equals_the_whole_batch(name):
    run = {name: OBJECTIVES[name]}
    whole, _ = steps(resolve(run, global_batch=16), 2)
    parts, _ = steps(resolve(run, global_batch=16, micro_batch=4), 2)
    assert_close(whole, parts, atol=1e-6, rtol=1e-6)

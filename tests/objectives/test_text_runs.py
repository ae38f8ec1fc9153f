"""Objectives of texts through the step: one device and eight give the same state."""

import pytest
from support import TEXT, assert_close, resolve, steps

pytestmark = pytest.mark.slow

OPTIONS = {
    "clipc8": {"out": 6, "field": "clip", "prompts": {"one": ("a", "b"), "two": ("c",)}},
    "flip": {"out": 4, "queue": 32, "alpha": 0.4},
    "secla": {"width": 8, "hidden": 8, "out": 4},
    "spn4cir": {"hidden": 4, "tau": 0.2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_one_device_and_eight_agree(name):
    # A small weight: gradients of the tiny text tower are large.
    options = OPTIONS[name] | {"weight": 0.05}
    run = resolve({name: options}, global_batch=16, encoder_text=TEXT | {"context": 8})
    one, history = steps(run)
    eight, others = steps(run, devices=8)
    assert_close(one, eight, atol=1e-5)
    assert_close(history[0], others[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["clipc8", "spn4cir"])
def test_micro_batches_agree(name):
    options = OPTIONS[name] | {"weight": 0.05}
    keys = {"global_batch": 16, "encoder_text": TEXT}
    one, _ = steps(resolve({name: options}, **keys))
    parts, _ = steps(resolve({name: options}, micro_batch=8, **keys))
    assert_close(one, parts, atol=1e-5)

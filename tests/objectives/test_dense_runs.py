"""Sets, videos, deformations and dependence in the whole step: micro-batches and meshes alike."""

import made_up
import pytest
import support
from support import assert_close, resolve, steps

from facejax import state

VIT = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
SECTIONS = {
    "attract_repel": {"of": "features"},
    "fccov": {"out": 3},
    "gemini": {"stride": 2, "width": 4, "reach": 1, "window": 3},
    "isr": {"out": 16},
    "smile": {"out": 16, "function": "logdet", "intra": "correlation"},
}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def labelled(monkeypatch):
    """Batches with all labels."""
    offered = state.Program.fields

    def fields(program):
        return (*offered(program), *(f"has_{name}" for name in offered(program)))

    monkeypatch.setattr(state.Program, "fields", fields)
    monkeypatch.setattr(support, "batch_of", lambda _, seed=0: made_up.batch(seed=seed))


@pytest.mark.parametrize("name", SECTIONS)
def test_micro_batches_and_meshes_change_nothing(name):
    section = {name: SECTIONS[name]}
    whole, history = steps(resolve(section, encoder=VIT), 2)
    parts, part_history = steps(resolve(section, encoder=VIT, micro_batch=4), 2)
    many, many_history = steps(resolve(section, encoder=VIT), 2, devices=8, shape=(2, 4))
    for other, other_history in ((parts, part_history), (many, many_history)):
        assert_close(whole, other, atol=2e-5, rtol=1e-4)
        for a, b in zip(history, other_history):
            assert_close(a, b, atol=2e-5, rtol=1e-4)

"""Whether an encoder has the form that programs for face embeddings want."""

import dataclasses

import numpy as np
import pytest

from facejax import consumers
from facejax.errors import UserError

FITS = {
    "size": 112,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "color": "RGB",
    "alignment": "arcface 112",
    "flip": "none",
    "embedding": "raw",
}


@dataclasses.dataclass
class Made:
    """Stands in for a model."""

    preprocess: dict
    width: int = 512
    scale: float = 20.0

    def embed(self, images):
        x = np.random.default_rng(1).normal(size=(len(images), self.width))
        return (self.scale * x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("consumer", consumers.CONSUMERS)
def test_a_recogniser_of_insightfaces_kind_fits(consumer):
    assert consumers.problems(Made(FITS), consumer) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 64}, "64 px"),
        ({"mean": [0.4, 0.5, 0.6]}, "mean is"),
        ({"std": [0.2] * 3}, "std is"),
        ({"color": "BGR"}, "not RGB"),
        ({"alignment": "none"}, "five points"),
    ],
)
def test_what_does_not_fit_is_named(change, told):
    found = consumers.problems(Made({**FITS, **change}), "mica")
    assert len(found) == 1
    assert told in found[0]


def test_width_and_length_are_measured():
    assert "128 wide" in consumers.problems(Made(FITS, width=128), "arc2face")[0]
    unit = Made(FITS, scale=1.0)
    assert consumers.problems(unit, "arc2face") == []
    assert "reads their length" in consumers.problems(unit, "instantid")[0]
    broken = Made(FITS, scale=np.nan)
    assert consumers.problems(broken, "mica") == ["embeddings are not finite"]


def test_an_unknown_consumer_is_told():
    with pytest.raises(UserError, match="instantid"):
        consumers.problems(Made(FITS), "instant_id")

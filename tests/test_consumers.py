"""Whether an encoder has the form that programs for face embeddings want."""

import dataclasses

import jax
import numpy as np
import pytest

from facejax import consumers, model
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import fixed_images

FITS = {
    "size": 112,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "color": "RGB",
    "alignment": "arcface112",
    "flip": "none",
    "embedding": "raw",
}


@dataclasses.dataclass
class Made:
    """Stands in for a model; embeddings of length `scale`."""

    preprocess: dict
    width: int = 512
    scale: float = 20.0
    alike: bool = False

    def outputs(self, images):
        x = np.random.default_rng(1).normal(size=(len(images), self.width))
        x = np.repeat(x[:1], len(x), 0) if self.alike else x
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return {"raw": np.float32(self.scale * unit), "unit": np.float32(unit)}


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
        ({"flip": "sum"}, "flip is 'sum'"),
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
    broken = {
        "not finite": Made(FITS, scale=np.nan),
        "no direction": Made(FITS, scale=0.0),
        "one embedding": Made(FITS, alike=True),
    }
    for told, made in broken.items():
        (found,) = consumers.problems(made, "mica")
        assert told in found


def test_consumers_get_the_form_that_they_take():
    given = Made(FITS).outputs(range(3))
    arc2face = consumers.vectors(given, "arc2face")
    assert arc2face.shape == (3, 768)
    np.testing.assert_array_equal(arc2face[:, :512], given["unit"])
    assert not arc2face[:, 512:].any()
    np.testing.assert_array_equal(consumers.vectors(given, "instantid"), given["raw"])


def test_an_unknown_consumer_is_told():
    with pytest.raises(UserError, match="instantid"):
        consumers.problems(Made(FITS), "instant_id")


def test_a_model_gives_all_forms():
    cfg = dataclasses.replace(vit.Config.tiny(), size=112, patch=16, neck="linear", embed=512)
    params, stats = vit.init(cfg, jax.random.key(0), TowerSpec())
    faces = model.Model("vit", vit, cfg, params, stats, FITS)
    images = fixed_images(112, 3)
    found = faces.outputs(images)
    np.testing.assert_allclose(found["raw"], faces.embed(images), atol=1e-5)
    lengths = np.linalg.norm(found["raw"], axis=1, keepdims=True)
    np.testing.assert_allclose(found["norm"], lengths, rtol=1e-6)
    np.testing.assert_allclose(found["unit"], found["raw"] / lengths, rtol=1e-5, atol=1e-6)
    assert found["map"].shape == (3, 32, 7, 7)
    np.testing.assert_allclose(found["map"].mean((2, 3)), found["pooled_map"], atol=1e-6)
    assert consumers.problems(faces, "mica") == []

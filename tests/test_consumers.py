"""consumers.py: an encoder that fits is taken, every breach is named."""

import dataclasses

import jax
import numpy as np
import pytest

from facejax import consumers, model
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import fixed_images

FITTING = {
    "size": 112,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "color": "RGB",
    "alignment": "five points of 112",
    "flip": "none",
    "embedding": "raw",
}


def outputs(width=512, rows=3):
    raw = np.random.default_rng(0).normal(size=(rows, width))
    norm = np.linalg.norm(raw, axis=1, keepdims=True)
    return {"raw": raw, "unit": raw / norm, "norm": norm}


@pytest.mark.parametrize("consumer", consumers.CONSUMERS)
def test_a_recogniser_fits_all(consumer):
    assert consumers.violations(consumer, FITTING, outputs()) == []


BREACHES = {
    "256 values, not 512": ({}, outputs(256)),
    "images are 128 pixels, not 112": ({"size": 128}, {}),
    "colours are BGR, not RGB": ({"color": "BGR"}, {}),
    "not 0.5": ({"std": [0.25] * 3}, {}),
    "not aligned": ({"alignment": "none"}, {}),
    "flipped images": ({"flip": "sum"}, {}),
    "not finite": ({}, {"raw": np.full((3, 512), np.nan)}),
    "is zero": ({}, {"raw": np.zeros((3, 512))}),
    "not of length one": ({}, {"unit": outputs()["raw"]}),
    "not the length": ({}, {"norm": np.ones((3, 1))}),
    "one embedding": ({}, {k: np.repeat(v, 3, 0) for k, v in outputs(rows=1).items()}),
}


@pytest.mark.parametrize("message", BREACHES)
def test_every_breach_is_named(message):
    preprocess, changed = BREACHES[message]
    found = consumers.violations("Arc2Face", FITTING | preprocess, outputs() | changed)
    assert any(message in what for what in found)


def test_programs_get_the_form_that_they_take():
    given = outputs()
    arc2face = consumers.vectors("Arc2Face", given)
    assert arc2face.shape == (3, 768)
    np.testing.assert_array_equal(arc2face[:, :512], given["unit"])
    assert not arc2face[:, 512:].any()
    np.testing.assert_array_equal(consumers.vectors("InstantID", given), given["raw"])
    with pytest.raises(UserError, match="did you mean 'InstantID'"):
        consumers.vectors("InstandID", given)


def test_any_encoder_can_be_asked():
    cfg = dataclasses.replace(vit.Config.tiny(), size=112, patch=16, neck="linear", embed=512)
    params, stats = vit.init(cfg, jax.random.key(0), TowerSpec())
    faces = model.Model("vit", vit, cfg, params, stats, FITTING)
    images = fixed_images(112, 3)
    found = faces.outputs(images)
    np.testing.assert_allclose(found["raw"], faces.embed(images), atol=1e-5)
    assert found["map"].shape == (3, 32, 7, 7)
    assert consumers.violations("MICA", faces.preprocess, found) == []

"""The comparison of augmentations: both draw alike, and what they are of a step is a share."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import augment as benchmark
from benchmarks import step
from facejax.data.sources import synthetic
from facejax.encoders import vit


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(vit.VARIANTS, "Ti", vit.Dims(32, 1, 1, 2.0))


def test_pillow_draws_what_the_device_draws(small):
    """Colours, contrast and detail of many views agree in distribution."""
    args = benchmark.arguments(["--out=x", "--size=32", "--patch=8"])
    program = benchmark.planned(args, 256)
    source = synthetic.open(synthetic.Config(n=256, size=32))
    images = np.stack([record["image"] for record in source.read(range(256))])
    draw = jax.jit(benchmark.views_of(program))
    (first, second), following = draw(images, jnp.int32(3))
    assert following == 4
    assert np.abs(first - second).mean() > 0.1
    aug = next(iter(program.forwards)).view.aug
    rng = np.random.default_rng(0)
    theirs = np.stack([benchmark.by_pillow(aug, image, rng) for image in images]) / 255
    own = np.asarray(first) * 0.5 + 0.5
    assert own.shape == theirs.shape
    for measure in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2)).mean(1),
        lambda x: np.abs(np.diff(x, axis=2)).mean((1, 2, 3)),
        lambda x: np.ptp(x, axis=3).mean((1, 2)),
    ):
        a, b = measure(own), measure(theirs)
        error = np.hypot(a.std(), b.std()) / np.sqrt(len(a))
        assert abs(a.mean() - b.mean()) < 3.5 * error
        np.testing.assert_allclose(a.std(), b.std(), rtol=0.2)


def test_a_crop_stays_inside():
    aug = SimpleNamespace(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    rng = np.random.default_rng(0)
    boxes = np.array([benchmark.crop_box(aug, 100, rng) for _ in range(500)])
    assert boxes.min() >= 0
    assert boxes.max() <= 100
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert 800 <= area.min() < 1500
    assert 0.45 < area.mean() / 100**2 < 0.6  # uniform, less what is too large for its shape


def test_both_rows_are_measured_once(small, tmp_path, monkeypatch, capsys):
    """The share is the views' time over the step's, the gain that of a step without jitter."""
    own = benchmark.pools
    monkeypatch.setattr(benchmark, "pools", lambda images: dict(list(own(images).items())[:2]))
    monkeypatch.setattr(benchmark, "alone", lambda *_: lambda seconds: 2000.0)

    def ours(program, task, arrays):
        (first, _) = program.forwards
        return lambda seconds: 50.0 if any(first.view.aug.jitter) else 60.0

    monkeypatch.setattr(step, "ours", ours)
    options = ["--size=16", "--patch=8", "--batch=8", "--images=8", "--rounds=2", "--seconds=0.01"]
    benchmark.main([f"--out={tmp_path}", *options])
    shared, beside = map(json.loads, (tmp_path / "augment.jsonl").read_text().splitlines())
    np.testing.assert_allclose(shared["share"], [50 / 2000] * 2)
    np.testing.assert_allclose(shared["gain"], [1 - 50 / 60] * 2)
    assert beside["best"] in beside["pillow"]
    np.testing.assert_allclose(
        beside["ratio"], [2000 / r for r in beside["images_per_s"]["pillow"]]
    )
    monkeypatch.setattr(step, "ours", lambda *_: pytest.fail("measured again"))
    benchmark.main([f"--out={tmp_path}", *options])
    assert capsys.readouterr().out.count("target at most 3: met") == 2

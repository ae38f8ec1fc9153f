"""The error-versus-reject curve: a length that knows what is bad, and one that does not."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import chance, noisy, number, perfect

from facejax.errors import UserError
from facejax.evaluators import quality


@pytest.fixture
def cfg(faces) -> quality.Config:
    return quality.Config(faces.images, fmr=0.02, flip="none")


def evaluate(cfg, embed):
    return quality.run(cfg, quality.prepare(cfg, 8), embed)


def telling(images):
    """Pictures of an odd number show nobody, and are short."""
    odd = (number(images) % 2 == 1)[:, None]
    good = perfect(images)[:, :16] + 0.05 * chance(images)
    bad = chance(images)
    long = np.linalg.norm(bad, axis=1, keepdims=True)
    return np.where(odd, bad / long * 0.1, good).astype(np.float32)


def test_a_length_that_tells_makes_the_curve_fall(cfg):
    found = evaluate(replace(cfg, reject=(0.3, 0.85)), telling)
    m = found.metrics
    assert m["fnmr"] > 0.5
    assert m["fnmr@reject=0.85"] < 0.1 < m["fnmr@reject=0.3"] < m["fnmr"]
    assert m["area"] < 0.85
    assert 0.9 < m["area_chance"] < 1.1
    assert (np.diff(found.curves["reject"]["y"]) <= 0.05).all()


def test_a_length_that_says_nothing_leaves_it_flat(cfg):
    def equal(images):
        x = noisy(images)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    assert 0.8 < evaluate(cfg, equal).metrics["area"] < 1.2


def test_without_misses_there_is_no_area(cfg):
    m = evaluate(cfg, perfect).metrics
    assert m["fnmr"] == 0
    assert "area" not in m


def test_curve_is_its_definition():
    rng = np.random.default_rng(0)
    q, same = rng.random(50), rng.random(50) < 0.6
    missed = same & (rng.random(50) < 0.4)
    shares = np.array([0.0, 0.1, 0.5, 0.98])
    order = np.argsort(q)
    want = []
    for share in shares:
        rest = order[int(share * 50) :]
        want.append(missed[rest].sum() / max(same[rest].sum(), 1))
    np.testing.assert_allclose(quality._after_rejecting(q, same, missed, shares), want)


def test_failed_pairs_are_left_out_and_counted(cfg):
    def broken(images):
        x = noisy(images)
        x[number(images) == 4] = np.nan
        return x

    found = evaluate(cfg, broken)
    assert found.metrics["failed"] > 0
    assert found.metrics["n"] + found.metrics["failed"] == len(found.items["valid"])


@pytest.mark.parametrize(
    ("change", "where"),
    [({"reject": ()}, "reject"), ({"reject": (1.5,)}, "reject"), ({"fmr": 7.0}, "fmr")],
)
def test_illegal_options_are_user_errors(cfg, change, where):
    with pytest.raises(UserError) as caught:
        quality.prepare(replace(cfg, **change), 8)
    assert caught.value.where == where


def test_a_rate_that_so_few_impostors_cannot_show_is_refused(cfg):
    with pytest.raises(UserError, match="larger fmr"):
        evaluate(replace(cfg, fmr=1e-5), noisy)

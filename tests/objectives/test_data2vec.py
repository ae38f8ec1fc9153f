"""data2vec against its formula in float64 NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from made_up import SPEC, Case, assert_gradient, moved, wide
from support import resolve, teacher_gradients

from facejax.contracts import Ema, Tower
from facejax.errors import UserError
from facejax.objectives import data2vec
from facejax.ops.masking import Block

CONFIG = data2vec.Config(layers=2)
VIT = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 4}


def reference_target(layers, prefix=1):
    mean = np.mean([np.float64(x)[:, prefix:] for x in layers], axis=0)
    deviation = np.sqrt(mean.var(-1, keepdims=True) + 1e-5)
    return (mean - mean.mean(-1, keepdims=True)) / deviation


def reference(params, feats, beta=2.0):
    kernel, bias = (np.float64(params["head"][k]) for k in ("kernel", "bias"))
    pred = np.float64(feats["student"].tokens) @ kernel + bias
    errors = []
    for b, n in np.argwhere(np.asarray(feats["student"].mask) == 1):
        for d in np.abs(pred[b, n] - reference_target(feats["teacher"].layers)[b, n]):
            errors.append(0.5 * d * d / beta if d < beta else d - 0.5 * beta)
    return np.mean(errors)


@pytest.fixture(scope="module")
def case() -> Case:
    """With weights so large that errors lie on both sides of beta."""
    return moved(Case.of(data2vec, CONFIG), by=1.0)


@pytest.fixture(scope="module")
def exact(case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def test_loss_is_its_formula(case, exact):
    given = case.inputs()
    want = reference(given.params, given.feats)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_gradient_is_that_of_the_loss(exact):
    assert_gradient(exact, exact.inputs(), rtol=1e-6)


def test_target_is_normalised_and_of_the_last_blocks_alone(case):
    teacher = case.inputs().feats["teacher"]
    found = data2vec.target(CONFIG, teacher, 1)
    np.testing.assert_allclose(found, reference_target(teacher.layers), atol=1e-5)
    np.testing.assert_allclose(np.mean(found, -1), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(found, -1), 1, atol=1e-3)
    last = data2vec.target(dataclasses.replace(CONFIG, layers=1), teacher, 1)
    np.testing.assert_allclose(last, reference_target(teacher.layers[1:]), atol=1e-5)


def test_only_masked_patches_count(case):
    given = case.inputs()
    grads = jax.jit(case.grads)(given)["feats"]["student"]["tokens"]
    removed = np.asarray(given.feats["student"].mask) == 1
    assert 0 < removed.sum() < removed.size
    assert (np.asarray(grads)[~removed] == 0).all()
    assert (np.abs(np.asarray(grads)[removed]).max(-1) > 0).all()


def test_teacher_and_student_share_the_view_and_only_one_is_masked(case):
    student, teacher = case.passes["student"], case.passes["teacher"]
    assert student.view == teacher.view
    assert student.replaces
    assert student.mask == Block(((120 / 196, 120 / 196),))
    assert teacher.mask is None
    assert teacher.weights == Ema(CONFIG.momentum)


def test_no_gradient_reaches_the_teacher():
    grads = teacher_gradients(resolve({"data2vec": {"layers": 1}}, encoder=VIT))
    assert grads
    assert all((grad == 0).all() for grad in grads.values())


def test_more_blocks_than_there_are_is_an_error():
    spec = dataclasses.replace(SPEC, towers={"encoder": Tower(8, 8, 4, 1, 16, depth=1)})
    with pytest.raises(UserError, match="layers: 2 blocks of an encoder that has 1"):
        Case.of(data2vec, CONFIG, spec)


def test_collapsed_targets_show(case):
    metrics = {k: case.loss(case.inputs(k)).metrics["target_std"] for k in ("ordinary", "equal")}
    assert float(metrics["equal"].value()) < 1e-3
    want = reference_target(case.inputs().feats["teacher"].layers).std(1).mean()
    np.testing.assert_allclose(metrics["ordinary"].value(), want, rtol=1e-4)

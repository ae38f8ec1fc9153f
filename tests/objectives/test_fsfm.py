"""FSFM and its InfoNCE form against their formulas in float64 NumPy, written from the paper."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, Case, assert_gradient, features, moved, wide
from reference import decoder, filled, head, linear, normalised_patches, patches_of, positions
from support import program_of, resolve, teacher_gradients

from facejax.contracts import Ema, Tower
from facejax.objectives import fsfm, fsfm_nce
from facejax.ops import masking, regions

CONFIG = fsfm.Config.tiny()
VIT = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
SMALL = {"decoder_depth": 1, "decoder_width": 16, "represent_depth": 1, "hidden": 16, "out": 8}


# ---------------------------------------------------------------------- the formulas, in NumPy


def errors(params, feats):
    """f64[B, N]: the mean squared error of each patch."""
    p = jax.tree.map(np.float64, params)
    x = linear(filled(feats, p["mask_token"][0, 0], 16), p["embed"])
    x[:, 1:] += positions(16, 4)[None]
    pred = decoder(x, p["decoder"], heads=1)[:, 1:]
    return ((pred - normalised_patches(feats.view["image"], 4)) ** 2).mean(-1)


def projection(params, feats, token):
    p = jax.tree.map(np.float64, params)
    x = linear(filled(feats, np.float64(token)[0, 0], 16), p["represent"]["embed"])
    return head(decoder(x, p["represent"]["decoder"], heads=1).mean(1), p["projector"])


def cosines(params, ema, feats):
    """f64[B, B]: of every prediction with every target."""
    token = params["mask_token"]
    q = head(
        projection(params, feats["online"], token), jax.tree.map(np.float64, params)["predictor"]
    )
    k = projection(ema["target"], feats["target"], token)
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
    return q @ k.T


def reference_terms(given):
    error, mask = (
        errors(given.params, given.feats["online"]),
        np.asarray(given.feats["online"].mask),
    )
    return {
        "masked": error[mask & 1 != 0].mean(),
        "region": error[mask & 2 != 0].mean(),
        "similarity": -np.diag(cosines(given.params, given.ema, given.feats)).mean() / 2,
    }


# --------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(fsfm))


@pytest.fixture(scope="module")
def exact(case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def test_loss_is_its_formula(case, exact):
    given = case.inputs()
    terms = reference_terms(given)
    want = terms["masked"] + 0.007 * terms["region"] + 0.1 * terms["similarity"]
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact.value)(wide(given)), want, rtol=1e-6)
    loss, total = jax.jit(lambda given: (case.loss(given), case.value(given)))(given)
    assert loss.terms.keys() == terms.keys()
    for name, term in loss.terms.items():
        np.testing.assert_allclose(term.value(), terms[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, want, rtol=1e-5)
    mask = np.asarray(given.feats["online"].mask)
    share = loss.metrics["covered"].value()
    np.testing.assert_allclose(share, (mask & 2 != 0).sum() / (mask & 1 != 0).sum(), rtol=1e-6)


def test_gradient_is_that_of_the_loss(exact):
    assert_gradient(exact, exact.inputs(), rtol=1e-6)


def test_byol_is_four_times_the_cosine_form_but_for_a_constant(case):
    byol = dataclasses.replace(CONFIG, similarity_kind="byol")
    given = case.inputs()
    loss = jax.jit(dataclasses.replace(case, config=byol).loss)(given)
    found = loss.terms["similarity"].value()
    np.testing.assert_allclose(found, 2 + 4 * reference_terms(given)["similarity"], rtol=1e-5)


def test_covered_region_is_a_ratio_of_sums_over_all_rows(case):
    """Not a mean of the rows' means: rows with many covered patches count for more."""
    given = case.inputs()
    covered = np.asarray(given.feats["online"].mask) & regions.COVERED != 0
    assert len(set(covered.sum(1)) - {0}) > 1
    error = errors(given.params, given.feats["online"])
    means = [e[c].mean() for e, c in zip(error, covered) if c.any()]
    term = jax.jit(case.loss)(given).terms["region"]
    assert float(term.count) == covered.sum()
    np.testing.assert_allclose(term.value(), error[covered].mean(), rtol=1e-5)
    assert abs(float(term.value()) - np.mean(means)) > 1e-3


def test_without_a_covered_region_its_term_is_zero_and_finite(case):
    config = dataclasses.replace(CONFIG, mask="frp", similarity=0.0)
    frp = moved(Case.of(fsfm, config))
    given = frp.inputs()
    loss, grads = jax.jit(lambda given: (frp.loss(given), frp.grads(given)))(given)
    assert (float(loss.terms["region"].count), float(loss.terms["region"].value())) == (0, 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_every_mask_of_the_config_is_drawn_by_its_sampler():
    for kind, sampler in (
        ("random", masking.Random),
        ("frp", regions.Regions),
        ("crfr-r", regions.Regions),
        ("crfr-p", regions.Regions),
        ("fasking-i", regions.Fasking),
    ):
        config = dataclasses.replace(CONFIG, mask=kind)
        p = fsfm.passes(config, SPEC)["online"]
        assert type(p.mask) is sampler
        assert not p.replaces
        assert features(p).keep.shape == (8, 4)
    assert fsfm.passes(CONFIG, SPEC)["online"].mask.region_group == 4


def test_target_sees_every_patch_of_the_same_view(case):
    online, target = case.passes["online"], case.passes["target"]
    assert target.view == online.view
    assert target.mask is None
    assert target.weights == Ema(CONFIG.momentum)
    own = case.vars.ema["target"]
    assert set(own.params) == {"represent", "projector"}
    assert own.momentum == CONFIG.momentum


def test_no_gradient_reaches_the_target():
    run = resolve({"fsfm": {**SMALL, "region_group": 4}}, encoder=VIT)
    grads = teacher_gradients(run)
    assert grads
    assert all((grad == 0).all() for grad in grads.values())


def test_representation_knows_no_places_unless_it_has_positions(case):
    """The reference's zero positions: kept tokens at other places give the same projection."""
    given = case.inputs()
    online = given.feats["online"]
    elsewhere = dataclasses.replace(online, keep=jnp.broadcast_to(jnp.arange(4)[None], (8, 4)))
    assert (elsewhere.keep != online.keep).any()
    for placed in (False, True):
        config = dataclasses.replace(CONFIG, represent_positions=placed)
        branch, token = fsfm._branch(config), given.params["mask_token"][0, 0]
        a, b = (branch.project(given.params, x, token, SPEC) for x in (online, elsewhere))
        assert (np.abs(a - b).max() < 1e-5) == (not placed)


def test_without_similarity_there_is_no_branch_and_no_target():
    config = dataclasses.replace(CONFIG, similarity=0.0)
    case = Case.of(fsfm, config)
    assert case.passes.keys() == {"online"}
    assert case.vars.params.keys() == {"mask_token", "embed", "decoder"}
    assert not case.vars.ema


def test_preview_shows_the_covered_region_alone(case):
    given = case.inputs()
    shown = fsfm.preview(CONFIG, given.params, given.feats, case.ctx(given.draw))
    covered = np.asarray(given.feats["online"].mask) & 2 != 0
    alone, image = (patches_of(np.asarray(shown[k]), 4) for k in ("covered", "input"))
    np.testing.assert_array_equal(alone[covered], image[covered])
    assert (alone[~covered] == 0).all()


def test_flops_are_those_that_xla_counts():
    """At a width at which products outweigh softmax, norm and GELU, which are left out."""
    tower = Tower(768, 768, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, size=224, towers={"encoder": tower})
    config = fsfm.Config(decoder_width=1024, decoder_depth=1, represent_depth=1)
    params = jax.eval_shape(lambda: fsfm.init(config, jax.random.key(0), spec).params)
    shapes = jax.eval_shape(
        lambda: {n: features(p, spec) for n, p in fsfm.passes(config, spec).items()}
    )
    branch = fsfm._branch(config)

    def forward(params, feats):
        token = params["mask_token"][0, 0]
        z = branch.project(params, feats["online"], token, spec)
        return fsfm.decode(config, params, feats["online"], spec), branch.predict(params, z, spec)

    counted = jax.jit(forward).lower(params, shapes).cost_analysis()["flops"] / 8
    target = jax.jit(lambda p, f: branch.project(p, f, p["mask_token"][0, 0], spec))
    counted += target.lower(params, shapes["target"]).cost_analysis()["flops"] / 8 / 3
    np.testing.assert_allclose(fsfm.flops(config, spec), counted, rtol=0.02)


# ------------------------------------------------------------------------------------- InfoNCE


def test_nce_is_its_formula_and_its_gradient():
    case = moved(Case.of(fsfm_nce))
    given = case.inputs()
    s = cosines(given.params, given.ema, given.feats) / 0.1
    want = 2 * 0.1 * np.mean(np.log(np.exp(s).sum(1)) - np.diag(s))
    exact = dataclasses.replace(
        case, config=dataclasses.replace(fsfm_nce.Config.tiny(), dtype="float64")
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)
    assert_gradient(exact, given, rtol=1e-6)


def test_nce_beside_fsfm_costs_no_forward():
    both = {"fsfm": {**SMALL, "similarity": 0.0}, "fsfm_nce": {
        "represent_depth": 1, "hidden": 16, "out": 8, "weight": 0.1}}  # fmt: skip
    program = program_of(resolve(both, encoder=VIT))
    assert len(program.forwards) == 2
    assert "regions" in program.fields()

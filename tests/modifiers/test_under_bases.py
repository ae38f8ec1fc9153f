"""Modifiers under the objectives that offer pairs: all of them together, and on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from contract import load
from made_up import Case
from support import assert_close, batch_of, leaves, program_of, resolve, steps

from facejax import plugins, state
from facejax.errors import UserError
from facejax.modifiers import cacr
from facejax.objectives import mocov3
from facejax.step import train_step

# Those that replace the base's loss come last; each can only follow, so CACR weighs.
ALL = {
    "genview": {},
    "hydra": {"embed": 8, "hidden": 16},
    "hallucinator": {},
    "feature_transform": {},
    "halp": {"prototypes": 4, "samples": 4, "recent": 16, "every": 1},
    "cacr": {"form": "weights"},
    "amcl": {"heads": 2, "out": 8, "tau_hidden": 8},
}


ADD_ANCHORS = ("hallucinator", "cacr")  # where an anchor has several positives


def bases() -> list[str]:
    names = plugins.names("objective")
    return [n for n in names if Case.of(load("objective", n)).vars.pairs]


def section(name: str, **options) -> dict:
    config = load("objective", name).Config.tiny()
    own = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {name: {**own, **options}}


@pytest.mark.parametrize("name", bases())
def test_a_step_takes_all_modifiers_one_after_the_other(name):
    modifiers = dict(ALL)
    if name == "swav":  # predicts the codes of its own crops, no others
        modifiers = {m: options for m, options in ALL.items() if m not in ADD_ANCHORS}
    run = resolve(section(name, modifiers=modifiers))
    program = program_of(run)
    before = state.shapes(program)
    batch = {k: v for k, v in batch_of(run).items() if k in program.fields()}
    after, metrics = jax.eval_shape(
        lambda now, batch: train_step(program, now, batch, {}), before, batch
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), before
    )
    for logged in ("genview.quality", "halp.latent", "hydra.class_pairs", "amcl.pairs"):
        assert f"{name}/{logged}" in metrics


@pytest.mark.parametrize("name", ADD_ANCHORS)
def test_swav_refuses_anchors_that_it_has_no_codes_for(name):
    program = program_of(resolve(section("swav", modifiers={name: ALL[name]})))
    batch = {"image": batch_of(program.run)["image"]}
    with pytest.raises(UserError, match="swav takes only modifiers that weigh its crops"):
        jax.eval_shape(lambda now: train_step(program, now, batch, {}), state.shapes(program))


def test_what_does_not_fit_is_told_by_its_key():
    amcl = {"amcl": {**ALL["amcl"], "form": "contrast"}}
    program = program_of(resolve(section("simsiam", modifiers=amcl)))
    batch = {"image": batch_of(program.run)["image"]}
    with pytest.raises(UserError, match=r"config\.objective\.simsiam\.modifiers\.amcl\.form: "):
        jax.eval_shape(lambda now: train_step(program, now, batch, {}), state.shapes(program))


@pytest.mark.slow
def test_meshes_agree_and_prototypes_grow_under_moco():
    """AMCL left out: the loss that it replaces is the one that the others act on."""
    modifiers = {name: options for name, options in ALL.items() if name != "amcl"}
    run = resolve(section("moco", modifiers=modifiers))
    one, history = steps(run, 3)
    eight, other = steps(run, 3, devices=8, shape=(2, 4))
    assert_close(one, eight, atol=2e-5, rtol=1e-4)
    for a, b in zip(history, other):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    halp = one.objective["modifier"]["moco"]["halp"]
    np.testing.assert_allclose(np.linalg.norm(halp["prototypes"], axis=1), 1, rtol=1e-5)
    assert history[0]["moco/halp.counted"] == 0
    assert history[2]["moco/halp.counted"] > 0
    start, _ = steps(run, 0)
    for path, leaf in leaves(one.params["modifier"]).items():
        assert np.abs(leaf - leaves(start.params["modifier"])[path]).max() > 0, path


def moco_v3(views: int, modify):
    """Loss and gradient of MoCo v3 on made-up features, with its pairs rewritten."""
    case = Case.of(mocov3, dataclasses.replace(mocov3.Config.tiny(), views=views))
    given = case.inputs()

    def loss(params):
        ctx = dataclasses.replace(case.ctx(given.draw), modify=modify)
        rest = (given.ema, given.state, given.feats, given.batch, ctx)
        return mocov3.loss(case.config, params, *rest).terms["info_nce"]

    def value(params):
        return loss(params).weight * loss(params).value()

    return jax.jit(jax.value_and_grad(value))(given.params)


def test_cacr_of_two_views_is_moco_v3_bit_for_bit():
    plain, weighed = (moco_v3(2, modify) for modify in (lambda pairs: pairs, cacr.weighed))
    assert_close(plain, weighed, atol=0)


def test_cacr_of_three_views_is_its_formula():
    """mean_v sum_m p_m 4 tau CE(q_m, K_v), p over the two other views of an image."""
    seen = []

    def modify(pairs):
        seen.append(pairs)
        return cacr.weighed(pairs)

    case = Case.of(mocov3, dataclasses.replace(mocov3.Config.tiny(), views=3))
    given = case.inputs()
    ctx = dataclasses.replace(case.ctx(given.draw), modify=modify)
    rest = (given.params, given.ema, given.state, given.feats, given.batch, ctx)
    term = mocov3.loss(case.config, *rest).terms["info_nce"]
    B, tau, views = made_up.B, case.config.tau, []
    for pairs in seen:
        q, k, keys = (np.float64(x) for x in (pairs.q, pairs.k[:, 0], pairs.neg))
        owner, total = np.asarray(pairs.owner), 0.0
        for i in range(B):
            mine = np.flatnonzero(owner == i)
            far = np.exp(((q[mine] - k[mine]) ** 2).sum(-1) / tau)
            for share, a in zip(far / far.sum(), mine):
                logits = keys @ q[a] / tau
                total += share * (np.log(np.exp(logits).sum()) - logits[i])
        views.append(total / B)
    np.testing.assert_allclose(term.weight * term.value(), 4 * tau * np.mean(views), rtol=1e-4)
    assert len(seen) == 3
    assert seen[0].q.shape == (2 * B, case.vars.pairs)
    assert jnp.ndim(seen[0].tau) == 0

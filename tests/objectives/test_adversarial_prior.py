"""CAAE's bottleneck against its formula in float64 NumPy; its two players against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import Case, moved, wide
from reference import linear, norm
from support import resolve, steps

from facejax.objectives import adversarial_prior

CONFIG = adversarial_prior.Config.tiny()


def judged(code, p):
    h = np.maximum(norm(linear(code, p["fc_0"]), p["norm_0"], eps=1e-5), 0)
    return linear(h, p["fc_1"])[:, 0]


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def prior(given):
    keys = given.draw.fold("prior").keys()
    return np.array([jax.random.uniform(k, (4,), jnp.float32, -1, 1) for k in keys], np.float64)


def reference(given):
    p = jax.tree.map(np.float64, given.params)
    z = np.tanh(linear(np.float64(given.feats["face"].pooled), p["code"]))
    drawn, made = (judged(x, p["discriminator"]) for x in (prior(given), z))
    told, fooled = softplus(-drawn) + softplus(made), softplus(-made)
    right = np.mean([(drawn > 0).mean(), (made < 0).mean()])
    return {"discriminator": told.mean(), "encoder": fooled.mean()}, right


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(adversarial_prior), by=0.5)


@pytest.fixture(scope="module")
def exact(case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def test_loss_is_its_formula(case, exact):
    given = case.inputs()
    terms, right = reference(given)
    with jax.enable_x64(True):
        got = jax.jit(exact.value)(wide(given))
        np.testing.assert_allclose(got, sum(terms.values()), rtol=1e-6)
    loss = jax.jit(case.loss)(given)
    for name, want in terms.items():
        np.testing.assert_allclose(loss.terms[name].value(), want, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["accuracy"].value(), right, rtol=1e-6)


def test_priors_are_uniform_and_of_the_global_row(case):
    many = jax.vmap(lambda key: jax.random.uniform(key, (50,), jnp.float32, -1, 1))
    draw = dataclasses.replace(case.inputs().draw, rows=jnp.arange(2000))
    values = np.sort(np.asarray(many(draw.fold("prior").keys())).ravel())
    assert np.abs(values - np.linspace(-1, 1, len(values))).max() < 0.02


def test_each_player_moves_against_the_other_held_fixed(exact):
    """Central differences of one term, in the parameters of its own player alone."""
    with jax.enable_x64(True):
        given = wide(exact.inputs())
        trained = exact.trained(given)
        term = jax.jit(lambda t: {k: v.value() for k, v in exact.loss(given, t).terms.items()})
        grads = jax.jit(exact.grads)(given)
        alone = jax.jit(
            lambda t: jax.jacrev(
                lambda t: {k: v.value() for k, v in exact.loss(given, t).terms.items()}
            )(t)
        )(trained)

        def parts(tree):
            own = dict(tree["params"])
            return {
                "discriminator": own.pop("discriminator"),
                "encoder": (own, tree["feats"]["face"]["pooled"]),
            }

        rng = np.random.default_rng(0)
        for player, other in (("discriminator", "encoder"), ("encoder", "discriminator")):
            mine = parts(alone[player])
            assert all((g == 0).all() for g in jax.tree.leaves(mine[other]))
            total = jax.tree.leaves(parts(grads)[player])
            for a, b in zip(jax.tree.leaves(mine[player]), total):
                np.testing.assert_allclose(a, b, rtol=1e-12)

            way = jax.tree.map(lambda x: rng.normal(size=x.shape), trained)
            for name, value in way["params"].items():
                if (name == "discriminator") != (player == "discriminator"):
                    way["params"][name] = jax.tree.map(np.zeros_like, value)
            if player == "discriminator":
                way["feats"] = jax.tree.map(np.zeros_like, way["feats"])
            ahead, behind = (
                jax.tree.map(lambda x, d, s=s: x + s * 1e-6 * d, trained, way) for s in (1, -1)
            )
            found = (term(ahead)[player] - term(behind)[player]) / 2e-6
            slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (alone[player], way))))
            np.testing.assert_allclose(found, slope, rtol=1e-6)


def test_one_step_lowers_both_players_losses_each_against_the_other_as_it_was(case):
    given = case.inputs()
    grads = jax.jit(case.grads)(given)["params"]
    before = reference(given)[0]
    for player in ("discriminator", "code"):
        stepped = {**given.params}
        stepped[player] = jax.tree.map(
            lambda p, g: p - 0.05 * g, given.params[player], grads[player]
        )
        after = reference(dataclasses.replace(given, params=stepped))[0]
        name = "discriminator" if player == "discriminator" else "encoder"
        assert after[name] < before[name]


def test_a_discriminator_that_knows_nothing_gives_log_2(case):
    given = case.inputs("zero")
    zero = dataclasses.replace(given, params=jax.tree.map(jnp.zeros_like, given.params))
    terms = case.loss(zero).terms
    np.testing.assert_allclose(terms["discriminator"].value(), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(terms["encoder"].value(), np.log(2), rtol=1e-6)


def test_the_discriminator_has_its_own_rate_and_no_decay():
    (rule,) = adversarial_prior.optim(dataclasses.replace(CONFIG, lr=0.5))
    assert (rule.lr, rule.weight_decay) == (0.5, 0.0)
    keys = {"dim": 4, "hidden": (8,), "lr": 0.0}
    run = resolve({"adversarial_prior": keys})
    new, _ = steps(run)
    old, _ = steps(run, 0)
    new, old = (s.params["objective"]["adversarial_prior"] for s in (new, old))
    for part, moves in (("discriminator", False), ("code", True)):
        changed = any(
            (a != b).any() for a, b in zip(jax.tree.leaves(new[part]), jax.tree.leaves(old[part]))
        )
        assert changed == moves


def test_codes_become_uniform_when_the_encoder_may_move_freely(case):
    """Embeddings as free parameters: trained against D, their codes spread over [-1, 1]."""
    given = case.inputs()
    given = dataclasses.replace(given, params=case.vars.params)
    trained = case.trained(given)
    trained["feats"]["face"]["pooled"] *= 0.01

    @jax.jit
    def step(trained, key):
        now = dataclasses.replace(given, draw=dataclasses.replace(given.draw, key=key))
        grads = jax.grad(lambda t: case.value(now, t))(trained)
        return jax.tree.map(lambda p, g: p - 0.3 * g, trained, grads)

    for seed in range(300):
        trained = step(trained, jax.random.key(seed))
    trained = jax.tree.map(np.asarray, trained)
    z = np.tanh(linear(trained["feats"]["face"]["pooled"], trained["params"]["code"]))
    assert np.abs(z).mean() > 0.2

"""FLIP against its definition in float64 NumPy, one row at a time; queues and EMA by the step."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_gradient, assert_value, moved
from numpy_heads import f64, softmax, unit
from support import TEXT, asked, leaves, program_of, resolve, states_of

from facejax.contracts import Ema, Features, Pairs, Tower, TowerSpec
from facejax.errors import UserError
from facejax.objectives import flip
from facejax.ops import negatives
from facejax.ops.similarity import info_nce
from facejax.plugins import load

CONFIG = flip.Config.tiny()
THERE = np.arange(B) != 3
ROWS = np.flatnonzero(THERE)


def case_of(**options) -> Case:
    return moved(Case.of(flip, dataclasses.replace(CONFIG, **options)))


def embeddings(given):
    """Unit x, y, x_bar, y_bar [B, D]."""
    found = []
    for tail, owner in (("", given.params), ("_slow", given.ema["slow"])):
        for side in ("image", "text"):
            pooled = f64(given.feats[f"{side}{tail}"].pooled)
            found.append(unit(pooled @ f64(owner[side]["kernel"])))
    return found


def contrast(given, alpha):
    x, y, slow_x, slow_y = embeddings(given)
    tau, total = float(given.params["tau"]), 0.0
    sides = ((x, slow_x, slow_y, "text"), (y, slow_y, slow_x, "image"))
    for q, slow_q, slow_k, name in sides:
        k = np.concatenate([slow_k[ROWS], f64(given.state[name]["rows"])])
        for at, i in enumerate(ROWS):
            target = alpha * softmax(slow_q[i] @ k.T / tau)
            target[at] += 1 - alpha
            total -= target @ np.log(softmax(q[i] @ k.T / tau)) / len(ROWS) / 2
    return total


def matching(case, given):
    x, y, slow_x, slow_y = (jnp.float32(z) for z in embeddings(given))
    tau, ctx = given.params["tau"], case.ctx(given.draw)
    there = given.batch["has_text"]
    draw = jax.jit(negatives.draw)
    text = draw(x / tau, slow_y, there, ctx.draw.fold("hard text"))
    image = draw(y / tau, slow_x, there, ctx.draw.fold("hard image"))
    assert (text != jnp.arange(B))[ROWS].all()
    ids, feats = given.batch["text"], given.feats["image"]
    tokens = jnp.concatenate([feats.prefix, feats.tokens], 1)
    apply = jax.jit(
        lambda ids, tokens: ctx.apply("encoder_text", {"text": ids}, context=tokens).pooled
    )
    p, costs = f64(given.params["matching"]), []
    for i in ROWS:
        pairs = ((i, i, 1), (i, text[i], 0), (image[i], i, 0))
        for shown, said, answer in pairs:
            fused = apply(ids[said], tokens[shown])
            costs.append(-np.log(softmax(f64(fused) @ p["kernel"] + p["bias"])[answer]))
    return np.mean(costs)


def test_contrast_is_its_formula():
    case = case_of(matching=0.0)
    given = case.inputs()
    assert_value(case, given, contrast(given, 0.4))
    # Targets are no function of what is trained, so differences see the loss without them.
    hard = case_of(matching=0.0, alpha=0.0)
    assert_gradient(hard, given, rtol=1e-6)


def test_gradient_of_soft_targets_is_linear_in_alpha():
    """A third of the way from the pair alone to the momentum model's judgement."""
    given = case_of(matching=0.0).inputs()
    x, _, slow_x, slow_y = (jnp.float32(z) for z in embeddings(given))
    rows = given.state["text"]["rows"]

    @jax.jit
    def slope(alpha):
        return jax.grad(
            lambda x: jnp.sum(flip._contrast(x, slow_x, slow_y, rows, THERE, 0.1, alpha))
        )(x)

    a, b, c = map(slope, (0.0, 0.3, 0.9))
    np.testing.assert_allclose(a + (c - a) / 3, b, atol=1e-5)
    assert np.abs(a - c).max() > 0.1


def test_without_soft_targets_the_contrast_is_info_nce_over_the_queue():
    case = case_of(matching=0.0, alpha=0.0)
    given = case.inputs()
    given = dataclasses.replace(given, batch={**given.batch, "has_text": jnp.ones(B, bool)})
    x, y, slow_x, slow_y = (jnp.float32(z) for z in embeddings(given))
    row, total = jnp.arange(B), 0.0
    for q, k, name in ((x, slow_y, "text"), (y, slow_x, "image")):
        rows = given.state[name]["rows"]
        pairs = Pairs(
            q=q,
            k=k[:, None],
            neg=jnp.concatenate([k, rows]),
            tau=given.params["tau"],
            owner=row,
            neg_owner=jnp.concatenate([row, jnp.full(len(rows), -1)]),
            positive=jnp.ones((B, 1), bool),
            weight=jnp.ones(B),
        )
        total += info_nce(pairs).mean() / 2
    np.testing.assert_allclose(jax.jit(case.value)(given), total, rtol=1e-5)


def test_matching_is_its_formula():
    case = case_of()
    given = case.inputs()
    loss, grads = jax.jit(lambda g: (case.loss(g), case.grads(g)))(given)
    want = matching(case, given)
    np.testing.assert_allclose(loss.terms["matching"].value(), want, rtol=1e-5)
    assert loss.terms["matching"].count == 3 * len(ROWS)
    # The row without a text teaches nothing, and context reaches the image tower.
    pulled = np.abs(grads["feats"]["image"]["tokens"]).max((1, 2)) > 0
    np.testing.assert_array_equal(pulled, THERE)


def test_rows_without_a_text_enter_no_denominator_now_or_later():
    case = case_of(matching=0.0)
    given, loss = case.inputs(), jax.jit(case.loss)
    entering = loss(given).stats
    for side in ("image", "text"):
        np.testing.assert_array_equal(np.any(np.asarray(entering[side]) != 0, axis=1), THERE)
    want = contrast(given, 0.4)
    gaps = {
        side: {**own, "rows": jnp.concatenate([own["rows"], jnp.zeros((8, CONFIG.out))])}
        for side, own in given.state.items()
    }
    got = jax.jit(case.value)(dataclasses.replace(given, state=gaps))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_alpha_rises_over_the_first_tenth():
    spec = dataclasses.replace(SPEC, steps=200)
    ctx = dataclasses.replace(Case.of(flip, CONFIG, spec).ctx(made_up.DRAW), step=jnp.int32(10))
    np.testing.assert_allclose(ctx.at(flip.Config().alpha), 0.2)
    after = dataclasses.replace(ctx, step=jnp.int32(150))
    np.testing.assert_allclose(after.at(flip.Config().alpha), 0.4)


def test_what_does_not_fit_is_refused():
    blind = dataclasses.replace(SPEC.towers["encoder_text"], context=0)
    spec = dataclasses.replace(SPEC, towers={**SPEC.towers, "encoder_text": blind})
    with pytest.raises(UserError, match=r"^config.encoder_text.context: .*set it to 8"):
        flip.init(CONFIG, jax.random.key(0), spec)
    flip.init(dataclasses.replace(CONFIG, matching=0.0), jax.random.key(0), spec)
    case = case_of()
    given = case.inputs()
    *arguments, ctx = case.arguments(given)
    ctx = dataclasses.replace(ctx, apply=None)
    with pytest.raises(UserError, match=r"^config.micro_batch: hard negatives"):
        jax.eval_shape(lambda: flip.loss(CONFIG, *arguments, ctx))


def test_flops_are_those_that_xla_counts(monkeypatch):
    def fused(spec, tower, inputs, weights=None, outputs=("pooled",), context=None):
        return Features(pooled=jnp.zeros((len(inputs["text"]), spec.towers[tower].embed)))

    monkeypatch.setattr(made_up, "applied", fused)
    wide = dataclasses.replace(BROAD.towers["encoder_text"], context=512)
    spec = dataclasses.replace(BROAD, towers={**BROAD.towers, "encoder_text": wide})
    # 512 columns are one chunk of a sweep, whose loop XLA counts once.
    case = Case.of(flip, dataclasses.replace(CONFIG, out=2048, queue=504), spec)
    # Each row of both queues is compared with zero once a batch, which eight images hardly share.
    counted = made_up.counted_flops(case) - 2 * 2 * 504 * 2048 / B
    np.testing.assert_allclose(sum(flip.forward_flops(case.config, spec)), counted, rtol=0.02)


def test_flops_of_cross_attention_are_those_that_xla_counts():
    options = {"width": 256, "depth": 2, "heads": 2, "vocab": 32, "length": 24, "end": 1}
    module = load("encoder", "text", "")
    config = module.Config(**options, context=96)
    towers = {
        "encoder": Tower(96, 96, 4, 1, size=16, depth=2),
        "encoder_text": module.tower(config),
    }
    spec = dataclasses.replace(SPEC, towers=towers, tokenize=lambda texts: np.zeros((1, 24)))
    params = jax.eval_shape(lambda: module.init(config, jax.random.key(0), TowerSpec())[0])
    ids, tokens = jax.ShapeDtypeStruct((2, 24), jnp.int32), jax.ShapeDtypeStruct((2, 17, 96), float)

    def count(*context):
        def run(params, ids, *context):
            shown = context[0] if context else None
            return module.apply(config, params, {}, {"text": ids}, context=shown)[0].pooled

        return jax.jit(run).lower(params, ids, *context).cost_analysis()["flops"] / 2

    np.testing.assert_allclose(flip.cross_flops(spec), count(tokens) - count(), rtol=0.02)


# ------------------------------------------------------------------------- through the step

RUN = {"out": 4, "queue": 16, "momentum": 0.9, "alpha": 0.4, "tau": 0.6}


def test_a_step_moves_towers_queues_and_temperature():
    run = resolve({"flip": RUN}, encoder_text=TEXT | {"context": 8})
    program = program_of(run)
    assert program.fields() == ("image", "text")
    assert sorted(p.weights == Ema(0.9) for p in program.forwards) == [False, False, True, True]
    states = states_of(run, 2)
    has = asked(program)["has_text"]
    for side in ("image", "text"):
        queues = [s.objective["state"]["flip"][side] for s in states]
        assert [int(q["pointer"]) for q in queues] == [0, 8, 0]
        np.testing.assert_allclose(np.linalg.norm(queues[1]["rows"][:8], axis=1), has, atol=1e-5)
        np.testing.assert_array_equal(queues[1]["rows"][8:], queues[0]["rows"][8:])
    params = [s.params["objective"]["flip"] for s in states]
    assert float(params[1]["tau"]) == 0.5
    slow = [s.ema["objective"]["flip"]["slow"] for s in states]
    for n in range(2):
        for side in ("image", "text"):
            want = 0.9 * slow[n][side]["kernel"] + 0.1 * params[n + 1][side]["kernel"]
            np.testing.assert_allclose(slow[n + 1][side]["kernel"], want, atol=1e-6)
    # Cross-attention is trained through the matching alone.
    text = [leaves(s.params["encoder_text"]) for s in states]
    moves = {k: np.abs(text[1][k] - text[0][k]).max() for k in text[0] if "/cross/" in k}
    assert moves
    assert max(moves.values()) > 0

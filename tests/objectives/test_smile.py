"""SMILe and SCoRe against set functions in float64 NumPy, one set at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, moved, take, wide

from facejax.contracts import Tower
from facejax.errors import UserError
from facejax.objectives import smile

CONFIG = smile.Config.tiny()
LABEL = np.array([0, 0, 0, 1, 1, 2, 3, 3])
FUNCTIONS = ("fl", "gc", "logdet")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def drawn(n=8, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


def most(x, tau):
    return x.max() if not tau else tau * np.log(np.sum(np.exp(x / tau)))


def f(cfg, S, A, V):
    """f of the set of rows A in the ground set V."""
    if cfg.function == "fl":
        return sum(most(S[i, A], cfg.tau) for i in V)
    if cfg.function == "gc":
        return S[np.ix_(A, V)].sum() - cfg.lam * S[np.ix_(A, A)].sum()
    return np.log(np.linalg.det(S[np.ix_(A, A)] + cfg.nu * np.eye(len(A))))


def mutual(cfg, S, A, Q):
    if cfg.function == "fl":
        return sum(most(S[i, A], cfg.tau) for i in Q) + cfg.lam * sum(
            most(S[i, Q], cfg.tau) for i in A
        )
    if cfg.function == "gc":
        return 2 * cfg.lam * S[np.ix_(A, Q)].sum()
    V = np.concatenate([A, Q])
    return f(cfg, S, A, V) + f(cfg, S, Q, V) - f(cfg, S, V, V)


def code(cfg, S, label, i, V):
    neg = [S[i, j] for j in V if label[j] != label[i]]
    pos = [S[i, j] for j in V if label[j] == label[i] and j != i]
    if cfg.intra == "score-code":
        scale = cfg.tau / 0.07 * cfg.lam
        if cfg.function == "fl":
            return scale * np.log(np.sum(np.exp(neg))) if neg else 0.0
        return scale * sum(neg) / max(len(pos), 1)
    N, P = (sum(np.exp(s / cfg.tau) for s in side) for side in (neg, pos))
    if cfg.function == "fl":
        return np.log(N) if neg else 0.0
    return N - cfg.lam * P


def sums(cfg, S, label, V):
    """Sum and count of intra and of inter over the rows V."""
    classes = [V[label[V] == c] for c in np.unique(label[V])]
    whole = f(cfg, S, V, V)
    intra = {
        "smile": lambda: (sum(f(cfg, S, A, V) / len(A) for A in classes), len(classes)),
        "information": lambda: (sum(f(cfg, S, A, V) for A in classes), len(V)),
        "correlation": lambda: (sum(f(cfg, S, A, V) for A in classes) - whole, len(V)),
    }.get(cfg.intra, lambda: (sum(code(cfg, S, label, i, V) for i in V), len(V)))()
    novel = [Q for Q in classes if cfg.novel is None or label[Q[0]] >= cfg.novel]
    inter = 0.0
    for Q in novel:
        rest = np.setdiff1d(V, Q)
        inter += mutual(cfg, S, rest, Q) / len(Q) if len(rest) else 0.0
    return intra, (inter, len(novel))


def cosines(params, feats):
    p = jax.tree.map(np.float64, params["projector"])
    x = np.concatenate([np.float64(feats[v].pooled) for v in ("a", "b")])
    h = np.maximum(x @ p["fc_0"]["kernel"] + p["fc_0"]["bias"], 0)
    z = unit(h @ p["fc_1"]["kernel"] + p["fc_1"]["bias"])
    return z @ z.T


def case_of(**options) -> Case:
    return moved(Case.of(smile, dataclasses.replace(CONFIG, **options)))


def labelled(given, label, known=None):
    known = np.ones(B, bool) if known is None else known
    fields = {"identity": jnp.asarray(label, jnp.int32), "has_identity": jnp.asarray(known)}
    return dataclasses.replace(given, batch=given.batch | fields)


def assert_value(case, given, want):
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(case.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5, atol=1e-6)


OPTIONS = [
    {},
    {"tau": 0.0, "novel": 2},
    {"intra": "correlation", "lam": 0.5},
    {"intra": "smile-code"},
    {"intra": "score-code", "lam": 0.5},
    {"function": "gc", "lam": 2.0},
    {"function": "gc", "intra": "information", "lam": 0.5},
    {"function": "gc", "intra": "smile-code"},
    {"function": "gc", "intra": "score-code"},
    {"function": "logdet", "novel": 1},
    {"function": "logdet", "intra": "correlation"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sums_are_their_formulas(options):
    cfg, known = dataclasses.replace(CONFIG, **options), np.arange(B) != 4
    S = unit(drawn()) @ unit(drawn()).T
    want = sums(cfg, S, LABEL, np.flatnonzero(known))
    with jax.enable_x64(True):
        found = smile.terms_of(cfg, jnp.asarray(S), jnp.asarray(LABEL), jnp.asarray(known))
        found = {name: tuple(map(float, pair)) for name, pair in found.items()}
    np.testing.assert_allclose(found["intra"], want[0], rtol=1e-9)
    np.testing.assert_allclose(found["inter"], want[1], rtol=1e-9)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[7], OPTIONS[10]], ids=str)
def test_loss_is_its_formula(options):
    case = case_of(eta=0.2, **options)
    known = np.arange(B) != 4
    given = labelled(case.inputs(), LABEL, known)
    S, V = cosines(given.params, given.feats), np.flatnonzero(np.tile(known, 2))
    (intra, n), (inter, m) = sums(case.config, S, np.tile(LABEL, 2), V)
    assert_value(case, given, 0.8 * intra / n + 0.2 * inter / m)


def test_each_attribute_is_two_sets():
    case = case_of(field="attributes", function="logdet", intra="correlation", novel=1)
    given = case.inputs()
    S, values = (
        cosines(given.params, given.feats),
        np.tile(np.asarray(given.batch["attributes"]), (2, 1)),
    )
    totals = np.zeros((2, 2))
    for attribute in values.T:
        V = np.flatnonzero(attribute)
        totals += np.array(sums(case.config, S, (attribute > 0).astype(int), V))
    assert_value(case, given, 0.5 * np.sum(totals[:, 0] / totals[:, 1]))


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[10]], ids=str)
def test_gradient_is_that_of_the_loss(options):
    case = case_of(**options)
    assert_gradient(case, labelled(case.inputs(), LABEL), rtol=1e-5)


# ------------------------------------------------------------------ properties of the functions


def sets(z, label):
    z = jnp.asarray(unit(z))
    return smile.Sets.of(z @ z.T, jnp.asarray(label), jnp.ones(len(label), bool))


def config(function, **options):
    return smile.Config(function=function, **options)


def test_total_correlations_are_their_identities():
    with jax.enable_x64(True):
        given = sets(drawn(), LABEL)
        S, cfg = np.asarray(given.S), config("fl", tau=0.0)
        classes = [np.flatnonzero(c == LABEL) for c in range(4)]
        correlation = smile.of_classes(cfg, given).sum() - smile.of_all(cfg, given)
        want = sum(S[i, A].max() for A in classes for i in range(8) if i not in A)
        np.testing.assert_allclose(correlation, want)
        np.testing.assert_allclose(smile.of_all(cfg, given), 8)
        cfg = config("gc", lam=0.7)
        correlation = smile.of_classes(cfg, given).sum() - smile.of_all(cfg, given)
        want = 0.7 * sum(S[i, j] for i in range(8) for j in range(8) if LABEL[i] != LABEL[j])
        np.testing.assert_allclose(correlation, want)


def test_orthogonal_classes_share_nothing():
    z = np.kron(np.eye(4), np.ones((2, 3)))  # four classes of two rows in spaces of their own
    given = sets(z, np.arange(8) // 2)
    cfg = config("gc")
    np.testing.assert_allclose(smile.mutual(cfg, given), 0, atol=1e-6)
    total = smile.of_classes(cfg, given).sum() - smile.of_all(cfg, given)
    np.testing.assert_allclose(total, 0, atol=1e-5)
    np.testing.assert_allclose(smile.mutual(config("logdet"), given), 0, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_information_of_two_sets_is_symmetric_and_grows_as_they_meet(function):
    label = np.array([0, 0, 0, 1, 1])
    z = drawn(5)
    found = []
    for share in (0.0, 0.5, 0.9):
        near = z.copy()
        near[3:] = (1 - share) * z[3:] + share * z[:2]
        given = sets(near, label)
        with_first, with_second = smile.mutual(config(function), given)[jnp.array([0, 3])]
        np.testing.assert_allclose(with_first, with_second, rtol=1e-4)
        found.append(float(with_first))
    assert found[0] < found[1] < found[2]


def test_smooth_maximum_is_above_the_maximum_and_tends_to_it():
    given = sets(drawn(), LABEL)
    hard = smile.of_classes(config("fl", tau=0.0), given)
    gaps = [
        float(jnp.sum(smile.of_classes(config("fl", tau=tau), given) - hard))
        for tau in (0.7, 0.1, 0.001)
    ]
    assert gaps[0] > gaps[1] > gaps[2] >= -1e-5
    np.testing.assert_allclose(gaps[2], 0, atol=0.1)


@pytest.mark.parametrize(
    ("function", "options"),
    [("logdet", {"intra": "correlation"}), ("gc", {"lam": 2.0}), ("gc", {"intra": "smile-code"})],
)
def test_loss_falls_as_classes_tighten_and_part(function, options):
    cfg = config(function, **options)
    centres = 0.6 * np.ones((4, 6)) + np.eye(4, 6)
    noise = drawn()

    def value(spread, apart):
        # Tighter around the centres, whose common part shrinks.
        z = (centres - apart * 0.6)[LABEL] + spread * noise
        S = jnp.asarray(unit(z) @ unit(z).T)
        found = smile.terms_of(cfg, S, jnp.asarray(LABEL), jnp.ones(8, bool))
        return np.array([float(found[k][0] / found[k][1]) for k in ("intra", "inter")])

    assert value(0.8, 1.0)[0] > value(0.3, 1.0)[0] > value(0.1, 1.0)[0]
    assert (value(0.1, 0.0) > value(0.1, 0.5)).all()
    assert (value(0.1, 0.5) > value(0.1, 1.0)).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_odd_batches_give_finite_numbers(function):
    """One class, classes of one, nobody known; zero and equal features; a sharp maximum."""
    case = case_of(function=function, tau=0.01)
    compiled = jax.jit(lambda g: (case.value(g), case.grads(g)))
    for kind in ("ordinary", "zero", "equal"):
        for label in (np.zeros(B), np.arange(B)):
            for known in (np.ones(B, bool), np.arange(B) < 3, np.zeros(B, bool)):
                value, grads = compiled(labelled(case.inputs(kind), label, known))
                assert np.isfinite(value)
                assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert float(value) == 0


def test_unknown_rows_take_no_part():
    case, few = case_of(function="logdet"), np.array([0, 1, 3, 5, 6])
    given = labelled(case.inputs(), LABEL)
    masked = labelled(given, LABEL, np.isin(np.arange(B), few))
    want = jax.jit(case.value)(take(given, few))
    np.testing.assert_allclose(jax.jit(case.value)(masked), want, rtol=1e-5)


def test_metrics_are_the_cosines_within_and_between_classes():
    case = case_of()
    given = labelled(case.inputs(), LABEL)
    S, label = cosines(given.params, given.feats), np.tile(LABEL, 2)
    same = label[:, None] == label[None]
    found = jax.jit(case.loss)(given).metrics
    within = S[same & ~np.eye(2 * B, dtype=bool)].mean()
    np.testing.assert_allclose(found["within"].value(), within, rtol=1e-5)
    np.testing.assert_allclose(found["between"].value(), S[~same].mean(), rtol=1e-5)


def test_logdet_has_no_form_of_the_codes():
    with pytest.raises(UserError, match="'smile-code' has no logdet"):
        case_of(function="logdet", intra="smile-code")


def test_flops_are_those_that_xla_counts():
    """The projections and their products; set functions are little beside them."""
    tower = Tower(512, 512, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, towers={"encoder": tower})
    cfg = smile.Config(function="gc")
    params = jax.eval_shape(lambda: smile.init(cfg, jax.random.key(0), spec).params)["projector"]
    x = jax.ShapeDtypeStruct((2 * B, 512), jnp.float32)

    def products(params, x):
        z = smile._projector(cfg, spec).apply({"params": params}, x)
        return z @ z.T

    counted = jax.jit(products).lower(params, x).cost_analysis()["flops"] / B
    np.testing.assert_allclose(smile.flops(cfg, spec), counted, rtol=0.02)

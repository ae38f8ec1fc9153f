"""SECLA and its second stage against their definitions in float64 NumPy, one picture at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_gradient, assert_value, maker, moved, tokenize
from made_up_texts import LENGTH
from numpy_heads import f64, mlp
from support import TEXT, program_of, resolve

from facejax.contracts import Draw, Ema, Features
from facejax.errors import UserError
from facejax.objectives import secla

CONFIG = secla.Config.tiny()
ALPHA = 0.15


def case_of(spec=SPEC, **options) -> Case:
    return moved(Case.of(secla, dataclasses.replace(CONFIG, **options), spec), by=0.3)


def embedded(cfg, params, faces, pooled):
    if cfg.null:
        null = np.tile(f64(params["null"]), (len(pooled), 1, 1))
        pooled = np.concatenate([f64(pooled), null], 1)
    return mlp(params["face"], faces), mlp(params["name"], pooled)


def sets_of(cfg, given, f, n):
    """Faces and names of each picture as lists of vectors, without padding."""
    counts = [np.asarray(given.batch[f"count_{k}"]) for k in ("faces", "names")]
    faces = [list(f[b, : counts[0][b]]) for b in range(len(f))]
    names = [list(n[b, : counts[1][b]]) + [n[b, -1]] * cfg.null for b in range(len(f))]
    return faces, names


def between(a, c):
    return np.mean([max(x @ y for y in c) for x in a])


def cross(s):
    return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(s)])


def aligned(faces, names):
    """The loss of pictures with both."""
    pictures = [b for b in range(len(faces)) if faces[b] and names[b]]
    nf = np.array([[between(names[b], faces[c]) for c in pictures] for b in pictures])
    fn = np.array([[between(faces[b], names[c]) for c in pictures] for b in pictures])
    apart = np.mean((np.diag(nf) - np.diag(fn)) ** 2)
    return cross(nf) + cross(fn) + ALPHA * apart


def reference(case, given):
    pooled = given.feats["names"].pooled
    f, n = embedded(case.config, given.params, given.batch["faces"], pooled)
    return aligned(*sets_of(case.config, given, f, n))


def test_loss_is_its_formula():
    case = case_of()
    given = case.inputs()
    assert_value(case, given, reference(case, given))
    assert_gradient(case, given, rtol=1e-5)


def small(given, R, N, faces=None):
    """Sets of so many places, all of them filled unless `faces` tells how many."""
    full = {name: jnp.full(B, k, jnp.int32) for name, k in (("faces", R), ("names", N))}
    batch = {**given.batch, "count_faces": full["faces"], "count_names": full["names"]}
    batch["faces"] = maker("ordinary", 3)(B, R, 8)
    batch["names"] = given.batch["names"][:, :N]
    names = dataclasses.replace(given.feats["names"], pooled=maker("ordinary", 4)(B, N, 8))
    batch |= {} if faces is None else {"count_faces": faces}
    return dataclasses.replace(given, batch=batch, feats={"names": names})


def test_one_face_and_one_name_are_clip_without_a_scale():
    case = case_of(null=False)
    given = small(case.inputs(), 1, 1)
    pooled = given.feats["names"].pooled
    f, n = embedded(case.config, given.params, given.batch["faces"], pooled)
    s = n[:, 0] @ f[:, 0].T
    assert_value(case, given, cross(s) + cross(s.T))
    assert jax.jit(case.loss)(given).terms["agreement"].value() < 1e-10


def test_padding_and_the_order_of_faces_and_names_mean_nothing():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    counts = np.asarray(given.batch["count_faces"])
    faces = np.array(given.batch["faces"])
    for b, count in enumerate(counts):
        faces[b, :count] = faces[b, :count][::-1]
        faces[b, count:] = 1e3
    pooled = jnp.pad(given.feats["names"].pooled, ((0, 0), (0, 2), (0, 0)), constant_values=-1e3)
    other = {
        "faces": jnp.asarray(np.pad(faces, ((0, 0), (0, 1), (0, 0)), constant_values=7.0)),
        "names": jnp.pad(given.batch["names"], ((0, 0), (0, 2), (0, 0))),
    }
    names = dataclasses.replace(given.feats["names"], pooled=pooled)
    changed = dataclasses.replace(given, batch={**given.batch, **other}, feats={"names": names})
    np.testing.assert_allclose(value(changed), want, rtol=1e-6)
    swapped = {**given.batch, "faces": given.batch["faces"][::-1]}
    assert abs(value(dataclasses.replace(given, batch=swapped)) - want) > 1e-3


def test_where_all_are_equal_the_loss_is_that_of_guessing():
    case = case_of(null=False)
    given = small(case.inputs(), 2, 2)
    batch = {**given.batch, "faces": jnp.ones((B, 2, 8))}
    names = dataclasses.replace(given.feats["names"], pooled=jnp.ones((B, 2, 8)))
    given = dataclasses.replace(given, batch=batch, feats={"names": names})
    np.testing.assert_allclose(jax.jit(case.value)(given), 2 * np.log(B), rtol=1e-5)


def test_pictures_that_lack_a_set_have_no_part():
    case = case_of()
    given = small(case.inputs(), 2, 1, jnp.arange(B) % 3)
    both = jax.jit(lambda g: (case.value(g), case.grads(g)))
    value, grads = both(given)
    assert np.isfinite(value)
    pulled = np.abs(grads["feats"]["names"]["pooled"]).max((1, 2)) > 0
    np.testing.assert_array_equal(pulled, np.arange(B) % 3 > 0)
    nobody = {**given.batch, "has_names": jnp.zeros(B, bool)}
    value, grads = both(dataclasses.replace(given, batch=nobody))
    assert value == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


# ------------------------------------------------------------------------------ the second stage


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Ada has three easy faces, Ben one."""
    path = tmp_path_factory.mktemp("pool") / "easy.npz"
    faces = np.random.default_rng(5).normal(size=(4, 8)).astype(np.float32)
    np.savez(path, faces=faces, names=np.array(["ada", "ben", "ada", "ada"]))
    return dataclasses.replace(SPEC, artifacts={"pool": str(path)})


def second_stage(pool, **options):
    """A case, and inputs in which pictures 0, 1 and 4 name Ada and picture 2 Ben."""
    case = case_of(pool, easy="pool", samples=4, **options)
    given = case.inputs()
    ids = np.array(given.batch["names"])
    ids[[0, 1, 4], 0], ids[2, 0] = tokenize(["ada"])[0], tokenize(["ben"])[0]
    counts = given.batch["count_names"].at[4].set(1)
    return case, dataclasses.replace(
        given, batch={**given.batch, "names": jnp.asarray(ids), "count_names": counts}
    )


def test_second_stage_is_its_formula(pool):
    case, given = second_stage(pool)
    cfg, faces = case.config, given.batch["faces"]
    first = given.ema["first"]
    new = embedded(cfg, given.params, faces, given.feats["names"].pooled)
    old = embedded(cfg, first, faces, given.feats["first"].pooled)
    f, n = ((a + b) / 2 for a, b in zip(new, old))
    sets = sets_of(cfg, given, f, n)
    pairs, people = [], {0: 0, 1: 0, 4: 0, 2: 1}
    person = jnp.zeros((B, 2), jnp.int32).at[2, 0].set(1)
    ctx = case.ctx(given.draw)
    easy = np.asarray(secla._drawn(cfg, given.params, first, person, ctx), np.float64)
    for b, who in people.items():
        scores = [n[b, 0] @ face for face in sets[0][b]]
        if max(scores) > 0:
            pairs.append((who, n[b, 0], sets[0][b].pop(int(np.argmax(scores))), easy[b, 0]))
            sets[1][b].pop(0)
    assert len(pairs) >= 2
    assert any(who == 1 for who, *_ in pairs)

    def to_easy(at):
        total = 0.0
        for p in pairs:
            others = [q for q in pairs if q is p or q[0] != p[0]]
            forth = [between([p[at]], q[3]) for q in others]
            back = [between(p[3], [q[at]]) for q in others]
            own = next(i for i, q in enumerate(others) if q is p)
            total += sum(np.log(np.exp(s).sum()) - s[own] for s in (forth, back))
        return total / len(pairs)

    want = {"comb": to_easy(1), "face": to_easy(2)}
    loss = jax.jit(case.loss)(given)
    for name, value in want.items():
        assert value > 0
        np.testing.assert_allclose(loss.terms[name].value(), value, rtol=1e-5)
    # The drawn faces are f32 in the reference, so the whole is held to that.
    total = aligned(*sets) + sum(want.values())
    np.testing.assert_allclose(jax.jit(case.value)(given), total, rtol=1e-5)
    assert_gradient(case, given, rtol=1e-5)
    metric = loss.metrics["matched"]
    assert (metric.sum, metric.count) == (len(pairs), B)


def test_easy_faces_are_those_of_the_name_and_drawn_by_row(pool):
    case, given = second_stage(pool)
    bare = dataclasses.replace(case.config, beta=0.0, samples=64)
    vectors, counts = case.constants["faces"], case.constants["counts"]
    assert counts.tolist() == [3, 1]
    person = jnp.arange(B)[:, None] % 2 * jnp.ones((1, 2), jnp.int32)

    def drawn(draw, person):
        ctx = case.ctx(draw)
        return np.asarray(secla._drawn(bare, given.params, given.ema["first"], person, ctx))

    found = drawn(given.draw, person)
    known = mlp(given.params["face"], vectors)
    for b in range(B):
        at = np.abs(found[b, :, :, None] - known[b % 2]).max(-1).argmin(-1)
        assert set(at.ravel().tolist()) == set(range(counts[b % 2]))
    turned = Draw(given.draw.key, given.draw.rows[::-1])
    np.testing.assert_allclose(drawn(turned, person[::-1])[::-1], found, rtol=1e-5, atol=1e-6)


def test_the_first_stage_stays_as_the_run_began(pool):
    """A copy of momentum 1: the step sends it no gradient and moves it nowhere."""
    case, given = second_stage(pool)
    assert case.passes["first"].weights == Ema(1.0)
    own = case.vars.ema["first"]
    assert (own.momentum, set(own.params)) == (1.0, {"face", "name", "null"})
    value = jax.jit(case.value)
    other = jax.tree.map(lambda x: x + 0.1, given.ema)
    assert abs(value(dataclasses.replace(given, ema=other)) - value(given)) > 1e-3


def test_pools_that_cannot_be_used_are_refused(pool, tmp_path):
    with pytest.raises(UserError, match=r"^easy: no artifact 'poll'.*'pool'"):
        secla.constants(dataclasses.replace(CONFIG, easy="poll"), pool)
    with pytest.raises(UserError, match=r"faces \[4, 8\] of 4 names.*vector of 9"):
        secla.constants(dataclasses.replace(CONFIG, easy="pool", width=9), pool)
    (tmp_path / "text.npz").write_text("no")
    broken = dataclasses.replace(pool, artifacts={"pool": str(tmp_path / "text.npz")})
    with pytest.raises(UserError, match="no pool of easy faces"):
        secla.constants(dataclasses.replace(CONFIG, easy="pool"), broken)


RUN = {"width": 8, "hidden": 8, "out": 4}


def test_the_step_reads_both_sets():
    program = program_of(resolve({"secla": RUN}, encoder_text=TEXT))
    assert program.fields() == ("faces", "image", "names")
    assert {p.tower for p in program.forwards} == {"encoder_text"}


def test_flops_are_those_that_xla_counts(tmp_path):
    # Sets so large and features so wide that products of matrices are nearly all of the work.
    sets = {"faces": 16, "names": 8}
    spec = dataclasses.replace(BROAD, sets=sets, artifacts={"pool": str(tmp_path / "easy.npz")})
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(6, 512)).astype(np.float32)
    np.savez(tmp_path / "easy.npz", faces=faces, names=np.array(list("aabbcc")))
    for options in ({}, {"easy": "pool", "samples": 2}):
        case = case_of(spec, width=512, hidden=512, out=512, **options)
        given = case.inputs()
        batch = {
            **given.batch,
            "faces": jnp.zeros((B, 16, 512)),
            "names": jnp.zeros((B, 8, LENGTH), jnp.int32),
        }
        named = {k: Features(pooled=jnp.zeros((B, 8, 512))) for k in given.feats}
        given = dataclasses.replace(given, batch=batch, feats=named)
        counted = jax.jit(case.loss).lower(given).cost_analysis()["flops"] / B
        want = sum(secla.forward_flops(case.config, spec))
        np.testing.assert_allclose(want, counted, rtol=0.02)

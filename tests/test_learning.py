"""Objectives learn what they claim: embeddings that tell unseen people apart, by means of pairs.

Each run is a process of its own, on procedural faces (`benchmarks/learning.py`), with the objective
section of its config; modifiers run with the options of theirs under every base that their papers
name. They are held to the random encoder and to the same run with shuffled pairs. An objective
that does not train the pooled embedding itself (it restores pixels, or matches them) is held to its
loss.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from made_up import DRAW, B, Case
from support import resolve, steps

from benchmarks import learning
from facejax import config
from facejax.contracts import Features
from facejax.objectives import simclr

ROOT = Path(__file__).parents[1]
CONFIGS = {
    path.stem.rpartition("_vit_")[0]: path
    for tail in ("faces", "synthetic")
    for path in sorted((ROOT / "configs").glob(f"*_vit_{tail}.py"))
}

# All images of SimCLR's batch repel each other, and VICReg decorrelates features, without any pair:
# shuffling pairs leaves their rank, or raises it, and only kNN falls.
SPREADING = {"simclr", "vicreg"}

# A config's modifiers, and other bases that their papers name (GenView: any with a loss per pair).
# CACR's config gives MoCo four keys, here it has one.
NAMED = {
    "moco_cacr": ("moco", "mocov3"),
    "moco_genview": ("byol", "mocov3", "simclr", "simsiam", "swav"),
    "moco_hallucinator": ("simclr", "simsiam"),
    "simclr_amcl": ("moco",),
}


def section(name: str) -> dict:
    return learning.objective_section(CONFIGS[name])


# ------------------------------------------------------------------------ what the runs are held to


def test_effective_rank_counts_directions():
    rng = np.random.default_rng(0)
    assert learning.effective_rank(np.ones((20, 8))) == pytest.approx(1)
    assert learning.effective_rank(5 * np.eye(8)[np.arange(24) % 8]) == pytest.approx(8)
    two = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 16))
    assert 1 < learning.effective_rank(two) <= 2 + 1e-9
    assert learning.effective_rank(rng.normal(size=(500, 16))) > 15
    z = rng.normal(size=(30, 6))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    share = np.linalg.eigvalsh(z.T @ z)
    share /= share.sum()
    want = np.prod(share**-share)
    np.testing.assert_allclose(learning.effective_rank(7 * z), want, rtol=1e-6)


def test_shuffling_puts_each_thing_into_an_order_of_its_own():
    """Encodings, views and labels: every row once, and no two things in the same order."""
    module = types.ModuleType("made_up")
    module.loss = lambda *arguments: arguments
    row = jnp.arange(B)
    features = Features(tokens=row, pooled=row, keep=row, mask=row, view={"image": row})
    batch = {"identity": row, "has_identity": row}
    ctx = Case.of(simclr).ctx(DRAW)
    shuffled = learning.mismatched(module).loss(
        None, {}, {}, {}, {"student": features, "teacher": features}, batch, ctx
    )
    *_, feats, labels, ctx = shuffled
    orders = [labels["identity"]]
    for f in feats.values():
        assert f.pooled is not f.tokens
        for same in (f.pooled, f.keep, f.mask):
            np.testing.assert_array_equal(same, f.tokens)
        orders += [f.tokens, f.view["image"]]
    np.testing.assert_array_equal(labels["has_identity"], labels["identity"])
    assert ctx.batch is labels
    assert all((np.sort(order) == np.arange(B)).all() for order in orders)
    assert len({tuple(np.asarray(order)) for order in orders}) == 5


def test_shuffled_run_is_the_same_run_with_other_losses():
    run = resolve({"simclr": {"hidden": 16, "out": 8, "depth": 2}, "mae": {"decoder_depth": 1}})
    other = learning.shuffled(run)
    assert config.to_dict(other) == config.to_dict(run)
    _, true = steps(run, 1)
    _, control = steps(other, 1)
    assert true[0].keys() == control[0].keys()
    for label in ("simclr", "mae"):
        assert true[0][f"loss/{label}"] != control[0][f"loss/{label}"]
    assert true[0]["simclr/alignment"] > control[0]["simclr/alignment"] + 0.1


def test_settings_differ_in_their_objective_alone():
    runs = {name: config.resolve(learning.setting(section(name))) for name in CONFIGS}
    assert {"mae", "simclr"} <= runs.keys()
    for name, run in runs.items():
        assert run.objectives, name
        assert run.towers == runs["simclr"].towers
        assert run.optimizer == runs["simclr"].optimizer
        assert run.evals == runs["simclr"].evals
    assert [name for name, run in runs.items() if run.data.group > 1] == ["isr"]
    files = (ROOT / "facejax" / "modifiers").glob("[!_]*.py")
    put = {modifier for name in CONFIGS for modifier in learning.modifiers_of(section(name))}
    assert put == {path.stem for path in files}
    assert not learning.unfit(section("simclr"))
    halp = learning.modifiers_of(section("moco_halp"))
    assert list(halp) == ["halp"]
    assert learning.modified(section("moco"), halp) == section("moco_halp")
    other = {"simclr": {"modifiers": {"gate": {}}}, "distil": {"path": "teacher"}}
    assert "teacher" in learning.unfit(other)
    assert learning.unfit({"distil": {"cached": "feature"}}) == "no 'feature'"
    assert learning.embeds(runs["simclr"])
    assert not learning.embeds(runs["mae"])
    assert learning.embeds(runs["mae_simclr"])


# -------------------------------------------------------------------------------------- the runs


@functools.cache
def learned(name: str, modifiers: str = "", shuffle: bool = False, steps: int = learning.STEPS):
    """Measures of a run, cached: a control serves several tests."""
    command = [sys.executable, "-m", "benchmarks.learning", f"--config={CONFIGS[name]}"]
    command += [f"--modifiers={CONFIGS[modifiers]}"] if modifiers else []
    command += ["--shuffle"] if shuffle else []
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, f"--workdir={folder}", f"--steps={steps}"],
            cwd=ROOT,
            # A plain process: the eight unoptimised devices of the tests are for tiny programs.
            env={**os.environ, "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_run_of_two_steps_measures_encoder_and_baselines():
    found = learned("simclr", steps=2)
    assert found.keys() == {"loss", "encoder", "random", "pixels"}
    assert found.pop("loss") > 0
    for values in found.values():
        assert 0 <= values["knn@5"] <= 1
        assert 1 < values["rank"] < 600


def assert_learns(name: str, found: dict, control: dict, embeds: bool = True) -> None:
    if not embeds:
        assert found["loss"] < control["loss"], (found, control)
        return
    for measure in ("knn@5", "rank"):
        value = found["encoder"][measure]
        assert value > found["random"][measure], (measure, found, control)
        if measure != "rank" or not SPREADING & section(name).keys():
            assert value > control["encoder"][measure], (measure, found, control)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
def test_objective_learns(name):
    if why := learning.unfit(section(name)):
        pytest.skip(why)
    run = config.resolve(learning.setting(section(name)))
    assert_learns(name, learned(name), learned(name, shuffle=True), learning.embeds(run))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("base", "name"), [(base, name) for name, named in NAMED.items() for base in named]
)
def test_modified_objective_learns(base, name):
    """The control is the base's own, so that each costs one run."""
    assert_learns(base, learned(base, name), learned(base, shuffle=True))

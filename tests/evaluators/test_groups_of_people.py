"""Groups: each by its own threshold, all by one, and the published measures of inequality."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_faces import Faces, chance, noisy, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import _fairness, groups, verification


@pytest.fixture
def cfg(tmp_path) -> groups.Config:
    faces = Faces(tmp_path).write()
    files = {}
    for seed, name in enumerate(("north", "south")):
        path = Path(faces.pairs(4, 30, seed))
        path.rename(tmp_path / f"{name}.txt")
        files[name] = str(tmp_path / f"{name}.txt")
    template = "{name}/{name}_{number:04d}.png"
    return groups.Config(faces.images, pairs=files, template=template, fmr=0.05, bootstrap=50)


def evaluate(cfg, embed):
    return groups.run(cfg, groups.prepare(cfg, 8), embed)


def test_perfect_and_random_embeddings(cfg):
    right = evaluate(cfg, perfect).metrics
    assert right["accuracy"] == right["accuracy_global"] == right["accuracy/south"] == 1
    assert right["accuracy_std"] == 0
    assert "ser" not in right
    assert right["n"] == 480
    assert 0.35 < evaluate(cfg, chance).metrics["accuracy"] < 0.65


def test_each_group_is_verification_alone(cfg):
    found = evaluate(cfg, noisy).metrics
    accuracies = []
    for name, path in cfg.pairs.items():
        alone = verification.Config(cfg.path, pairs=path, template=cfg.template, bootstrap=0)
        own = verification.run(alone, verification.prepare(alone, 8), noisy).metrics["accuracy"]
        assert found[f"accuracy/{name}"] == own
        accuracies.append(own)
    assert found["accuracy"] == np.mean(accuracies)
    assert found["accuracy_std"] == np.std(accuracies)
    errors = 1 - np.array(accuracies)
    np.testing.assert_allclose(found["ser"], errors.max() / errors.min())


def test_a_common_threshold_shows_what_two_hide(cfg):
    def lopsided(images):  # people from 10 on lie closer together, each well apart from the others
        x = 0.3 * chance(images) + perfect(images)[:, :16] * 0
        near = (person(images) >= 10).astype(np.float32)[:, None]
        who = np.stack([np.random.default_rng(p).normal(size=16) for p in person(images)])
        shared = np.random.default_rng(99).normal(size=16) * 3
        return (who + near * shared + x).astype(np.float32)

    # One group of each kind of people.
    lines = {"far": range(10), "near": range(10, 20)}
    root = cfg.path.rsplit("/", 1)[0]
    files = {}
    rng = np.random.default_rng(0)
    for name, people in lines.items():
        rows = ["4\t30"]
        for _ in range(4):
            for _ in range(30):
                i, j = rng.choice(10, 2, replace=False) + 1
                rows.append(f"P{rng.choice(people):02d}\t{i}\t{j}")
            for _ in range(30):
                a, b = rng.choice(people, 2, replace=False)
                rows.append(f"P{a:02d}\t1\tP{b:02d}\t{rng.integers(1, 11)}")
        files[name] = f"{root}/{name}.txt"
        Path(files[name]).write_text("\n".join(rows) + "\n")
    found = evaluate(replace(cfg, pairs=files), lopsided).metrics
    assert found["accuracy/near"] > 0.95
    assert found["accuracy_global/near"] < found["accuracy/near"]
    assert found["fmr/near"] > found["fmr/far"] == 0
    assert found["garbe"] > 0.3
    assert found["fdr"] < 1
    assert found["inequity"] > 1


def test_failed_pairs_are_left_out_and_counted(cfg):
    def broken(images):
        x = noisy(images)
        x[(person(images) == 3) & (number(images) == 1)] = np.nan
        return x

    data = groups.prepare(cfg, 8)
    lost = data.people[data.pairs].tolist()
    found = groups.run(cfg, data, broken)
    assert 0 < found.metrics["failed"] < 100
    assert found.metrics["n"] + found.metrics["failed"] == len(lost)
    assert not found.items["correct"][~found.items["valid"]].any()


def test_golden_values_of_inequality():
    fmr, fnmr = np.array([0.001, 0.002, 0.004]), np.array([0.01, 0.02, 0.03])
    np.testing.assert_allclose(_fairness.gini(fmr), 0.428571, atol=1e-6)
    np.testing.assert_allclose(_fairness.gini(fnmr), 0.333333, atol=1e-6)
    np.testing.assert_allclose(_fairness.garbe(fmr, fnmr), 0.380952, atol=1e-6)
    np.testing.assert_allclose(_fairness.fdr(fmr, fnmr), 0.9885, atol=1e-6)
    np.testing.assert_allclose(_fairness.inequity(fmr, fnmr), 3.464102, atol=1e-6)
    assert _fairness.gini(np.zeros(3)) == 0
    np.testing.assert_allclose(_fairness.jeffreys(np.array([0, 3]), np.array([9, 9])), [0.05, 0.35])


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pairs": {}}, "pairs"),
        ({"fmr": 2.0}, "fmr"),
        ({"flip": "both"}, "flip"),
    ],
)
def test_illegal_options_are_user_errors(cfg, change, where):
    with pytest.raises(UserError) as caught:
        groups.prepare(replace(cfg, **change), 8)
    assert caught.value.where == where


def test_files_without_folds_or_with_other_ones_are_refused(cfg, tmp_path):
    flat = tmp_path / "flat.txt"
    flat.write_text("2\nP00\t1\t2\nP01\t1\t2\nP00\t1\tP01\t1\nP01\t1\tP02\t1\n")
    with pytest.raises(UserError, match="no folds"):
        groups.prepare(replace(cfg, pairs={**cfg.pairs, "flat": str(flat)}), 8)
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("2\t1\nP00\t1\t2\nP00\t1\tP01\t1\nP01\t1\t2\nP01\t1\tP02\t1\n")
    with pytest.raises(UserError, match="folds differ"):
        groups.prepare(replace(cfg, pairs={**cfg.pairs, "fewer": str(fewer)}), 8)


def test_a_file_of_pairs_may_lack_its_first_line(cfg, tmp_path):
    bare = {}
    for name, path in cfg.pairs.items():
        lines = Path(path).read_text().splitlines()[1:]
        bare[name] = str(tmp_path / f"{name}-bare.txt")
        Path(bare[name]).write_text("\n".join(lines))
    data = groups.prepare(replace(cfg, pairs=bare), 8)
    assert np.bincount(data.fold).tolist() == [48] * 10

import json
from pathlib import Path

import numpy as np
import pytest

from facejax.reporting.rundir import flatten, read_runs, split_metric


def make_run(path: Path, *rows: dict) -> Path:
    """The least that a run leaves behind, with `rows` as its metrics."""
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"schema_version": 1}')
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = read_runs([make_run(tmp_path / seed / "run") for seed in ("seed0", "seed1")])
    assert [r.name for r in runs] == ["seed0/run", "seed1/run"]


def test_an_evaluation_made_twice_counts_once(tmp_path):
    rows = {"step": 2, "loss": 2.0}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 3.0}
    (loaded,) = read_runs([make_run(tmp_path / "twice", *rows)])
    np.testing.assert_array_equal(loaded.curves["loss"].steps, [1, 2])
    np.testing.assert_array_equal(loaded.curves["loss"].values, [1.0, 3.0])


@pytest.mark.parametrize(
    ("name", "metric", "variant"),
    [
        ("accuracy", "accuracy", ""),
        ("accuracy@pixels", "accuracy", "pixels"),
        ("tar@far=1e-3@random", "tar@far=1e-3", "random"),
        ("knn@20", "knn@20", ""),
        ("r@1@random_diff", "r@1", "random_diff"),
        ("r@1@pixels_diff_high", "r@1", "pixels_diff_high"),
        ("accuracy_low@random", "accuracy_low", "random"),
    ],
)
def test_metric_names_split(name, metric, variant):
    assert split_metric(name) == (metric, variant)


def test_config_is_flattened():
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}, {"d": 3}], "e": [1, 2]}) == {
        "a.b": 1,
        "c.0.d": 2,
        "c.1.d": 3,
        "e": [1, 2],
    }

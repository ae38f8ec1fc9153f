"""Differences between runs, paired by what they were judged on."""

import json
import re

import numpy as np

from facejax.evaluators import Result
from facejax.metrics import Writer, save_eval
from facejax.reporting.between import differences
from facejax.reporting.rundir import read_runs


def make_run(path, correct, same, flip="sum"):
    path.mkdir()
    config = {"eval": {"lfw": {"type": "verification", "flip": flip}}}
    (path / "config.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    Writer(path, None).scalars(9, {"eval/lfw/accuracy": correct.mean()})
    items = {**same, "correct": correct}
    save_eval(path, "lfw", 9, "", Result({"accuracy": correct.mean()}, {}, items))
    return path


def test_runs_are_compared_with_the_first_where_they_were_judged_alike(tmp_path):
    rng = np.random.default_rng(0)
    same = {"valid": np.ones(400, bool), "subjects": rng.integers(0, 90, (400, 2))}
    right = rng.random(400) < 0.6
    better = right | (np.cumsum(~right) <= 40)
    paths = [
        make_run(tmp_path / "a", right, same),
        make_run(tmp_path / "b", better, same),
        make_run(tmp_path / "other", better, same, flip="none"),
    ]
    text = differences(read_runs(paths), "lfw")
    assert re.findall(r"<th[^>]*>([^<]*)</th>", text)[:2] == ["minus a", "b"]
    assert "other" not in text
    value, low, high = map(float, re.findall(r"[+-]\d\.\d+", text)[:3])
    assert value == 0.1
    assert 0 < low < 0.1 < high < 0.2
    assert differences(read_runs(paths[::2]), "lfw") == ""

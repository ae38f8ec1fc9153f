"""benchmarks/fruits.py: what is timed, and the whole on a tiny encoder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import fruits  # noqa: E402


def test_only_the_chain_is_timed_and_warm_ups_are_not():
    now, seen = [0.0], []

    def chain(picture):
        seen.append(int(picture))
        now[0] += 0.001 * len(seen)
        return picture

    took = fruits.measure(chain, np.arange(3), 4, 5, clock=lambda: now[0])
    assert seen == [0, 1, 2, 0, 0, 1, 2, 0, 1]
    np.testing.assert_allclose(took, [5, 6, 7, 8, 9])


def test_a_budget_is_kept_by_95_of_100():
    found = fruits.row(np.append(np.full(96, 90.0), np.full(4, 600.0)))
    assert (found["p50_ms"], found["p95_ms"], found["runs"]) == (90, 90, 100)
    assert found["within_100_ms"]
    found = fruits.row(np.append(np.full(90, 90.0), np.full(10, 600.0)))
    assert [found[f"within_{b}_ms"] for b in (100, 500, 1000)] == [False, False, True]
    assert found["mean_ms"] == pytest.approx(141)


@pytest.mark.slow
def test_the_whole_on_one_core(tmp_path):
    command = [sys.executable, "benchmarks/fruits.py", f"--out={tmp_path}", "--encoder=vit"]
    options = {"width": 32, "depth": 1, "heads": 2, "patch": 8}
    command += [f"--option={key}={value}" for key, value in options.items()]
    command += ["--size=32", "--flip=sum", "--warmups=2", "--runs=5"]
    plain = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "fruits.json").read_text())
    assert (found["runs"], found["warmups"], found["detector"]) == (5, 2, "none")
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["environment"]["devices"] == 1
    assert "p50" in done.stdout

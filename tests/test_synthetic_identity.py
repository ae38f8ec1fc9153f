"""Who is on a synthetic face can be learned from its shapes, and not be read from its colours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    people = {"name": "synthetic", "n": 12_000, "identities": 400}
    unseen = {"name": "synthetic", "n": 600, "identities": 60, "first_identity": 10_000}
    return ConfigDict({
        "steps": 1600,
        "global_batch": 64,
        "log_every": 100,
        "encoder": {"name": "conv"},
        "objective": {"centres": {"scale": 16.0, "augment": True, "lr": 100.0}},
        "optimizer": {"lr": 2e-3, "weight_decay": 0.01, "clip": 5.0},
        "data": {"size": 64, "cache": "decoded", "sources": (people,)},
        "eval": {"unseen": {"type": "verification", "source": unseen, "flip": "sum"}},
        "report": False,
    })
"""


@pytest.mark.slow
def test_labels_teach_who_is_who_and_pixels_do_not(tmp_path):
    (tmp_path / "identity.py").write_text(CONFIG)
    command = [sys.executable, "tests/with_plugins.py", f"--config={tmp_path}/identity.py"]
    # A plain process: the eight unoptimised devices of the tests are for programs that are tiny.
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}/run"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/unseen/n"] == 600
    assert last["eval/unseen/auc"] >= 0.9
    assert last["eval/unseen/auc@pixels"] <= 0.65
    assert last["eval/unseen/auc@random"] <= 0.65

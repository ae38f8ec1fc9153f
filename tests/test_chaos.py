"""A few kills of `benchmarks/chaos.py`; a hundred are its own business."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import CACHE

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_five_kills_leave_no_trace(tmp_path):
    command = [sys.executable, "benchmarks/chaos.py", "--kills=4", "--changed=1"]
    done = subprocess.run(
        [*command, f"--out={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, **CACHE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "chaos.json").read_text())
    assert (report["same"]["kills"], report["changed"]["kills"]) == (4, 1)
    assert report["same"]["right"] == 4
    assert report["changed"]["right"] == 1
    assert report["same"]["start"] >= 1

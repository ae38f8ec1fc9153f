"""Damage, full disks and hangs as a user of the training command meets them."""

import json
import resource
import time

import pytest
from command import ids, start, train, wait_for_step
from test_checkpoint import DAMAGE

from facejax.checkpoint import Checkpoints, digest

SOURCE = "'n': 100, 'identities': 20, 'size': 32"


@pytest.mark.slow
def test_training_goes_on_from_the_newest_whole_checkpoint(tmp_path):
    options = ("--config.steps=12", "--config.checkpoint.every_steps=4")
    train(tmp_path / "whole", *options)
    run = tmp_path / "damaged"
    process = start(run, *options, "--config.checkpoint.keep=3")
    while 8 not in Checkpoints(run).steps():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    for step in Checkpoints(run).steps()[1:]:
        DAMAGE["flipped bits"](run / "checkpoints" / str(step))
    output = train(run, *options)
    assert "warning: checkpoint 8 is damaged" in output
    assert digest(run, 12) == digest(tmp_path / "whole", 12)
    assert ids(run) == ids(tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_takes_no_more_stops_the_run_and_keeps_what_there_is(tmp_path):
    run = tmp_path / "run"
    options = ("--config.steps=60", "--config.checkpoint.every_steps=5")
    train(run, *options, "--config.steps=5")
    before = digest(run, 5)
    # Files of more than 64 KiB are refused, as a full disk refuses them.
    process = start(run, *options, limit=(resource.RLIMIT_FSIZE, 2**16))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"error: {run}/checkpoints: a checkpoint could not be written")
    assert "Traceback" not in output
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(rows) < 60
    assert digest(run, 5) == before
    train(run, *options)


@pytest.mark.slow
def test_a_source_that_hangs_is_named_with_its_record(tmp_path):
    run = tmp_path / "run"
    stuck = f"--config.data.sources=({{'name': 'stuck', 'at': 33, {SOURCE}}},)"
    process = start(
        run,
        stuck,
        "--config.hang_seconds=6",
        "--config.data.sampler=sequential",
        program=("tests/with_plugins.py",),
    )
    wait_for_step(run, 1, process)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    said = "process 0: waiting for input for"
    named = "source 'stuck' has been reading record 33 (person 13, picture 1)"
    lines = output.strip().splitlines()
    warning = next(line for line in lines if line.startswith(f"warning: {said}"))
    assert named in warning
    assert lines[-1].startswith(f"error: {said}")
    assert named in lines[-1]
    assert "stuck.py" in (run / "stacks-0.txt").read_text()


@pytest.mark.slow
def test_a_spike_is_reported_with_its_batch(tmp_path):
    run = tmp_path / "run"
    spike = "--config.objective={'ratio': {'spike': 90}}"
    output = train(
        run,
        "--config.steps=95",
        "--config.optimizer={'name': 'sgd', 'lr': 1e-9}",
        spike,
        program=("tests/with_plugins.py",),
    )
    (row,) = [json.loads(line) for line in (run / "spikes.jsonl").read_text().splitlines()]
    assert row["step"] == 91
    assert row["loss"] > 5 * row["median"]
    assert row["ids"] == ids(run)[90]["ids"]
    assert "warning: step 91: loss" in output

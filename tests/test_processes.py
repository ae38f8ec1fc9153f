"""Real processes on this machine: one run on many, other numbers of them, and the loss of one."""

import json
import os
import signal

import numpy as np
import pytest
from command import ids, outputs, start_many, train, wait_for_step
from support import leaves

from facejax import processes
from facejax.checkpoint import Checkpoints
from facejax.errors import UserError

# What does not magnify rounding, see `benchmarks/chaos.py`.
CALM = (
    "--config.steps=6",
    "--config.log_every=1",
    "--config.checkpoint.every_steps=2",
    "--config.checkpoint.keep=5",
    "--config.optimizer={'name': 'sgd', 'lr': 0.01, 'weight_decay': 0.0}",
    "--config.objective.simclr.norm=layer",
)


def losses(workdir) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_two_processes_then_one_then_four_are_the_run_of_one(tmp_path):
    people = "{'name': 'synthetic', 'n': 60, 'identities': 12, 'size': 32}"
    evaluated = f"--config.eval={{'who': {{'type': 'knn', 'source': {people}, 'every_steps': 2}}}}"
    train(tmp_path / "one", *CALM, evaluated)
    run = tmp_path / "many"
    # Killed, not made shorter: the schedule's horizon is the whole run.
    stages = ((2, 2, 2), (1, 1, 4), (4, 1, 6))
    for count, devices, stop in stages:
        options = (*CALM, evaluated, f"--config.mesh.fsdp={min(count * devices, 2)}")
        started = start_many(run, count, *options, devices=devices)
        if stop < 6:
            wait_for_checkpoint(run, stop, started)
            for p in started:
                p.send_signal(signal.SIGKILL)
                p.communicate()
        else:
            outputs(started, 0)
    assert ids(run) == ids(tmp_path / "one")
    one, many = losses(tmp_path / "one"), losses(run)
    assert one.keys() == many.keys() == set(range(1, 7))
    np.testing.assert_allclose([many[s] for s in one], [one[s] for s in one], rtol=1e-5)
    state, other = (leaves(Checkpoints(w).read(6)) for w in (tmp_path / "one", run))
    assert state.keys() == other.keys()
    for path in state:
        np.testing.assert_allclose(other[path], state[path], atol=1e-5, err_msg=path)
    assert evaluations(run) == pytest.approx(evaluations(tmp_path / "one"), abs=0.05)


def evaluations(workdir) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row["eval/who/knn@20"] for row in rows if "eval/who/knn@20" in row}
    assert found.keys() == {2, 4, 6}
    return found


def wait_for_checkpoint(run, step, started) -> None:
    wait_for_step(run, step, started[0])
    while step not in Checkpoints(run).steps():
        assert started[0].poll() is None, started[0].stdout.read()


@pytest.mark.slow
def test_one_notice_of_preemption_stops_every_process_with_everything_saved(tmp_path):
    run = tmp_path / "run"
    options = ("--config.steps=100000", "--config.checkpoint.every_steps=100000")
    started = start_many(run, 2, *options)
    wait_for_step(run, 3, started[0])
    started[1].send_signal(signal.SIGTERM)
    first, _ = outputs(started, 75)
    assert "everything saved" in first
    (saved,) = Checkpoints(run).steps()
    assert [row["step"] for row in ids(run)] == list(range(1, saved + 1))


@pytest.mark.slow
def test_a_process_whose_peer_died_ends_by_itself(tmp_path):
    run = tmp_path / "run"
    options = ("--config.steps=100000", "--config.hang_seconds=60")
    started = start_many(run, 2, *options)
    wait_for_step(run, 3, started[0])
    started[1].send_signal(signal.SIGKILL)
    output, _ = started[0].communicate(timeout=400)
    assert started[0].returncode == 3, output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: process 0"), output


@pytest.mark.slow
def test_broken_records_of_one_process_are_counted_by_all(tmp_path):
    faces = tmp_path / "faces"
    write_faces(faces, broken=3)
    source = f"--config.data.sources=({{'name': 'folder', 'path': '{faces}'}},)"
    started = start_many(tmp_path / "run", 2, source, "--config.steps=4")
    texts = outputs(started, 3)
    # What the runtime says of a peer that left may come after it.
    told = [[line for line in text.splitlines() if line.startswith("error: ")] for text in texts]
    assert all("records are broken" in lines[0] for lines in told), texts
    rejected = (tmp_path / "run" / "rejected.csv").read_text()
    assert sum(f"{i:02d}.jpg" in rejected for i in range(3)) == 3


def write_faces(folder, broken: int) -> None:
    from PIL import Image

    folder.mkdir()
    for i in range(20):
        path = folder / f"{i:02d}.jpg"
        Image.new("RGB", (40, 40), (i * 10, 50, 90)).save(path)
        if i < broken:
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("number", "count", "said"),
    [("", "2", "not set"), ("2", "2", "process 2 of 2"), ("one", "2", "no number")],
)
def test_an_incomplete_environment_is_named(monkeypatch, number, count, said):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_PROCESS_ID", number)
    monkeypatch.setenv("JAX_NUM_PROCESSES", count)
    with pytest.raises(UserError, match=said) as error:
        processes.start()
    assert error.value.where == "JAX_PROCESS_ID"


def test_a_process_alone_agrees_with_itself():
    assert "JAX_COORDINATOR_ADDRESS" not in os.environ
    assert processes.agree(True)
    assert not processes.agree(False)
    assert processes.gather({"a": [1, "b"]}) == [{"a": [1, "b"]}]
    assert not processes.preempted(1)

"""Damaged checkpoints and failing storage: what was saved before is found again."""

import shutil
import time

import jax
import pytest
from support import SIZE, assert_close, program_of, resolve, trained_run

from facejax import mesh, model
from facejax.checkpoint import Checkpoints, digest
from facejax.config import MeshShape
from facejax.errors import TrainingFailed, UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def restore(run):
    people = {"name": "synthetic", "n": 16, "identities": 12, "size": SIZE}
    program = program_of(
        resolve({"centres": {}}, steps=2, data={"size": SIZE, "sources": (people,)})
    )
    devices = mesh.make(MeshShape(), jax.devices())
    return Checkpoints(run, keep=2).restore_newest(program, devices)


def data(folder):
    """The files that hold arrays, with their bytes."""
    return [(p, bytearray(p.read_bytes())) for p in folder.rglob("d/*") if p.is_file()]


def flip(folder):
    for path, content in data(folder):
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def cut(folder):
    for path, content in data(folder):
        path.write_bytes(content[: len(content) // 2])


def lose(folder):
    for path, _ in data(folder):
        path.unlink()


DAMAGE = {
    "flipped bits": flip,
    "truncated files": cut,
    "missing files": lose,
    "no list of arrays": lambda folder: (folder / "state" / "_METADATA").write_text("{"),
    "no checksums": lambda folder: (folder / "checksums.json").unlink(),
    "torn checksums": lambda folder: (folder / "checksums.json").write_text('{"params/a'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(run, kind, capfd):
    before = digest(run, 1)
    DAMAGE[kind](run / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"damaged \(.*--step=1"):
        Checkpoints(run).read(2)
    state, step = restore(run)
    assert step == int(state.step) == 1
    assert "warning: checkpoint 2 is damaged" in capfd.readouterr().err
    assert (run / "checkpoints" / "damaged-2").is_dir()
    assert Checkpoints(run).steps() == [1]
    assert digest(run, 1) == before


def test_a_whole_checkpoint_is_taken_as_it_is(run):
    state, step = restore(run)
    assert step == 2
    assert_close(jax.device_get(state.params), Checkpoints(run).read(2)["params"], atol=0)


def test_when_all_are_damaged_nothing_starts_from_scratch(run):
    for step in (1, 2):
        DAMAGE["flipped bits"](run / "checkpoints" / str(step))
    with pytest.raises(TrainingFailed, match=r"all checkpoints are damaged \(1, 2\)"):
        restore(run)


def test_a_folder_without_checkpoints_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def test_another_architecture_is_no_damage(run):
    program = program_of(resolve({"centres": {}}, encoder={"name": "toy", "width": 16}))
    with pytest.raises(UserError, match="not the config's architecture"):
        Checkpoints(run).restore_newest(program, mesh.make(MeshShape(), jax.devices()))
    assert Checkpoints(run).steps() == [1, 2]


def test_a_write_that_failed_is_raised_when_it_is_asked_for(run):
    class Broken:
        def save_async(self, *_, **__):
            return self

        def result(self):
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    checkpoints = Checkpoints(run, keep=2)
    state, _ = restore(run)
    checkpoints._manager = Broken()
    checkpoints.save(3, state)
    while not checkpoints._pending.done():
        time.sleep(0.01)
    with pytest.raises(TrainingFailed, match=r"could not be written .*No space left"):
        checkpoints.poll()
    checkpoints.poll()  # it is said once
    assert checkpoints.steps() == [1, 2]
    assert model.load(run).meta["step"] == 2

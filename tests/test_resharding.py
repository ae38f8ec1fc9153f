"""Rows that belong to devices move to others when a run goes on with fewer."""

import jax
import pytest
from support import asked, assert_close, program_of, resolve, steps

from facejax import mesh
from facejax.checkpoint import Checkpoints
from facejax.config import MeshShape
from facejax.step import jitted


@pytest.mark.slow
def test_centres_saved_on_eight_devices_go_on_on_four(tmp_path):
    run = resolve({"arcface": {"scale": 8.0, "sample_rate": 0.5}}, global_batch=16)
    whole, _ = steps(run, 4, devices=8)
    half, _ = steps(run, 2, devices=8)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(2, half)
    checkpoints.close()
    program, four = program_of(run), mesh.make(MeshShape(), jax.devices()[:4])
    current, step = Checkpoints(tmp_path).restore(program, four, 2), jitted(program, four)
    centres = current.objective["sparse"]["arcface"]["centres"]
    assert {shard.data.shape[0] for shard in centres.addressable_shards} == {len(centres) // 4}
    for n in (2, 3):
        batch = mesh.to_global(four, run.global_batch, asked(program, n))
        current, _ = step(current, batch, {}, program.constants)
    assert_close(whole, current, atol=1e-5, rtol=1e-5)

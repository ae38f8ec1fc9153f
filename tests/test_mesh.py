"""Meshes, placement rules and the rows of a batch, on eight fake devices."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from support import program_of, resolve

from facejax import mesh, state
from facejax.config import MeshShape
from facejax.errors import UserError
from facejax.optim import flatten

GOLDEN = Path(__file__).parent / "golden" / "placement_vit_mae_simclr_2x4.json"


def grid(data=2, fsdp=4):
    return mesh.make(MeshShape(data, fsdp), jax.devices()[: data * fsdp])


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((-1, 1), (8, 1)), ((1, -1), (1, 8)), ((-1, 4), (2, 4)), ((4, -1), (4, 2)), ((8, 1), (8, 1))],
)
def test_shapes(shape, sizes):
    built = mesh.make(MeshShape(*shape))
    assert built.axis_names == ("data", "fsdp")
    assert built.devices.shape == sizes
    assert set(built.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    "shape", [(-1, -1), (3, -1), (-1, 3), (2, 2), (16, 1), (-1, 16), (0, 8), (-2, 4)]
)
def test_shapes_that_do_not_fit_the_devices(shape):
    with pytest.raises(UserError) as caught:
        mesh.make(MeshShape(*shape))
    assert caught.value.where == "config.mesh"


# ---------------------------------------------------------------------------------- placement


def spec_of(name, shape, extra=(), shape_of_mesh=(2, 4)):
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32)}
    return mesh.shardings(grid(*shape_of_mesh), tree, extra)[name].spec


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/encoder/embed/kernel", (6, 8), PartitionSpec(None, "fsdp")),
        ("params/encoder/embed/kernel", (16, 8), PartitionSpec("fsdp")),
        ("params/encoder/embed/kernel", (9, 8, 4), PartitionSpec(None, "fsdp")),
        ("params/encoder/embed/kernel", (6, 7), PartitionSpec()),
        ("params/encoder/embed/bias", (8,), PartitionSpec()),
        ("opt/main/mu/encoder/embed/kernel", (6, 8), PartitionSpec(None, "fsdp")),
        ("ema/tower/ema_0.9/encoder/params/embed/kernel", (6, 8), PartitionSpec(None, "fsdp")),
        ("ema/tower/ema_0.9/encoder/stats/mean", (8,), PartitionSpec()),
        ("ema/objective/queue/key/projector/weights", (6, 8), PartitionSpec(None, "fsdp")),
        ("stats/encoder/mean", (8,), PartitionSpec()),
        ("params/objective/x/anything", (8, 4), PartitionSpec("fsdp")),
        ("params/modifier/x/gate/anything", (8, 4), PartitionSpec("fsdp")),
        ("objective/state/x/queue", (8, 4), PartitionSpec()),
        ("objective/sparse/x/centres", (16, 4), PartitionSpec(("data", "fsdp"))),
        ("objective/velocity/x/centres", (16, 4), PartitionSpec(("data", "fsdp"))),
        ("objective/sparse/x/centres", (12, 4), PartitionSpec()),
        ("step", (), PartitionSpec()),
    ],
)
def test_what_lies_where(path, shape, spec):
    assert spec_of(path, shape) == spec


def test_without_an_fsdp_axis_parameters_are_replicated():
    assert spec_of("params/encoder/embed/kernel", (8, 8), shape_of_mesh=(8, 1)) == PartitionSpec()


def test_own_rules_come_first():
    extra = (("embed/kernel$", "replicate"),)
    assert spec_of("params/encoder/embed/kernel", (8, 8), extra) == PartitionSpec()
    assert spec_of("x/new", (8, 8), (("new$", "fsdp"),)) == PartitionSpec("fsdp")


@pytest.mark.parametrize(
    ("path", "extra", "where", "told"),
    [
        ("params/encoder/x/new", (), "config.mesh.rules", r"no rule covers params/encoder/x/new"),
        ("step", (("kernel", "fsdp"),), "config.mesh.rules[0]", "covers nothing"),
        ("step", (("step", "fspd"),), "config.mesh.rules[0]", "did you mean 'fsdp'"),
        ("step", (("step", "fsdp"), ("st[ep", "fsdp")), "config.mesh.rules[1]", "no regular"),
    ],
)  # fmt: skip
def test_rules_that_cannot_stand(path, extra, where, told):
    with pytest.raises(UserError, match=told) as caught:
        spec_of(path, (4,), extra)
    assert caught.value.where == where


def test_the_remedy_for_an_uncovered_leaf_is_one():
    with pytest.raises(UserError) as caught:
        spec_of("params/encoder/x/new", (8, 8))
    assert "add ('new$', 'fsdp')" in caught.value.remedy
    assert spec_of("params/encoder/x/new", (8, 8), (("new$", "fsdp"),)) == PartitionSpec("fsdp")


def vit_mae_simclr() -> state.Program:
    vit = {"name": "vit", "width": 32, "depth": 1, "heads": 2, "patch": 4, "registers": 1}
    run = resolve(
        {"mae": {"decoder_depth": 1}, "simclr": {"hidden": 32, "out": 16}},
        encoder=vit,
        optimizer={"name": "adamw", "lr": 1e-3},
    )
    return program_of(run)


def test_the_placement_of_a_whole_state():
    """Against the committed file, so that no rule moves a parameter unseen."""
    program = vit_mae_simclr()
    placed = state.placement(program, grid())
    params = {path: list(s.spec) for path, s in flatten(placed.params).items()}
    assert params == json.loads(GOLDEN.read_text())
    moments = placed.opt["main"]
    for path, spec in params.items():
        assert list(moments.mu[path].spec) == list(moments.nu[path].spec) == spec
    sharded = [path for path, spec in params.items() if spec]
    assert len(sharded) >= 10
    assert all(path.endswith("bias") or "norm" in path for path in params.keys() - sharded)


def test_a_state_is_born_where_it_belongs():
    program = program_of(resolve({"queue": {}}))
    current = state.create(program, grid())
    placed = flatten(state.placement(program, grid()))
    for path, leaf in flatten(current).items():
        assert leaf.sharding == placed[path], path
    kernel = current.ema["tower"]["ema_0.9"]["encoder"]["params"]["embed"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(48, 8)}


# --------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_rows_go_over_all_devices_and_come_back(shape):
    built = grid(*shape)
    np.testing.assert_array_equal(mesh.local_rows(built, 16), np.arange(16))
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (16, 2, 2, 3), np.uint8),
        "identity": np.arange(16, dtype=np.int32),
    }
    placed = mesh.to_global(built, 16, arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(placed[name], array)
        assert placed[name].dtype == array.dtype
        assert len(placed[name].addressable_shards) == 8
        for shard in placed[name].addressable_shards:
            assert len(shard.data) == 2
            np.testing.assert_array_equal(shard.data, array[shard.index])
    owners = [s.index[0].start for s in placed["identity"].addressable_shards]
    assert sorted(owners) == list(range(0, 16, 2))


def test_one_device_holds_everything():
    built = mesh.make(MeshShape(), jax.devices()[:1])
    np.testing.assert_array_equal(mesh.local_rows(built, 5), np.arange(5))

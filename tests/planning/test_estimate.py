"""The model of memory, traffic and time: by hand on small functions, and beside a compiler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import mesh, state
from facejax.config import MeshShape
from facejax.flops import flops_per_image
from facejax.planning import inputs
from facejax.planning.candidates import Planner, Way, held_by
from facejax.planning.chips import CHIPS
from facejax.planning.compiled import compile_step
from facejax.planning.estimate import Wire, costs, seconds, sent
from facejax.planning.topology import parse
from facejax.planning.traced import steps_of

B, D, H = 64, 16, 32
F32 = 4


def steps(function, *shapes):
    """Traced with arguments of `shapes`, of which "B" stands for the rows."""

    def jaxpr(rows):
        args = [tuple(rows if n == "B" else n for n in shape) for shape in shapes]
        return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, np.float32) for s in args))

    return steps_of(jaxpr(B), jaxpr(B // 2))


def bytes_of(found, kind):
    return sum(w.bytes for w in found.wires if w.kind == kind)


def gradients(w1, w2, x):
    return jax.grad(lambda w: jnp.sum(jnp.square(jnp.tanh(x @ w[0]) @ w[1])))((w1, w2))


def test_a_chain_holds_two_of_its_arrays_at_a_time():
    def chain(w1, w2, x):
        return ((x @ w1) @ w2) @ w1

    found = costs(steps(chain, (D, H), (H, D), ("B", D)), 1, 1)
    assert found.peak == (B * H + B * D) * F32
    assert found.flops == 2 * B * D * H * 3
    weights = D * H * F32
    between = (B * D + B * H) * F32  # each product reads one and writes the other
    assert found.traffic == 3 * (weights + between)
    assert found.wires == ()


def test_elementwise_operations_take_no_room_but_what_they_read_stays():
    def fused(w, x):
        y = x @ w
        z = (y * 2 + 1) * y
        return z @ w.T

    found = costs(steps(fused, (D, H), ("B", D)), 1, 1)
    assert found.peak == B * H * F32
    kept = dict.fromkeys(array for _, array, _ in found.largest)
    assert list(kept) == [f"float32[{B},{H}]"]


def test_functions_that_are_read_twice_are_kept():
    def twice(w, x):
        y = jnp.exp(x @ w)  # in place of the product, which nothing else reads
        z = jnp.exp(y * y)
        return (z + 1) @ w.T, z @ w.T

    found = costs(steps(twice, (D, H), ("B", D)), 1, 1)
    assert found.peak == 2 * B * H * F32


def test_work_on_rows_is_split_over_all_devices():
    found = costs(steps(gradients, (D, H), (H, D), ("B", D)), 2, 4)
    assert found.flops == 2 * B * D * H * 5 / 8  # two forward, three backward: x has no gradient


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4), (1, 8)])
def test_gradients_are_reduced_and_weights_gathered(data, fsdp):
    found = costs(steps(gradients, (D, H), (H, D), ("B", D)), data, fsdp)
    whole = D * H * F32
    gathers = 3 if fsdp > 1 else 0  # both weights forward, the second again backward
    assert bytes_of(found, "all-gather") == gathers * whole * (fsdp - 1) / fsdp
    assert bytes_of(found, "reduce-scatter") == (2 * whole * (fsdp - 1) / fsdp if fsdp > 1 else 0)
    part = 2 * whole / fsdp
    assert bytes_of(found, "all-reduce") == (2 * part * (data - 1) / data if data > 1 else 0)


def test_a_scan_counts_its_body_as_often_as_it_runs():
    def unrolled(w, x):
        for i in range(5):
            x = jnp.tanh(x @ w[i])
        return x

    def scanned(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    one = costs(steps(unrolled, (5, D, D), ("B", D)), 1, 8)
    many = costs(steps(scanned, (5, D, D), ("B", D)), 1, 8)
    assert one.flops == many.flops == 5 * 2 * B * D * D / 8
    assert one.wires == many.wires


def test_code_that_nothing_reads_costs_nothing():
    def wasteful(w, x):
        jnp.exp(x @ w)
        return x @ w

    assert costs(steps(wasteful, (D, H), ("B", D)), 1, 1).flops == 2 * B * D * H


def test_another_program_for_half_of_the_batch_is_refused():
    with pytest.raises(ValueError, match="another program"):
        steps(lambda x: x + 1 if len(x) == B else x, ("B", D))


@pytest.mark.parametrize(
    ("kind", "share"),
    [("all-gather", 3 / 4), ("reduce-scatter", 3 / 4), ("all-to-all", 3 / 4)]
    + [("all-reduce", 3 / 2), ("collective-permute", 1)],
)
def test_what_a_device_sends(kind, share):
    assert sent(kind, 100.0, 4) == 100 * share


def test_the_largest_limit_and_slower_links_between_nodes():
    chip = CHIPS["h100"]
    found = seconds(2 * chip.peak, 3 * chip.bandwidth, [Wire("all-gather", chip.link, 8)], chip)
    assert found == {"compute": 2, "memory": 3, "interconnect": 1}
    # Of 8 x 50 GB that a node of eight must learn, its cards carry one eighth each.
    far = seconds(0, 0, [Wire("all-gather", 8 * chip.network, 32)], chip)
    assert far["interconnect"] == pytest.approx(3 / 4)
    tpu = CHIPS["v5e"]
    assert seconds(0, 0, [Wire("all-gather", tpu.link, 256)], tpu)["interconnect"] == 1


# ------------------------------------------------------------------------------ real steps


def planner(objective, topology="h100:8", **keys) -> Planner:
    values = {
        "steps": 10,
        "global_batch": 64,
        "encoder": {"name": "vit", "width": 64, "heads": 2, "depth": 2, "patch": 8},
        "objective": objective,
        "optimizer": {"lr": 1e-3},
        "data": {"size": 64, "sources": ({"name": "synthetic"},)},
        **keys,
    }
    return Planner(values, parse(topology), {})


MAE = {"mae": {"decoder_depth": 1}}


@pytest.mark.parametrize("objective", [MAE, {"simclr": {"hidden": 64, "depth": 2}}])
def test_products_are_the_model_flops(objective):
    encoder = {"name": "vit", "width": 256, "heads": 2, "depth": 2, "patch": 8}
    plan = planner(objective, encoder=encoder)
    found = plan.estimate(plan.way).costs.flops * 8 / 64
    program, _ = plan.program(plan.way)
    # Crops are matrix products as well, and the model's count does not know them.
    assert 1.0 <= found / flops_per_image(program) < 1.03


def test_recomputing_keeps_less_and_computes_more():
    plan = planner(MAE)
    none, dots, full = (
        plan.estimate(dataclasses.replace(plan.way, remat=remat)).costs
        for remat in ("none", "dots", "full")
    )
    assert none.peak > dots.peak > full.peak
    assert none.flops < dots.flops < full.flops < 4 / 3 * none.flops


def test_micro_batches_keep_less_and_gather_more():
    plan = planner(MAE, mesh={"fsdp": 8})
    whole, parts = (plan.estimate(Way("none", n, 8)).costs for n in (64, 16))
    assert parts.peak < whole.peak
    assert parts.flops == pytest.approx(whole.flops, rel=0.01)
    assert bytes_of(parts, "all-gather") > bytes_of(whole, "all-gather")


def test_what_is_held_is_what_the_devices_hold():
    plan = planner(MAE, mesh={"fsdp": 4})
    program, frozen = plan.program(plan.way)
    grid = mesh.make(MeshShape(-1, 4), jax.devices())
    arguments = inputs.placed(program, frozen, plan.known, grid)
    assert plan.estimate(plan.way).held == held_by(arguments)
    real = state.create(program, grid)
    first = jax.devices()[0]
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves((real.params, real.opt))
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert held_by(arguments).parameters + held_by(arguments).optimizer == held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "keys"),
    [
        (MAE, {"mesh": {"fsdp": 4}}),
        ({"simclr": {"hidden": 64, "depth": 2}}, {"mesh": {"fsdp": 8}}),
    ],
)
def test_estimate_is_within_a_factor_of_the_cpu_compiler(objective, keys):
    """Without remat, which the CPU compiler undoes; it also fuses less than the model supposes."""
    plan = planner(objective, **keys)
    found = plan.estimate(plan.way)
    program, frozen = plan.program(plan.way)
    grid = mesh.make(MeshShape(-1, plan.way.fsdp), jax.devices())
    compiled = compile_step(program, inputs.placed(program, frozen, plan.known, grid), grid)
    assert 1 <= compiled.temporaries / found.costs.peak <= 3.5
    assert compiled.arguments == pytest.approx(found.held.total, rel=0.01)
    sends = sum(c.bytes for c in compiled.collectives)
    assert 0.5 <= sends / sum(w.bytes for w in found.costs.wires) <= 2

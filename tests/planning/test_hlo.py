"""The reader of compiled programs, on text written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.planning import hlo

LOOP = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[128,256])) -> (s32[], bf16[128,256]) {
  %p = (s32[], bf16[128,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[128,256]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %gathered = bf16[512,256]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(step)/while/body/fc1/dot"}
  %all-reduce.1 = bf16[128,256]{1,0} all-reduce(%x), channel_id=2, \
replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %t = (s32[], bf16[128,256]{1,0}) tuple(%i, %all-reduce.1)
}

%condition (p.1: (s32[], bf16[128,256])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p.1 = (s32[]{:T(128)}, bf16[128,256]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT, \
metadata={op_name="while/cond/lt"}
}

ENTRY %main (state: bf16[128,256]) -> bf16[128,256] {
  %state = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[128,256]{1,0}) tuple(%zero, %state)
  %while.1 = (s32[], bf16[128,256]{1,0}) while(%start), condition=%condition, body=%body
  %end = bf16[128,256]{1,0} get-tuple-element(%while.1), index=1
  %scattered = bf16[16,256]{1,0} reduce-scatter(%end), channel_id=3, \
replica_groups=mesh['data'=2,'fsdp'=8] {'fsdp'}, dimensions={0}, to_apply=%add
  %one = bf16[16,256]{1,0} all-reduce(%scattered), channel_id=4, replica_groups={{0},{1}}, \
to_apply=%add
  ROOT %moved = bf16[16,256]{1,0} collective-permute(%one), channel_id=5, \
source_target_pairs={{0,1},{1,0}}
}
"""

FUSIONS = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%slices (p0: f32[24,64,64], p1: s32[]) -> f32[64,64] {
  %p0 = f32[24,64,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %z = s32[] constant(0)
  %ds = f32[1,64,64]{2,1,0} dynamic-slice(%p0, %p1, %z, %z), dynamic_slice_sizes={1,64,64}
  ROOT %r = f32[64,64]{1,0} bitcast(%ds)
}

%writes (p0.1: f32[24,64,64], p1.1: f32[1,64,64], p2.1: s32[]) -> f32[24,64,64] {
  %p0.1 = f32[24,64,64]{2,1,0} parameter(0)
  %p1.1 = f32[1,64,64]{2,1,0} parameter(1)
  %p2.1 = s32[] parameter(2)
  %z.1 = s32[] constant(0)
  ROOT %dus = f32[24,64,64]{2,1,0} dynamic-update-slice(%p0.1, %p1.1, %p2.1, %z.1, %z.1)
}

%async_collective_fusion.7 (q: f32[64,64]) -> f32[128,64] {
  %q = f32[64,64]{1,0} parameter(0)
  ROOT %again = f32[128,64]{1,0} all-gather(%q), channel_id=9, replica_groups={{0,1}}, \
dimensions={0}
}

%begins (q.1: f32[64,64]) -> f32[128,64] {
  %q.1 = f32[64,64]{1,0} parameter(0)
  %first = f32[128,64]{1,0} all-gather(%q.1), channel_id=9, replica_groups={{0,1}}, dimensions={0}
  ROOT %c = f32[128,64]{1,0} custom-call(%first), custom_call_target="AsyncCollectiveStart"
}

%all-reduce-scatter.1 (g: bf16[64,64]) -> bf16[32,64] {
  %g = bf16[64,64]{1,0} parameter(0)
  %all = bf16[64,64]{1,0} all-reduce(%g), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %at = s32[] constant(0)
  ROOT %mine = bf16[32,64]{1,0} dynamic-slice(%all, %at, %at), dynamic_slice_sizes={32,64}
}

ENTRY %main (w: f32[24,64,64], k: f32[64,64]) -> f32[24,64,64] {
  %w = f32[24,64,64]{2,1,0} parameter(0)
  %k = f32[64,64]{1,0} parameter(1)
  %n = s32[] constant(3)
  %layer = f32[64,64]{1,0:T(8,128)} fusion(%w, %n), kind=kLoop, calls=%slices, \
metadata={op_name="jit(step)/jvp(Block)/blocks_03/mlp/add"}
  %near = f32[64,64]{1,0:S(1)} copy(%k)
  %two = f32[1,64,64]{2,1,0} fusion(%layer, %near), kind=kLoop, calls=%begins
  %more = f32[128,64]{1,0} fusion(%two), kind=kCustom, calls=%async_collective_fusion.7
  %grads = bf16[32,64]{1,0} fusion(%two), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = f32[24,64,64]{2,1,0} fusion(%w, %two, %n), kind=kLoop, calls=%writes
}
"""


def test_arrays_know_type_shape_padding_and_place():
    module = hlo.parse(
        "ENTRY %e (p: f32[50,64]) -> f32[50,64] {\n"
        "  %p = f32[50,64]{1,0:T(8,128)S(1)} parameter(0)\n"
        "  %t = (pred[7]{0}, (s4[3,5]{1,0}, token[])) custom-call(%p)\n"
        "  ROOT %r = bf16[64,50]{0,1:T(8,128)(2,1)} convert(%p)\n}\n"
    )
    p, t, r = module.computations["e"].values()
    assert [(a.bytes, a.padded, a.on_chip) for a in p.arrays] == [(12800, 56 * 128 * 4, True)]
    assert [(a.text, a.bytes) for a in t.arrays] == [("pred[7]", 7), ("s4[3,5]", 7), ("token[]", 0)]
    # The minor axis is the first one here: 64 is padded to 128, 50 to 56.
    assert [(a.bytes, a.padded, a.on_chip) for a in r.arrays] == [(6400, 128 * 56 * 2, False)]
    assert (r.kind, r.inputs, r.root) == ("convert", ("p",), True)


def test_collectives_of_a_loop_count_as_often_as_it_runs():
    module = hlo.parse(LOOP)
    assert hlo.times(module)["body"] == 12
    found = {c.kind: (c.group, c.count, c.bytes) for c in hlo.collectives(module)}
    whole = 128 * 256 * 2
    assert found == {
        "all-gather": (4, 12, 12 * 4 * whole * 3 / 4),
        "all-reduce": (2, 12, 12 * 2 * whole / 2),  # the one of single devices is none
        "reduce-scatter": (8, 1, 8 * (16 * 256 * 2) * 7 / 8),
        "collective-permute": (2, 1, 16 * 256 * 2),
    }


def test_trip_counts_that_xla_states_are_believed():
    stated = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert hlo.times(hlo.parse(stated))["body"] == 5


def test_a_loop_that_does_not_show_its_length_counts_once():
    module = hlo.parse(LOOP.replace("compare(%i.1, %limit)", "compare(%i.1, %i.1)"))
    assert hlo.times(module)["body"] == 1


def test_pieces_of_one_collective_count_once_and_sliced_reductions_are_scatters():
    found = {c.kind: (c.count, c.bytes) for c in hlo.collectives(hlo.parse(FUSIONS))}
    assert found == {
        "all-gather": (1, 128 * 64 * 4 / 2),
        "reduce-scatter": (1, 64 * 64 * 2 / 2),
    }


def test_traffic_counts_slices_of_what_is_sliced_and_nothing_on_chip():
    layer = 64 * 64 * 4
    want = {
        "layer": layer + layer,  # one of 24 slices read, one written
        "near": layer,  # read; written on chip
        "two": layer + layer,  # %layer read, %near is on chip; result written
        "more": layer + 2 * layer,
        "grads": layer + 32 * 64 * 2,
        "out": layer + layer,  # one slice read, and written in place
    }
    scalars = 2 * 4  # %n is read twice
    assert hlo.traffic(hlo.parse(FUSIONS)) == sum(want.values()) + scalars


def test_largest_arrays_leave_out_arguments_and_fused_ones():
    rows = hlo.largest(hlo.parse(FUSIONS), 2)
    assert rows[0] == (24 * 64 * 64 * 4, 1, "f32[24,64,64]", "fusion")
    layers = [row for row in hlo.largest(hlo.parse(FUSIONS), 9) if row[3] == "blocks_*/mlp/add"]
    assert layers == [(64 * 128 * 4, 1, "f32[64,64]", "blocks_*/mlp/add")]


@pytest.mark.parametrize("scan", [False, True])
def test_what_this_version_prints_is_read(scan):
    """Loops and collectives of a real program on eight devices."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    def step(x, w):
        def layer(x, w):
            return jnp.tanh(x @ w), jnp.sum(x)

        if scan:
            x, sums = jax.lax.scan(layer, x, w)
            return sums
        sums = []
        for i in range(len(w)):
            x, total = layer(x, w[i])
            sums.append(total)
        return jnp.stack(sums)

    x = jax.ShapeDtypeStruct((64, 16), np.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((5, 16, 16), np.float32)
    text = jax.jit(step).lower(x, w).compile().as_text()
    found = hlo.collectives(hlo.parse(text))
    assert {(c.kind, c.group) for c in found} == {("all-reduce", 8)}
    # Five sums of one number, together or one by one.
    assert sum(c.bytes for c in found) == 5 * 4 * 2 * 7 / 8

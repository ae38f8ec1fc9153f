"""Streamed losses against dense ones: value, gradient, memory and messages, on fake devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_similarity import arrays_of, as_arrays, make_pairs, unit

from benchmarks import loss_memory as bench
from facejax import mesh
from facejax.config import MeshShape
from facejax.ops import ring
from facejax.ops.similarity import info_nce, meets

FLOATS = ("q", "k", "neg", "tau", "qp")


def grid(devices):
    return mesh.make(MeshShape(-1, min(devices, 2)), jax.devices()[:devices])


def even(x, devices):
    return x.ndim > 0 and len(x) > 0 and len(x) % devices == 0


def place(x, devices):
    built = grid(devices)
    where = mesh.batch_sharding if even(x, devices) else mesh.replicated
    return jax.device_put(x, where(built))


def assert_spread(x, devices):
    assert x.sharding.is_equivalent_to(mesh.batch_sharding(grid(devices)), x.ndim)
    assert {s.data.shape[0] for s in x.addressable_shards} == {len(x) // devices}


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("name", bench.LOSSES)
def test_all_losses_agree_with_their_dense_form(name, devices, monkeypatch):
    monkeypatch.setattr(ring, "CHUNK", 5)
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(unit(rng, 16, 8), jnp.float32) for _ in range(2))
    weight = jnp.asarray(rng.normal(size=16), jnp.float32)

    def cost(form, x, y):
        losses = form(x, y)
        return jnp.vdot(jnp.tile(weight, len(losses) // 16), losses), losses

    dense, streamed = (
        jax.value_and_grad(functools.partial(cost, form), (0, 1), has_aux=True)
        for form in bench.LOSSES[name]
    )
    want = jax.jit(dense)(x, y)
    got = jax.jit(mesh.within(grid(devices), streamed))(place(x, devices), place(y, devices))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    (_, losses), (to_x, to_y) = got
    for array in (losses, to_x) if name == "sup_con" else (losses, to_x, to_y):
        assert_spread(array, devices)


def sixteen(seed, M=24, **keys):
    return make_pairs(seed, A=16, M=M, bounded=False, **keys)


MESHED = {
    "several positives": sixteen(0),
    "own queries": sixteen(1, qp=True),
    "one positive": sixteen(2, P=1),
    "temperature per anchor": sixteen(3, tau=np.linspace(0.05, 1, 16)[:, None]),
    "no negatives": sixteen(4, M=0),
    "negatives that devices share unevenly": sixteen(5, M=13),
    "fewer negatives than devices": sixteen(6, M=3),
    "anchors that devices share unevenly": make_pairs(7, A=13, M=16, bounded=False),
    "two anchors of each owner": dataclasses.replace(
        sixteen(8), owner=np.repeat(np.arange(8, dtype=np.int32), 2)
    ),
}


@pytest.mark.parametrize("name", MESHED)
def test_info_nce_on_eight_devices_is_the_dense_one_in_float64(name, monkeypatch):
    devices = 8
    monkeypatch.setattr(ring, "CHUNK", 2)
    pairs = arrays_of(MESHED[name])
    at = {n: getattr(pairs, n) for n in FLOATS if getattr(pairs, n) is not None}

    def cost(pairs, at):
        losses = info_nce(dataclasses.replace(pairs, **at))
        return jnp.vdot(jnp.cos(jnp.arange(len(losses))), losses), losses

    step = jax.value_and_grad(cost, 1, has_aux=True)
    with jax.enable_x64(True):
        wide = as_arrays(pairs, jnp.float64)
        bounded = dataclasses.replace(wide, allowed=meets(wide))
        want = jax.device_get(jax.jit(step)(bounded, as_arrays(at, jnp.float64)))
    given = jax.tree.map(lambda x: place(x, devices), as_arrays((pairs, at), jnp.float32))
    got = jax.jit(mesh.within(grid(devices), step))(*given)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    (_, losses), gradients = got
    if even(losses, devices):
        assert_spread(losses, devices)
        assert_spread(gradients["q"], devices)
        if even(gradients["neg"], devices):
            assert_spread(gradients["neg"], devices)
    assert float(abs(gradients["tau"]).max()) > 0 or len(pairs.neg) == 0


# ------------------------------------------------------------------------------ memory, messages


@pytest.fixture(scope="module", params=bench.LOSSES)
def programs(request):
    """Both forms of a loss at B = 32,768, by (form, devices); compiled, never run."""
    forms = dict(zip(("dense", "streamed"), bench.LOSSES[request.param]))
    return {
        (form, devices): bench.compiled(f, bench.BIG, devices)
        for form, f in forms.items()
        for devices in (1, 8)
    }


@pytest.mark.slow
def test_memory_is_at_most_a_sixteenth(programs):
    for devices in (1, 8):
        dense, streamed = (bench.reserved(programs[f, devices]) for f in ("dense", "streamed"))
        # The dense form holds at least all similarities of a device's rows.
        assert dense >= 4 * bench.BIG**2 / devices
        assert 16 * streamed <= dense, devices


@pytest.mark.slow
def test_no_device_is_sent_all_features(programs):
    """The largest message of the ring is a device's share of both views."""
    assert bench.largest_message(programs["dense", 8]) >= bench.BIG * bench.WIDTH
    assert bench.largest_message(programs["streamed", 8]) <= 2 * bench.BIG * bench.WIDTH // 8
    assert "all-gather" not in programs["streamed", 8].as_text()
    assert "collective-permute" in programs["streamed", 8].as_text()

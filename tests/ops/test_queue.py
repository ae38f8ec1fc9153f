"""The ring buffer: what it holds after a few writes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.errors import UserError
from facejax.ops import queue

K, D, E = 12, 3, 4


def rows(n, count=E):
    return jnp.full((count, D), float(n))


def test_it_starts_full_of_unit_vectors_of_its_key():
    made = queue.create(jax.random.key(0), K, D)
    assert made["rows"].shape == (K, D)
    np.testing.assert_allclose(np.linalg.norm(made["rows"], axis=1), 1, rtol=1e-5)
    assert (made["pointer"].dtype, int(made["pointer"])) == (jnp.int32, 0)
    other = queue.create(jax.random.key(1), K, D)
    assert np.abs(other["rows"] - made["rows"]).max() > 0.1


def test_the_oldest_rows_are_overwritten_and_the_pointer_wraps():
    step = jax.jit(queue.enqueue, donate_argnums=0)
    now = queue.create(jax.random.key(0), K, D)
    start = np.asarray(now["rows"]).copy()
    now = step(now, rows(1))
    assert int(now["pointer"]) == E
    np.testing.assert_array_equal(now["rows"][:E], 1)
    np.testing.assert_array_equal(now["rows"][E:], start[E:])
    for n in (2, 3, 4):
        now = step(now, rows(n))
    assert int(now["pointer"]) == E
    np.testing.assert_array_equal(now["rows"][:, 0], np.repeat([4, 2, 3], E))


def test_rows_are_kept_in_the_queues_type():
    now = queue.enqueue(queue.create(jax.random.key(0), K, D), rows(1).astype(jnp.bfloat16))
    assert now["rows"].dtype == jnp.float32


@pytest.mark.parametrize(("size", "entering"), [(12, 5), (0, 4), (12, 24)])
def test_a_size_that_cannot_work_is_refused_in_one_line(size, entering):
    with pytest.raises(UserError, match=rf"^queue: {size} rows .* multiple of {entering}$"):
        queue.check(size, entering)


def test_it_is_refused_while_tracing():
    now = queue.create(jax.random.key(0), K, D)
    with pytest.raises(UserError, match="multiple of 5"):
        jax.eval_shape(queue.enqueue, now, rows(1, 5))

"""What the contract tests of all kinds share."""

import dataclasses

import jax
import numpy as np
from made_up import SPEC
from support import leaves

from facejax import plugins
from facejax.errors import UserError


def load(kind: str, name: str):
    return plugins.load(kind, name, "test")


def finite(tree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in leaves(tree).values())


def assert_plain(tree) -> None:
    """Nested dicts with string keys, arrays at the ends."""
    if isinstance(tree, dict):
        assert all(type(key) is str for key in tree)
        for value in tree.values():
            assert_plain(value)
    else:
        assert isinstance(tree, jax.Array)


def assert_pure(call, *given) -> None:
    """Two traces are the same programs, and no container that went in has changed."""
    before = jax.tree.structure(given), [id(leaf) for leaf in jax.tree.leaves(given)]
    # A new function each time, or the second trace would come from the cache.
    first, second = (jax.make_jaxpr(lambda: call())() for _ in range(2))
    assert (jax.tree.structure(given), [id(leaf) for leaf in jax.tree.leaves(given)]) == before
    assert str(first) == str(second)
    for a, b in zip(first.consts, second.consts):
        np.testing.assert_array_equal(*(_data(x) for x in (a, b)))


def _data(x):
    typed = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if typed else x


def assert_frozen_config(module, config) -> None:
    """Equal values are equal configs, so that two runs of one config are one compilation."""
    assert type(config) is module.Config
    assert hash(config) == hash(dataclasses.replace(config))


def fitting(passes) -> list[str]:
    """The modifiers that don't refuse an objective with these passes."""
    found = []
    for name in plugins.names("modifier"):
        module = load("modifier", name)
        refused = False
        if hasattr(module, "passes"):
            try:
                module.passes(module.Config.tiny(), passes, SPEC)
            except UserError:
                refused = True
        found += [] if refused else [name]
    return found

"""A trace holds the steps that the config names, and no other, however the run ends."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest
from support import resolve

from facejax.errors import UserError
from facejax.profiling import Profile, check


def traced(folder) -> list[list[int]]:
    """The steps in each trace, as a viewer would read them."""
    found = []
    for path in sorted(folder.glob("plugins/profile/*/*.trace.json.gz")):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        steps = {e["args"]["step_num"] for e in events if e.get("name") == "train"}
        found.append(sorted(map(int, steps)))
    return found


def loop(folder, span: str, start: int, end: int) -> None:
    with Profile(span, folder) as profile:
        for step in range(start + 1, end + 1):
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                jnp.ones(3).sum().block_until_ready()
            if profile.bounds(step):
                profile.turn()


@pytest.mark.parametrize(
    ("span", "start", "end", "steps"),
    [
        ("3:5", 0, 8, [[3, 4, 5]]),
        ("3:5", 0, 4, [[3, 4]]),  # stopped in between
        ("3:5", 4, 8, []),  # resumed in between
        ("3:3", 2, 8, []),
        ("", 0, 4, []),
    ],
)
def test_the_named_steps_are_traced(tmp_path, span, start, end, steps):
    loop(tmp_path, span, start, end)
    assert traced(tmp_path) == steps


def test_steps_that_the_run_does_not_make_are_refused():
    check(resolve({"ratio": {}}, steps=12, profile="10:12"))
    check(resolve({"ratio": {}}, steps=12))
    with pytest.raises(UserError, match=r"config\.profile: '10:12' goes past the last step, 11; "):
        check(resolve({"ratio": {}}, steps=11, profile="10:12"))


@pytest.mark.parametrize("span", ["5:2", "x", "1:3", "3:", "-2:4"])
def test_what_is_no_span_of_steps_is_refused(span):
    with pytest.raises(UserError, match=rf"config\.profile: '{span}' is no span of steps; write"):
        resolve({"ratio": {}}, profile=span)

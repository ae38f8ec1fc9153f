"""Names of topologies: what they mean, and which exist."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facejax.errors import UserError
from facejax.planning import topology
from facejax.planning.chips import CHIPS

TPUS = {name: chip for name, chip in CHIPS.items() if chip.tpu}


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [
        ("v4:2x2x1", 4, 4),  # two cores, one device
        ("v5e:1x1", 1, 1),
        ("v5e:16x16", 256, 256),
        ("v5p:8x8x16", 1024, 1024),
        ("v6e:2x4", 8, 8),
        ("tpu7x:4x4x4", 64, 128),
        ("h100:8", 8, 8),
        ("h200:4x8", 32, 32),
        ("a100:1", 1, 1),
    ],
)
def test_counts(name, chips, devices):
    found = topology.parse(name)
    assert (found.name, found.chips, found.devices) == (name, chips, devices)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "no topology"),
        ("v5e", "no topology"),
        ("v5e:", "no topology"),
        ("v5e:16", "has 2 axes"),
        ("v5e:16x16x2", "has 2 axes"),
        ("v5p:16x16", "has 3 axes"),
        ("v5e:16x-16", "no topology"),
        ("v5:4x4", "did you mean 'v5"),
        ("H100:8", "did you mean 'h100'"),
        ("v5e:3x4", "2x2 chips"),
        ("v5e:0x4", "2x2 chips"),
        ("v5p:1x1x1", "2x2 chips"),
        ("v5e:16x32", "512 chips, and the largest slice of v5e has 256"),
        ("v4:16x16x32", "largest slice of v4 has 4096"),
        ("h100:0", "nodes x GPUs"),
        ("h100:16", "nodes x GPUs"),
        ("h100:2x2x2", "nodes x GPUs"),
    ],
)
def test_what_does_not_exist_is_said_in_one_line(name, what):
    with pytest.raises(UserError) as caught:
        topology.parse(name)
    assert caught.value.where == "--topology"
    assert what in str(caught.value)


@given(st.sampled_from(sorted(TPUS)), st.data())
def test_every_whole_number_of_hosts_within_a_pod_parses(kind, data):
    chip = TPUS[kind]
    even = st.integers(1, 8).map(lambda n: 2 * n)
    shape = tuple(data.draw(even) for _ in range(2))
    shape += tuple(data.draw(st.integers(1, 16)) for _ in range(chip.axes - 2))
    name = f"{kind}:{'x'.join(map(str, shape))}"
    if math.prod(shape) > chip.most:
        with pytest.raises(UserError, match="largest slice"):
            topology.parse(name)
    else:
        found = topology.parse(name)
        assert found.shape == shape
        assert found.devices == math.prod(shape) * chip.devices


@given(st.text(alphabet="v5ehp0123456789:x -", max_size=12))
def test_other_text_is_refused_and_never_fails_otherwise(text):
    with suppress(UserError):
        assert topology.parse(text).name == text


def test_a_missing_compiler_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-plan\.txt"):
        topology.devices(topology.parse("v5e:2x2"))


def test_gpus_that_are_not_here_leave_an_estimate():
    assert topology.devices(topology.parse("h100:8")) is None


def test_every_chip_is_told_in_full():
    for name, chip in CHIPS.items():
        assert chip.peak > 1e14, name
        assert chip.capacity > 10 * 2**30, name
        assert chip.bandwidth > chip.link > chip.network >= 0, name
        assert chip.tpu != bool(chip.node), name

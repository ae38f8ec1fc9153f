"""Ways to run a config: which there are, what they are called, which are advised."""

import copy
import dataclasses

import pytest

from facejax import command_line, config
from facejax.errors import UserError
from facejax.planning.candidates import Planner, Way
from facejax.planning.topology import parse

VALUES = {
    "steps": 10,
    "global_batch": 16,
    "encoder": {"name": "vit", "width": 64, "heads": 2, "depth": 1, "patch": 16},
    "objective": {"mae": {"decoder_depth": 1}},
    "optimizer": {"lr": 1e-3},
    "data": {"size": 32, "sources": ({"name": "synthetic"},)},
}


def planner(topology="h100:4", **keys) -> Planner:
    return Planner(VALUES | keys, parse(topology), {})


@pytest.fixture(scope="module")
def plan() -> Planner:
    """What it has traced is shared."""
    return planner()


def on_chip_of(capacity: float, plan: Planner) -> Planner:
    """The same plan with another capacity; it shares what was traced."""
    smaller = copy.copy(plan)
    chip = dataclasses.replace(plan.topology.chip, capacity=capacity)
    smaller.topology = dataclasses.replace(plan.topology, chip=chip)
    return smaller


def applied(plan: Planner, way: Way, **keys) -> config.Run:
    options = [f"--config.{key}={value}" for key, value in plan.overrides(way).items()]
    return config.resolve(command_line.override(VALUES | keys, options, "config"))


def test_a_config_is_a_way():
    assert planner().way == Way("none", 16, 1)
    given = planner(mesh={"data": 2, "fsdp": -1}, micro_batch=8, remat="dots")
    assert given.way == Way("dots", 8, 2)
    assert given.overrides(given.way) == {}


def test_options_turn_the_config_into_the_way():
    keys = {"mesh": {"data": 4, "fsdp": 1}, "encoder": {**VALUES["encoder"], "remat": "dots"}}
    plan = planner(**keys)
    assert plan.way.remat == "dots"
    run = applied(plan, Way("full", 8, 4), **keys)
    assert run.towers["encoder"].config.remat == run.objectives["mae"].config.remat == "full"
    assert (run.micro_batch, run.mesh.fsdp, run.mesh.data) == (8, 4, -1)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"config\.global_batch: 16 rows .* 256 devices"):
        planner(topology="v5e:16x16")


def test_micro_batches_and_meshes_are_those_that_divide():
    plan = planner(global_batch=96)
    assert plan.micros() == [96, 48, 24, 12]
    assert plan.splits() == [1, 2, 4]
    assert plan.remats() == ("none", "dots", "full")
    bare = planner(encoder={"name": "toy"}, objective={"ratio": {}})
    assert bare.remats() == ("none",)


def test_single_changes(plan):
    assert list(plan.single_changes()) == [
        *(Way(remat, 16, 1) for remat in ("dots", "full")),
        *(Way("none", n, 1) for n in (8, 4)),
        *(Way("none", 16, n) for n in (2, 4)),
    ]


def test_advice_goes_by_the_measure_of_the_compiler_the_fastest_that_fits_first(plan):
    now = plan.estimate(plan.way)
    need = now.held.total + 2 * now.costs.peak  # a compiler that needs twice the estimate
    capacity = 0.8 * need
    advised = on_chip_of(capacity, plan).advice(need, 2 * now.costs.peak)
    for e, expected in advised:
        assert expected == pytest.approx(e.held.total + 2 * e.costs.peak)
        assert expected < need
    fits = [e for e, expected in advised if expected <= capacity]
    assert fits
    assert [e for e, _ in advised][: len(fits)] == sorted(fits, key=lambda e: e.order)
    rest = [expected for _, expected in advised[len(fits) :]]
    assert rest == sorted(rest)


@pytest.mark.slow
def test_changes_are_combined_where_one_is_not_enough():
    # Activations and moments that weigh about the same.
    plan = planner(global_batch=512, encoder={**VALUES["encoder"], "depth": 4})
    now = plan.estimate(plan.way)
    single = min(plan.estimate(way).need for way in plan.single_changes())
    capacity = (single + plan.estimate(Way("full", 128, 4)).need) / 2
    assert capacity < single
    small = on_chip_of(capacity, plan)
    (first, expected), *rest = small.advice(now.need, now.costs.peak)
    assert expected <= capacity
    assert len(small.overrides(first.way)) > 1
    assert all(n > capacity for _, n in rest)


def test_nothing_is_advised_to_fit_what_cannot(plan):
    now = plan.estimate(plan.way)
    assert all(n > 1000 for _, n in on_chip_of(1000, plan).advice(now.need, now.costs.peak))


def test_search_ranks_what_should_fit_by_time(plan):
    found = plan.ranked()
    assert {e.way.remat for e in found} == {"none", "dots", "full"}
    assert {e.way.micro for e in found} == {16}  # it all fits, so smaller ones only cost time
    assert found == sorted(found, key=lambda e: e.order)
    tight = on_chip_of(found[0].held.total, plan)
    needs = [e.need for e in tight.ranked()]
    assert needs == sorted(needs)

"""Plans a run before it is paid for: does it fit, what limits it, what would help.

    python -m facejax.plan --config=FILE --topology=v5e:16x16 [--search] [--json]
        [--classes.<field>=N] [--config.a.b=value ...]

The real train step is compiled for the topology (TPU: no chip is needed, only the compiler that
requirements-plan.txt installs; GPU: where enough of them are present), and otherwise estimated.
"""

import json
import sys
from typing import Any

from facejax import cli, command_line, mesh
from facejax.config import MeshShape
from facejax.errors import UserError
from facejax.planning import inputs, report, topology
from facejax.planning.candidates import Estimate, Planner
from facejax.planning.compiled import Compiled, Refused, compile_step

BEST = 3


def compile_way(planner: Planner, estimate: Estimate, devices) -> Compiled | Refused | None:
    """What the compiler says of a way; None without devices."""
    if devices is None:
        return None
    way = estimate.way
    grid = mesh.make(MeshShape(-1, way.fsdp), devices)
    program, frozen = planner.program(way)
    shapes = inputs.placed(program, frozen, planner.known, grid)
    print(f"compiling for {planner.topology.name} ...", file=sys.stderr, flush=True)
    return compile_step(program, shapes, grid)


def plan(planner: Planner, name: str, devices) -> dict[str, Any]:
    """Plans the config as it is."""
    estimate = planner.estimate(planner.way)
    compiled = compile_way(planner, estimate, devices)
    advice = []
    need = report.memory_needed(estimate, compiled)
    if need > planner.topology.chip.capacity:
        advice = planner.advice(need, need - estimate.held.total)
    return report.plan(name, planner, estimate, compiled, advice)


def search(planner: Planner, name: str, devices) -> tuple[list, dict[str, Any]]:
    """Ranks the ways to run the config and compiles the best; gives these and the plan of one."""
    best = planner.ranked()[:BEST]
    rows = [(estimate, compile_way(planner, estimate, devices)) for estimate in best]
    capacity = planner.topology.chip.capacity
    fits = [row for row in rows if report.memory_needed(*row) <= capacity]
    return rows, report.plan(name, planner, *(fits or rows)[0], [])


def run(argv: list[str]) -> None:
    """The command."""
    parser = cli.Parser(prog="python -m facejax.plan", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE or FILE:args")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v5p:8x8x16, h200:4x8, ...")
    parser.add_argument("--search", action="store_true", help="rank meshes, remat, micro-batches")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args, overrides, told = parser.parse_known(argv, "config", "classes")
    where = topology.parse(args.topology)
    if where.chip.tpu:
        topology.without_hardware()
    values = command_line.load_file(args.config).to_dict()
    assignments = [f"--config.{key}={value}" for key, value in overrides.items()]
    values = command_line.override(values, assignments, "config")
    planner = Planner(values, where, counts(told))
    devices = topology.devices(where)
    if args.search:
        rows, found = search(planner, args.config, devices)
        if args.json:
            found["search"] = [_row(planner, *row) for row in rows]
        else:
            print(report.ranking(planner, rows), end="\n\n")
    else:
        found = plan(planner, args.config, devices)
    print(json.dumps(found, indent=2) if args.json else report.text(found))
    if not found["fits"]:
        raise report.refusal(found)


def _row(planner: Planner, estimate: Estimate, compiled) -> dict[str, Any]:
    found = report.plan("", planner, estimate, compiled, [])
    kept = ("mesh", "micro_batch", "remat", "fits", "memory", "seconds", "limit")
    return {"change": report.changes(planner, estimate.way), **{k: found[k] for k in kept}}


def counts(told: dict[str, str]) -> dict[str, int]:
    """The numbers of `--classes.<field>=N`."""
    for field, value in told.items():
        if not value.isdigit() or int(value) < 1:
            raise UserError(f"--classes.{field}", f"'{value}' is no number of classes", "give one")
    return {field: int(value) for field, value in told.items()}


if __name__ == "__main__":
    cli.main(run)

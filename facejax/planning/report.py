"""A plan as plain values, and as text."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from facejax import state
from facejax.errors import UserError
from facejax.flops import flops_per_image
from facejax.planning.candidates import Estimate, Planner, Way
from facejax.planning.chips import GIB
from facejax.planning.compiled import MOST_LISTED, Compiled, Refused, compiler
from facejax.planning.estimate import seconds

LIMITS = {
    "compute": "matrix products at the peak",
    "memory": "main memory at its bandwidth",
    "interconnect": "links at their bandwidth",
}
MEMORY = {
    "parameters": "{millions:,.1f} M in all",
    "optimizer": "",
    "averages": "EMA copies",
    "objectives": "their state and statistics",
    "frozen": "frozen encoders and constants",
    "batch": "",
    "padding": "of the arrays above",
    "temporaries": "activations, gradients, gathered weights",
    "program": "the compiled code",
    "estimate": "of all this, without a compiler",
}


def plan(
    name: str,
    planner: Planner,
    estimate: Estimate,
    compiled: Compiled | Refused | None,
    advice: list[tuple[Estimate, float]],
) -> dict[str, Any]:
    """Everything that is known of one way to run a config.

    Args:
        name: of the config.
        estimate: of the way.
        compiled: what the compiler said, or None where there was none.
        advice: see `Planner.advice`.
    """
    chip, run, way = planner.topology.chip, planner.run, estimate.way
    program, _ = planner.program(way)
    read = isinstance(compiled, Compiled)
    times = dict(estimate.seconds)
    if read:
        wires = tuple(c.wire() for c in compiled.collectives)
        times = seconds(estimate.costs.flops, compiled.traffic, wires, chip)
    limit = max(times, key=times.get)
    per_image = flops_per_image(program)
    devices = planner.topology.devices
    model = None if per_image is None else per_image * run.global_batch / devices
    return {
        "schema_version": 1,
        "config": name,
        "topology": {
            "name": planner.topology.name,
            "kind": chip.kind,
            "chips": planner.topology.chips,
            "devices": devices,
            "capacity": chip.capacity,
        },
        "mesh": {"data": devices // way.fsdp, "fsdp": way.fsdp},
        "global_batch": run.global_batch,
        "micro_batch": way.micro,
        "dtype": run.dtype,
        "remat": way.remat,
        "source": "estimate" if compiled is None else compiler(chip.tpu),
        "compile_seconds": None if compiled is None else compiled.seconds,
        "fits": memory_needed(estimate, compiled) <= chip.capacity,
        "memory": _memory(estimate, compiled),
        "parameters": _count(planner, way),
        "flops": {"per_image": per_image, "model": model, "executed": estimate.costs.flops},
        "traffic": compiled.traffic if read else estimate.costs.traffic,
        "collectives": _collectives(estimate, compiled),
        "largest": _largest(estimate, compiled),
        "seconds": times,
        "limit": limit,
        "images_per_s": run.global_batch / times[limit],
        "mfu": None if model is None else model / (times[limit] * chip.peak),
        "advice": [
            {"change": changes(planner, e.way), "need": need, "seconds": max(e.seconds.values())}
            for e, need in advice
        ],
        "assumed": list(planner.known.assumed),
    }


def memory_needed(estimate: Estimate, compiled: Compiled | Refused | None) -> float:
    """Bytes on one device."""
    return estimate.need if compiled is None else compiled.need


def changes(planner: Planner, way: Way) -> str:
    """The options that turn the config into `way`."""
    return " ".join(f"--config.{k}={v}" for k, v in planner.overrides(way).items())


def _memory(estimate: Estimate, compiled: Compiled | Refused | None) -> dict[str, float | None]:
    held = estimate.held
    found: dict[str, float | None] = {
        "parameters": held.parameters,
        "optimizer": held.optimizer,
        "averages": held.averages,
        "objectives": held.objectives,
        "frozen": held.frozen,
        "batch": held.batch,
        "temporaries": estimate.costs.peak,
        "program": None,
        "need": memory_needed(estimate, compiled),
        "estimate": estimate.need,
    }
    if isinstance(compiled, Compiled):
        padding = compiled.arguments + compiled.results - held.total
        found |= {"temporaries": compiled.temporaries, "program": compiled.code}
        found["padding"] = padding
    elif compiled is not None:
        found["temporaries"] = compiled.need - held.total
    return found


def _count(planner: Planner, way: Way) -> int:
    program, _ = planner.program(way)
    return sum(leaf.size for leaf in jax.tree.leaves(state.shapes(program).params))


def _collectives(estimate: Estimate, compiled: Any) -> list[dict[str, Any]]:
    if isinstance(compiled, Compiled):
        return [
            {"kind": c.kind, "devices": c.group, "count": c.count, "bytes": c.bytes}
            for c in compiled.collectives
        ]
    return [
        {"kind": w.kind, "devices": w.group, "count": None, "bytes": w.bytes}
        for w in estimate.costs.wires
    ]


def _largest(estimate: Estimate, compiled: Any) -> list[dict[str, Any]]:
    if isinstance(compiled, Compiled):
        rows = compiled.largest
    else:
        rows = estimate.costs.grouped(MOST_LISTED)
    return [{"bytes": b, "count": n, "array": a, "operation": o} for b, n, a, o in rows]


def refusal(found: Mapping[str, Any]) -> UserError:
    """The one line of a plan that does not fit."""
    need, capacity = found["memory"]["need"], found["topology"]["capacity"]
    fits = [a for a in found["advice"] if a["need"] <= capacity]
    remedy = f"try {fits[0]['change']}" if fits else "take a larger topology"
    what = f"needs {_gib(need)} of {_gib(capacity)} per chip"
    return UserError(found["config"], what, remedy)


# ------------------------------------------------------------------------------------- text


def text(found: Mapping[str, Any]) -> str:
    """The plan for people."""
    return "\n".join(_lines(found))


def _lines(p: Mapping[str, Any]) -> Iterator[str]:
    where, mesh, memory = p["topology"], p["mesh"], p["memory"]
    unit = "chip" if where["chips"] == where["devices"] else "core"
    yield (
        f"{p['config']} on {where['name']}: {where['chips']} chips ({where['kind']}), "
        f"mesh data {mesh['data']} x fsdp {mesh['fsdp']}"
    )
    micro = (
        ""
        if p["micro_batch"] == p["global_batch"]
        else f" in micro-batches of {p['micro_batch']:,}"
    )
    yield f"global batch {p['global_batch']:,}{micro}, {p['dtype']}, remat {p['remat']}"
    yield from (f"note: {line}" for line in p["assumed"])
    source = p["source"]
    if p["compile_seconds"] is not None:
        source += f", {p['compile_seconds']:.0f} s"
    verdict = "fits" if p["fits"] else "DOES NOT FIT"
    share = memory["need"] / where["capacity"]
    yield ""
    yield (
        f"{verdict}: {_gib(memory['need'])} of {_gib(where['capacity'])} per {unit} "
        f"({share:.0%}), by {source}"
    )
    yield ""
    yield f"memory per {unit}"
    for name, said in MEMORY.items():
        if memory.get(name):
            said = said.format(millions=p["parameters"] / 1e6)
            yield f"  {name:<17}{_gib(memory[name]):>12}  {said}".rstrip()
    yield ""
    yield f"one step, per {unit}"
    model, executed = p["flops"]["model"], p["flops"]["executed"]
    if model is not None:
        each = _amount(p["flops"]["per_image"], "FLOP")
        yield f"  {'model':<17}{_amount(model, 'FLOP'):>13}  {each} per image"
    yield f"  {'products':<17}{_amount(executed, 'FLOP'):>13}  with what is computed again"
    yield f"  {'memory traffic':<17}{_amount(p['traffic'], 'B'):>13}"
    for c in p["collectives"]:
        many = "" if c["count"] is None else f"{c['count']:.0f} x, "
        yield f"  {c['kind']:<18}{_amount(c['bytes'], 'B'):>12}  {many}among {c['devices']}"
    yield ""
    yield "least time of a step"
    for name, said in LIMITS.items():
        mark = "  <- the limit" if name == p["limit"] else ""
        yield f"  {name:<17}{_amount(p['seconds'][name], 's'):>13}  {said}{mark}"
    mfu = "" if p["mfu"] is None else f", MFU {p['mfu']:.0%}"
    yield f"  at most {p['images_per_s']:,.0f} images/s{mfu}"
    yield ""
    yield f"largest arrays, per {unit}"
    for a in p["largest"]:
        yield f"  {_gib(a['bytes']):>12}  {a['count']:>3} x {a['array']}  {a['operation']}"
    if p["advice"]:
        yield ""
        yield "what to change (estimated)"
        for a in p["advice"]:
            fits = "fits" if a["need"] <= where["capacity"] else "does not fit"
            least = _amount(a["seconds"], "s")
            yield f"  {_gib(a['need']):>12}  {least:>9}  {fits}: {a['change']}"


def ranking(planner: Planner, rows: list[tuple[Estimate, Compiled | Refused | None]]) -> str:
    """The table of a search."""
    lines = [f"{'needs':>12}{'estimate':>12}{'at least':>12}  options"]
    for e, compiled in rows:
        need = "" if compiled is None else _gib(compiled.need)
        least = _amount(max(e.seconds.values()), "s")
        options = changes(planner, e.way) or "the config as it is"
        lines.append(f"{need:>12}{_gib(e.need):>12}{least:>12}  {options}")
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _amount(value: float, unit: str) -> str:
    """With the prefix that leaves one to three digits before the point.

    >>> _amount(15_900_000_000_000, "FLOP"), _amount(0.0123, "s"), _amount(0, "B")
    ('15.9 TFLOP', '12.3 ms', '0.0 B')
    """
    for prefix, size in zip("PTGMk", (1e15, 1e12, 1e9, 1e6, 1e3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}{unit}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"
    return f"{value:.1f} {unit}"

"""From a config to frozen dataclasses; strict, before any device is touched.

A config file defines `get_config(args: str = "") -> ml_collections.ConfigDict`. Legal keys and
their defaults are the dataclasses below and the `Config` of each plug-in that the file names; an
unknown key, a wrong type or a value that cannot work is a `UserError` that names the key.
"""

import dataclasses
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ml_collections import ConfigDict

from facejax import plugins
from facejax.data.sampling import Sampler
from facejax.errors import UserError, nearest
from facejax.lora import Adapted, Lora
from facejax.schedule import Schedule
from facejax.typed import build, coerce

WARMUP_COSINE = Schedule("cosine", warmup=0.05)

# -------------------------------------------------------------------------------- the schema


@dataclass(frozen=True)
class Rule:
    """How the optimiser treats the parameters that a pattern finds; the first match counts.

    Attributes:
        pattern: regular expression, searched in the parameter's path ("encoder/blocks_00/...").
        lr: multiple of the run's learning rate.
        weight_decay: multiple of the run's weight decay.
        frozen_until: steps (below 1: share of the run) during which nothing moves, moments and
            decay included; -1 means for ever.
        name: another optimiser for these parameters, with a state of its own.
        schedule: of the learning rate, in place of the run's.
    """

    pattern: str
    lr: float = 1.0
    weight_decay: float = 1.0
    frozen_until: float = 0.0
    name: Literal["adamw", "sgd", "lars"] | None = None
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Optimizer:
    """The optimiser.

    Attributes:
        name: "adamw", "sgd" (momentum, decay added to the gradient) or "lars".
        lr: peak learning rate, absolute.
        base_lr: peak learning rate per 256 samples of the global batch.
        schedule: multiplies the learning rate; its `start` is 1.
        weight_decay: number or schedule; applies to parameters of two or more axes.
        b1, b2, eps: of AdamW.
        momentum: of SGD and LARS.
        trust: LARS's trust coefficient.
        clip: bound on the global norm of the gradient, or None.
        rules: see `Rule`.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: float | None = None
    base_lr: float | None = None
    schedule: Schedule = WARMUP_COSINE
    weight_decay: float | Schedule = 0.05
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    trust: float = 1e-3
    clip: float | None = None
    rules: tuple[Rule, ...] = ()

    def peak(self, global_batch: int) -> float:
        """The peak learning rate, absolute."""
        return self.lr if self.lr is not None else self.base_lr * global_batch / 256


@dataclass(frozen=True)
class Text:
    """How captions become token ids.

    Attributes:
        tokenizer: a `tokenizer.json`, a folder with one or with CLIP's `vocab.json` and
            `merges.txt`, or a SentencePiece `.model`; the run keeps a copy.
        length: tokens of a text, start and end included; longer ones are cut.
        digest: of the tokenizer; filled in, and held against the file if given.
    """

    tokenizer: str
    length: int = 77
    digest: str | None = None


@dataclass(frozen=True)
class Data:
    """The input.

    Attributes:
        sources: dicts with `name` and the source's own keys; see `facejax/data/sources/`.
        size: side in pixels of the images that reach the device.
        mean, std: per RGB channel, of images in [0, 1]; every view is normalised with them.
        align: how the faces lie in the pictures, which exports say on; nothing is warped here.
            "arcface112": by five points onto insightface's template of 112 pixels, at any size.
        sampler: "shuffle" (a new order each epoch), "sequential", or a dict that draws rows by who
            is on them, see below.
        group: that many consecutive records of a source stay together in the shuffle, such as the
            frames of a clip; it divides the batch. Records past the last whole group are left out.
        blocklist: text file of records that are drawn no more, a line `LABEL,INDEX` or a name each;
            it may change when a run is resumed, and other rows stay as they were.
        text: captions as the batch field `text`, or None.
        workers: threads that read and decode.
        processes: processes that do so in the threads' place, for many cores: threads share
            Python's lock. Each opens the sources itself; 0 for threads.
        cache: "none", or "decoded" to keep decoded images in host memory.
    """

    sources: tuple[Mapping[str, Any], ...] = ()
    size: int = 224
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    align: Literal["none", "arcface112"] = "none"
    sampler: Literal["shuffle", "sequential"] | Sampler = "shuffle"
    group: int = 1
    blocklist: str | None = None
    text: Text | None = None
    workers: int = 2
    processes: int = 0
    cache: Literal["none", "decoded"] = "none"


@dataclass(frozen=True)
class MeshShape:
    """Devices per mesh axis, -1 for "the rest", and placement rules put before the default ones.

    A rule is (regular expression over the path in the state, placement), see `mesh.py`.
    """

    data: int = -1
    fsdp: int = 1
    rules: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """When to save, and how many checkpoints to keep (the newest ones)."""

    every_steps: int = 1000
    keep: int = 2


@dataclass(frozen=True)
class Plugin:
    """A plug-in with its config.

    Attributes:
        name: the file's name.
        module: the imported file, or an encoder's with adapters.
        config: its `Config`.
    """

    name: str
    module: types.ModuleType | Adapted
    config: Any


@dataclass(frozen=True)
class Objective(Plugin):
    """An objective: its weight in the sum and its modifiers, in order."""

    weight: float | Schedule = 1.0
    modifiers: Mapping[str, Plugin] = field(default_factory=dict)


@dataclass(frozen=True)
class Eval(Plugin):
    """An evaluator, run every `every_steps` steps (0: only at the end)."""

    every_steps: int = 0


@dataclass(frozen=True)
class Run:
    """A whole run, resolved.

    Attributes:
        seed: of parameters, data order and everything random.
        steps: optimiser steps.
        epochs: alternative to steps; resolved once the data set's size is known.
        global_batch: rows of one optimiser step, over all devices.
        micro_batch: rows of one forward and backward pass; None means global_batch.
        dtype: compute type of encoders and of objectives that have one; parameters stay float32.
        remat: what the backward pass of encoders and decoders recomputes: nothing, whole blocks, or
            all but matrix products.
        log_every: steps between lines of metrics.
        log_batch_ids: write batches.jsonl.
        init_from: what the parameters start from: a run, with its heads and teachers; an export; a
            safetensors file, a torch file or a folder of timm or transformers; or
            `<timm name>@<file>`.
        max_bad_share: share of unreadable records past which the run stops.
        max_nonfinite: steps in a row with a non-finite loss or gradient past which it stops.
        hang_seconds: seconds without progress past which a run writes its stacks and stops, and a
            tenth of which is reported; 0 waits for ever. Six times as long for compilation and
            evaluation.
        towers: encoders by config key ("encoder", "encoder_text").
        objectives: by label.
        artifacts: paths of extra files by name.
        profile: steps "a:b" of which a trace is written to profile/ in the workdir, or "".
        report: write report.html at the end.
        export: formats to export at the end.
    """

    seed: int = 0
    steps: int | None = None
    epochs: float | None = None
    global_batch: int = 256
    micro_batch: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    log_every: int = 10
    log_batch_ids: bool = False
    init_from: str | None = None
    max_bad_share: float = 0.01
    max_nonfinite: int = 10
    hang_seconds: float = 600.0
    towers: Mapping[str, Plugin] = field(default_factory=dict)
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    mesh: MeshShape = MeshShape()
    checkpoint: Checkpoint = Checkpoint()
    evals: Mapping[str, Eval] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    report: bool = True
    export: tuple[str, ...] = ()


TOWERS = ("encoder", "encoder_text")
_PLAIN = {f.name for f in dataclasses.fields(Run)} - {"towers", "objectives", "evals"}
_KEYS = {*_PLAIN, *TOWERS, "objective", "eval"}

# ------------------------------------------------------------------------------- resolution


def resolve(values: Mapping[str, Any]) -> Run:
    """Checks a whole config and loads the plug-ins that it names.

    Args:
        values: nested mapping with the keys of INTERFACE (`encoder`, `objective.<label>`, ...).

    Returns:
        The resolved run. Objectives with a constant weight of 0 are dropped.

    Raises:
        UserError: naming the first key that is wrong.
    """
    values = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    for key in values:
        if key not in _KEYS:
            raise UserError(f"config.{key}", "unknown key", nearest(key, _KEYS))
    run = build(Run, {k: v for k, v in values.items() if k in _PLAIN}, "config")
    towers = {
        k: _tower(run, _section(values[k], f"config.{k}"), f"config.{k}")
        for k in TOWERS
        if values.get(k)
    }
    objectives = {}
    for label, entry in _section(values.get("objective") or {}, "config.objective").items():
        objective = _objective(run, label, _section(entry, f"config.objective.{label}"))
        if objective.weight != 0:
            objectives[label] = objective
    evals = resolve_evals(values.get("eval") or {})
    run = dataclasses.replace(run, towers=towers, objectives=objectives, evals=evals)
    _check(run)
    return run


def resolve_evals(section: Mapping[str, Any]) -> dict[str, Eval]:
    """Checks a section of evaluators by label and loads them."""
    evals = {}
    for label, entry in _section(section, "config.eval").items():
        where = f"config.eval.{label}"
        entry = dict(_section(entry, where))
        every = coerce(entry.pop("every_steps", 0), int, f"{where}.every_steps")
        evals[label] = Eval(**_plugin("eval", label, entry, where), every_steps=every)
    return evals


def _section(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(where, f"{value!r} is not a section", "give a dict of keys")
    return value


def _plugin(kind: str, label: str, entry: dict[str, Any], where: str) -> dict[str, Any]:
    entry = dict(entry)
    named_by = f"{where}.type" if "type" in entry else where
    return _load(kind, str(entry.pop("type", label)), entry, where, named_by)


def _load(kind: str, name: str, options: Mapping[str, Any], where: str, named_by: str):
    module = plugins.load(kind, name, named_by)
    return {"name": name, "module": module, "config": build(module.Config, options, where)}


def _tower(run: Run, entry: Mapping[str, Any], where: str) -> Plugin:
    entry = dict(entry)
    if "name" not in entry:
        raise UserError(f"{where}.name", "missing", "set it to an encoder, such as 'vit'")
    name, adapters = str(entry.pop("name")), entry.pop("lora", None)
    plugin = Plugin(**_load("encoder", name, entry, where, f"{where}.name"))
    plugin = _inherit(plugin, entry, dtype=run.dtype, remat=run.remat, size=run.data.size)
    if run.data.text is not None:
        plugin = _inherit(plugin, entry, length=run.data.text.length)
    if adapters is None:
        return plugin
    options = build(Lora, _section(adapters, f"{where}.lora"), f"{where}.lora")
    return dataclasses.replace(plugin, module=Adapted(plugin.module, options))


def _inherit(plugin: Plugin, entry: Mapping[str, Any], **values: Any) -> Any:
    """Fills in what the run decides, where the plug-in has such a key and its section doesn't."""
    legal = {f.name for f in dataclasses.fields(plugin.config)}
    filled = {k: v for k, v in values.items() if k in legal and k not in entry}
    return dataclasses.replace(plugin, config=dataclasses.replace(plugin.config, **filled))


def _objective(run: Run, label: str, entry: Mapping[str, Any]) -> Objective:
    where = f"config.objective.{label}"
    entry = dict(entry)
    weight = coerce(entry.pop("weight", 1.0), float | Schedule, f"{where}.weight")
    modifiers = {}
    for name, options in _section(entry.pop("modifiers", {}), f"{where}.modifiers").items():
        at = f"{where}.modifiers.{name}"
        modifiers[name] = Plugin(**_plugin("modifier", name, _section(options, at), at))
    plugin = _plugin("objective", label, entry, where)
    objective = Objective(**plugin, weight=weight, modifiers=modifiers)
    return _inherit(objective, entry, dtype=run.dtype, remat=run.remat)


def _check(run: Run) -> None:
    if run.profile:
        span = re.fullmatch(r"(\d+):(\d+)", run.profile)
        if not span or not 2 <= int(span[1]) <= int(span[2]):
            what, remedy = f"'{run.profile}' is no span of steps", "write 10:12 (step 1 compiles)"
            raise UserError("config.profile", what, remedy)
    if (run.steps is None) == (run.epochs is None):
        raise UserError("config.steps", "exactly one of steps and epochs is wanted", "set one")
    if run.steps is not None and run.steps < 1:
        raise UserError("config.steps", f"{run.steps} steps", "give at least 1")
    if run.epochs is not None and run.epochs <= 0:
        raise UserError("config.epochs", f"{run.epochs} epochs", "give more than 0")
    if run.global_batch < 1:
        raise UserError("config.global_batch", f"{run.global_batch} rows", "give at least 1")
    if run.micro_batch is not None and run.micro_batch < 1:
        raise UserError("config.micro_batch", f"{run.micro_batch} rows", "give at least 1")
    micro = run.micro_batch or run.global_batch
    if run.global_batch % micro:
        raise UserError(
            "config.micro_batch",
            f"{micro} does not divide global_batch {run.global_batch}",
            "give a divisor",
        )
    if run.data.group < 1 or run.global_batch % run.data.group:
        raise UserError(
            "config.data.group",
            f"groups of {run.data.group} do not fill a batch of {run.global_batch}",
            "give a divisor",
        )
    if isinstance(run.data.sampler, Sampler):
        run.data.sampler.check(run.global_batch, "config.data.sampler")
        if run.data.group > 1:
            raise UserError("config.data.group", "the sampler makes the groups", "leave it out")
    if run.data.text is not None and run.data.text.length < 2:
        what = f"{run.data.text.length} tokens of a text"
        raise UserError("config.data.text.length", what, "give at least 2")
    if (run.optimizer.lr is None) == (run.optimizer.base_lr is None):
        raise UserError(
            "config.optimizer.lr", "exactly one of lr and base_lr is wanted", "set one of them"
        )
    if "encoder" not in run.towers:
        raise UserError("config.encoder", "missing", "add a section with a `name`")
    if not run.objectives:
        raise UserError("config.objective", "no objective with a weight", "add a section")
    if run.data.processes < 0 or (run.data.processes and run.data.cache != "none"):
        what = f"{run.data.processes} with cache '{run.data.cache}'"
        raise UserError("config.data.processes", what, "give 0 with a cache, or several without")
    if not run.data.sources:
        raise UserError("config.data.sources", "no source", "add a dict with a `name`")
    if run.log_every < 1 or run.checkpoint.every_steps < 1 or run.checkpoint.keep < 1:
        raise UserError(
            "config.log_every, config.checkpoint", "an interval below 1", "give at least 1"
        )


def check_devices(run: Run, devices: int) -> None:
    """Raises a UserError unless batches split evenly over `devices`."""
    micro = run.micro_batch or run.global_batch
    if micro % devices:
        key = "micro_batch" if run.micro_batch else "global_batch"
        raise UserError(
            f"config.{key}",
            f"{micro} rows do not divide over {devices} devices",
            f"give a multiple of {devices}",
        )


def to_dict(run: Run) -> dict[str, Any]:
    """The run as nested plain values, every default filled in; `resolve` gives the run back."""
    plain = {k: _plain(getattr(run, k)) for k in sorted(_PLAIN)}
    for key, tower in run.towers.items():
        plain[key] = {"name": tower.name, **_plain(tower.config)}
        if isinstance(tower.module, Adapted):
            plain[key]["lora"] = _plain(tower.module.lora)
    plain["objective"] = {
        label: {
            "type": o.name,
            **_plain(o.config),
            "weight": _plain(o.weight),
            "modifiers": {m: {"type": p.name, **_plain(p.config)} for m, p in o.modifiers.items()},
        }
        for label, o in run.objectives.items()
    }
    plain["eval"] = {
        label: {"type": e.name, **_plain(e.config), "every_steps": e.every_steps}
        for label, e in run.evals.items()
    }
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value

"""What a training run needs, checked before anything is compiled, and where it starts."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

import facejax
from facejax import checkpoint, config, evaluate, mesh, model, profiling, starting, state, tokenizer
from facejax.config import Run
from facejax.contracts import Params, Spec
from facejax.data.blocklist import read_blocklist
from facejax.data.mixture import Mixture, open_sources
from facejax.data.order import NONE, Order, make_order
from facejax.data.texts import Texts, read_for, tokenized
from facejax.errors import UserError

# Keys that may change when a run is resumed or extended; the others would make it another run.
MAY_CHANGE = {
    *("steps", "epochs", "micro_batch", "remat", "log_every", "log_batch_ids", "max_bad_share"),
    *("max_nonfinite", "hang_seconds", "mesh", "checkpoint", "eval", "profile", "report"),
    *("export", "init_from"),
}
DATA_MAY_CHANGE = {"workers", "processes", "cache", "blocklist"}
PLUGIN_MAY_CHANGE = {"remat", "scan", "attention"}  # how it is computed, not what


@dataclasses.dataclass(frozen=True)
class Session:
    """All that the loop needs, checked; made before anything is compiled.

    Attributes:
        began: the first start of the run, which restarts don't change.
    """

    run: Run
    workdir: Path
    mixture: Mixture
    order: Order
    blocked: np.ndarray
    evaluations: list[evaluate.Evaluation]
    program: state.Program
    frozen: Params
    constants: Mapping[str, jax.Array]
    mesh: jax.sharding.Mesh
    checkpoints: checkpoint.Checkpoints
    began: datetime.datetime
    texts: Texts | None = None

    @property
    def primary(self) -> bool:
        """Whether this process writes what is written once."""
        return jax.process_index() == 0


def prepare(run: Run, workdir: Path) -> Session:
    """Opens data and evaluators, builds the mesh and plans the step.

    Raises:
        UserError: whatever is wrong with the input.
    """
    now = datetime.datetime.now(datetime.UTC)
    mixture = open_sources(run.data.sources)
    run = with_steps(run, len(mixture))
    profiling.check(run)
    run, texts = _with_tokenizer(run, workdir)
    _check_resumable(run, workdir)
    evaluations = evaluate.prepare(run.evals, run.data.size)
    devices = mesh.make(run.mesh)
    config.check_devices(run, devices.size)
    spec = spec_of(run, mixture.classes, mixture.attributes, texts, mixture.names, mixture.sets)
    loaded = {path: model.load(path) for path in state.frozen_paths(run, spec)}
    encoders = {path: (m.module, m.encoder_config) for path, m in loaded.items()}
    program = state.plan(run, spec, encoders)
    if tokenized(program.fields()) and texts is None:
        raise UserError("config.data.text", "an objective reads texts", "set its tokenizer")
    mixture.select(read_for(program.fields()))  # a field that no source gives is found here
    state.placement(program, devices)  # a rule that does not fit is found here
    blocked = read_blocklist(run.data.blocklist, mixture) if run.data.blocklist else NONE
    return Session(
        run=run,
        workdir=workdir,
        mixture=mixture,
        order=make_order(mixture, run.seed, run.data.sampler, run.data.group, blocked),
        blocked=blocked,
        evaluations=evaluations,
        program=program,
        frozen=jax.device_put(
            {path: (m.params, m.stats) for path, m in loaded.items()}, mesh.replicated(devices)
        ),
        constants=jax.device_put(dict(program.constants), mesh.replicated(devices)),
        mesh=devices,
        checkpoints=checkpoint.Checkpoints(workdir, run.checkpoint.keep),
        began=_began(workdir) or now,
        texts=texts,
    )


def _with_tokenizer(run: Run, workdir: Path) -> tuple[Run, Texts | None]:
    """The run with its tokenizer's digest, and what tokenizes; the run's own copy goes first."""
    words = run.towers.get("encoder_text")
    if run.data.text is None:
        if words is not None and getattr(words.config, "length", 0) is None:
            what = "missing, and the text tower takes its length from it"
            raise UserError("config.data.text", what, "set its tokenizer")
        return run, None
    text, own = run.data.text, workdir / tokenizer.FILE
    resumed = own.exists() and not Path(text.tokenizer).exists()
    read = tokenizer.load(own if resumed else text.tokenizer)
    if text.digest not in (None, read.digest):
        what = f"{_short(text.digest)}, but {text.tokenizer} has {_short(read.digest)}"
        raise UserError("config.data.text.digest", what, "give the tokenizer of the checkpoint")
    room = None
    if words is not None:
        room = getattr(words.config, "vocab", None)
    if room is not None and read.vocab > room:
        what = f"{room} tokens, but {text.tokenizer} has {read.vocab}"
        raise UserError("config.encoder_text.vocab", what, f"give {read.vocab} or more")
    data = dataclasses.replace(run.data, text=dataclasses.replace(text, digest=read.digest))
    towers = {key: _with_ids(tower, read) for key, tower in run.towers.items()}
    run = dataclasses.replace(run, data=data, towers=towers)
    return run, Texts(read, text.length, run.seed)


def _with_ids(tower: config.Plugin, read: tokenizer.Tokenizer) -> config.Plugin:
    """The tower with the ids that its config leaves to the tokenizer."""
    names = {f.name for f in dataclasses.fields(tower.config)}
    ids = {"end": read.end, "pad": read.pad}
    ids = {k: v for k, v in ids.items() if k in names and getattr(tower.config, k) is None}
    return dataclasses.replace(tower, config=dataclasses.replace(tower.config, **ids))


def with_steps(run: Run, records: int) -> Run:
    """The run with its epochs, if it counts in these, as steps."""
    if run.steps is not None:
        return run
    steps = max(1, round(run.epochs * records / run.global_batch))
    return dataclasses.replace(run, steps=steps, epochs=None)


def spec_of(
    run: Run,
    classes: Mapping[str, int],
    attributes: tuple[str, ...],
    texts: Texts | None = None,
    names: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    sets: Mapping[str, int] = MappingProxyType({}),
) -> Spec:
    """The run's facts for objectives; `run.steps` is set."""
    tokenize = None
    if texts is not None:
        tokenize = functools.partial(texts.tokenizer.encode, length=texts.length)
    return Spec(
        steps=run.steps,
        global_batch=run.global_batch,
        size=run.data.size,
        towers={k: t.module.tower(t.config) for k, t in run.towers.items()},
        classes=classes,
        names=names,
        attributes=attributes,
        artifacts=run.artifacts,
        aug={"mean": run.data.mean, "std": run.data.std},
        tokenize=tokenize,
        sets=sets,
    )


def _check_resumable(run: Run, workdir: Path) -> None:
    if not (workdir / "config.json").exists():
        return
    old, new = model.read_config(workdir)["config"], json.loads(json.dumps(config.to_dict(run)))
    for stored in (old, new):
        (stored["data"].get("text") or {}).pop("tokenizer", None)  # its digest says which it is
        stored |= {key: _what(stored[key]) for key in config.TOWERS if key in stored}
        stored["objective"] = {label: _what(own) for label, own in stored["objective"].items()}
    for key in sorted({*old, *new} - MAY_CHANGE - {"data"}):
        _same(workdir, f"config.{key}", old.get(key), new.get(key))
    for key in sorted({*old["data"], *new["data"]} - DATA_MAY_CHANGE):
        _same(workdir, f"config.data.{key}", old["data"].get(key), new["data"].get(key))
    if new["steps"] < old["steps"] and checkpoint.Checkpoints(workdir).steps()[-1:] > [
        new["steps"]
    ]:
        raise UserError(
            "config.steps", f"the run in {workdir} is past step {new['steps']}", "give more steps"
        )


def _what(plugin: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plugin.items() if key not in PLUGIN_MAY_CHANGE}


def _same(workdir: Path, where: str, old: Any, new: Any) -> None:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            _same(workdir, f"{where}.{key}", old.get(key), new.get(key))
    raise UserError(
        where,
        f"{_short(new)}, but the run in {workdir} has {_short(old)}",
        "use another --workdir (with config.init_from to branch)",
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _began(workdir: Path) -> datetime.datetime | None:
    path = workdir / "config.json"
    stored = model.read_config(workdir).get("created") if path.exists() else None
    return datetime.datetime.fromisoformat(stored) if stored else None


def write_config(session: Session) -> None:
    """Writes config.json: the resolved config, versions, commit and devices; and the tokenizer."""
    if session.texts is not None:
        session.texts.tokenizer.save(session.workdir / tokenizer.FILE)
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    first = jax.devices()[0]
    path = session.workdir / "config.json"
    content = {
        "schema_version": 1,
        "config": config.to_dict(session.run),
        "versions": {
            "facejax": facejax.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "commit": _commit(),
        "devices": {"kind": first.device_kind, "count": jax.device_count()},
        "created": session.began.isoformat(timespec="milliseconds"),
    }
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def _commit() -> str | None:
    command = ["git", "-C", str(Path(facejax.__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def starting_state(session: Session) -> tuple[state.TrainState, int]:
    """The state to go on from, and its completed steps: newest, `init_from` or fresh."""
    program = session.program
    found = session.checkpoints.restore_newest(program, session.mesh)
    if found is not None:
        return found
    if not session.run.init_from:
        return state.create(program, session.mesh), 0
    started, report = starting.start(program, session.mesh, starting.read(session.run))
    if session.primary:
        print(report.text(session.run.init_from))
    return started, 0

"""Whether an objective learns: a short run on procedural faces, its control, and their measures.

    python -m benchmarks.learning --config=configs/simclr_vit_faces.py --workdir=DIR
        [--modifiers=CONFIG] [--shuffle] [--steps=N]

The objective section is the config's; encoder, faces and optimiser are the same for all. People
differ in geometry alone, and their pictures in what crops and colour jitter take away too. The
numbers are the last training loss, and kNN over unseen people and the effective rank of their
embeddings: of the encoder, of the same at random initialisation and of pixels. With `--shuffle`
everything is as before but what belongs together (`shuffled`): what is then still learned needs no
pairs.
"""

import dataclasses
import itertools
import json
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np

from facejax import cli, command_line, config, state
from facejax.contracts import Features, Student
from facejax.data.mixture import open_sources
from facejax.data.sources import synthetic
from facejax.errors import UserError
from facejax.evaluators._metrics import unit
from facejax.metrics import load_eval, read_jsonl
from facejax.session import prepare, spec_of
from facejax.train import train

STEPS = 400
VARY = ("identity", "framing", "camera")
CLIP = 4  # people of a clip, where an objective wants clips
BASELINES = ("random", "pixels")


# ------------------------------------------------------------------------------- the measures


def effective_rank(embeddings: np.ndarray) -> float:
    """How many directions embeddings use: exp of the entropy of what each adds to their variance.

    The effective rank (Roy & Vetterli 2007) of the second moments of the unit vectors z, that is
    of mean z z^T; as a number of things that differ it is the Vendi score of their cosines
    (Friedman & Dieng 2022, arXiv:2210.02410). It is 1 where all are the same, and at most
    min(n, D). RankMe (Garrido et al. 2023, arXiv:2210.02885) takes the vectors themselves in place
    of their moments, so singular values in place of their squares; a direction with a thousandth
    of the variance of the first then counts for a thirtieth of it, and a random encoder, which
    spreads a little noise in all directions, for more than one that tells people apart.

    Args:
        embeddings: f32[n, D].
    """
    values = np.linalg.svd(unit(embeddings), compute_uv=False) ** 2
    share = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def last_loss(workdir: Path) -> float:
    """The training loss of the last line that has one."""
    return [row["loss"] for row in read_jsonl(workdir / "metrics.jsonl") if "loss" in row][-1]


def measured(workdir: Path, label: str, metric: str, step: int) -> dict[str, dict[str, float]]:
    """A metric of an evaluation and the effective rank of the embeddings that it saved.

    Returns:
        {"encoder" | "random" | "pixels": {metric: ..., "rank": ...}}.
    """
    found = {}
    for name in ("encoder", *BASELINES):
        tail = "" if name == "encoder" else f"-{name}"
        result = load_eval(workdir / "artifacts" / f"eval-{label}-{step}{tail}.npz")
        rank = effective_rank(result.embeddings)
        found[name] = {metric: result.metrics[metric], "rank": rank}
    return found


# ------------------------------------------------------------------------------- the control


def shuffled(run: config.Run) -> config.Run:
    """The same run whose losses see no two things of the same image together.

    The encodings of each pass, the view of each pass and the fields of the batch are each put into
    an order of rows of their own before the loss. So the two views of a pair, an image and its
    reconstruction, a student and its teacher, a face and its label come from different images,
    whatever the objective is; everything else (shapes, cost, statistics over the batch) stays.
    """
    objectives = {
        label: dataclasses.replace(o, module=mismatched(o.module))
        for label, o in run.objectives.items()
    }
    return dataclasses.replace(run, objectives=objectives)


def mismatched(module: types.ModuleType) -> types.SimpleNamespace:
    """An objective whose loss gets each thing in another order of rows; see `shuffled`."""

    def loss(cfg, params, ema, state, feats, batch, ctx):
        turns = itertools.count()

        def apart(tree: Any) -> Any:
            turn = next(turns)  # one order for all of the tree
            return jax.tree.map(lambda x: x[np.random.default_rng(turn).permutation(len(x))], tree)

        def encodings_and_view(f: Features) -> Features:
            own = apart(dataclasses.replace(f, view=None))
            return dataclasses.replace(own, view=apart(f.view))

        feats = {name: encodings_and_view(f) for name, f in feats.items()}
        batch = apart(dict(batch))
        ctx = dataclasses.replace(ctx, batch=batch)
        return module.loss(cfg, params, ema, state, feats, batch, ctx)

    return types.SimpleNamespace(**{**vars(module), "loss": loss})


# ----------------------------------------------------------------------------------- the run


def objective_section(path: Path | str) -> dict[str, Any]:
    """The objective section of a config file."""
    return command_line.load_file(str(path)).to_dict()["objective"]


def setting(objective: dict[str, Any], steps: int = STEPS) -> dict[str, Any]:
    """The values of a run on procedural faces that differs from others in its objective alone."""
    faces = {"name": "synthetic", "size": 32, "vary": VARY}
    unseen = {**faces, "n": 600, "identities": 60, "first_identity": 10_000}
    values = {
        "steps": steps,
        "global_batch": 128,
        "log_every": 50,
        "report": False,
        "encoder": {
            "name": "face_vit",
            "width": 64,
            "depth": 2,
            "heads": 4,
            "patch": 8,
            "embed": 64,
        },
        "objective": objective,
        "optimizer": {"name": "adamw", "base_lr": 2e-3, "clip": 3.0},
        "data": {"size": 32, "cache": "decoded"},
        "checkpoint": {"every_steps": steps, "keep": 1},
        "eval": {"knn": {"type": "knn", "source": unseen, "k": (5,), "bootstrap": 0}},
    }
    people = {**faces, "n": 3000, "identities": 300}
    if "clip" in fields_of(config.resolve(values | {"data": {"sources": (people,)}})):
        people["clip"] = CLIP
        values["data"]["group"] = 2 * CLIP
    values["data"]["sources"] = (people,)
    return values


def fields_of(run: config.Run) -> set[str]:
    """The labels that the objectives and modifiers of a run read."""
    found: set[str] = set()
    for o in run.objectives.values():
        for plugin in (o, *o.modifiers.values()):
            found |= set(getattr(plugin.module, "FIELDS", ()))
            if hasattr(plugin.module, "fields"):
                found |= set(plugin.module.fields(plugin.config))
    return found


def planned(run: config.Run) -> state.Program:
    """What the step of a run is made of; nothing is compiled."""
    mixture = open_sources(run.data.sources)
    return state.plan(run, spec_of(run, mixture.classes, mixture.attributes))


def unfit(objective: dict[str, Any]) -> str:
    """Why procedural faces cannot train an objective section, or ""."""
    try:
        run = config.resolve(setting(objective))
        program = planned(run)
    except UserError as error:
        return str(error)
    offered = synthetic.open(synthetic.Config(clip=CLIP)).fields
    wanted = [f"no '{name}'" for name in program.fields() if name not in offered]
    wanted += [f"no encoder {path}" for path in state.frozen_paths(run, program.spec)]
    return ", ".join(wanted)


def embeds(run: config.Run) -> bool:
    """Whether an objective trains the pooled embedding itself, not only what it is pooled from."""
    return any(
        isinstance(p.weights, Student) and "pooled" in p.outputs
        for named in planned(run).passes.values()
        for p in named.values()
    )


def modifiers_of(objective: dict[str, Any]) -> dict[str, Any]:
    """The modifiers of an objective section with their options, whatever objective has them."""
    return {k: v for options in objective.values() for k, v in options.get("modifiers", {}).items()}


def modified(objective: dict[str, Any], modifiers: dict[str, Any]) -> dict[str, Any]:
    """An objective section whose every objective has these modifiers and no others."""
    return {label: {**options, "modifiers": modifiers} for label, options in objective.items()}


def run(argv: list[str]) -> None:
    """The command."""
    parser = cli.Parser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--config", required=True, help="a config with an objective section")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--modifiers", help="a config whose modifiers every objective gets")
    parser.add_argument("--shuffle", action="store_true", help="the control")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)
    objective = objective_section(args.config)
    if args.modifiers:
        objective = modified(objective, modifiers_of(objective_section(args.modifiers)))
    resolved = config.resolve(setting(objective, args.steps))
    args.workdir.mkdir(parents=True, exist_ok=True)
    train(prepare(shuffled(resolved) if args.shuffle else resolved, args.workdir))
    found = measured(args.workdir, "knn", "knn@5", args.steps)
    print(json.dumps({"loss": last_loss(args.workdir), **found}))


if __name__ == "__main__":
    cli.main(run)

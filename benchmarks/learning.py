"""Whether an objective learns: a short run on procedural faces, and its control.

    python -m benchmarks.learning --config=configs/simclr_vit_faces.py --workdir=DIR
        [--modifiers=NAME,...] [--shuffle] [--steps=N]

The objective section is the config's; encoder, data and optimiser are the same for all. The numbers
are kNN over unseen people and the effective rank of their embeddings, of the encoder, of the same
encoder at random initialisation and of pixels, printed as JSON. With `--shuffle` everything is as
before but what belongs together (`shuffled`): what is then learned needs no pairs.
"""

import dataclasses
import itertools
import json
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np

from facejax import cli, command_line, config
from facejax.contracts import Features
from facejax.evaluators._metrics import unit
from facejax.metrics import load_eval
from facejax.session import prepare
from facejax.train import train

SIZE = 48
HELD = ("background", "clothing", "hat", "glasses", "camera", "light")
PEOPLE = {"name": "synthetic", "size": SIZE, "hold": HELD}


def effective_rank(embeddings: np.ndarray) -> float:
    """How many directions embeddings use: exp of the entropy of their singular values.

    Of unit vectors with their mean removed, singular values divided by their sum (Roy & Vetterli
    2007). 0 where all vectors are the same.

    Args:
        embeddings: f32[n, D].
    """
    z = unit(embeddings)
    values = np.linalg.svd(z - z.mean(0), compute_uv=False)
    if values.sum() < 1e-6:
        return 0.0
    share = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


# ------------------------------------------------------------------------------- the control


def shuffled(run: config.Run) -> config.Run:
    """The same run whose losses see no two things of the same image together.

    The encodings of each pass, the view of each pass and the fields of the batch are each put into
    an order of rows of their own before the loss. So the two views of a pair, an image and its
    reconstruction, a student and its teacher, a face and its label come from different images,
    whatever the objective is; everything else (shapes, cost, statistics over the batch) stays.
    """
    objectives = {
        label: dataclasses.replace(o, module=_mismatched(o.module))
        for label, o in run.objectives.items()
    }
    return dataclasses.replace(run, objectives=objectives)


def _mismatched(module: types.ModuleType) -> types.SimpleNamespace:
    def loss(cfg, params, ema, state, feats, batch, ctx):
        turns = itertools.count()

        def apart(tree: Any) -> Any:
            rng = np.random.default_rng(next(turns))
            return jax.tree.map(lambda x: x[rng.permutation(len(x))], tree)

        def encodings_and_view(f: Features) -> Features:
            own = apart(dataclasses.replace(f, view=None))
            return dataclasses.replace(own, view=apart(f.view))

        feats = {name: encodings_and_view(f) for name, f in feats.items()}
        batch = apart(dict(batch))
        ctx = dataclasses.replace(ctx, batch=batch)
        return module.loss(cfg, params, ema, state, feats, batch, ctx)

    return types.SimpleNamespace(**{**vars(module), "loss": loss})

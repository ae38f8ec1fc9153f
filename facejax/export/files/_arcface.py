"""Files of recognition networks under the names of arcface_torch."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from facejax.export import _encoder, names
from facejax.export.files import WHERE, Facts, Recognised


def legal(cfg: Any) -> Facts:
    """These files say nothing about their use."""
    return Facts()


def recognise(cfg: Any, tensors: Mapping[str, np.ndarray]) -> Recognised:
    """Names the tensors as ours; the geometry must be that of `cfg`.

    Raises:
        UserError: tensors are missing, unexpected or of a wrong shape.
    """
    table = importlib.import_module(f"facejax.export.names.{_encoder.name_of(cfg)}").torch(cfg)
    own = {re.sub(r"^(module|backbone)\.", "", name): value for name, value in tensors.items()}
    # torch counts the batches that its norms have seen; nothing here depends on it.
    counters = [name for name in own if name.endswith(".num_batches_tracked")]
    own = {name: value for name, value in own.items() if name not in counters}
    params, stats = _encoder.shapes(cfg)
    shapes = {"params": params, **({"stats": stats} if stats else {})}
    found = names.match(table, own, shapes)
    names.complain(found.problems, WHERE)
    ours = {_ours(path): value for path, value in found.params.items()}
    return Recognised("arcface_torch", cfg, ours, sorted(counters), [])


def _ours(path: str) -> str:
    top, _, rest = path.partition("/")
    return f"{'encoder' if top == 'params' else top}/{rest}"

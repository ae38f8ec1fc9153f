"""The recognition encoders at a small size, with parameters and statistics that hide nothing."""

import dataclasses
import importlib

import jax
import numpy as np

from facejax.contracts import TowerSpec
from facejax.encoders import face_vit, iresnet, mobilefacenet

CASES = {
    "iresnet": (iresnet, {}),
    "iresnet-se": (iresnet, {"se": True}),
    "mobilefacenet": (mobilefacenet, {}),
    "mobilefacenet-large": (mobilefacenet, {"blocks": (2, 1, 2, 1)}),
    "face_vit": (face_vit, {"size": 19}),  # 3 of 19 pixels are left over
    "face_vit-drop": (face_vit, {"drop_tokens": 0.25}),
}


def case(name):
    """(encoder, config, name table's module)."""
    module, options = CASES[name]
    family = module.__name__.rpartition(".")[2]
    names = importlib.import_module(f"facejax.export.names.{family}")
    config = dataclasses.replace(module.Config.tiny(), **options)
    # Squeeze-and-excitation by 16 needs as many channels.
    wide = {"widths": (16, 16, 32, 32)} if options.get("se") else {}
    return module, dataclasses.replace(config, **wide), names


def shapes_of(module, config):
    """{"params", "stats"} as shapes."""
    init = jax.eval_shape(lambda: module.init(config, jax.random.key(0), TowerSpec()))
    return dict(zip(("params", "stats"), init))


def drawn(module, config, seed=0):
    """{"params", "stats"} of which no two values are alike, f32 NumPy; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        name = path[-1].key
        if name == "var":
            values = 0.5 + values**2
        elif name == "scale":
            values = 1 + 0.3 * values
        elif len(leaf.shape) > 1:
            values = values / np.sqrt(np.prod(leaf.shape[:-1]))
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(module, config))

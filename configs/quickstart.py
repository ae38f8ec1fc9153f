"""The main job in minutes: MAE and SimCLR together on a small ViT, on procedural faces.

Command:  python -m facejax.train --config=configs/quickstart.py --workdir=runs/quickstart
Hardware: 2 CPU cores
Time:     see README.md, "Measured"
Result:   see README.md, "Measured"
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 300
    config.global_batch = 64
    config.log_every = 10

    config.encoder = ConfigDict(
        {"name": "vit", "variant": "Ti", "depth": 6, "patch": 8, "pool": "mean"}
    )
    config.objective = ConfigDict()
    config.objective.mae = ConfigDict({"decoder_depth": 2})
    config.objective.simclr = ConfigDict(
        {"weight": 0.1, "hidden": 256, "depth": 2, "scale": (0.3, 1.0), "strength": 0.5}
    )

    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.sources = ({"name": "synthetic", "n": 4000, "identities": 400},)

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 2e-3})
    config.checkpoint = ConfigDict({"every_steps": 100, "keep": 2})
    return config

"""ArcFace with a thin ResNet at 64 px on procedural people; minutes on two cores.

Command:  python -m facejax.train --config=configs/arcface_iresnet_synthetic.py --workdir=DIR
Hardware: not measured
Time:     not measured
Result:   not measured
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 2000
    config.global_batch = 64
    config.log_every = 100

    config.encoder = ConfigDict(
        {"name": "iresnet", "blocks": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "embed": 128}
    )
    config.objective = ConfigDict()
    config.objective.arcface = ConfigDict({"scale": 32.0, "margin": 0.3, "lr": 10.0})
    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.sources = ({"name": "synthetic", "n": 20_000, "identities": 1000},)
    config.optimizer = ConfigDict({"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "clip": 5.0})
    config.checkpoint = ConfigDict({"every_steps": 1000, "keep": 1})

    unseen = {"name": "synthetic", "n": 1000, "identities": 100, "first_identity": 10_000}
    config.eval = ConfigDict({"unseen": {"type": "verification", "source": unseen, "flip": "sum"}})
    return config

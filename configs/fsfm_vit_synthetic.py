"""FSFM with a small ViT on procedural faces, whose regions are exact; needs no data.

Command:  python -m facejax.train --config=configs/fsfm_vit_synthetic.py --workdir=runs/fsfm
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 300
    config.global_batch = 64
    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 8, "pool": "class"}
    )
    config.objective = ConfigDict()
    config.objective.fsfm = ConfigDict({"decoder_depth": 2, "hidden": 512, "out": 128})
    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.sources = ({"name": "synthetic", "n": 4000, "identities": 400},)
    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3, "clip": 1.0})
    return config

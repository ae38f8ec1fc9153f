"""Supervised contrastive learning with a small ViT at 112 px, on 7,907 real faces.

Command:  python -m facejax.train --config=configs/supcon_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt;
          default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

Batches are drawn without regard to identity, so most anchors have their other view as the only
positive.
"""

from ml_collections import ConfigDict


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.epochs = 100.0
    config.global_batch = 256
    config.dtype = "bfloat16"

    config.encoder = ConfigDict({"name": "vit", "variant": "S", "patch": 16, "pool": "mean"})
    config.objective = ConfigDict()
    config.objective.supcon = ConfigDict({})

    config.data = ConfigDict({"size": 112, "cache": "decoded"})
    config.data.sources = (
        {
            "name": "folder",
            "path": f"{folder}/celeba_dev.zip",
            "images": "*.jpg",
            "identity": "column",
            "labels": f"{folder}/celeba_dev_identity.csv",
        },
    )

    # MoCo v3's for ViTs.
    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1.5e-4, "weight_decay": 0.1})
    config.optimizer.schedule = ConfigDict({"kind": "cosine", "warmup": 0.13})
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 1})
    config.export = ("timm",)

    lfw = {"type": "verification", "path": f"{folder}/lfw128.zip", "pairs": f"{folder}/pairs.txt"}
    config.eval = ConfigDict({"lfw": {**lfw, "flip": "sum", "protocol": "lfw10"}})
    return config

"""MoCo v3 with the class pairs of Hydra on a small ViT at 112 px, people as classes.

Command:  python -m facejax.train --config=configs/mocov3_hydra_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, celebamask256_dev.zip,
          helen256_dev.zip, lfw128.zip and pairs.txt; default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

People of few pictures rarely meet in a batch: most pairs are of two people, as Hydra wants them.
Images without a person take part in MoCo v3 alone.
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
    config.objective.mocov3 = ConfigDict({"modifiers": {"hydra": {}}})

    config.data = ConfigDict({"size": 112, "cache": "decoded"})
    people = {"labels": f"{folder}/celeba_dev_identity.csv", "identity": "column"}
    config.data.sources = tuple(
        {"name": "folder", "path": f"{folder}/{name}", "images": images, **labels}
        for name, images, labels in (
            ("celeba_dev.zip", "*.jpg", people),
            ("celebamask256_dev.zip", "images/*.jpg", {}),
            ("helen256_dev.zip", "*.jpg", {}),
        )
    )

    # MoCo v3's for ViTs.
    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1.5e-4, "weight_decay": 0.1})
    config.optimizer.schedule = ConfigDict({"kind": "cosine", "warmup": 0.13})
    # The patch embedding stays as it was drawn: MoCo v3's cure for instability.
    config.optimizer.rules = ({"pattern": "^encoder/patch_embed/", "frozen_until": -1},)
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 1})
    config.export = ("timm",)

    lfw = {"type": "verification", "path": f"{folder}/lfw128.zip", "pairs": f"{folder}/pairs.txt"}
    config.eval = ConfigDict({"lfw": {**lfw, "flip": "sum", "protocol": "lfw10"}})
    return config

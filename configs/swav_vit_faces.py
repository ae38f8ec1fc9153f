"""SwAV with a small ViT at 112 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/swav_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

The paper has 3,000 prototypes for ImageNet at a batch of 4,096, and trains a ResNet-50 with LARS:
lr 4.8 to 0.0048 by a cosine, decay 1e-6.
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
    # A batch of 256 cannot fill the prototypes evenly: 15 earlier ones help to make the codes.
    config.objective.swav = ConfigDict(
        {"prototypes": 300, "frozen": 0.01, "queue": 3840, "queue_start": 0.1}
    )

    config.data = ConfigDict({"size": 112, "cache": "decoded"})
    config.data.sources = tuple(
        {"name": "folder", "path": f"{folder}/{name}", "images": images, "identity": "none"}
        for name, images in (
            ("celeba_dev.zip", "*.jpg"),
            ("celebamask256_dev.zip", "images/*.jpg"),
            ("helen256_dev.zip", "*.jpg"),
        )
    )

    # MoCo v3's for ViTs.
    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1.5e-4, "weight_decay": 0.1})
    config.optimizer.schedule = ConfigDict({"kind": "cosine", "warmup": 0.13})
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 1})
    config.export = ("timm",)

    lfw = {"type": "verification", "path": f"{folder}/lfw128.zip", "pairs": f"{folder}/pairs.txt"}
    config.eval = ConfigDict({"lfw": {**lfw, "flip": "sum", "protocol": "lfw10"}})
    return config

"""GEMINI with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/gemini_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

The report shows faces warped to one another. What it trains is dense: the embedding is the mean of
the patch tokens.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = ConfigDict()
    config.epochs = 12.0
    config.global_batch = 256

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 16, "pool": "mean"}
    )
    config.objective = ConfigDict({"gemini": ConfigDict({"stride": 4})})

    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.sources = tuple(
        {"name": "folder", "path": f"{folder}/{name}", "images": images}
        for name, images in (
            ("celeba_dev.zip", "*.jpg"),
            ("celebamask256_dev.zip", "images/*.jpg"),
            ("helen256_dev.zip", "*.jpg"),
        )
    )

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3})
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})

    config.eval = common.lfw(folder)
    return config

"""FSFM with InfoNCE with a small ViT at 64 px, on 9,582 real faces, 1,675 with regions.

Command:  python -m facejax.train --config=configs/fsfm_nce_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          helen256_dev_68.csv, lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

As fsfm_vit_faces.py, with the contrastive form of the local-to-global term beside the other two.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = ConfigDict()
    config.epochs = 12.0
    config.global_batch = 256

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 8, "pool": "class"}
    )
    config.objective = ConfigDict()
    config.objective.fsfm = ConfigDict({"decoder_depth": 2, "similarity": 0.0})
    config.objective.fsfm_nce = ConfigDict({"weight": 0.1, "hidden": 512, "out": 128})

    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.sources = (
        {"name": "folder", "path": f"{folder}/celeba_dev.zip"},
        {
            "name": "folder",
            "path": f"{folder}/celebamask256_dev.zip",
            "images": "images/*.jpg",
            "regions": "masks/{stem}.png",
            "region_labels": "celebamask",
        },
        {
            "name": "folder",
            "path": f"{folder}/helen256_dev.zip",
            "landmarks": f"{folder}/helen256_dev_68.csv",
            "regions": "landmarks",
        },
    )

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3, "clip": 1.0})
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})

    config.eval = common.lfw(folder)
    return config

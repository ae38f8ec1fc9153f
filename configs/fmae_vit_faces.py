"""Vec2Face's feature MAE on vectors that an encoder gave earlier, of 7,907 real faces.

Command:  python -m facejax.train --config=configs/fmae_vit_faces.py:FOLDER,VECTORS --workdir=DIR
          (FOLDER holds celeba_dev.zip; default ../shared/data. VECTORS is what
          python -m facejax.embed --export=EXPORT --source=folder --path=FOLDER/celeba_dev.zip
          --out=VECTORS wrote, of width 128)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

The images are read and not used: the encoder is the smallest there is, and frozen. The paper: 512
numbers of ArcFace-R100, width 768, 12 and 8 blocks; AdamW (0.9, 0.99), 4e-5 per 112, clip 2.
"""

from ml_collections import ConfigDict


def get_config(args: str = "") -> ConfigDict:
    folder, _, vectors = args.partition(",")
    config = ConfigDict()
    config.epochs = 12.0
    config.global_batch = 256

    config.encoder = ConfigDict(
        {"name": "vit", "width": 16, "depth": 1, "heads": 1, "patch": 16, "pool": "mean"}
    )
    sizes = {"dim": 128, "width": 128, "depth": 4, "heads": 4, "decoder_depth": 2}
    config.objective = ConfigDict({"fmae": ConfigDict({**sizes, "decoder_heads": 4})})

    config.data = ConfigDict({"size": 16, "cache": "decoded"})
    config.data.sources = (
        {
            "name": "folder",
            "path": f"{folder or '../shared/data'}/celeba_dev.zip",
            "features": vectors or "runs/vectors",
        },
    )

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3, "b2": 0.99, "clip": 2.0})
    config.optimizer.rules = ({"pattern": "^encoder/", "frozen_until": -1},)
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})
    config.report = False
    return config

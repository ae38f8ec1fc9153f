"""MoCo v3 on pairs of a face and a generated one, weighted by quality (GenView), at 112 px.

Command:  python -m facejax.train --config=configs/mocov3_genview_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds faces/images/*.jpg, faces/generated/*.jpg, encoder (a run or an export
          at 112 px), lfw128.zip and pairs.txt; default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

Each image's twin is made beforehand by a generator that keeps the person; without one the second
view is the image again. The encoder in FOLDER/encoder tells faces from backgrounds.
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
    quality = {"genview": {"encoder": f"{folder}/encoder"}}
    config.objective.mocov3 = ConfigDict({"second": "generated", "modifiers": quality})

    config.data = ConfigDict({"size": 112, "cache": "decoded"})
    twins = {"images": "images/*.jpg", "generated": "generated/{stem}.jpg", "missing": "unknown"}
    config.data.sources = ({"name": "folder", "path": f"{folder}/faces", **twins},)

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

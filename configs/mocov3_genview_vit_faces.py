"""MoCo v3 on pairs of a face and a generated one, weighted by quality (GenView), at 64 px.

Command:  python -m facejax.train --config=configs/mocov3_genview_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds faces/images/*.jpg, faces/generated/*.jpg, encoder (a run or an export
          at 64 px), lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

Each image's twin is made beforehand by a generator that keeps the person; without one the second
view is the image again. The encoder in FOLDER/encoder tells faces from backgrounds.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    quality = {"genview": {"encoder": f"{folder}/encoder"}}
    config.objective.mocov3 = ConfigDict(
        {**common.MOCO_V3, "second": "generated", "modifiers": quality}
    )

    twins = {"images": "images/*.jpg", "generated": "generated/{stem}.jpg", "missing": "unknown"}
    config.data.sources = ({"name": "folder", "path": f"{folder}/faces", **twins},)

    # The patch embedding stays as it was drawn: MoCo v3's cure for instability.
    config.optimizer.rules = ({"pattern": "^encoder/patch_embed/", "frozen_until": -1},)
    return config

"""MoCo v3 with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/mocov3_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     4 min 13 s of one core for 400 steps of 128
Result:   LFW View 2 64.1 %, attributes 71.7 %, kNN 8.2 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The paper trains for 300 epochs of ImageNet at a batch of 4,096.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.mocov3 = ConfigDict(common.MOCO_V3)

    # The patch embedding stays as it was drawn: the paper's cure for instability.
    config.optimizer.rules = ({"pattern": "^encoder/patch_embed/", "frozen_until": -1},)
    return config

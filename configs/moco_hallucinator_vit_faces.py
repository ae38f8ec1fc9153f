"""MoCo v2 with the Hallucinator on a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_hallucinator_vit_faces.py:FOLDER \
              --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     2 min 08 s of one core for 400 steps of 128
Result:   LFW View 2 63.9 %, attributes 70.9 %, kNN 8.0 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Twice the keys enter the queue, whose size is a multiple of 512.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.moco = ConfigDict({**common.MOCO, "modifiers": {"hallucinator": {}}})
    return config

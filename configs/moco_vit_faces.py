"""MoCo v2 with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     2 min 19 s of one core for 400 steps of 128
Result:   LFW View 2 64.3 %, attributes 71.3 %, kNN 8.7 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The paper's queue of 65,536 keys would hold every image of so small a set several times, as
negatives of itself, and its momentum 0.999 is for longer runs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.moco = ConfigDict(common.MOCO)
    return config

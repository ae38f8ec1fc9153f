"""MoCo v2 with feature transformation on a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_feature_transform_vit_faces.py:FOLDER \
              --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     2 min 07 s of one core for 400 steps of 128
Result:   LFW View 2 63.8 %, attributes 71.1 %, kNN 7.7 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

It sets in after 30 % of the run: harder positives from the start teach nothing in a short one. The
report draws the scores of the pairs. A second run with
--config.objective.moco.modifiers.feature_transform.off=True shows MoCo's alone.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.moco = ConfigDict(
        {**common.MOCO, "modifiers": {"feature_transform": {"start": 0.3}}}
    )
    return config

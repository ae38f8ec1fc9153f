"""SwAV with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/swav_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     7 min 20 s of one core for 400 steps of 128
Result:   LFW View 2 62.2 %, attributes 69.0 %, kNN 3.3 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The paper has 3,000 prototypes for ImageNet at a batch of 4,096, and trains a ResNet-50 with LARS:
lr 4.8 to 0.0048 by a cosine, decay 1e-6.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.swav = ConfigDict(
        {"hidden": 512, "prototypes": 128, "frozen": 0.05, "eps": 0.02, **common.CROPS}
    )
    return config

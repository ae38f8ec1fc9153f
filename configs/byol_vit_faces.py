"""BYOL with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/byol_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     4 min 00 s of one core for 400 steps of 128
Result:   LFW View 2 63.6 %, attributes 70.2 %, kNN 5.7 % (mean of 3 seeds), as
          benchmarks/objectives.py runs it; see benchmarks/results/objectives/

The paper trains a ResNet-50 with LARS at a batch of 4,096: lr 0.45 per 256, decay 1e-6 and momentum
0.99 for 100 epochs; 0.3, 1e-6 and 0.99 for 300; 0.2, 1.5e-6 and 0.996 for 1,000.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.byol = ConfigDict(
        {"hidden": 512, "out": 128, "momentum": 0.99, **common.VIEWS}
    )
    return config

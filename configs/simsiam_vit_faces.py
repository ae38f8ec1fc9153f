"""SimSiam with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/simsiam_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 25 s of one core for 400 steps of 128
Result:   LFW View 2 62.5 %, attributes 70.1 %, kNN 5.4 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The paper trains a ResNet-50 with SGD at a batch of 512: lr 0.05 per 256, decay 1e-4, momentum 0.9.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.simsiam = ConfigDict(common.SIMSIAM)
    return config

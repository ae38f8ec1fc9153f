"""VICReg with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/vicreg_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 26 s of one core for 400 steps of 128
Result:   LFW View 2 64.3 %, attributes 70.6 %, kNN 6.0 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The paper trains a ResNet-50 with LARS at a batch of 2,048 and an expander of width 8,192: lr 0.2
per 256, decay 1e-6.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.vicreg = ConfigDict({"hidden": 512, "out": 512, **common.VIEWS})
    return config

"""MAE with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/mae_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     1 min 01 s of one core for 400 steps of 128
Result:   LFW View 2 59.5 %, attributes 69.8 %, kNN 6.2 % (mean of 3 seeds), as
          benchmarks/objectives.py runs it; see benchmarks/results/objectives/
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.patch = 8
    config.objective.mae = ConfigDict({"decoder_depth": 2})
    return config

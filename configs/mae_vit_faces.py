"""MAE with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/mae_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: one CPU core
Time:     9 minutes, evaluation included
Result:   LFW View 2 59.5 %, -0.5 to +3.7 points above its random encoder (95 % interval, one seed),
          raw pixels 63.0 %; at equal budget with others: benchmarks/results/objectives/
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.patch = 8
    config.objective.mae = ConfigDict({"decoder_depth": 2})
    return config

"""MoCo v2 with the latent positives of HaLP on a small ViT at 112 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_halp_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

The paper begins with a MoCo of 200 epochs: --config.init_from=RUN does so with its encoder.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_small(folder)
    moco = {"queue": 4096, "momentum": 0.99, "tau": 0.07}
    config.objective.moco = ConfigDict({**moco, "modifiers": {"halp": {}}})
    return config

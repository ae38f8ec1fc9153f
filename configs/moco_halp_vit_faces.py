"""MoCo v2 with the latent positives of HaLP on a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_halp_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     2 min 12 s of one core for 400 steps of 128
Result:   LFW View 2 64.5 %, attributes 71.2 %, kNN 8.6 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The paper begins with a MoCo of 200 epochs: --config.init_from=RUN does so with its encoder. From
the start the paper's weight of 2 drowns the loss of the pairs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.moco = ConfigDict({**common.MOCO, "modifiers": {"halp": {"mu": 0.2}}})
    return config

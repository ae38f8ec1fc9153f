"""iBOT with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/ibot_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     8 min 45 s of one core for 400 steps of 128
Result:   LFW View 2 61.9 %, attributes 69.8 %, kNN 5.6 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Two local crops and 256 prototypes instead of the paper's ten and 8,192; for the temperatures see
dino_vit_faces.py. The paper: AdamW, 5e-4 per 256, decay 0.04 to 0.4, clip 3, 800 epochs for ViT-S.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.ibot = ConfigDict({**common.DINO, "patch_tau": 0.04})
    config.optimizer.clip = 3.0
    return config

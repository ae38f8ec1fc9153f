"""DINO with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/dino_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     7 min 52 s of one core for 400 steps of 128
Result:   LFW View 2 61.9 %, attributes 70.4 %, kNN 6.4 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

256 prototypes instead of the paper's 65,536, which are for ImageNet. Where two crops share less of
what the teacher sees than the ratio of the temperatures (there .4 to .7, here .2), both networks
agree on a constant. The paper: AdamW, 5e-4 per 256, decay 0.04 to 0.4, teacher_tau 0.04 to 0.07,
momentum 0.996 to 1, 100 epochs or more; its code bounds the gradient of each parameter by 3.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.dino = ConfigDict(common.DINO)
    config.optimizer.clip = 3.0
    return config

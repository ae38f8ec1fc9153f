"""DINO with a small ViT at 112 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/dino_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

The paper's 65,536 prototypes are for ImageNet. Its code bounds the gradient of each parameter by 3;
here the bound is on the gradient as a whole.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_small(folder)
    config.encoder.pool = "class"
    teacher_tau = {"kind": "constant", "start": 0.07, "warmup": 0.3, "warmup_start": 0.04}
    config.objective.dino = ConfigDict(
        {"prototypes": 4096, "teacher_tau": teacher_tau, "frozen": 0.01}
    )

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 5e-4, "clip": 3.0})
    config.optimizer.schedule = ConfigDict({"kind": "cosine", "warmup": 0.1, "end": 0.002})
    config.optimizer.weight_decay = ConfigDict({"kind": "cosine", "start": 0.04, "end": 0.4})
    return config

"""iBOT with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/ibot_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

Two local crops and 1,024 prototypes instead of the paper's ten and 8,192. The paper: AdamW, 5e-4
per 256, decay 0.04 to 0.4, clip 3, 800 epochs for ViT-S.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.update({"patch": 8, "pool": "class", "drop_path": 0.1})
    config.objective.ibot = ConfigDict(
        {"local_crops": 2, "prototypes": 1024, "hidden": 512, "bottleneck": 128}
    )
    config.optimizer.update({"base_lr": 5e-4, "b2": 0.999, "clip": 3.0})
    config.optimizer.weight_decay = ConfigDict({"kind": "cosine", "start": 0.04, "end": 0.4})
    return config

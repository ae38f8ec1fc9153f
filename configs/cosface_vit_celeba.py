"""CosFace with a small ViT at 64 px, on 7,907 real faces of 4,314 people; minutes on two cores.

Command:  python -m facejax.train --config=configs/cosface_vit_celeba.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt;
          default ../shared/data). From a self-supervised start, with its encoder:
          --config.init_from=RUN, a run of configs/mae_simclr_vit_faces.py
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.epochs = 20.0
    config.global_batch = 256
    config.log_every = 10

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 16, "pool": "mean"}
    )
    config.objective = ConfigDict()
    config.objective.cosface = ConfigDict({"scale": 32.0, "margin": 0.2, "lr": 30.0})
    config.data = ConfigDict({"size": 64, "cache": "decoded", "sources": common.people(folder)})
    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3, "weight_decay": 0.05})
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})
    config.eval = common.lfw(folder)
    return config

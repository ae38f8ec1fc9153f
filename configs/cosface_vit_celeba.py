"""CosFace with a small ViT at 64 px, on 7,907 real faces of 4,314 people; minutes on two cores.

Command:  python -m facejax.train --config=configs/cosface_vit_celeba.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt;
          default ../shared/data). From a self-supervised start, with its encoder:
          --config.init_from=RUN, a run of configs/mae_simclr_vit_faces.py
Hardware: 2 CPU cores
Time:     6 minutes, evaluation included
Result:   LFW View 2, one seed, with the 95 % interval of paired differences:
            from scratch           60.8 %  to random +3.4 [+1.1, +5.7]  to pixels -2.2 [-4.5, +0.0]
            self-supervised start  63.9 %            +6.5 [+4.3, +8.8]            +0.9 [-1.2, +3.1]
          The start gains +3.1 [+1.3, +5.1]. Both know 99.5 % of their training images and more by
          heart; two images a person are few. Logs: benchmarks/results/cosface_vit_celeba/.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.epochs = 40.0
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

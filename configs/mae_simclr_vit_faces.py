"""MAE and SimCLR together on a small ViT at 64 px, on 9,582 real faces; minutes on two cores.

Command:  python -m facejax.train --config=configs/mae_simclr_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, their CSV files,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     8 to 9 minutes a seed (16 with other jobs on the machine), evaluation included
Result:   seeds 0, 1, 2, each with the 95 % interval of its paired differences; nothing was tuned on
          View 2.

          LFW View 2, accuracy (flip summed; random encoder 57.4 %, raw pixels 63.0 %):
              63.1 %   to random +5.7 [+3.4, +7.9]   to pixels +0.1 [-1.9, +2.0]
              62.7 %             +5.3 [+2.9, +7.5]             -0.3 [-2.3, +1.6]
              62.6 %             +5.2 [+3.0, +7.5]             -0.4 [-2.3, +1.6]
          40 CelebA attributes, balanced accuracy (random encoder 67.5 %, raw pixels 74.7 %):
              70.6 %   to random +3.2 [+2.3, +4.1]   to pixels -4.1 [-4.9, -3.2]
              71.2 %             +3.7 [+2.8, +4.6]             -3.5 [-4.4, -2.6]
              70.7 %             +3.2 [+2.3, +4.1]             -4.0 [-4.8, -3.2]

          Twelve epochs of few images beat the random encoder and not the pixels. The attribute
          figure is transductive: pretraining saw the probe's test pictures, without labels. The
          people of the probe's test part are unseen in its training part. Logs and curves:
          benchmarks/results/mae_simclr_vit_faces/.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.epochs = 12.0
    config.global_batch = 256
    config.log_every = 10

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 16, "pool": "mean"}
    )
    config.objective = ConfigDict()
    config.objective.mae = ConfigDict({"decoder_depth": 2})
    config.objective.simclr = ConfigDict(
        {"weight": 0.5, "hidden": 512, "depth": 2, "scale": (0.3, 1.0), "strength": 0.5}
    )

    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.sources = common.faces(folder)

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3})
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})
    config.export = ("timm",)

    config.eval = common.lfw(folder)
    config.eval.attributes = ConfigDict(
        {
            "type": "linear_probe",
            "path": f"{folder}/celeba_dev.zip",
            "labels": f"{folder}/celeba_dev_attr.csv",
            "identity": f"{folder}/celeba_dev_identity.csv",
        }
    )
    return config

"""CosFace with R50 on Glint360K, 360,232 people.

Command:  python -m facejax.train --config=configs/cosface_iresnet50_glint360k.py:FOLDER
          --workdir=DIR
          (FOLDER holds train/ with ArrayRecord shards of Glint360K that `facejax.pack` wrote, and
          lfw.bin, cfp_fp.bin and agedb_30.bin)
Plan:     python -m facejax.plan --config=configs/cosface_iresnet50_glint360k.py
          --topology=v5e:2x4 --classes.identity=360232
Hardware: v5e:2x4
Time:     not measured; by the plan at least 4.7 h, and 4.8 of 15.75 GiB per chip
Result:   not measured; arcface_torch reports 97.16 % TAR at FAR 1e-4 on IJB-C

arcface_torch: 8 GPUs with 128 images each, lr 0.1, decay 1e-4 for R100 alone, 20 epochs.
"""

from ml_collections import ConfigDict

from configs import common

TOPOLOGY = "v5e:2x4"
IMAGES = 17_091_657


def get_config(folder: str = "faces") -> ConfigDict:
    config = common.web_scale(folder, images=IMAGES, epochs=20.0, batch=1024)
    config.encoder = ConfigDict({"name": "iresnet", "depth": 50, "remat": "dots"})
    config.objective.cosface = ConfigDict({})
    return config

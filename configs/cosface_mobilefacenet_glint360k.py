"""CosFace with MobileFaceNet on Glint360K, 360,232 people.

Command:  python -m facejax.train --config=configs/cosface_mobilefacenet_glint360k.py:FOLDER
          --workdir=DIR
          (FOLDER holds train/ with ArrayRecord shards of Glint360K that `facejax.pack` wrote, and
          lfw.bin, cfp_fp.bin and agedb_30.bin)
Plan:     python -m facejax.plan --config=configs/cosface_mobilefacenet_glint360k.py
          --topology=v5e:2x4 --classes.identity=360232
Hardware: v5e:2x4
Time:     not measured; by the plan at least 4.8 h, and 2.3 of 15.75 GiB per chip
Result:   not measured; arcface_torch reports 95.04 % TAR at FAR 1e-4 on IJB-C

arcface_torch: 8 GPUs with 128 images each, lr 0.1, decay 1e-4, 40 epochs.
"""

from ml_collections import ConfigDict

from configs import common

TOPOLOGY = "v5e:2x4"
IMAGES = 17_091_657


def get_config(folder: str = "faces") -> ConfigDict:
    config = common.web_scale(folder, images=IMAGES, epochs=40.0, batch=1024)
    config.encoder = ConfigDict({"name": "mobilefacenet"})
    config.objective.cosface = ConfigDict({})
    config.optimizer.weight_decay = 1e-4
    return config

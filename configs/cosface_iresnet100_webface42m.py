"""CosFace with R100 and Partial FC on WebFace42M, 2.06 million people.

Command:  python -m facejax.train --config=configs/cosface_iresnet100_webface42m.py:FOLDER
          --workdir=DIR
          (FOLDER holds train/ with ArrayRecord shards of WebFace42M that `facejax.pack` wrote, and
          lfw.bin, cfp_fp.bin and agedb_30.bin)
Plan:     python -m facejax.plan --config=configs/cosface_iresnet100_webface42m.py
          --topology=v5e:4x8 --classes.identity=2059906
Hardware: v5e:4x8
Time:     not measured; by the plan at least 4.7 h, and 6.3 of 15.75 GiB per chip
Result:   not measured; arcface_torch reports 97.70 % TAR at FAR 1e-4 on IJB-C

arcface_torch: 16 GPUs with 256 images each, lr 0.3, one epoch of warm-up, 20 epochs.
"""

from ml_collections import ConfigDict

from configs import common

TOPOLOGY = "v5e:4x8"
IMAGES = 42_474_557


def get_config(folder: str = "faces") -> ConfigDict:
    config = common.web_scale(folder, images=IMAGES, epochs=20.0, batch=4096)
    config.encoder = ConfigDict({"name": "iresnet", "depth": 100, "remat": "dots"})
    config.objective.cosface = ConfigDict({"sample_rate": 0.2, "groups": 32})
    return config

"""ArcFace with R50 on MS1MV3, 93,431 people.

Command:  python -m facejax.train --config=configs/arcface_iresnet50_ms1mv3.py:FOLDER
          --workdir=DIR
          (FOLDER holds train/ with ArrayRecord shards of MS1MV3 that `facejax.pack` wrote, and
          lfw.bin, cfp_fp.bin and agedb_30.bin)
Plan:     python -m facejax.plan --config=configs/arcface_iresnet50_ms1mv3.py
          --topology=v5e:2x4 --classes.identity=93431
Hardware: v5e:2x4
Time:     not measured; by the plan at least 1.4 h, and 4.4 of 15.75 GiB per chip
Result:   not measured; arcface_torch reports 96.37 % TAR at FAR 1e-4 on IJB-C

arcface_torch: 8 GPUs with 128 images each, lr 0.1, decay 5e-4, 20 epochs; its ArcFace passes the
margin's gradient straight through, and so does this one.
"""

from ml_collections import ConfigDict

from configs import common

TOPOLOGY = "v5e:2x4"
IMAGES = 5_179_510


def get_config(folder: str = "faces") -> ConfigDict:
    config = common.web_scale(folder, images=IMAGES, epochs=20.0, batch=1024)
    config.encoder = ConfigDict({"name": "iresnet", "depth": 50, "remat": "dots"})
    config.objective.arcface = ConfigDict({"gradient": "straight_through"})
    return config

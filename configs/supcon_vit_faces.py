"""Supervised contrastive learning with a small ViT at 64 px, on 7,907 real faces.

Command:  python -m facejax.train --config=configs/supcon_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt;
          default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 20 s of one core for 400 steps of 128
Result:   LFW View 2 65.0 %, attributes 70.8 %, kNN 9.7 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Batches are drawn without regard to identity, so most anchors have their other view as the only
positive.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.supcon = ConfigDict({"hidden": 512, **common.VIEWS})

    config.data.sources = common.people(folder)
    return config

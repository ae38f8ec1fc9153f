"""Attract and repel on 40 attributes with a small ViT at 64 px, on 7,907 real faces.

Command:  python -m facejax.train --config=configs/attract_repel_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data)
Hardware: 2 CPU cores
Time:     1 min 35 s of one core for 400 steps of 128
Result:   LFW View 2 63.9 %, kNN 7.1 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The attributes are labels, so this is supervised; no picture of LFW is trained on. No face can be at
the prototypes of all its attributes at once, and with a weight of 1 all settle at one point.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.attract_repel = ConfigDict(
        {"field": "attributes", "of": "features", "attract": 0.1, "scale": common.SCALE}
    )
    config.data.sources = common.described(folder)
    return config

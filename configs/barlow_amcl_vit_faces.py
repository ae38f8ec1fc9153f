"""Barlow Twins with the heads and temperatures of AMCL, a small ViT at 64 px, 9,582 real faces.

Command:  python -m facejax.train --config=configs/barlow_amcl_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 21 s of one core for 400 steps of 128
Result:   LFW View 2 62.7 %, attributes 69.8 %, kNN 5.5 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Each pair of channels has a temperature; beta is the code's, as it weighs a term for each of them.
The net of the temperatures is as wide as the batch, so a run goes on with the batch it began with.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    amcl = {"form": "correlate", "beta": 1e-6}
    config.objective.barlow = ConfigDict({**common.BARLOW, "modifiers": {"amcl": amcl}})
    return config

"""SimSiam with the heads of AMCL at a constant temperature, a small ViT at 64 px, 9,582 real faces.

Command:  python -m facejax.train --config=configs/simsiam_amcl_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 31 s of one core for 400 steps of 128
Result:   LFW View 2 59.2 %, attributes 69.8 %, kNN 4.4 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Where nothing repels, a learned temperature of a pair that agrees goes to its lower bound, and what
is then minimised is mostly the temperature: on procedural faces such a run learns less than nothing
(benchmarks/results/learning/README.md). Leave out `tau` to have the paper's.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.simsiam = ConfigDict({**common.SIMSIAM, "modifiers": {"amcl": {"tau": 1.0}}})
    return config

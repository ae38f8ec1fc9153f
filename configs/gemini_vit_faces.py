"""GEMINI with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/gemini_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     12 min 13 s of one core for 400 steps of 128, with the benchmark's encoder
Result:   LFW View 2 62.6 %, attributes 71.0 %, kNN 8.7 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The report shows faces warped to one another. What it trains is dense: the embedding is the mean of
the patch tokens.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.objective.gemini = ConfigDict({"stride": 4})
    return config

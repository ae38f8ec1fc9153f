"""FSFM with InfoNCE with a small ViT at 64 px, on 9,582 real faces, 1,675 with regions.

Command:  python -m facejax.train --config=configs/fsfm_nce_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          helen256_dev_68.csv, lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     2 min 17 s of one core for 400 steps of 128, with the benchmark's encoder
Result:   LFW View 2 59.0 %, attributes 69.7 %, kNN 5.2 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

As fsfm_vit_faces.py, with the contrastive form of the local-to-global term beside the other two.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.update({"patch": 8, "pool": "class"})
    config.objective.fsfm = ConfigDict({"decoder_depth": 2, "similarity": 0.0})
    config.objective.fsfm_nce = ConfigDict({"weight": 0.1, "hidden": 512, "out": 128})
    config.data.sources = common.faces_with_regions(folder)
    config.optimizer.clip = 1.0
    return config

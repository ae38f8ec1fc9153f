"""FSFM with a small ViT at 64 px, on 9,582 real faces, 1,675 of them with regions.

Command:  python -m facejax.train --config=configs/fsfm_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          helen256_dev_68.csv, lfw128.zip and pairs.txt; default ../shared/data)
Hardware: one CPU core
Time:     22 minutes, evaluation included
Result:   LFW View 2 57.6 %, -2.3 to +2.5 points above its random encoder (95 % interval, one seed),
          raw pixels 63.0 %; at equal budget with others: benchmarks/results/objectives/

Regions are parsing maps of CelebAMask-HQ and maps drawn from the landmarks of Helen; CelebA's faces
have none and are masked at random. The paper: AdamW (0.9, 0.95), 1.5e-4 per 256 at 4096, decay
0.05, clip 1, 400 epochs of 3 million faces.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.update({"patch": 8, "pool": "class"})
    config.objective.fsfm = ConfigDict({"decoder_depth": 2, "hidden": 512, "out": 128})
    config.data.sources = common.faces_with_regions(folder)
    config.optimizer.clip = 1.0
    return config

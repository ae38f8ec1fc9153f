"""SimMIM with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/simmim_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     1 min 49 s of one core for 400 steps of 128, with the benchmark's encoder
Result:   LFW View 2 56.9 %, attributes 69.5 %, kNN 4.4 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Cells of 16 px are two patches a side, as the paper's 32 px are at 224 px. The paper: AdamW (0.9,
0.999), 1e-4 per 512, decay 0.05, clip 5, drop-path 0.1, 800 epochs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.update({"patch": 8, "drop_path": 0.1})
    config.objective.simmim = ConfigDict({"cell": 16})
    config.optimizer.update({"b2": 0.999, "clip": 5.0})
    return config

"""BEiT on an online codebook with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/beit_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     1 min 54 s of one core for 400 steps of 128, with the benchmark's encoder
Result:   LFW View 2 57.2 %, attributes 68.5 %, kNN 4.5 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

512 codes of patches instead of a discrete VAE's 8192. The paper: AdamW (0.9, 0.999), 1.5e-3 at
2048, decay 0.05, clip 3, drop-path 0.1, layer-scale 0.1, 800 epochs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_tiny(folder)
    config.encoder.update({"patch": 8, "drop_path": 0.1, "layer_scale": 0.1})
    config.objective.beit = ConfigDict({"vocabulary": 512})
    config.optimizer.update({"b2": 0.999, "clip": 3.0})
    return config

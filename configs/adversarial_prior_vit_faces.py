"""CAAE's uniform code beside SimCLR with a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/adversarial_prior_vit_faces.py:FOLDER
          --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip, lfw128.zip and
          pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     4 min 52 s of one core for 400 steps of 128
Result:   LFW View 2 65.4 %, attributes 70.9 %, kNN 9.2 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The prior alone teaches nothing of a face. The paper has it on an autoencoder's bottleneck:
Adam (0.5, 0.999), 2e-4, batches of 100, 50 epochs of UTKFace.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.simclr = ConfigDict(common.SIMCLR)
    config.objective.adversarial_prior = ConfigDict({"weight": 0.01})
    return config

"""SimCLR with the heads and temperatures of AMCL on a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/simclr_amcl_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 30 s of one core for 400 steps of 128
Result:   LFW View 2 65.1 %, attributes 70.6 %, kNN 8.4 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Three heads take the place of SimCLR's loss, whose own is twice the mean that this one is. The paper
takes the hardest negative alone and trains for 800 epochs of CIFAR at a batch of 512; here all
count, with which a short run learns.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.simclr = ConfigDict(
        {**common.SIMCLR, "modifiers": {"amcl": {"reduce": "logsumexp"}}}
    )
    return config

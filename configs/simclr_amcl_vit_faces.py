"""SimCLR with the heads and temperatures of AMCL on a small ViT at 112 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/simclr_amcl_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

Three heads take the place of SimCLR's loss, whose own is twice the mean that this one is. The paper
trains for 800 epochs of CIFAR at a batch of 512.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.vit_small(folder)
    config.objective.simclr = ConfigDict({"modifiers": {"amcl": {}}})
    return config

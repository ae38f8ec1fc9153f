"""CACR on MoCo: four competing positives, on a small ViT at 64 px, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_cacr_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 41 s of one core for 400 steps of 128
Result:   LFW View 2 65.3 %, attributes 72.0 %, kNN 10.1 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Attraction and repulsion take the place of InfoNCE, over the queue and the batch, with four key
views: about 1.75 times the encoder's work of MoCo. The paper's learning rate is .12 per 256 with
SGD.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.moco = ConfigDict(
        {**common.MOCO, "keys": 4, "modifiers": {"cacr": {"intra_batch": True}}}
    )
    return config

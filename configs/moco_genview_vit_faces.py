"""GenView's weights on MoCo, between augmented views of one picture, on 9,582 real faces.

Command:  python -m facejax.train --config=configs/moco_genview_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celebamask256_dev.zip, helen256_dev.zip,
          lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     2 min 09 s of one core for 400 steps of 128
Result:   LFW View 2 64.3 %, attributes 71.6 %, kNN 9.0 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

Half of the paper: pairs are weighted by quality, told by the encoder in training itself, but no
view is generated. mocov3_genview_vit_faces.py is the whole of it, for whoever has the images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.moco = ConfigDict({**common.MOCO, "modifiers": {"genview": {}}})
    return config

"""LiT: a text tower learns to describe what a locked image tower sees, on 7,907 real faces.

Command:  python -m facejax.train --config=configs/lit_vit_celeba.py:FOLDER --workdir=DIR
          --config.objective.clip.frozen=RUN, a run of configs/mae_simclr_vit_faces.py
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data; the tokenizer is learned first, see `common.image_text`)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

Zhai et al. 2022, arXiv:2111.07991: the image tower is locked, a linear map of its embedding and the
text tower are trained, with lr 1e-3, decay 0.01 and clip 1; logits start at a scale of 10. The
run's own encoder has the locked one's shape, has no part and stays as it is.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.image_text(folder)
    config.objective.clip = ConfigDict({"frozen": "runs/mae_simclr", "out": 128, "tau": 0.1})
    config.optimizer.weight_decay = 0.01
    config.optimizer.rules = ({"pattern": "^encoder/", "frozen_until": -1},)
    config.eval = ConfigDict()
    return config

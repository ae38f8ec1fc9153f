"""SigLIP with a small ViT at 64 px, on 7,907 real faces with captions of their attributes.

Command:  python -m facejax.train --config=configs/siglip_vit_celeba.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data; the tokenizer is learned first, see `common.image_text`)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

The towers' embeddings meet without a projection, so both are 128 wide.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.image_text(folder)
    config.objective.siglip = ConfigDict({"scale": (0.6, 1.0), "flip": 0.5})
    return config

"""FLIP with a small ViT at 64 px, on 7,907 real faces and captions of their attributes.

Command:  python -m facejax.train --config=configs/flip_vit_celeba.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data; the tokenizer is learned first, see `common.image_text`)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

The text tower reads as BERT does, and the image's tokens where it judges whether the two match.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.image_text(folder)
    config.encoder_text.update({"mask": "padding", "pool": "first", "context": 128})
    config.objective.flip = ConfigDict({"out": 128, "queue": 2048, "scale": (0.6, 1.0)})
    return config

"""CLIP with a small ViT at 64 px, on 7,907 real faces and captions of their attributes.

Command:  python -m facejax.train --config=configs/clip_vit_celeba.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data; the tokenizer is learned first, see `common.image_text`)
Hardware: 2 CPU cores
Time:     6 min for 12 epochs
Result:   12 epochs, zero-shot on people not trained on, one seed: man or
          woman on LFW 67.6 % balanced (chance 50), 40 attributes 68.8 %; intervals
          and more in benchmarks/results/image_text

Captions that repeat within a batch are false negatives, of which 40 attributes give few.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.image_text(folder)
    config.objective.clip = ConfigDict({"out": 128, "scale": (0.6, 1.0), "flip": 0.5})
    return config

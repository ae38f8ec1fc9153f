"""FaRL: CLIP beside BEiT with a small ViT at 64 px, on 7,907 real faces with captions.

Command:  python -m facejax.train --config=configs/farl_vit_celeba.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data; the tokenizer is learned first, see `common.image_text`)
Hardware: 2 CPU cores
Time:     25 min, with other jobs beside it
Result:   12 epochs, zero-shot on people not trained on, one seed: man or
          woman on LFW 76.4 % balanced (chance 50), 40 attributes 69.2 %; intervals
          and more in benchmarks/results/image_text

Zheng et al. 2022, arXiv:2112.03109: image-text contrast and masked prediction of visual codes from
one encoder. A composition of objectives, not a reproduction: the codes are an online codebook's.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.image_text(folder)
    config.encoder.patch = 8
    config.objective.clip = ConfigDict({"out": 128, "scale": (0.6, 1.0), "flip": 0.5})
    config.objective.beit = ConfigDict({"vocabulary": 512})
    return config

"""FaceNet's triplets with MobileFaceNet (128-D) at 112 px, on real faces of 1,022 people.

Command:  python -m facejax.train --config=configs/triplet_mobilefacenet_celeba.py:FOLDER
          --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt;
          default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

Batches hold 64 people with 4 images each; whoever has fewer is left out. The paper has 45 people
with 40 images each, Adagrad at 0.05, 200 million images. With
--config.objective.triplet.old=DIR2 the embeddings stay comparable with those of the run DIR2.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.recogniser(folder)
    config.encoder.embed = 128
    config.objective.triplet = ConfigDict({})
    config.data.sampler = ConfigDict({"type": "pk", "people": 64, "images": 4, "min_images": 4})
    return config

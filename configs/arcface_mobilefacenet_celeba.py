"""ArcFace with MobileFaceNet at 112 px, on 7,907 real faces of 4,314 people.

Command:  python -m facejax.train --config=configs/arcface_mobilefacenet_celeba.py:FOLDER
          --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt;
          default ../shared/data)
Hardware: not measured
Time:     not measured
Result:   not measured

Half of the people have one image: a set this small shows that the method runs, not what it is
worth.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.recogniser(folder)
    config.objective.arcface = ConfigDict({})
    return config

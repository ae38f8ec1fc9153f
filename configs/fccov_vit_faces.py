"""FCCov of 40 attributes with a small ViT at 64 px, on 7,907 real faces.

Command:  python -m facejax.train --config=configs/fccov_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_attr.csv, lfw128.zip and pairs.txt; default
          ../shared/data)
Hardware: 2 CPU cores
Time:     1 min 38 s of one core for 400 steps of 128
Result:   LFW View 2 60.8 %, kNN 5.8 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

With the default `lam` the regularisation outweighs the dependence. The attributes are labels, so
this is supervised; no picture of LFW is trained on. For the shapes of 68 landmarks instead, leave
out `field` and `distance` and take {'name': 'folder', 'path': 'helen256_dev.zip', 'landmarks':
'helen256_dev_68.csv'} for a source.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.fccov = ConfigDict(
        {
            "field": "attributes",
            "distance": "hamming",
            "out": 16,
            "lam": 0.003,
            "scale": common.SCALE,
        }
    )
    config.data.sources = common.described(folder)
    return config

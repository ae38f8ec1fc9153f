"""SMILe of identities with a small ViT at 64 px, on 7,907 real faces of 4,314 people.

Command:  python -m facejax.train --config=configs/smile_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, lfw128.zip and pairs.txt; default
          ../shared/data)
Hardware: 2 CPU cores
Time:     3 min 30 s of one core for 400 steps of 128
Result:   LFW View 2 65.7 %, attributes 71.1 %, kNN 10.3 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

The total correlation of log determinants is the one form that both attracts and repels by itself;
the information between classes is to weigh little beside it.
Who is on a picture is a label, so this is supervised; no picture of LFW is trained on.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.smile = ConfigDict(
        {"function": "logdet", "intra": "correlation", "eta": 0.1, "scale": common.SCALE}
    )
    config.data.sources = common.people(folder)
    return config

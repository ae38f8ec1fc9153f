"""MoCo v3 with the class pairs of Hydra on a small ViT at 64 px, people as classes.

Command:  python -m facejax.train --config=configs/mocov3_hydra_vit_faces.py:FOLDER --workdir=DIR
          (FOLDER holds celeba_dev.zip, celeba_dev_identity.csv, celebamask256_dev.zip,
          helen256_dev.zip, lfw128.zip and pairs.txt; default ../shared/data)
Hardware: 2 CPU cores
Time:     4 min 31 s of one core for 400 steps of 128
Result:   LFW View 2 64.2 %, attributes 70.3 %, kNN 5.9 %, as benchmarks/objectives.py runs it; see
          benchmarks/results/objectives/

People of few pictures rarely meet in a batch: most pairs are of two people, as Hydra wants them.
Images without a person take part in MoCo v3 alone.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(folder: str = "../shared/data") -> ConfigDict:
    config = common.face_vit_tiny(folder)
    config.objective.mocov3 = ConfigDict({**common.MOCO_V3, "modifiers": {"hydra": {}}})

    people = {"labels": f"{folder}/celeba_dev_identity.csv", "identity": "column"}
    config.data.sources = tuple(
        {"name": "folder", "path": f"{folder}/{name}", "images": images, **labels}
        for name, images, labels in (
            ("celeba_dev.zip", "*.jpg", people),
            ("celebamask256_dev.zip", "images/*.jpg", {}),
            ("helen256_dev.zip", "*.jpg", {}),
        )
    )

    # The patch embedding stays as it was drawn: MoCo v3's cure for instability.
    config.optimizer.rules = ({"pattern": "^encoder/patch_embed/", "frozen_until": -1},)
    return config

"""CosFace with the face ViT-B and Partial FC on WebFace42M, 2.06 million people.

Command:  python -m facejax.train --config=configs/cosface_face_vit_webface42m.py:FOLDER
          --workdir=DIR
          (FOLDER holds train/ with ArrayRecord shards of WebFace42M that `facejax.pack` wrote, and
          lfw.bin, cfp_fp.bin and agedb_30.bin)
Plan:     python -m facejax.plan --config=configs/cosface_face_vit_webface42m.py
          --topology=v5e:8x8 --classes.identity=2059906
Hardware: v5e:8x8
Time:     not measured; by the plan at least 7.8 h, and 6.6 of 15.75 GiB per chip
Result:   not measured; arcface_torch reports 97.90 % TAR at FAR 1e-4 on IJB-C

arcface_torch: 64 GPUs with 384 images each, AdamW 1e-3, decay 0.1, 4 of 40 epochs of warm-up.
"""

from ml_collections import ConfigDict

from configs import common

TOPOLOGY = "v5e:8x8"
IMAGES = 42_474_557


def get_config(folder: str = "faces") -> ConfigDict:
    config = common.web_scale(folder, images=IMAGES, epochs=40.0, batch=24_576)
    config.encoder = ConfigDict(
        {"name": "face_vit", "variant": "B", "drop_tokens": 0.1, "scan": True, "remat": "full"}
    )
    config.objective.cosface = ConfigDict({"sample_rate": 0.3, "groups": 64})
    config.optimizer = ConfigDict({"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "clip": 5.0})
    config.optimizer.schedule = ConfigDict({"kind": "linear", "warmup": 0.1})
    return config

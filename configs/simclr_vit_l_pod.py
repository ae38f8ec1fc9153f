"""SimCLR on ViT-L/16 at 224 px with a global batch of 32,768, for a TPU pod.

Command:  python -m facejax.train --config=configs/simclr_vit_l_pod.py:FOLDER --workdir=DIR
          (FOLDER holds packed shards, see docs/data.md; one process per host, docs/planning.md)
Hardware: 256 TPU v5e chips (v5e:16x16); 1,024 TPU v5p chips (v5p:8x8x16)
Time:     not measured
Result:   not measured

Each image meets 65,534 negatives. The learning rate follows the square root of the batch from
MoCo v3's 2.4e-3 at 4,096 (Chen et al. 2021, arXiv:2104.02057).
"""

from ml_collections import ConfigDict

TOPOLOGY = "v5e:16x16"


def get_config(folder: str = "faces") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 50_000
    config.global_batch = 32_768
    config.dtype = "bfloat16"
    config.remat = "full"
    config.log_every = 50

    config.encoder = ConfigDict({"name": "vit", "variant": "L", "patch": 16, "scan": True})
    config.objective = ConfigDict()
    config.objective.simclr = ConfigDict()

    config.data = ConfigDict({"size": 224, "workers": 16})
    config.data.sources = ({"name": "arrayrecord", "path": folder},)

    config.optimizer = ConfigDict({"name": "adamw", "lr": 6.8e-3, "weight_decay": 0.1})
    config.mesh = ConfigDict({"data": -1, "fsdp": 16})
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 2})
    return config

"""ISR on short procedural videos of four people each, with a small ViT at 64 px.

Command:  python -m facejax.train --config=configs/isr_vit_synthetic.py --workdir=DIR
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

For videos of your own, take the source "folder" with 'classes': ('clip', 'frame'): a label file
names every crop's clip and frame, and frames are numbered in sorted order. Sort the crops of a clip
together, as many for each, and set config.data.group to that number.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 1000
    config.global_batch = 128

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 8, "pool": "mean"}
    )
    config.objective = ConfigDict({"isr": ConfigDict({"out": 128})})

    config.data = ConfigDict({"size": 64, "cache": "decoded", "group": 8})
    config.data.sources = ({"name": "synthetic", "n": 8000, "identities": 1000, "clip": 4},)

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3})
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 1})

    unseen = {"name": "synthetic", "n": 1000, "identities": 100, "first_identity": 10_000}
    config.eval = ConfigDict()
    config.eval.faces = ConfigDict({"type": "verification", "source": unseen})
    config.eval.knn = ConfigDict({"type": "knn", "source": unseen})
    return config

"""What configs share: the real faces they train on, how they are judged, and small encoders.

A config starts from one of these and sets what its method needs.
"""

from typing import Any

from ml_collections import ConfigDict

SCALE = (0.7, 1.0)
"""Area range of crops of an aligned face that still show most of it, as short runs need."""

VIEWS = {
    "scale": SCALE,
    "jitter": (0.4, 0.4, 0.4, 0.2),
    "blur": (0.0, 0.0),
    "solarize": (0.0, 0.0),
}
"""Two such views."""

CROPS = {
    "scale": SCALE,
    "local_scale": (0.5, 0.7),
    "local_crops": 2,
    "local_size": 1.0,  # what `face_vit` can see
    "blur": (0.0, 0.0, 0.0),
    "solarize": (0.0, 0.0, 0.0),
}
"""The same for multi-crop."""

SIMCLR = {"hidden": 512, "depth": 2, "scale": SCALE, "strength": 0.5, "blur": 0.0}

MOCO = {"hidden": 512, "queue": 1024, "momentum": 0.99, **VIEWS}

BARLOW = {"hidden": 512, "out": 128, "depth": 2, **VIEWS}

SIMSIAM = {"hidden": 512, "out": 512, "bottleneck": 128, **VIEWS}

MOCO_V3 = {"hidden": 512, "out": 128, "momentum": 0.99, **VIEWS}

DINO = {
    "hidden": 512,
    "bottleneck": 128,
    "prototypes": 256,
    "teacher_tau": 0.02,
    "momentum": 0.99,
    **CROPS,
}


def faces(folder: str) -> tuple[dict[str, Any], ...]:
    """9,582 faces without labels: CelebA, CelebAMask-HQ and Helen."""
    return tuple(
        {"name": "folder", "path": f"{folder}/{name}", "images": images, "identity": "none"}
        for name, images in (
            ("celeba_dev.zip", "*.jpg"),
            ("celebamask256_dev.zip", "images/*.jpg"),
            ("helen256_dev.zip", "*.jpg"),
        )
    )


def faces_with_regions(folder: str) -> tuple[dict[str, Any], ...]:
    """As `faces`, with the regions of 1,675: CelebAMask-HQ's masks, and drawn from landmarks."""
    return (
        {"name": "folder", "path": f"{folder}/celeba_dev.zip"},
        {
            "name": "folder",
            "path": f"{folder}/celebamask256_dev.zip",
            "images": "images/*.jpg",
            "regions": "masks/{stem}.png",
            "region_labels": "celebamask",
        },
        {
            "name": "folder",
            "path": f"{folder}/helen256_dev.zip",
            "landmarks": f"{folder}/helen256_dev_68.csv",
            "regions": "landmarks",
        },
    )


def people(folder: str) -> tuple[dict[str, Any], ...]:
    """7,907 faces of CelebA with who is on them."""
    return (
        {
            "name": "folder",
            "path": f"{folder}/celeba_dev.zip",
            "images": "*.jpg",
            "identity": "column",
            "labels": f"{folder}/celeba_dev_identity.csv",
        },
    )


def described(folder: str) -> tuple[dict[str, Any], ...]:
    """7,907 faces of CelebA with 40 attributes."""
    labels = f"{folder}/celeba_dev_attr.csv"
    return ({"name": "folder", "path": f"{folder}/celeba_dev.zip", "labels": labels},)


def captioned(folder: str) -> tuple[dict[str, Any], ...]:
    """7,907 faces of CelebA with captions that say its attributes."""
    return (
        {
            "name": "folder",
            "path": f"{folder}/celeba_dev.zip",
            "images": "*.jpg",
            "labels": f"{folder}/celeba_dev_attr.csv",
            "caption_from": "attributes",
        },
    )


def image_text(folder: str) -> ConfigDict:
    """A small ViT and a small text tower at 64 px on `captioned`; the objective is left out.

    The tokenizer is learned from the captions beforehand:

        python -m facejax.pack --source=folder --path=FOLDER/celeba_dev.zip --out=packed/celeba \
            --source.images='*.jpg' --source.labels=FOLDER/celeba_dev_attr.csv \
            --source.caption_from=attributes --size=64 --train_tokenizer=2048
    """
    config = vit_tiny(folder)
    config.global_batch = 128
    config.encoder_text = ConfigDict(
        {"name": "text", "width": 128, "depth": 2, "heads": 4, "vocab": 2048}
    )
    config.data.text = ConfigDict({"tokenizer": "packed/celeba/tokenizer.json", "length": 48})
    config.data.sources = captioned(folder)

    config.optimizer = ConfigDict(
        {"name": "adamw", "base_lr": 1e-3, "weight_decay": 0.1, "b2": 0.98, "clip": 1.0}
    )
    # With a shorter one both towers collapse to one point, at a loss of log B.
    config.optimizer.schedule = ConfigDict({"kind": "cosine", "warmup": 0.2})
    return config


def lfw(folder: str) -> ConfigDict:
    """LFW View 2, by its rule of ten folds."""
    return ConfigDict(
        {
            "lfw": {
                "type": "verification",
                "path": f"{folder}/lfw128.zip",
                "pairs": f"{folder}/pairs.txt",
                "flip": "sum",
                "protocol": "lfw10",
            }
        }
    )


def vit_tiny(folder: str) -> ConfigDict:
    """A ViT of four blocks at 64 px on `faces`, for two CPU cores; the objective is left out."""
    config = ConfigDict()
    config.epochs = 12.0
    config.global_batch = 256

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 16, "pool": "mean"}
    )
    config.objective = ConfigDict()
    config.data = ConfigDict({"size": 64, "cache": "decoded", "sources": faces(folder)})

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3})
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})
    config.eval = lfw(folder)
    return config


def face_vit_tiny(folder: str) -> ConfigDict:
    """As `vit_tiny`, but with the encoder `face_vit`, for objectives that compare views.

    Its neck knows where each patch is and takes away what all faces share, which is most of what a
    ViT that has learned nothing sees in aligned faces: docs/objectives.md, "Short runs on faces".
    """
    config = vit_tiny(folder)
    config.encoder = ConfigDict(
        {"name": "face_vit", "width": 128, "depth": 4, "heads": 4, "patch": 16, "embed": 128}
    )
    return config


def recogniser(folder: str) -> ConfigDict:
    """MobileFaceNet at 112 px on `people`, for an accelerator; the objective is left out.

    With arcface_torch's optimizer: SGD, decay 1e-4 for this network, linear decay to 0.
    """
    config = ConfigDict()
    config.seed = 0
    config.epochs = 40.0
    config.global_batch = 256
    config.dtype = "bfloat16"

    config.encoder = ConfigDict({"name": "mobilefacenet"})
    config.objective = ConfigDict()
    config.data = ConfigDict({"size": 112, "cache": "decoded", "sources": people(folder)})

    config.optimizer = ConfigDict(
        {"name": "sgd", "base_lr": 0.05, "weight_decay": 1e-4, "clip": 5.0}
    )
    config.optimizer.schedule = ConfigDict({"kind": "linear", "warmup": 0.05})
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 1})
    config.eval = lfw(folder)
    return config


def web_scale(folder: str, images: int, epochs: float, batch: int) -> ConfigDict:
    """A packed set of millions of people at 112 px, on a pod; encoder and objective are left out.

    Args:
        folder: of ArrayRecord shards, as `facejax.pack` writes them.
        images: of the set, which with the batch make the steps.
        epochs: how often each is seen.
        batch: global.
    """
    config = ConfigDict()
    config.seed = 0
    config.steps = round(epochs * images / batch)
    config.global_batch = batch
    config.dtype = "bfloat16"
    config.log_every = 100

    config.objective = ConfigDict()
    config.data = ConfigDict({"size": 112, "align": "arcface112", "workers": 16})
    config.data.sources = ({"name": "arrayrecord", "path": f"{folder}/train"},)
    config.optimizer = ConfigDict(
        {"name": "sgd", "base_lr": 0.02, "weight_decay": 5e-4, "clip": 5.0}
    )
    config.checkpoint = ConfigDict({"every_steps": 5000, "keep": 2})
    bins = ("lfw", "cfp_fp", "agedb_30")
    config.eval = ConfigDict(
        {
            name: {
                "type": "verification",
                "path": f"{folder}/{name}.bin",
                "flip": "sum",
                "every_steps": 5000,
            }
            for name in bins
        }
    )
    return config

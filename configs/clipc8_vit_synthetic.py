"""CLIPC8 with a small ViT at 64 px: live faces and eight attacks, on the built-in synthetic faces.

Command:  python -m facejax.train --config=configs/clipc8_vit_synthetic.py:TOKENIZER --workdir=DIR
          (TOKENIZER is a tokenizer.json; the default is learned first:
          python -m facejax.pack --source=synthetic --path=synthetic --out=packed/attacks \
              --source.n=2000 --size=64 --train_tokenizer=1024)
Hardware: 2 CPU cores
Time:     not measured
Result:   not measured

People and looks of the attacks that are not trained on are left to evaluators.
"""

from ml_collections import ConfigDict


def get_config(tokenizer: str = "packed/attacks/tokenizer.json") -> ConfigDict:
    config = ConfigDict()
    config.epochs = 12.0
    config.global_batch = 256

    config.encoder = ConfigDict(
        {"name": "vit", "width": 128, "depth": 4, "heads": 4, "patch": 8, "pool": "mean"}
    )
    config.encoder_text = ConfigDict(
        {"name": "text", "width": 128, "depth": 2, "heads": 4, "vocab": 1024}
    )
    config.objective = ConfigDict()
    config.objective.clipc8 = ConfigDict({"out": 128, "scale": (0.6, 1.0), "flip": 0.5})

    config.data = ConfigDict({"size": 64, "cache": "decoded"})
    config.data.text = ConfigDict({"tokenizer": tokenizer, "length": 32})
    attacks = (
        "print",
        "screen",
        "paper_mask",
        "silicone_mask",
        "dark",
        "tampered_id",
        "reprint",
        "cutout",
    )
    config.data.sources = (
        {
            "name": "synthetic",
            "n": 8192,
            "identities": 512,
            "size": 64,
            "attacks": attacks,
            "looks": "seen",
        },
    )

    config.optimizer = ConfigDict({"name": "adamw", "base_lr": 1e-3, "b2": 0.98, "clip": 1.0})
    config.checkpoint = ConfigDict({"every_steps": 250, "keep": 1})
    return config

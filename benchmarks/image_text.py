"""CLIP and FaRL on real faces with captions of their attributes, judged on people not trained on.

    python -m benchmarks.image_text --data=DIR --out=DIR [--runs=clip,farl] [--epochs=30] [--seed=0]

The people of celeba_dev.zip are dealt by the hash of their identity as the evaluator `linear_probe`
does; those of its test part are blocked in training, their pictures and captions alike. Both runs
take the same number of steps. Zero-shot classification and retrieval stand beside chance, and
beside the linear probe of the same image tower. DIR of --data holds celeba_dev.zip, its label
files, lfw128.zip, lfw_labels.csv and pairs.txt. The same command again goes on. Prints a table and
writes `image_text.json` into DIR.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from facejax import tokenizer
from facejax.data.mixture import open_sources
from facejax.evaluators._hashing import PARTS, TEST, split_people
from facejax.metrics import read_jsonl

ROOT = Path(__file__).parents[1]
CONFIGS = {"clip": "clip_vit_celeba.py", "farl": "farl_vit_celeba.py"}
VOCAB = 2048
SEX = {"m": ("a man", "a guy"), "f": ("a woman", "a lady")}
SHOWN = (
    ("zeroshot sex, LFW", "sex", ("balanced_accuracy", "chance", "balanced_accuracy@random")),
    ("probe sex, LFW", "sex_probe", ("balanced_accuracy", "balanced_accuracy@random")),
    ("zeroshot attributes", "told", ("balanced_accuracy", "chance", "balanced_accuracy@random")),
    ("probe attributes", "told_probe", ("balanced_accuracy", "balanced_accuracy@random")),
    ("caption to picture", "found", ("t2i_r@10", "chance/t2i_r@10", "t2i_median_rank")),
    ("picture to caption", "found", ("i2t_r@10", "chance/i2t_r@10", "i2t_median_rank")),
    ("verification, LFW", "lfw", ("accuracy", "accuracy@random", "accuracy@pixels")),
)


def split(data: Path, out: Path) -> tuple[Path, Path]:
    """Writes which pictures are blocked in training, and the labels of these alone."""
    with open(data / "celeba_dev_identity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    part = split_people([row["identity"] for row in rows], PARTS)
    held = {row["file"] for row, p in zip(rows, part) if p == TEST}
    blocked, labels = out / "blocked.txt", out / "test.csv"
    blocked.write_text("".join(f"{name}\n" for name in sorted(held)))
    with open(data / "celeba_dev_attr.csv", newline="") as file, open(labels, "w") as kept:
        head, *lines = file.read().splitlines()
        kept.write("\n".join([head, *(x for x in lines if x.partition(",")[0] in held)]) + "\n")
    return blocked, labels


def evaluators(data: Path, labels: Path) -> dict:
    celeba = str(data / "celeba_dev.zip")
    lfw = {"path": str(data / "lfw128.zip"), "labels": str(data / "lfw_labels.csv")}
    lfw |= {"column": "gender", "identity": "identity"}
    told = {"path": celeba, "labels": str(data / "celeba_dev_attr.csv")}
    told |= {"identity": str(data / "celeba_dev_identity.csv")}
    found = {"name": "folder", "path": celeba, "images": "*.jpg", "labels": str(labels)}
    found |= {"missing": "unknown", "caption_from": "attributes", "identity": "none"}
    pairs = {"path": lfw["path"], "pairs": str(data / "pairs.txt"), "protocol": "lfw10"}
    return {
        "sex": {"type": "zeroshot", **lfw, "prompts": SEX},
        "sex_probe": {"type": "linear_probe", **lfw},
        "told": {"type": "zeroshot", **told, "part": "test"},
        "told_probe": {"type": "linear_probe", **told},
        "found": {"type": "retrieval", "source": found},
        "lfw": {"type": "verification", **pairs, "flip": "sum"},
    }


def learn_tokens(data: Path, blocked: Path, out: Path) -> Path:
    """A tokenizer of the captions of those who are trained on."""
    from configs import common

    path, held = out / "tokenizer.json", set(blocked.read_text().split())
    if not path.exists():
        source = open_sources(common.captioned(str(data))).sources[0]
        rows = [i for i in range(len(source)) if source.name(i) not in held]
        captions = (c for record in source.read(rows) for c in record["caption"])
        tokenizer.train(captions, vocab=VOCAB).save(path)
    return path


def train(name: str, args: argparse.Namespace, blocked: Path, labels: Path, tokens: Path) -> dict:
    """The last value of every metric."""
    workdir = args.out / name
    command = [sys.executable, "-m", "facejax.train"]
    command += [f"--config=configs/{CONFIGS[name]}:{args.data}", f"--workdir={workdir}"]
    command += [f"--config.epochs={args.epochs}", f"--config.seed={args.seed}"]
    command += [f"--config.data.text.tokenizer={tokens}", f"--config.data.blocklist={blocked}"]
    command += [f"--config.eval={evaluators(args.data, labels)}"]
    subprocess.run(command, cwd=ROOT, check=True)
    last: dict[str, float] = {}
    for row in read_jsonl(workdir / "metrics.jsonl"):
        last |= row
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--out", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--runs", default=",".join(CONFIGS))
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    blocked, labels = split(args.data, args.out)
    tokens = learn_tokens(args.data, blocked, args.out)
    found = {name: train(name, args, blocked, labels, tokens) for name in args.runs.split(",")}
    rows = {}
    for name, last in found.items():
        for what, label, metrics in SHOWN:
            values = {m: last.get(f"eval/{label}/{m}", np.nan) for m in metrics}
            ends = (last.get(f"eval/{label}/{metrics[0]}_{e}", np.nan) for e in ("low", "high"))
            rows[f"{name}: {what}"] = {**values, "interval": list(ends)}
            text = "  ".join(f"{m} {v:.4f}" for m, v in values.items())
            print(f"{name}: {what:20s} {text}")
    facts = {**environment(), "epochs": args.epochs, "seed": args.seed, "rows": rows}
    (args.out / "image_text.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

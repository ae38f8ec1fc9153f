"""Whether new embeddings stay comparable with those of an earlier model (FaceNet's harmonic form).

    python benchmarks/harmonic.py --out=DIR [--steps=2000] [--identities=1000]

On procedural people it trains an old encoder by ArcFace, then a new, wider one twice with another
seed: by ArcFace and triplets that the old embeddings take part in, and by ArcFace and triplets
without them. On pairs of unseen people each encoder is verified against itself and against the old
one, the left picture of a pair embedded by one and the right by the other. Prints the table and
writes `harmonic.json` into DIR; runs that stand in DIR are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import facejax  # noqa: E402
from benchmarks.environment import environment  # noqa: E402
from facejax.data.sources import synthetic  # noqa: E402
from facejax.evaluators import _metrics  # noqa: E402
from facejax.evaluators._drawn_pairs import draw_pairs  # noqa: E402

CONFIG = "--config=configs/arcface_iresnet_synthetic.py"
SAMPLER = "--config.data.sampler={'type': 'pk', 'people': 16, 'images': 4}"
WIDER = ("--config.encoder.widths=(8, 32, 64, 160)", "--config.seed=1")
UNSEEN = synthetic.Config(n=1000, identities=100, first_identity=10_000)
PAIRS = 4000


def train(workdir: Path, steps: int, identities: int, *options: str) -> Path:
    people = f"({{'name': 'synthetic', 'n': {20 * identities}, 'identities': {identities}}},)"
    command = [sys.executable, "-m", "facejax.train", CONFIG, f"--workdir={workdir}"]
    command += [f"--config.steps={steps}", f"--config.data.sources={people}", *options]
    subprocess.run(command, cwd=ROOT, check=True)
    return workdir


def pairs_of_unseen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images u8[n, S, S, 3], pairs i64[P, 2] and whether they are of one person, bool[P]."""
    source = synthetic.open(UNSEEN)
    records = source.read(range(len(source)))
    identity = np.array([record["identity"] for record in records])
    names = [f"{i:06d}" for i in range(len(records))]
    pairs, same, _ = draw_pairs(names, identity, PAIRS, 0)
    return np.stack([record["image"] for record in records]), pairs, same


def verified(left: np.ndarray, right: np.ndarray, pairs: np.ndarray, same: np.ndarray) -> dict:
    """Accuracy at the best threshold, AUC and TAR of pairs whose sides are embedded apart."""
    score = np.sum(_metrics.unit(left)[pairs[:, 0]] * _metrics.unit(right)[pairs[:, 1]], axis=1)
    bars = np.quantile(score, np.linspace(0, 1, 401))
    accuracy = max(float(np.mean((score > bar) == same)) for bar in bars)
    tar, _ = _metrics.tar_at_far(score, same, 0.1)
    return {"accuracy": accuracy, "auc": _metrics.auc(score, same), "tar@far=1e-1": tar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--identities", type=int, default=1000)
    args = parser.parse_args()
    old = train(args.out / "old", args.steps, args.identities)
    runs = {
        "harmonic": f"--config.objective.triplet={{'old': '{old.resolve()}', 'weight': 4.0}}",
        "alone": "--config.objective.triplet={'weight': 4.0}",
    }
    images, pairs, same = pairs_of_unseen()
    before = facejax.load(old).embed(images)
    rows = {"old x old": verified(before, before, pairs, same)}
    for name, option in runs.items():
        new = train(args.out / name, args.steps, args.identities, SAMPLER, *WIDER, option)
        now = facejax.load(new).embed(images)
        rows[f"{name} x {name}"] = verified(now, now, pairs, same)
        rows[f"old x {name}"] = verified(before, now, pairs, same)
    for name, row in rows.items():
        print(f"{name:20s}", *(f"{metric} {value:.3f}" for metric, value in row.items()))
    facts = {**environment(), "steps": args.steps, "identities": args.identities, "rows": rows}
    (args.out / "harmonic.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()

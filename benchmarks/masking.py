"""Whether a masked step is as fast as its FLOPs promise: MAE against its own step over all tokens.

    python -m benchmarks.masking --out=DIR [--variant=Ti] [--size=112] [--patch=16] [--batch=64]
        [--dtype=float32] [--attention=xla] [--pairs=7] [--seconds=2]

    masked  the step of MAE: its encoder computes the kept quarter of the patches
    full    the same, but the mask token stands in for what was removed, so the encoder computes
            every patch; images, masks, decoder and loss are those of the other

They take turns of `--seconds`. With t the time of a step and F its model FLOPs,

    achieved share = (t_full / t_masked) / (F_full / F_masked)

is 1 where time follows FLOPs, and less where what does not shrink with the tokens (gathers, norms,
the optimizer) costs time; the target is 0.85. Appends a row to DIR/masking.jsonl, which is not
measured again on the same device. PyTorch is not needed.
"""

import argparse
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import step
from benchmarks.turns import Rows, alternate, ratios, spread, verdict
from facejax import allocator, session, state
from facejax.contracts import Pass, Spec
from facejax.flops import flops_per_image
from facejax.objectives import mae

TARGET = 0.85


def full(masked: state.Program) -> state.Program:
    """The program of a MAE whose encoder computes every patch."""

    def passes(cfg: mae.Config, spec: Spec) -> dict[str, Pass]:
        own = mae.passes(cfg, spec)["masked"]
        return {"masked": dataclasses.replace(own, mask=dataclasses.replace(own.mask, drop=False))}

    def flops(cfg: mae.Config, spec: Spec) -> float:
        return mae.flops(dataclasses.replace(cfg, ratio=0.0), spec)

    module = SimpleNamespace(**{**vars(mae), "passes": passes, "flops": flops})
    objective = dataclasses.replace(masked.run.objectives["mae"], module=module)
    run = dataclasses.replace(masked.run, objectives={"mae": objective})
    return state.plan(run, session.spec_of(run, masked.spec.classes, ()))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """A row: both steps in turns."""
    masked = step.planned(args, "mae", args.batch)
    programs = {"masked": masked, "full": full(masked)}
    arrays = step.made_up(args.batch, args.size)
    sides = {name: step.ours(program, "mae", arrays) for name, program in programs.items()}
    rates = alternate(sides, args.pairs, args.seconds)
    flops = {name: flops_per_image(program) for name, program in programs.items()}
    saved = flops["full"] / flops["masked"]
    faster = ratios(rates["masked"], rates["full"])
    return {
        "images_per_s": rates,
        "flops_per_image": flops,
        "flops_ratio": saved,
        "time_ratio": faster,
        "share": [ratio / saved for ratio in faster],
    }


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    step.add_model(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    allocator.settle()
    args = arguments(argv)
    asked = {k: v for k, v in vars(args).items() if k != "out"}
    row = Rows(args.out / "masking.jsonl").once(asked, lambda: measure(args))
    print("masking     FLOPs full/masked  time full/masked   achieved share")
    share = sorted(row["share"])[len(row["share"]) // 2]
    print(
        f"{args.variant + '/' + str(args.patch):11s} {row['flops_ratio']:17.2f}  "
        f"{spread(row['time_ratio']):17s}  {spread(row['share'])}  {verdict(share, TARGET)}"
    )


if __name__ == "__main__":
    main()

"""What augmentation on the device costs a step, and how fast it is beside Pillow.

    python -m benchmarks.augment --out=DIR [--variant=Ti] [--size=112] [--patch=16] [--batch=64]
        [--dtype=float32] [--attention=xla] [--images=512] [--rounds=7] [--seconds=2]

The recipe is that of `configs/simclr_vit_faces.py`: two views of each image, random resized crop,
flip, colour jitter, grayscale, blur, normalisation. Two rows are appended to DIR/augment.jsonl:

    share   of the time of SimCLR's step, on the device there is. The views alone, jitted, over the
            whole step; as a check, what the step gains when nothing but the flip is drawn (with
            no draw at all both views would be one, and XLA would compute one of them). The
            target on an accelerator is 3 % at most.
    pillow  images per second of the CPU: the views above, jitted for it, in batches of `--batch`,
            against Pillow image by image, in threads and in processes, one, two and as many as
            there are cores, of which the fastest counts. Parameters are drawn alike. Pillow's views
            stay uint8 and are not normalised, which is to its favour. The target is to be faster.

Sides take turns of `--seconds`; a ratio is that of a turn. A row that stands is not measured again
on the same device.
"""

import argparse
import functools
import itertools
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks import step
from benchmarks.turns import Rows, Turn, alternate, ratios, spread, turns, verdict
from facejax import allocator, augment, command_line, config, session, state
from facejax.contracts import Aug, Draw, stable_name
from facejax.data.sources import synthetic

CONFIG = Path(__file__).parents[1] / "configs/simclr_vit_faces.py"
SHARE, FASTER = 0.03, 1.0
OFF = {"scale": (1.0, 1.0), "strength": 0.0, "gray": 0.0, "blur": 0.0}
CHUNK = 32  # images that a thread or process of Pillow's gets at a time

# ------------------------------------------------------------------------------ on the device


def planned(args: argparse.Namespace, batch: int, **objective: Any) -> state.Program:
    """The step of SimCLR with the recipe of the config, some keys of which may be others."""
    own = command_line.load_file(str(CONFIG)).to_dict()["objective"]["simclr"]
    values = step.values(args, "simclr", batch)
    run = config.resolve(values | {"objective": {"simclr": own | objective}})
    return state.plan(run, session.spec_of(run, {}, ()))


def views_of(program: state.Program) -> Callable[..., tuple[list[jax.Array], jax.Array]]:
    """(images u8[B, S, S, 3], n) -> every view of step n, f32[B, S, S, 3], and n + 1."""

    def draw_all(image: jax.Array, number: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        key = jax.random.fold_in(jax.random.key(0), number)
        draw = Draw(key, jnp.arange(len(image), dtype=jnp.int32))
        shown = [p.view for p in program.forwards]
        views = [
            augment.views(v, {"image": image}, draw.fold(stable_name(v)))["image"] for v in shown
        ]
        return views, number + 1

    return draw_all


def alone(program: state.Program, image: np.ndarray, device: jax.Device) -> Turn:
    """Turns of nothing but the views; a batch counts its images once."""
    draw, held = jax.jit(views_of(program)), jax.device_put(image, device)
    number = [jax.device_put(np.int32(0), device)]

    def once():
        views, number[0] = draw(held, number[0])
        return views

    return turns(once, len(image))


def share(args: argparse.Namespace) -> dict[str, Any]:
    """What the views are of the step's time."""
    programs = {"step": planned(args, args.batch), "off": planned(args, args.batch, **OFF)}
    arrays = step.made_up(args.batch, args.size)
    sides = {name: step.ours(program, "simclr", arrays) for name, program in programs.items()}
    sides["views"] = alone(programs["step"], arrays["image"], jax.devices()[0])
    rates = alternate(sides, args.rounds, args.seconds)
    return {
        "images_per_s": rates,
        "share": ratios(rates["step"], rates["views"]),
        "gain": [1 - ratio for ratio in ratios(rates["step"], rates["off"])],
    }


# -------------------------------------------------------------------------------- with Pillow


def crop_box(aug: Aug, side: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Left, top, right and bottom edge of a random crop, drawn as `facejax.augment` draws it."""
    low, high = map(math.log, aug.ratio)
    for _ in range(augment.PROPOSALS):
        area, root = side**2 * rng.uniform(*aug.scale), math.exp(rng.uniform(low, high) / 2)
        width, height = math.sqrt(area) * root, math.sqrt(area) / root
        if width <= side and height <= side:
            left, top = rng.uniform(0, side - width), rng.uniform(0, side - height)
            return left, top, min(left + width, side), min(top + height, side)
    return 0.0, 0.0, float(side), float(side)


def by_pillow(aug: Aug, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One view of u8[S, S, 3], the same."""
    box, shape = crop_box(aug, len(pixels), rng), (aug.size, aug.size)
    image = Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR, box)
    if rng.random() < aug.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < aug.jitter_p:
        *strengths, hue = aug.jitter
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for strength, enhance in zip(strengths, kinds):
            image = enhance(image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
        turn, (h, s, v) = round(255 * rng.uniform(-hue, hue)), image.convert("HSV").split()
        turned = h.point([(i + turn) % 256 for i in range(256)])
        image = Image.merge("HSV", (turned, s, v)).convert("RGB")
    if rng.random() < aug.gray_p:
        image = image.convert("L").convert("RGB")
    if rng.random() < aug.blur_p:
        sigma = rng.uniform(*aug.blur_sigma) * aug.size / 224
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(image)


_images = np.zeros((0, 0, 0, 3), np.uint8)


def _give(images: np.ndarray) -> None:
    global _images
    _images = images


def _some(augs: tuple[Aug, ...], numbers: range, seed: int) -> np.ndarray:
    """Every view of some images: u8[views, n, S, S, 3]."""
    rng = np.random.default_rng(seed)
    return np.stack([[by_pillow(aug, _images[i], rng) for i in numbers] for aug in augs])


def pools(images: np.ndarray) -> dict[str, Executor]:
    """The ways to spread Pillow's work; each worker holds the images."""
    give = {"initializer": _give, "initargs": (images,)}
    apart = functools.partial(
        ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"), **give
    )
    kinds = {"threads": functools.partial(ThreadPoolExecutor, **give), "processes": apart}
    counts = sorted({1, 2, os.cpu_count() or 1})
    return {f"{n} {name}": make(n) for name, make in kinds.items() for n in counts}


def pillow(program: state.Program, images: np.ndarray, pool: Executor) -> Turn:
    """Turns of Pillow's, in batches of all images."""
    augs = tuple(p.view.aug for p in program.forwards)
    chunks = [range(len(images))[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    seeds = itertools.count()

    def turn(seconds: float) -> float:
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds:
            done = pool.map(functools.partial(_some, augs), chunks, seeds)
            np.concatenate(list(done), 1)
            count += len(images)
        return count / (time.perf_counter() - began)

    turn(0.0)  # the workers start
    return turn


def beside_pillow(args: argparse.Namespace) -> dict[str, Any]:
    """Images per second on the CPU, of which two views each are drawn."""
    source = synthetic.open(synthetic.Config(n=args.images, size=args.size))
    images = np.stack([record["image"] for record in source.read(range(args.images))])
    program = planned(args, args.batch)
    workers = pools(images)
    try:
        sides = {name: pillow(program, images, pool) for name, pool in workers.items()}
        rates = alternate(sides, 1, args.seconds)
        best = max(sides, key=lambda name: rates[name])
        sides = {
            "facejax": alone(program, images[: args.batch], jax.devices("cpu")[0]),
            "pillow": sides[best],
        }
        found = alternate(sides, args.rounds, args.seconds)
    finally:
        for pool in workers.values():
            pool.shutdown()
    return {
        "images_per_s": found,
        "pillow": {name: rate for name, (rate,) in rates.items()},
        "best": best,
        "ratio": ratios(found["facejax"], found["pillow"]),
    }


# ---------------------------------------------------------------------------------- the table


def show(shared: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    percent = [[100 * x for x in shared[name]] for name in ("share", "gain")]
    met = verdict(statistics.median(percent[0]), 100 * SHARE, least=False)
    speed = {name: statistics.median(r) for name, r in shared["images_per_s"].items()}
    print(
        f"share of the step  {spread(percent[0])} %  {met}  ({shared['device']})\n"
        f"step without       {spread(percent[1])} % faster  "
        f"images/s: step {speed['step']:,.0f}, without {speed['off']:,.0f}, "
        f"views alone {speed['views']:,.0f}"
    )
    speed = {name: statistics.median(r) for name, r in beside["images_per_s"].items()}
    ways = ", ".join(f"{name} {rate:,.0f}" for name, rate in beside["pillow"].items())
    met = verdict(statistics.median(beside["ratio"]), FASTER)
    print(
        f"to Pillow on CPU   {spread(beside['ratio'])}  {met}  images/s: "
        f"facejax {speed['facejax']:,.0f}, Pillow {speed['pillow']:,.0f} ({ways})"
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    step.add_model(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="that Pillow gets at a time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    allocator.settle()
    args = arguments(argv)
    rows = Rows(args.out / "augment.jsonl")
    asked = {k: v for k, v in vars(args).items() if k != "out"}
    shared = rows.once({"part": "share"} | asked, lambda: share(args))
    beside = rows.once({"part": "pillow"} | asked, lambda: beside_pillow(args))
    show(shared, beside)


if __name__ == "__main__":
    main()

"""Images per second from JPEG files to uint8 batches, side by side with other loaders.

    python -m benchmarks.input --out=DIR [--side=112] [--size=112] [--rounds=5] [--images=16384]

All sides read the same JPEGs of procedural faces, `--side` pixels wide, and give batches
u8[256, size, size, 3] in a shuffled order:

    ceiling   simplejpeg alone over bytes in memory, in as many threads as there are cores: nothing
              is read, fitted or batched (shrunk while decoding where the files are much larger)
    packed    facejax, from the shards of `facejax.pack`
    processes the same in processes instead of threads (`config.data.processes`)
    folder    facejax, from the files
    grain     grain's MapDataset with Pillow, a record at a time, then `batch`
    torch     torch's DataLoader with Pillow, `draft` allowed

Each side first looks for its best number of workers, then all take turns; a rate is that of
`--images` images after some batches to warm up, a ratio that of one turn. How far torch's pixels
are from ours is printed too. Writes `input-<side>.json` into DIR.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grain
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.environment import environment
from facejax import allocator, pack
from facejax.data import workers
from facejax.data.decode import encode_jpeg
from facejax.data.mixture import open_sources
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec, batches
from facejax.data.sources import synthetic

BATCH, WARM, FILES, QUALITY = 256, 4, 2048, 92
ENDLESS = 10**6  # steps
WORKERS = {"ceiling": (os.cpu_count(),), "packed": (1, 2, 3, 4), "folder": (1, 2, 3, 4)}
WORKERS |= {"processes": (1, 2, 3)}
WORKERS |= {"grain": (1, 2, 4), "torch": (0, 1, 2, 4)}
Side = Callable[[int], Iterator[np.ndarray]]  # workers -> batches without an end


def write_faces(folder: Path, side: int) -> list[Path]:
    """JPEGs of procedural faces."""
    source = synthetic.open(synthetic.Config(n=FILES, identities=FILES // 4, size=side))
    folder.mkdir()
    paths = []
    for start in range(0, FILES, BATCH):
        for i, record in enumerate(source.read(range(start, start + BATCH)), start):
            paths.append(folder / f"{i:05d}.jpg")
            paths[-1].write_bytes(encode_jpeg(record["image"], QUALITY))
    return paths


def shuffled() -> Iterator[int]:
    rng = np.random.default_rng(0)
    while True:
        yield from rng.permutation(FILES).tolist()


def ceiling(paths: list[Path], size: int, workers: int) -> Iterator[list[np.ndarray]]:
    data = [path.read_bytes() for path in paths]

    def some(numbers: list[int]) -> list[np.ndarray]:
        return [
            simplejpeg.decode_jpeg(data[i], "RGB", min_height=size, min_width=size, min_factor=2)
            for i in numbers
        ]

    with ThreadPoolExecutor(workers) as threads:
        waiting = [threads.submit(some, b) for b in itertools.islice(_lists(), 2 * workers)]
        for numbers in _lists():
            yield waiting.pop(0).result()
            waiting.append(threads.submit(some, numbers))


def _lists() -> Iterator[list[int]]:
    numbers = shuffled()
    while True:
        yield list(itertools.islice(numbers, BATCH))


def ours(source: dict, size: int, workers: int) -> Iterator[np.ndarray]:
    mixture = open_sources((source,))
    wanted = BatchSpec(size, BATCH, np.arange(BATCH))
    found = batches(mixture, make_order(mixture, 0), wanted, steps=ENDLESS, workers=workers)
    return (batch.arrays["image"] for batch in found)


def by_processes(source: dict, size: int, processes: int) -> Iterator[np.ndarray]:
    recipe = workers.Recipe((source,), BatchSpec(size, BATCH, np.arange(BATCH)), 0)
    shared = {"start": 0, "steps": ENDLESS, "processes": processes}
    found = workers.batches(recipe, open_sources((source,)), **shared)
    return (batch.arrays["image"] for batch in found)


def by_pillow(path: Path, size: int) -> np.ndarray:
    picture = Image.open(path)
    picture.draft("RGB", (size, size))
    picture = picture.convert("RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def by_grain(paths: list[Path], size: int, workers: int) -> Iterator[np.ndarray]:
    files = grain.MapDataset.source(paths).seed(0).shuffle().repeat()
    one = files.map(functools.partial(by_pillow, size=size))
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=64 * workers)
    return iter(one.to_iter_dataset(options).batch(BATCH))


class _Files:
    """A torch data set, by its protocol."""

    def __init__(self, paths: list[Path], size: int):
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return by_pillow(self.paths[index], self.size)


def _stacked(images: list[np.ndarray]):
    import torch

    return torch.from_numpy(np.stack(images))


def by_torch(paths: list[Path], size: int, workers: int) -> Iterator[np.ndarray]:
    from torch.utils.data import DataLoader

    class Endless:
        def __iter__(self):
            return shuffled()

    return iter(
        DataLoader(
            _Files(paths, size),
            BATCH,
            sampler=Endless(),
            num_workers=workers,
            collate_fn=_stacked,
            prefetch_factor=4 if workers else None,
        )
    )


def rate(side: Side, workers: int, images: int) -> float:
    """Images per second once the first batches have come."""
    stream = side(workers)
    for _ in range(WARM + 2 * workers):
        next(stream)
    began, count = time.perf_counter(), max(1, images // BATCH)
    for _ in range(count):
        next(stream)
    found = count * BATCH / (time.perf_counter() - began)
    if hasattr(stream, "close"):
        stream.close()
    return found


def pixel_difference(paths: list[Path], size: int) -> dict[str, float]:
    """Between our pixels and Pillow's, in steps of 1/255."""
    source = {"name": "folder", "path": str(paths[0].parent), "identity": "none"}
    mixture = open_sources((source,))
    order = make_order(mixture, 0, "sequential")
    wanted = BatchSpec(size, BATCH, np.arange(BATCH))
    own = next(batches(mixture, order, wanted, workers=0, steps=1)).arrays["image"]
    theirs = np.stack([by_pillow(path, size) for path in paths[:BATCH]])
    apart = np.abs(own.astype(int) - theirs)
    return {"mean": float(apart.mean()), "max": int(apart.max())}


def sides(folder: Path, side: int, size: int) -> tuple[dict[str, Side], list[Path]]:
    """Writes the files and the shards beneath `folder`, and how each loader reads them."""
    paths = write_faces(folder / "files", side)
    files = {"path": str(folder / "files"), "identity": "none"}
    pack.pack(pack.make_plan("folder", files, size=side, quality=QUALITY), folder / "packed")
    packed = {"name": "arrayrecord", "path": str(folder / "packed")}
    return {
        "ceiling": functools.partial(ceiling, paths, size),
        "packed": functools.partial(ours, packed, size),
        "processes": functools.partial(by_processes, packed, size),
        "folder": functools.partial(ours, {"name": "folder", **files}, size),
        "grain": functools.partial(by_grain, paths, size),
        "torch": functools.partial(by_torch, paths, size),
    }, paths


def measure(every: dict[str, Side], rounds: int, images: int) -> dict[str, dict]:
    """Best workers and rates of each side; ratios of turns to torch's and to the ceiling's."""
    best = {
        name: max(WORKERS[name], key=lambda workers: rate(side, workers, images // 4))
        for name, side in every.items()
    }
    turns = [
        {name: rate(side, best[name], images) for name, side in every.items()}
        for _ in range(rounds)
    ]
    return {
        name: {
            "workers": best[name],
            "images_per_s": [turn[name] for turn in turns],
            "to_torch": [turn[name] / turn["torch"] for turn in turns],
            "to_ceiling": [turn[name] / turn["ceiling"] for turn in turns],
        }
        for name in every
    }


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=16_384)
    return parser.parse_args(argv)


def main() -> None:
    allocator.settle()
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        every, paths = sides(Path(folder), args.side, args.size)
        rows = measure(every, args.rounds, args.images)
        apart = pixel_difference(paths, args.size)
    print(f"{'':9s} workers  images/s  to torch           to the ceiling")
    for name, row in rows.items():
        speed = statistics.median(row["images_per_s"])
        ratios = f"{spread(row['to_torch'])}  {spread(row['to_ceiling'])}"
        print(f"{name:9s} {row['workers']:7d}  {speed:8,.0f}  {ratios}")
    print(
        f"pixels of torch and ours: {apart['mean']:.3f} apart in the mean, {apart['max']} at most"
    )
    facts = {**environment(), "side": args.side, "size": args.size, "rows": rows, "pixels": apart}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"input-{args.side}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

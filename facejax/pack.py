"""Writes any source as ArrayRecord shards with a manifest.

    python -m facejax.pack --source=folder --path=faces.zip --out=packed --size=112

The source's own keys are options `--source.<key>=<value>`, such as `--source.identity=parent`.
Images are fitted to a square and stored as JPEG, region maps as PNG; what can't be decoded is left
out and listed in `rejected.csv`. Run it again after an interruption: finished shards are kept if
their checksums hold. `--shard=1/4` ... `--shard=4/4` share the work; whoever finishes last writes
the manifest. The result is read by the source `arrayrecord`; see `facejax/data/packed.py`.

With `--train_tokenizer=2048` a tokenizer of so many tokens is learned from the source's captions
and put beside the shards, as `tokenizer.json`.
"""

import ast
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from facejax import cli, tokenizer
from facejax.data import packed
from facejax.data.decode import decode, encode_jpeg, encode_png
from facejax.data.mixture import Entry, open_source
from facejax.data.records import BadRecord
from facejax.data.texts import captions_of
from facejax.errors import TrainingFailed, UserError

CHUNK = 64
"""Records that a thread reads, decodes and encodes at a time."""


def make_plan(
    source: str,
    options: Mapping[str, Any],
    *,
    size: int = 112,
    quality: int = 95,
    records_per_shard: int = 8192,
) -> dict[str, Any]:
    """What to pack and how, as JSON values; what the source holds is added by `pack`.

    Args:
        source: name of the source plug-in.
        options: its keys, and `crop`.
        size: side of the stored images in pixels.
        quality: of the JPEGs, 1 to 100.
        records_per_shard: records of the source per shard; those left out make a shard smaller.

    Raises:
        UserError: a number out of range.
    """
    for name, value, most in (
        ("size", size, 4096),
        ("quality", quality, 100),
        ("records_per_shard", records_per_shard, 10**9),
    ):
        if not 1 <= value <= most:
            raise UserError(f"--{name}", f"{value} is out of range", f"give 1 to {most}")
    return {
        "schema_version": packed.SCHEMA_VERSION,
        "source": json.loads(json.dumps({"name": source, **options})),
        "size": size,
        "quality": quality,
        "records_per_shard": records_per_shard,
    }


def pack(
    plan: Mapping[str, Any], out: Path, *, shard: int = 1, of: int = 1, workers: int = 2
) -> dict[str, Any] | None:
    """Packs a source, or the part `shard` (1 to `of`) of its shards.

    Returns:
        The manifest, None while shards of other parts are missing.

    Raises:
        UserError: what the source refuses, or `out` holds something else.
        TrainingFailed: not one record could be decoded, or the shards could not be written.
    """
    entry = open_source(plan["source"], "--source")
    total = len(entry.source)
    shards = -(-total // plan["records_per_shard"])
    plan = {
        **plan,
        "source_records": total,
        "shards": shards,
        "fields": packed.fields_to_json(entry.source.fields),
    }
    try:
        _claim(out, json.loads(json.dumps(plan)))
        for number in range(shard - 1, shards, of):
            if not _is_finished(out, number, shards):
                part = _write_shard(entry, plan, out, number, workers)
                left_out = len(part["rejected"])
                print(
                    f"shard {number + 1}/{shards}: {part['records']} records, {left_out} left out"
                )
        manifest = packed.merge_parts(out)
    except OSError as error:
        raise TrainingFailed(str(out), f"cannot be written ({error})", "free or fix it") from error
    if manifest and not manifest["records"]:
        raise TrainingFailed(str(out), f"all {total} records are broken", "see rejected.csv")
    return manifest


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Makes `out` the place of this plan; refuses one that holds another."""
    path = out / packed.PARTS / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        before = json.loads(path.read_text())
        for key in plan:
            if before.get(key) != plan[key]:
                raise UserError(str(out), f"holds a set packed with another {key}", "change --out")
    else:
        packed.write_json(path, plan)


def _is_finished(out: Path, shard: int, shards: int) -> bool:
    try:
        part = json.loads(packed.part_path(out, shard).read_text())
        return packed.sha256(out / packed.shard_name(shard, shards)) == part["sha256"]
    except FileNotFoundError:
        return False


def _write_shard(
    entry: Entry, plan: Mapping[str, Any], out: Path, shard: int, workers: int
) -> dict[str, Any]:
    """Writes one shard and then its part file; each appears as a whole or not at all."""
    per_shard = plan["records_per_shard"]
    indices = range(shard * per_shard, min((shard + 1) * per_shard, len(entry.source)))
    chunks = [indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)]
    part = {
        "records": 0,
        "known": dict.fromkeys(entry.source.fields, 0),
        "sum": [0, 0, 0],
        "sum_of_squares": [0, 0, 0],
        "rejected": [],
        "identity": [],
    }
    final = out / packed.shard_name(shard, plan["shards"])
    scratch = final.with_suffix(".tmp")
    # Grain and TFDS read single records at random: one per group, and JPEG gains nothing from
    # compression.
    writer = ArrayRecordWriter(str(scratch), "group_size:1,uncompressed")
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        for rows in pool.map(partial(_convert, entry, plan["size"], plan["quality"]), chunks):
            for row in rows:
                _add(part, writer, row, entry)
    finally:
        pool.shutdown(cancel_futures=True)
        writer.close()
    part["sha256"] = packed.sha256(scratch)
    os.replace(scratch, final)
    packed.write_json(packed.part_path(out, shard), part)
    return part


def _convert(entry: Entry, size: int, quality: int, indices: Sequence[int]) -> list[tuple]:
    """(index, name, None, reason) or (index, name, serialised record, its facts) of each record."""
    source, rows = entry.source, []
    for index, record in zip(indices, source.read(indices)):
        name = source.name(index)
        record = decode(record, size, entry.crop, source.fields)
        if isinstance(record, BadRecord):
            rows.append((index, name, None, record.reason))
            continue
        pixels = record["image"].reshape(-1, 3).astype(np.int64)
        sums = pixels.sum(0).tolist(), (pixels**2).sum(0).tolist()
        facts = list(record), *sums, int(record.get("identity", -1))
        record["name"] = name
        for picture in record.keys() & {"image", "generated"}:
            record[picture] = encode_jpeg(record[picture], quality)
        if "regions" in record:
            record["regions"] = encode_png(record["regions"])
        rows.append((index, name, packed.pack_record(record), facts))
    return rows


def _add(part: dict[str, Any], writer: ArrayRecordWriter, row: tuple, entry: Entry) -> None:
    index, name, data, facts = row
    if data is None:
        part["rejected"].append((entry.label, index, name, facts))
        return
    writer.write(data)
    known, total, squares, identity = facts
    part["identity"].append(identity)
    part["records"] += 1
    for field in known:
        part["known"][field] += 1
    part["sum"] = [a + b for a, b in zip(part["sum"], total)]
    part["sum_of_squares"] = [a + b for a, b in zip(part["sum_of_squares"], squares)]


def run(argv: list[str]) -> None:
    """The command; see the module."""
    parser = cli.Parser(prog="python -m facejax.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, metavar="NAME", help="folder, tfds, ...")
    parser.add_argument("--path", help="the source's path")
    parser.add_argument("--out", required=True, type=Path, help="directory for the shards")
    parser.add_argument("--size", type=int, default=112, help="side in pixels (default: 112)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs (default: 95)")
    parser.add_argument("--records_per_shard", type=int, default=8192, help="(default: 8192)")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="do the i-th of n parts")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads")
    parser.add_argument("--train_tokenizer", type=int, metavar="N", help="tokens to learn")
    given, free = parser.parse_known(argv, "source")
    shard, of = _fraction(given.shard)
    options = {key: _literal(text) for key, text in free.items()}
    if given.path is not None:
        options["path"] = given.path
    plan = make_plan(
        given.source,
        options,
        size=given.size,
        quality=given.quality,
        records_per_shard=given.records_per_shard,
    )
    if given.train_tokenizer is not None:
        _learn(plan["source"], given.train_tokenizer, given.out)
    manifest = pack(plan, given.out, shard=shard, of=of, workers=given.workers)
    if manifest is None:
        print(f"part {shard}/{of} is done; {packed.MANIFEST} follows when all parts are")
    else:
        print(f"{given.out}: {manifest['records']} records, {manifest['rejected']} left out")


def _learn(source: Mapping[str, Any], vocab: int, out: Path) -> None:
    entry = open_source(source, "--source")
    try:
        learned = tokenizer.train(captions_of(entry.source), vocab)
    except UserError as error:
        where = error.where.replace("vocab", "--train_tokenizer")
        raise UserError(where, error.what, error.remedy) from error
    out.mkdir(parents=True, exist_ok=True)
    learned.save(out / tokenizer.FILE)
    print(f"{out / tokenizer.FILE}: {learned.vocab} tokens")


def _fraction(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdigit() and of.isdigit() and 1 <= int(part) <= int(of)):
        raise UserError("--shard", f"'{text}' is not a part", "give i/n with 1 <= i <= n")
    return int(part), int(of)


def _literal(text: str) -> Any:
    """A Python literal, or the text itself where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    cli.main(run)

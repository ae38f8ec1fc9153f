"""Embeds any source.

    python -m facejax.embed (--workdir=DIR [--step=N] | --export=DIR) \\
        --source=NAME --path=P --out=DIR [--source.<key>=<value>]

Record i of the source is row i of the shards, put one after the other:

    <out>/embeddings-00000-of-00003.npy     f32[n, D], as the encoder gives them, not normalised
    <out>/rows-00000-of-00003.csv           label, index, name, norm, rejected, identity
    <out>/rejected.csv                      what could not be decoded or has no finite embedding
    <out>/embeddings.json                   what was embedded by which weights; at the end, counts

With --format=parquet the first two are one file, <out>/embeddings-00000-of-00003.parquet, with the
columns of the rows and a last one, `embedding`.

A rejected record's row is NaN, `rejected` says why. Run again, it keeps the finished shards.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from facejax import cli, command_line, model
from facejax.checkpoint import digest_of
from facejax.data import pipeline
from facejax.data.arrays import MANIFEST, parquet_of, parquet_path, read_shard, shard_paths
from facejax.data.mixture import Entry, open_source
from facejax.data.packed import write_json
from facejax.data.rejected import Rejected
from facejax.errors import TrainingFailed, UserError
from facejax.metrics import replacing

SCHEMA_VERSION = 1
COLUMNS = ("label", "index", "name", "norm", "rejected", "identity")
KINDS = ("string", "int64", "string", "float64", "string", "string")
"""Of the columns, in Parquet."""

Format = Literal["npy", "parquet"]


def embed(
    trained: model.Model,
    spec: Mapping[str, Any],
    out: Path,
    records_per_shard: int = 8192,
    form: Format = "npy",
) -> dict[str, Any]:
    """Embeds the source `spec`, a dict like an entry of `config.data.sources`.

    Args:
        form: of the shards.

    Returns:
        The manifest.

    Raises:
        UserError: what the source refuses, `out` holds other embeddings, or Parquet is wanted and
            pyarrow isn't installed.
        OSError: `out` can't be written.
    """
    if records_per_shard < 1:
        raise UserError("--records_per_shard", f"{records_per_shard} records", "give 1 or more")
    if form == "parquet":
        parquet_of("--format")
    entry = open_source(spec, "--source")
    total, shards = len(entry.source), -(-len(entry.source) // records_per_shard)
    plan = {
        "schema_version": SCHEMA_VERSION,
        "source": dict(spec),
        "records": total,
        "records_per_shard": records_per_shard,
        "shards": shards,
        "format": form,
        "encoder": trained.encoder_name,
        "step": trained.meta.get("step"),
        "weights_sha256": digest_of({"params": trained.params, "stats": trained.stats}),
        "preprocess": dict(trained.preprocess),
    }
    _claim(out, json.loads(json.dumps(plan)))
    rejections = []
    for shard in range(shards):
        if not _finished(out, shard, shards, form).exists():
            indices = range(shard * records_per_shard, min((shard + 1) * records_per_shard, total))
            embeddings, rows = _embedded(trained, entry, indices)
            if form == "npy":
                _write_npy(embeddings, rows, *shard_paths(out, shard, shards))
            else:
                _write_parquet(embeddings, rows, parquet_path(out, shard, shards))
            print(f"shard {shard + 1}/{shards}: {len(indices)} records")
        for row in read_shard(out, shard, plan)[1]:
            if row["rejected"]:
                said = row["label"], int(row["index"]), row["name"], row["rejected"]
                rejections.append(said)
    Rejected.write(out / "rejected.csv", rejections)
    manifest = {**plan, "embedded": total - len(rejections), "rejected": len(rejections)}
    write_json(out / MANIFEST, manifest)
    return manifest


def _claim(out: Path, plan: Mapping[str, Any]) -> None:
    """Makes `out` the place of this plan; refuses one that holds another."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MANIFEST).exists():
        write_json(out / MANIFEST, plan)
    before = json.loads((out / MANIFEST).read_text())
    for key, value in plan.items():
        if before.get(key) != value:
            raise UserError(str(out), f"holds embeddings with another {key}", "change --out")


def _finished(out: Path, shard: int, shards: int, form: Format) -> Path:
    """The file that says that a shard is finished."""
    return shard_paths(out, shard, shards)[0] if form == "npy" else parquet_path(out, shard, shards)


def _embedded(
    trained: model.Model, entry: Entry, indices: range
) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """f32[n, D], NaN where rejected, and the rows under `COLUMNS`; None is an empty cell."""
    found, reasons, people = [], {}, []
    field = entry.source.fields.get("identity")
    for part in pipeline.sequential(
        entry.source,
        size=trained.preprocess["size"],
        batch=min(trained.batch, len(indices)),
        fields=("identity",) if field else (),
        crop=entry.crop,
        records=indices,
    ):
        if field:
            known = np.where(part.arrays["has_identity"], part.arrays["identity"], -1)
            people += known[part.ids >= 0].tolist()
        values = trained.embed(part.arrays["image"])
        values[~part.arrays["valid"]] = np.nan
        found.append(values[part.ids >= 0])
        reasons |= {index: reason for index, _, reason in part.bad}
    embeddings = np.concatenate(found)
    broken = ~np.isfinite(embeddings).all(axis=1)
    embeddings[broken] = np.nan
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    rows = []
    for index, norm, bad, who in zip(indices, norms, broken, people or [-1] * len(indices)):
        judged = (None, reasons.get(index, "embedding not finite")) if bad else (float(norm), "")
        known = "" if who < 0 else field.names[who] if field.names else str(who)
        rows.append((entry.label, index, entry.source.name(index), *judged, known))
    return embeddings, rows


def _write_npy(
    embeddings: np.ndarray, rows: Sequence[tuple[Any, ...]], arrays: Path, listed: Path
) -> None:
    """Writes the rows and then the embeddings, whose file says that the shard is finished."""
    text, norm = io.StringIO(), COLUMNS.index("norm")
    lines = [
        (*row[:norm], "" if row[norm] is None else f"{row[norm]:.9g}", *row[norm + 1 :])
        for row in rows
    ]
    csv.writer(text).writerows([COLUMNS, *lines])
    with replacing(listed) as file:
        file.write(text.getvalue().encode())
    with replacing(arrays) as file:
        np.save(file, embeddings)


def _write_parquet(embeddings: np.ndarray, rows: Sequence[tuple[Any, ...]], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        name: pyarrow.array([row[i] for row in rows], getattr(pyarrow, KINDS[i])())
        for i, name in enumerate(COLUMNS)
    }
    flat = pyarrow.array(embeddings.reshape(-1))
    columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    with replacing(path) as file:
        parquet.write_table(pyarrow.table(columns), file)


def run(argv: list[str]) -> None:
    """The command."""
    parser = cli.Parser(prog="python -m facejax.embed", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="of a run")
    parser.add_argument("--export", type=Path, help="folder of an export, instead of --workdir")
    parser.add_argument("--step", type=int, help="default: the newest checkpoint")
    parser.add_argument("--source", required=True, metavar="NAME", help="folder, synthetic, ...")
    parser.add_argument("--path", help="the source's path")
    parser.add_argument("--out", required=True, type=Path, help="directory for the embeddings")
    parser.add_argument("--records_per_shard", type=int, default=8192, help="(default: 8192)")
    parser.add_argument("--format", choices=get_args(Format), default="npy", help="of the shards")
    given, free = parser.parse_known(argv, "source")
    if (given.workdir is None) == (given.export is None):
        raise UserError("--workdir", "exactly one of --workdir and --export is wanted", "give one")
    spec = {"name": given.source} | ({} if given.path is None else {"path": given.path})
    command_line.override(spec, [f"--source.{key}={text}" for key, text in free.items()], "source")
    trained = model.load(given.export or given.workdir, given.step)
    try:
        manifest = embed(trained, spec, given.out, given.records_per_shard, given.format)
    except OSError as error:
        raise TrainingFailed(str(given.out), f"storage failed ({error})", "run it again") from error
    print(f"{given.out}: {manifest['embedded']} embedded, {manifest['rejected']} rejected")


if __name__ == "__main__":
    cli.main(run)

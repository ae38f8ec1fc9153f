"""A trained encoder as a user holds it: `facejax.load(dir).embed(images)`."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from PIL import Image

from facejax import augment, checkpoint, config, export, lora, mesh, plugins, tokenizer
from facejax.contracts import Aug, Draw, Params, View
from facejax.data import align
from facejax.errors import UserError
from facejax.export import _encoder
from facejax.joint import Joint, Space, space_of
from facejax.metrics import read_jsonl


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder with its weights and its preprocessing.

    Attributes:
        encoder_name: the encoder's file name.
        module: the encoder.
        encoder_config: its config.
        params, stats: its variables.
        preprocess: `size`, `mean`, `std`, `color`, and how `embed` makes images fit.
        config: the resolved config of the run, nested plain values; {} for foreign weights.
        meta: `step`, `versions`, `metrics` (the last line that names each), where known.
        batch: rows per call of the devices.
        devices: the mesh that embeds; None takes all devices of this process. On a mesh over many
            processes, all must embed the same images at the same time.
        space: what joins texts to its images, or None.
    """

    encoder_name: str
    module: ModuleType
    encoder_config: Any
    params: Params
    stats: Params
    preprocess: Mapping[str, Any]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch: int = 256
    devices: jax.sharding.Mesh | None = None
    space: Space | None = None

    def embed(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Embeds images of any number, on all devices.

        Args:
            images: u8[n, H, W, 3] RGB, or a sequence of paths, PIL images and u8[H, W, 3] arrays.
                What is not of the model's size is cropped to a square and resized.

        Returns:
            f32[n, D], not normalised.

        Raises:
            UserError: an image that cannot be read, or arrays that are not u8 RGB.
        """
        size = self.preprocess["size"]
        if not (isinstance(images, np.ndarray) and images.shape[1:] == (size, size, 3)):
            images = np.stack([fit(image, size) for image in images]) if len(images) else images
        if len(images) == 0:
            return np.zeros((0, self.module.tower(self.encoder_config).embed), np.float32)
        if images.dtype != np.uint8:
            raise UserError("images", f"{images.dtype} pixels", "give uint8 in 0..255")
        static = _Static(self.module, self.encoder_config, self._aug())
        return self.in_batches(_embed, static, (self.params, self.stats), images)

    def joint(self) -> Joint:
        """The space in which its images and texts meet.

        Raises:
            UserError: it was trained without texts.
        """
        if self.space is None:
            raise UserError("joint", "the model knows no texts", "load one trained with texts")
        return Joint(self, self.space)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts of any number beside `joint().image(...)`.

        Returns:
            f32[n, D], unit rows.
        """
        return self.joint().text(texts)

    def in_batches(self, function, static, weights, rows: np.ndarray) -> np.ndarray:
        """`function(static, weights, part)` over parts of `rows`, padded, on all devices.

        Args:
            static: hashable; one compilation each.
        """
        devices = self.devices or _mesh()
        sharding = mesh.batch_sharding(devices)
        size = min(self.batch, -(-max(len(rows), 1) // devices.size) * devices.size)
        size = -(-size // devices.size) * devices.size
        out = []
        for start in range(0, max(len(rows), 1), size):
            part = rows[start : start + size]
            padded = np.concatenate(
                [part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)]
            )
            placed = jax.make_array_from_callback(padded.shape, sharding, padded.__getitem__)
            found = _compiled(function, devices)(static, weights, placed)
            out.append(np.asarray(found)[: len(part)])
        return np.concatenate(out)

    def outputs(self, images: np.ndarray | Sequence[Any]) -> dict[str, np.ndarray]:
        """All forms of the embedding, computed in float32 on one device.

        Args:
            images: as for `embed`, all at once.

        Returns:
            "raw" f32[n, D], "unit" f32[n, D], "norm" f32[n, 1], "map" f32[n, W, h, w] and
            "pooled_map" f32[n, W]; see `facejax.export._encoder.outputs`.
        """
        size, params = self.preprocess["size"], self.params
        if isinstance(self.module, lora.Adapted):
            params = lora.merge(self.module.lora, params)
        pixels = export.normalise(np.stack([fit(i, size) for i in images]), self.preprocess)
        with jax.default_matmul_precision("highest"):
            found = _encoder.forward(self.encoder_config)(params, self.stats, pixels)
        return jax.device_get(found)

    def _aug(self) -> Aug:
        p = self.preprocess
        return Aug(size=p["size"], mean=tuple(p["mean"]), std=tuple(p["std"]))


@functools.cache
def _mesh() -> jax.sharding.Mesh:
    return mesh.make(config.MeshShape(), jax.local_devices())


@functools.cache
def _compiled(function, devices: jax.sharding.Mesh):
    """`function` on a mesh; every process gets all rows."""
    return jax.jit(function, static_argnums=0, out_shardings=mesh.replicated(devices))


@dataclasses.dataclass(frozen=True)
class _Static:
    module: ModuleType
    config: Any
    aug: Aug


def _embed(encoder: _Static, weights: tuple[Params, Params], images: jax.Array) -> jax.Array:
    draw = Draw(jax.random.key(0), jax.numpy.arange(images.shape[0]))
    view = augment.views(View(aug=encoder.aug), {"image": images}, draw)
    features, _ = encoder.module.apply(
        encoder.config, *weights, view, train=False, outputs=("pooled",)
    )
    return features.pooled.astype("float32")


def fit(image: Any, size: int) -> np.ndarray:
    """Centre square of a path, PIL image or u8[H, W, 3], resized (bicubic) to u8[size, size, 3]."""
    if isinstance(image, str | Path):
        try:
            image = Image.open(image).convert("RGB")
        except OSError as e:
            raise UserError(str(image), f"unreadable image ({e})", "give a JPEG or PNG file") from e
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            what = f"{image.dtype} array of shape {image.shape}"
            raise UserError("images", what, "give uint8 RGB images [H, W, 3]")
        image = Image.fromarray(image)
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def preprocess_of(run: config.Run) -> dict[str, Any]:
    """What an image goes through before the encoder, as exports carry it."""
    points = align.declared(run.data.align, run.data.size)
    return {
        "size": run.data.size,
        "mean": list(run.data.mean),
        "std": list(run.data.std),
        "color": align.COLOUR_ORDER,
        "alignment": run.data.align,
        "template": None if points is None else points.round(4).tolist(),
        "fit": "centre square of the shorter side, bicubic",
        "flip": "none",
        "embedding": "raw",
    }


def of_state(
    run: config.Run,
    params: Params,
    stats: Params,
    tower: str = "encoder",
    devices: jax.sharding.Mesh | None = None,
    read: tokenizer.Tokenizer | None = None,
    **meta,
) -> Model:
    """The model inside a running training, whose arrays lie on the mesh `devices`.

    Args:
        read: the run's tokenizer, where it has one.
    """
    plugin = run.towers[tower]
    return Model(
        encoder_name=plugin.name,
        module=plugin.module,
        encoder_config=plugin.config,
        params=params[tower],
        stats=stats[tower],
        preprocess=preprocess_of(run),
        config=config.to_dict(run),
        meta=meta,
        devices=devices,
        space=space_of(run, params, stats, read, load),
    )


def read_config(workdir: Path) -> dict[str, Any]:
    """config.json of a working directory.

    Raises:
        UserError: there is none, or it is no JSON.
    """
    path = Path(workdir) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as e:
        raise UserError(str(workdir), "no config.json", "give the workdir of a run") from e
    except json.JSONDecodeError as e:
        raise UserError(str(path), f"not JSON ({e})", "restore the file") from e


def load_run(workdir: Path, step: int | None = None) -> Model:
    """The encoder of a run, from its newest checkpoint or the one at `step`."""
    stored = read_config(workdir)
    run = config.resolve(stored["config"])
    step = checkpoint.find(workdir, step)
    items = checkpoint.Checkpoints(workdir).read(step, ("params", "stats"))
    meta = {
        "step": step,
        "config": stored["config"],
        "data": [_describe(source) for source in run.data.sources],
        "versions": stored.get("versions", {}),
        "metrics": last_metrics(workdir, step),
    }
    read = run_tokenizer(run, workdir)
    return of_state(run, items["params"], items["stats"], read=read, **meta)


def run_tokenizer(run: config.Run, folder: Path) -> tokenizer.Tokenizer | None:
    """The tokenizer beside a run or an export, None for one without texts.

    Raises:
        UserError: it isn't there, or another one than the weights were trained with.
    """
    if run.data.text is None:
        return None
    path = Path(folder) / tokenizer.FILE
    read = tokenizer.load(path)
    if read.digest != run.data.text.digest:
        raise UserError(str(path), "not the tokenizer of this checkpoint", "restore the file")
    return read


def _describe(source: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in source.items())


def last_metrics(workdir: Path, step: int) -> dict[str, float]:
    """The last value of every metric of a run, up to a step."""
    last: dict[str, float] = {}
    for row in read_jsonl(Path(workdir) / "metrics.jsonl"):
        if row["step"] <= step:
            last |= {k: v for k, v in row.items() if v is not None and k != "step"}
    return last


def load(directory: str | Path, step: int | None = None) -> Model:
    """Loads a run (its working directory) or an export.

    >>> model = load("runs/quickstart")                          # doctest: +SKIP
    >>> model.embed(["anna_1.jpg", "anna_2.jpg"]).shape          # doctest: +SKIP
    (2, 192)
    """
    directory = Path(directory)
    if (directory / "model.safetensors").is_file():
        return _load_export(directory)
    return load_run(directory, step)


def _load_export(directory: Path) -> Model:
    ours = export.read_json(directory / "config.json").get("facejax", {})
    module = plugins.load("export", str(ours.get("format")), str(directory / "config.json"))
    read = module.read_joint if "joint" in ours else module.read
    encoder_config, params, stats, preprocess, *space = read(directory)
    name = str(ours.get("encoder", "vit"))
    return Model(
        encoder_name=name,
        module=plugins.load("encoder", name, str(directory / "config.json")),
        encoder_config=encoder_config,
        params=params,
        stats=stats,
        preprocess=preprocess,
        space=space[0] if space else None,
    )

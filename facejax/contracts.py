"""The types that flow between the rooms: what a plug-in takes and what it returns.

Shapes: B rows of a batch, N tokens, P prefix tokens, D width, K kept tokens, A anchors,
M negatives.
Everything declared "config-like" is a frozen, hashable dataclass and stands for itself: two equal
values mean one run of the encoder, one EMA copy, one crop.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from facejax.pairs import Pairs as Pairs
from facejax.schedule import Schedule, at

Params = Any  # nested dict of arrays
Output = Literal["pooled", "prefix", "tokens", "layers", "view"]


# ---------------------------------------------------------------------------------- randomness


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draw:
    """Randomness for a set of rows that depends on nothing but the key and the *global* row.

    Attributes:
        key: a typed PRNG key, shape ().
        rows: i32[B], the global row numbers of this (micro-)batch.
    """

    key: jax.Array
    rows: jax.Array

    def fold(self, name: str) -> "Draw":
        """An independent stream for `name`, stable across processes and Python versions."""
        return Draw(jax.random.fold_in(self.key, zlib.crc32(name.encode())), self.rows)

    def keys(self) -> jax.Array:
        """One key per row, [B]."""
        return jax.vmap(jax.random.fold_in, (None, 0))(self.key, self.rows)

    def groups(self, size: int) -> jax.Array:
        """One key per row, [B], shared by each `size` consecutive global rows."""
        return jax.vmap(jax.random.fold_in, (None, 0))(self.key, self.rows // size)


def stable_name(value: Any) -> str:
    """A canonical spelling of a config-like value: fields at their default are left out.

    Adding a field with a default to a dataclass therefore renames nothing, and the random streams
    of old runs stay what they were.
    """
    if dataclasses.is_dataclass(value):
        parts = []
        for f in dataclasses.fields(value):
            v = getattr(value, f.name)
            if f.default is not dataclasses.MISSING and v == f.default:
                continue
            if f.default_factory is not dataclasses.MISSING and v == f.default_factory():
                continue
            parts.append(f"{f.name}={stable_name(v)}")
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(stable_name, value))})"
    return repr(value)


# ------------------------------------------------------------------------- what an encoder sees


@dataclass(frozen=True)
class Aug:
    """A recipe for one view of an image; see `augment.py`. The default is a plain resize.

    Attributes:
        size: output side in pixels.
        scale: range of the crop's area, as a share of the image; (1, 1) keeps the whole image.
        ratio: range of the crop's width / height.
        flip: probability of a horizontal flip.
        cut: range of the area, as a share of the view, outside of which a cut leaves black.
        cut_p: probability of a cut.
        shrink: range of the side, as a share of the view's, to which it is made smaller and back.
        shrink_p: probability of that loss of resolution.
        jitter: strength of brightness, contrast, saturation and hue (each 0 = off).
        jitter_p: probability of the colour jitter.
        hsv: most degrees by which the hue turns, and most that is added to saturation's factor 1.
        hsv_p: probability of that.
        gray_p: probability of grayscale.
        blur_p: probability of Gaussian blur.
        blur_sigma: range of the blur's sigma, in pixels of a 224-pixel view (scaled with `size`).
        solarize_p: probability of inverting the pixels above one half.
        mean: subtracted per RGB channel, of images in [0, 1].
        std: divided by, per RGB channel.
    """

    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    cut: tuple[float, float] = (0.2, 1.0)
    cut_p: float = 0.0
    shrink: tuple[float, float] = (0.2, 1.0)
    shrink_p: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.8
    hsv: tuple[float, float] = (20.0, 0.2)
    hsv_p: float = 0.0
    gray_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class View:
    """A field of the batch, as one draw of an augmentation shows it.

    Attributes:
        field: name of the batch field.
        aug: the recipe, or None to pass the field on untouched (token ids, features).
        draw: tells apart two draws of the same recipe, such as the two views of SimCLR.
    """

    field: str = "image"
    aug: Aug | None = None
    draw: str = ""


@dataclass(frozen=True)
class Student:
    """The parameters being trained."""


@dataclass(frozen=True)
class Ema:
    """The exponential moving average of the student; equal momenta share one copy.

    After each optimiser step: average = m * average + (1 - m) * student.
    """

    momentum: float | Schedule = 0.996


@dataclass(frozen=True)
class Frozen:
    """A fixed encoder from an earlier run or an export; hashed, never checkpointed again."""

    path: str


@dataclass(frozen=True)
class Pass:
    """One forward of an encoder that an objective wants.

    Passes that are equal up to `outputs` are run once and carry the union of the outputs.

    Attributes:
        view: what the encoder sees.
        mask: a mask sampler of `ops.masking` (config-like), or None.
        weights: whose parameters.
        tower: which encoder, by its config key.
        outputs: what the objective reads: "pooled", "prefix", "tokens", "layers", "view".
        cached: name of a batch field f32[B, D] that already holds pooled features; no encoder runs.
        batched: whether its rows are those of the batch. If not, the field (of `view`, or `cached`)
            is one of the objective's own `constants`, and the pass runs once over these rows.
    """

    view: View = View()
    mask: Any = None
    weights: Student | Ema | Frozen = Student()
    tower: str = "encoder"
    outputs: tuple[Output, ...] = ("pooled",)
    cached: str | None = None
    batched: bool = True

    @property
    def replaces(self) -> bool:
        """Whether the mask token stands in for removed patches; with `drop` they are left out."""
        return self.mask is not None and not getattr(self.mask, "drop", False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Features:
    """What an encoder returns; what was not asked for is None.

    Attributes:
        pooled: [B, D], the embedding.
        prefix: [B, P, D], class token and registers after the final norm.
        tokens: [B, N, D], patch tokens after the final norm; [B, K, D] when tokens were dropped.
        layers: tuple of [B, P + N, D], the residual stream after each block.
        keep: i32[B, K], patch indices that were kept, ascending.
        mask: u8[B, N]; bit 0 removed or replaced, bit 1 covered region.
        valid: bool[B], rows that hold real data; None of a pass that is not `batched`.
        view: the augmented image and what moved with it, by field name.
    """

    pooled: jax.Array | None = None
    prefix: jax.Array | None = None
    tokens: jax.Array | None = None
    layers: tuple[jax.Array, ...] | None = None
    keep: jax.Array | None = None
    mask: jax.Array | None = None
    valid: jax.Array | None = None
    view: dict[str, jax.Array] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """What a mask sampler drew.

    Attributes:
        mask: u8[B, N]; bit 0 removed or replaced, bit 1 covered region.
        keep: i32[B, K] ascending patch indices to compute, or None: the mask token replaces.
    """

    mask: jax.Array
    keep: jax.Array | None = None


@dataclass(frozen=True)
class Tower:
    """The geometry that an encoder publishes.

    Attributes:
        width: D of tokens, prefix and layers.
        embed: D of pooled.
        patch: side of a patch in pixels (0: no patches).
        prefix: number of prefix tokens.
        size: side of the input in pixels that it was configured for.
        depth: number of blocks, the length of `layers`.
        context: width of the tokens that its cross-attention reads; 0 without.
    """

    width: int
    embed: int
    patch: int
    prefix: int
    size: int
    depth: int
    context: int = 0

    def grid(self, size: int | None = None) -> tuple[int, int]:
        """Rows and columns of patches of a square view of `size` pixels (default: its own)."""
        n = (size or self.size) // self.patch if self.patch else 0
        return n, n


@dataclass(frozen=True)
class TowerSpec:
    """What an encoder's `init` needs to know beside its own config.

    Attributes:
        mask_token: some pass replaces patches, so a mask token is wanted.
    """

    mask_token: bool = False


# ------------------------------------------------------------------------------- objectives


@dataclass(frozen=True)
class Spec:
    """The facts of a run that objectives may depend on.

    Attributes:
        steps: optimiser steps of the whole run.
        global_batch: rows of one step.
        size: side of the training images in pixels.
        towers: geometry by tower key.
        classes: number of classes by field ("identity", ...), 0 or absent when unlabelled.
        names: names of the classes by field, where the data has them, in the order of the numbers.
        attributes: names of the binary attributes, in the order of the batch field.
        artifacts: paths of extra files by name (codebooks, banks), from the config.
        aug: mean and std that every view shares, so that one run has one normalisation.
        tokenize: texts to token ids i32[n, L], by `config.data.text`; None without.
        sets: places of each batch field that is a set.
    """

    steps: int
    global_batch: int
    size: int
    towers: Mapping[str, Tower]
    classes: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    aug: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    tokenize: Callable[[Sequence[str]], np.ndarray] | None = None
    sets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnEma:
    """An objective's own EMA copy: which of its parameters, and the momentum.

    Attributes:
        params: top-level names of the objective's params that are averaged.
        momentum: of the average, as in `Ema`.
    """

    params: tuple[str, ...]
    momentum: float | Schedule = 0.996


@dataclass(frozen=True)
class Sparse:
    """A large array of which a step touches few rows; SGD with momentum, state held per row.

    Attributes:
        value: f32[C, D], at the start.
        momentum: coefficient of the velocity.
        weight_decay: times the touched rows, added to their gradient.
        lr: multiple of the run's learning rate.
        groups: logical groups of successive rows, whose number C is a multiple of; with more than
            one, rows are drawn by `ops.groups.sample` and never leave the device of their group.
        velocity: dtype of the velocity at rest; sums are fp32.
    """

    value: jax.Array | None
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr: float = 1.0
    groups: int = 1
    velocity: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Vars:
    """What `init` returns; every part may be empty.

    Attributes:
        params: nested dict, trained by the optimiser.
        state: nested dict, changed only by `update`.
        ema: the objective's own EMA copies, by name.
        sparse: row-updated arrays, by name.
        pairs: width D of the `Pairs` that it offers to modifiers; 0 means none.
    """

    params: Params = field(default_factory=dict)
    state: Params = field(default_factory=dict)
    ema: Mapping[str, OwnEma] = field(default_factory=dict)
    sparse: Mapping[str, Sparse] = field(default_factory=dict)
    pairs: int = 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Term:
    """A mean kept as its two sums, so that it adds up exactly over micro-batches.

    Attributes:
        sum: f32[], of the per-element losses.
        count: f32[], of the elements; independent of the parameters. A count of 0 contributes 0.
        weight: relative to the objective's other terms; free of data.
    """

    sum: jax.Array
    count: jax.Array
    weight: jax.Array | float = 1.0

    @classmethod
    def mean(cls, values: jax.Array, weight: jax.Array | float = 1.0) -> "Term":
        """The mean of all elements of `values`, summed in float32 or wider."""
        wide = jnp.promote_types(values.dtype, jnp.float32)
        return cls(jnp.sum(values, dtype=wide), jnp.float32(values.size), weight)

    def value(self) -> jax.Array:
        """sum / count, and 0 where nothing was counted."""
        return jnp.where(self.count > 0, self.sum / jnp.maximum(self.count, 1e-12), 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loss:
    """What a loss returns.

    Attributes:
        terms: name -> Term; the loss is sum of weight * value over them.
        stats: what `update` wants to know; sums over rows in "sample" scope.
        metrics: name -> Term (a scalar curve) or `Histogram`.
    """

    terms: dict[str, Term]
    stats: Any = None
    metrics: dict[str, Any] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Histogram:
    """Counts f32[n] of values in n equal bins over [low, high]; adds up over micro-batches."""

    counts: jax.Array
    low: float = field(default=-1.0, metadata={"static": True})
    high: float = field(default=1.0, metadata={"static": True})

    @classmethod
    def of(
        cls, values: jax.Array, where: jax.Array | None = None, low=-1.0, high=1.0, bins=64
    ) -> "Histogram":
        """Bins all elements of `values` (those where `where` is true); outliers go to the ends."""
        index = jnp.clip(((values - low) / (high - low) * bins).astype(jnp.int32), 0, bins - 1)
        weight = jnp.ones(values.shape) if where is None else where.astype(jnp.float32)
        counts = jnp.zeros(bins).at[index.ravel()].add(weight.ravel())
        return cls(jax.lax.stop_gradient(counts), low, high)


@dataclass(frozen=True)
class Ctx:
    """What a loss may ask of the step. Lives only while the step is traced.

    Attributes:
        step: i32[], completed steps.
        draw: the objective's own randomness, one stream per global row.
        spec: the run's facts.
        rows: the objective's sparse row numbers, i32[R] by name, that its params now hold.
        constants: the objective's fixed arrays, by name.
        batch: the fields of the batch, for modifiers; objectives are handed it.
        feats: the features of a modifier's own passes, by name; objectives are handed theirs.
        modify: applies the objective's modifiers, in order, to its `Pairs`; again for more `Pairs`.
        apply: (tower, inputs, weights, outputs, context) -> Features of inputs that only the loss
            can make, such as hard negatives; None under accumulation.
    """

    step: jax.Array
    draw: Draw
    spec: Spec
    rows: Mapping[str, jax.Array] = field(default_factory=dict)
    constants: Mapping[str, jax.Array] = field(default_factory=dict)
    batch: Mapping[str, jax.Array] = field(default_factory=dict)
    feats: Mapping[str, Features] = field(default_factory=dict)
    modify: Callable[[Pairs], Pairs] = lambda pairs: pairs
    apply: Callable[..., Features] | None = None

    def at(self, schedule: float | Schedule) -> jax.Array | float:
        """The value of a number or a schedule at this step."""
        return at(schedule, self.step, self.spec.steps)

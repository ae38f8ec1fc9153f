"""Made-up inputs of losses and modifiers: what the step would hand them, without an encoder.

B rows, P prefix tokens, N patches, K kept ones, D width.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from counting import products
from made_up_texts import LENGTH, WORDS, applied, tokenize

from facejax.contracts import Ctx, Draw, Features, Loss, Pairs, Pass, Spec, Tower, Vars
from facejax.losses import sum_terms
from facejax.ops import similarity

B = 8
TOWER = Tower(width=8, embed=8, patch=4, prefix=1, size=16, depth=2)
TEXT_TOWER = Tower(width=8, embed=8, patch=0, prefix=0, size=0, depth=2, context=8)
SPEC = Spec(
    steps=10,
    global_batch=B,
    size=TOWER.size,
    towers={"encoder": TOWER, "encoder_text": TEXT_TOWER},
    classes={"identity": 12, "clip": 2, "frame": 2},
    attributes=("one", "two", "three"),
    aug={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    tokenize=tokenize,
    sets={"faces": 3, "names": 2},
)
DRAW = Draw(jax.random.key(1), jnp.arange(B, dtype=jnp.int32))

KINDS = ("ordinary", "zero", "equal", "constant")
"""Of features: drawn; all zero; one vector everywhere. Of images: drawn; black; equal; flat."""

Make = Callable[..., jax.Array]


def maker(kind: str, seed: int) -> Make:
    """A function from a shape to an array of it."""
    rng = np.random.default_rng(seed)

    def make(*shape: int) -> jax.Array:
        if kind == "zero":
            values = np.zeros(shape)
        elif kind == "equal":
            values = np.broadcast_to(rng.normal(size=shape[-1]), shape)
        else:
            values = rng.normal(size=shape)
        return jnp.asarray(values, jnp.float32)

    return make


def shown(kind: str, seed: int, size: int) -> dict[str, jax.Array]:
    """What `augment.views` would return for a batch with regions."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(B, size, size, 3))
    if kind == "zero":
        image[:] = -1.0
    elif kind == "equal":
        image[:] = image[:1]
    elif kind == "constant":
        image[:] = image[:, :1, :1]
    return {
        "image": jnp.asarray(image, jnp.float32),
        "regions": jnp.asarray(_regions(rng, size), jnp.uint8),
        "landmarks": jnp.asarray(rng.uniform(0, size, (B, 68, 2)), jnp.float32),
        "box": jnp.tile(jnp.array([[0.0, 0.0, size, size]]), (B, 1)),
        "flipped": jnp.zeros(B, bool),
    }


def _regions(rng: np.random.Generator, size: int) -> np.ndarray:
    """Squares of four pixels a side, half of them background and skin."""
    side = -(-size // 4)
    squares = rng.choice([0, 1, *range(11)], (B, side, side))
    return squares.repeat(4, 1).repeat(4, 2)[:, :size, :size]


def features(
    p: Pass, spec: Spec = SPEC, kind: str = "ordinary", seed: int = 0, constants: Any = None
) -> Features:
    """What the forward of `p` would return; the mask is drawn by the pass's own sampler."""
    tower, make = spec.towers[p.tower], maker(kind, seed)
    if not p.batched:
        return _unbatched(p, tower, make, constants)
    valid = jnp.ones(B, bool)
    if p.cached is not None:
        return Features(pooled=make(B, tower.embed), valid=valid)
    if tower.size == 0:  # of texts
        ids = batch(spec)[p.view.field]
        rows = ids.shape[:-1]
        made = {
            "pooled": make(*rows, tower.embed),
            "tokens": make(*rows, LENGTH, tower.width),
            "prefix": make(*rows, 0, tower.width),
            "layers": tuple(make(*rows, LENGTH, tower.width) for _ in range(tower.depth)),
            "view": {"text": ids},
        }
        return Features(**{name: made[name] for name in p.outputs}, valid=valid)
    size = p.view.aug.size if p.view.aug else tower.size
    rows, columns = tower.grid(size)
    # The same picture whatever the features are, so that only these differ between two seeds.
    inputs = shown(kind, 99, size)
    drawn = p.mask(inputs, (rows, columns), DRAW) if p.mask is not None else None
    keep = drawn.keep if drawn else None
    n = rows * columns if keep is None else keep.shape[1]
    made = {
        "pooled": make(B, tower.embed),
        "prefix": make(B, tower.prefix, tower.width),
        "tokens": make(B, n, tower.width),
        "layers": tuple(make(B, tower.prefix + n, tower.width) for _ in range(tower.depth)),
        "view": inputs,
    }
    asked = {name: made[name] for name in p.outputs}
    return Features(**asked, keep=keep, mask=drawn.mask if drawn else None, valid=valid)


def _unbatched(p: Pass, tower: Tower, make: Make, constants: Any) -> Features:
    """Pooled features of an objective's own arrays, whose leading axes are kept."""
    if p.cached is not None:
        return Features(pooled=jnp.asarray(constants[p.cached]))
    shape = constants[p.view.field].shape
    return Features(pooled=make(*(shape[:-1] if p.view.aug is None else shape[:1]), tower.embed))


def batch(spec: Spec = SPEC, seed: int = 0) -> dict[str, jax.Array]:
    """The fields that test objectives read."""
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.integers(0, 256, (B, spec.size, spec.size, 3)), jnp.uint8)
    identity = rng.integers(0, spec.classes["identity"], B)
    identity[1::4] = identity[::4]  # two of them twice
    fields = {
        "identity": jnp.asarray(identity, jnp.int32),
        "feature": jnp.asarray(rng.normal(size=(B, 8)), jnp.float32),
        "attributes": jnp.asarray(rng.integers(-1, 2, (B, 3)), jnp.int8),
        "landmarks": jnp.asarray(rng.uniform(0, spec.size, (B, 68, 2)), jnp.float32),
        "age": jnp.asarray(rng.uniform(18, 80, B), jnp.float32),
        # Two clips of two people in two frames.
        "clip": jnp.asarray(np.arange(B) // 4, jnp.int32),
        "frame": jnp.asarray(np.arange(B) // 2 % 2, jnp.int32),
        "text": jnp.asarray(tokenize([f"a {seed} {n}" for n in range(B)])),
        # A row of a bank.
        "target": jnp.asarray([5, 0, 3, 2, -1, 9, 3, 7], jnp.int32),
        # Sets: pictures of up to three faces and two names; one has no face, another no name.
        "faces": jnp.asarray(rng.normal(size=(B, 3, 8)), jnp.float32),
        "names": jnp.asarray(rng.integers(2, WORDS, (B, 2, LENGTH)), jnp.int32),
    }
    known = {f"has_{name}": jnp.ones(B, bool) for name in fields}
    known["has_generated"] = jnp.arange(B) != 6
    known |= {"has_feature": jnp.arange(B) != 5, "has_text": jnp.arange(B) != 3}
    counts = {"faces": [1, 2, 3, 0, 2, 1, 3, 1], "names": [1, 2, 1, 2, 0, 1, 2, 2]}
    known |= {f"count_{name}": jnp.asarray(count, jnp.int32) for name, count in counts.items()}
    return {"image": image, **fields, **known}


@dataclass(frozen=True)
class Inputs:
    """The arrays that a loss is called with; a pytree."""

    params: Any
    ema: Any
    state: Any
    feats: dict[str, Features]
    batch: dict[str, jax.Array]
    draw: Draw


jax.tree_util.register_dataclass(Inputs)


@dataclass(frozen=True)
class Case:
    """An objective with its variables, ready to be called on made-up features."""

    module: ModuleType
    config: Any
    vars: Vars
    spec: Spec = SPEC

    @classmethod
    def of(cls, objective: ModuleType, config: Any = None, spec: Spec = SPEC) -> "Case":
        config = config or objective.Config.tiny()
        variables = objective.init(config, jax.random.key(0), spec)
        return cls(objective, config, variables, spec)

    @property
    def passes(self) -> dict[str, Pass]:
        return self.module.passes(self.config, self.spec)

    @functools.cached_property
    def constants(self) -> dict[str, np.ndarray]:
        made = getattr(self.module, "constants", None)
        return made(self.config, self.spec) if made else {}

    def inputs(self, kind: str = "ordinary", seed: int = 0) -> Inputs:
        feats = {
            name: features(p, self.spec, kind, 10 * seed + i, self.constants)
            for i, (name, p) in enumerate(self.passes.items())
        }
        params = dict(self.vars.params)
        ema = {
            name: {part: jax.tree.map(lambda x: 0.9 * x, params[part]) for part in own.params}
            for name, own in self.vars.ema.items()
        }
        return Inputs(params, ema, self.vars.state, feats, batch(self.spec), DRAW)

    def rows(self, given: Inputs) -> dict[str, jax.Array]:
        if not self.vars.sparse:
            return {}
        return self.module.rows(self.config, given.params, given.batch, self.ctx(given.draw))

    def ctx(self, draw: Draw, rows: Any = None) -> Ctx:
        known = {"rows": rows or {}, "constants": self.constants, "batch": batch(self.spec)}
        known["apply"] = functools.partial(applied, self.spec)
        return Ctx(jnp.int32(0), draw=draw, spec=self.spec, **known)

    def trained(self, given: Inputs) -> Any:
        """What gradients are taken of: parameters, gathered rows, and features of the encoder."""
        rows = self.rows(given)
        gathered = {
            name: s.value.at[rows[name]].get(mode="fill", fill_value=0)
            for name, s in self.vars.sparse.items()
        }
        names = ("pooled", "prefix", "tokens", "layers")
        own = {k: {n: getattr(f, n) for n in names} for k, f in given.feats.items()}
        return {"params": given.params, "rows": gathered, "feats": own}

    def arguments(self, given: Inputs, trained: Any = None) -> tuple:
        """What follows the config in a call of `loss`."""
        trained = trained or self.trained(given)
        feats = {k: dataclasses.replace(f, **trained["feats"][k]) for k, f in given.feats.items()}
        params = {**trained["params"], **trained["rows"]}
        ctx = self.ctx(given.draw, self.rows(given))
        return params, given.ema, given.state, feats, given.batch, ctx

    def loss(self, given: Inputs, trained: Any = None) -> Loss:
        return self.module.loss(self.config, *self.arguments(given, trained))

    def value(self, given: Inputs, trained: Any = None) -> jax.Array:
        return sum_terms(self.loss(given, trained))

    def grads(self, given: Inputs) -> Any:
        return jax.grad(lambda trained: self.value(given, trained))(self.trained(given))


def take(given: Inputs, rows: np.ndarray) -> Inputs:
    """The inputs of some of the rows, or of all in another order."""

    def pick(x):
        return x[rows]

    feats = given.feats.items()
    return dataclasses.replace(
        given,
        feats={k: jax.tree.map(pick, f) if f.valid is not None else f for k, f in feats},
        batch=jax.tree.map(pick, given.batch),
        draw=Draw(given.draw.key, given.draw.rows[rows]),
    )


def wide(tree: Any) -> Any:
    """Floats as float64; only inside `jax.enable_x64`."""

    def cast(x):
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


def assert_gradient(case: Case, given: Inputs, rtol: float, step: float = 1e-6) -> None:
    """Holds gradients to central differences in float64, along random directions."""
    with jax.enable_x64(True):
        given = wide(given)
        trained = case.trained(given)
        value = jax.jit(lambda trained: case.value(given, trained))
        grads = jax.jit(case.grads)(given)
        rng = np.random.default_rng(1)
        for _ in range(3):
            way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), trained)
            ahead = jax.tree.map(lambda x, d: x + step * d, trained, way)
            behind = jax.tree.map(lambda x, d: x - step * d, trained, way)
            slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grads, way))))
            assert slope.dtype == jnp.float64
            found = (value(ahead) - value(behind)) / (2 * step)
            np.testing.assert_allclose(found, slope, rtol=rtol)


def moved(case: Case, by: float = 0.1) -> Case:
    """The case with all parameters away from their initial values (scales of 1, biases of 0)."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(rng.normal(size=x.shape) * by, jnp.float32), case.vars.params
    )
    return dataclasses.replace(case, vars=dataclasses.replace(case.vars, params=params))


def assert_value(case: Case, given: Inputs, want: float, atol: float = 0.0) -> None:
    """Holds the loss to `want`: to 1e-6 in float64, to 1e-5 in float32."""
    with jax.enable_x64(True):
        got = jax.jit(case.value)(wide(given))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=atol)
    got = jax.jit(case.value)(given)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol)


def rewritten(case: Case, given: Inputs, rewrite: Callable[[Pairs], Pairs]) -> Loss:
    """The loss under a modifier that is `rewrite`."""
    *arguments, ctx = case.arguments(given)
    ctx = dataclasses.replace(ctx, modify=rewrite)
    return case.module.loss(case.config, *arguments, ctx)


BROAD = dataclasses.replace(
    SPEC,
    towers={
        "encoder": Tower(512, 512, 4, 1, size=16, depth=2),
        "encoder_text": Tower(512, 512, 0, 0, size=0, depth=2),
    },
)
"""Features so wide that products of matrices are nearly all of a loss's work."""


def counted_flops(case: Case) -> float:
    """FLOPs per image that XLA counts in a forward of the loss; nothing is compiled."""
    given = case.inputs()
    return jax.jit(case.loss).lower(given).cost_analysis()["flops"] / B


def counted_products(case: Case) -> float:
    """FLOPs per image of the products in a forward of the loss, without its work on elements."""
    return products(jax.make_jaxpr(case.loss)(case.inputs()).jaxpr) / B


def pairs(width: int, kind: str = "ordinary", seed: int = 0, positives: int = 1) -> Pairs:
    """Contrastive pairs of B anchors with 16 negatives, one of which an anchor may not meet."""
    make = maker(kind, seed)
    return Pairs(
        q=make(B, width),
        k=make(B, positives, width),
        neg=make(16, width),
        tau=0.2,
        owner=jnp.arange(B),
        neg_owner=jnp.where(jnp.arange(16) < B, jnp.arange(16), -1),
        positive=jnp.ones((B, positives), bool),
        weight=jnp.ones(B),
        enqueue=make(B, width),
    )


@dataclass(frozen=True, eq=False)
class Rewriting:
    """A modifier on made-up unit pairs, under a base that is the weighted mean of InfoNCE.

    Attributes:
        fields: the parts of the pairs that gradients are taken of.
    """

    module: ModuleType
    config: Any
    vars: Vars
    fields: tuple[str, ...] = ("q", "k", "neg")

    @classmethod
    def of(cls, modifier: ModuleType, width: int = 6, spec: Spec = SPEC, **options) -> "Rewriting":
        config = dataclasses.replace(modifier.Config.tiny(), **options)
        return cls(modifier, config, modifier.init(config, jax.random.key(0), spec, width))

    def inputs(self, pairs: Pairs, batch: Any = None, feats: Any = None) -> dict[str, Any]:
        """What `transform` is called with; a pytree."""
        pairs = dataclasses.replace(pairs, tau=jnp.asarray(pairs.tau))
        own = {"params": self.vars.params, "state": self.vars.state, "pairs": pairs}
        return own | {"batch": batch or globals()["batch"](), "feats": feats or {}}

    def __call__(self, given: dict[str, Any], step: int = 0):
        """The rewritten pairs and the modifier's own loss, compiled once per shape."""
        return self._run(given, jnp.int32(step))

    @functools.cached_property
    def _run(self):
        def run(given, step):
            ctx = Ctx(step, DRAW, SPEC, batch=given["batch"], feats=given["feats"])
            rest = (given["params"], given["state"], given["pairs"])
            return self.module.transform(self.config, *rest, ctx)

        return jax.jit(run)

    def trained(self, given: dict[str, Any]) -> dict[str, Any]:
        own = {name: getattr(given["pairs"], name) for name in self.fields}
        return {"params": given["params"], **own}

    def value(self, given: dict[str, Any], trained: dict[str, Any] | None = None) -> jax.Array:
        """The base's loss of the rewritten pairs and the modifier's own."""
        if trained is not None:
            pairs = {name: trained[name] for name in self.fields}
            pairs = dataclasses.replace(given["pairs"], **pairs)
            given = given | {"params": trained["params"], "pairs": pairs}
        pairs, loss = self(given)
        return base(pairs) + sum_terms(loss)

    def grads(self, given: dict[str, Any]) -> Any:
        return jax.grad(lambda trained: self.value(given, trained))(self.trained(given))


@jax.jit
def base(pairs: Pairs) -> jax.Array:
    """The loss of MoCo, SimSiam and their like, of pairs as they are."""
    reduce = similarity.info_nce if len(pairs.neg) else similarity.attraction
    return jnp.mean(reduce(pairs) * pairs.weight)


def unit(pairs: Pairs) -> Pairs:
    """The pairs with unit vectors, and with the temperature as an array."""
    names = ("q", "k", "neg")
    features = {name: similarity.l2_normalize(getattr(pairs, name)) for name in names}
    return dataclasses.replace(pairs, tau=jnp.asarray(pairs.tau), **features)


def two_views(width: int, seed: int = 0) -> Pairs:
    """What SimCLR offers: 2B anchors, and the batch's own views as negatives."""
    z = similarity.l2_normalize(maker("ordinary", seed)(2 * B, width))
    image = jnp.tile(jnp.arange(B), 2)
    return Pairs(
        q=z,
        k=jnp.roll(z, B, axis=0)[:, None],
        neg=z,
        tau=0.2,
        owner=image,
        neg_owner=image,
        positive=jnp.ones((2 * B, 1), bool),
        weight=jnp.ones(2 * B),
    )


def alone(pairs: Pairs) -> Pairs:
    """The pairs as a base without negatives offers them."""
    D = pairs.q.shape[1]
    return dataclasses.replace(
        pairs, neg=jnp.zeros((0, D)), neg_owner=jnp.zeros(0, jnp.int32), tau=1.0, enqueue=None
    )

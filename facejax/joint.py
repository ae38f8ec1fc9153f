"""The space that an objective of images and texts trains: what evaluators call a `Joint`.

An objective offers it by functions of its module, of its config, its own parameters and a tower's
pooled features [n, D]. The first two and the last, which may be left out, give unit rows [n, E]:

    embed_image(cfg, params, pooled)
    embed_text(cfg, params, pooled)
    scale_bias(cfg, params)              by which cosines become logits
    compose(cfg, params, image, text)

Where its config names a `frozen` run or export, that one's encoder is the image tower.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import jax
import numpy as np

from facejax import config
from facejax.contracts import Draw, Params, Spec, TowerSpec
from facejax.errors import UserError
from facejax.tokenizer import Tokenizer

if TYPE_CHECKING:
    from facejax.model import Model


@dataclasses.dataclass(frozen=True)
class Space:
    """What joins texts to a model's images.

    Attributes:
        objective: the plug-in, with its config.
        params: its own.
        tower: the text tower's module, with its config.
        text: the text tower's parameters and statistics.
        tokenizer: of the run.
        length: tokens of a text.
        spec: the run's facts.
        image: the image tower where it isn't the model's own encoder, else None.
    """

    objective: config.Plugin
    params: Params
    tower: config.Plugin
    text: tuple[Params, Params]
    tokenizer: Tokenizer
    length: int
    spec: Spec
    image: "Model | None" = None


def offers(module: ModuleType) -> bool:
    """Whether an objective has a space to offer."""
    return all(hasattr(module, name) for name in ("embed_image", "embed_text", "scale_bias"))


def space_of(
    run: config.Run,
    params: Params,
    stats: Params,
    tokenizer: Tokenizer | None,
    load: Callable[[str], "Model"],
) -> Space | None:
    """That of the first objective that offers one; None without."""
    found = [(label, o) for label, o in run.objectives.items() if offers(o.module)]
    if not found or tokenizer is None or "encoder_text" not in run.towers:
        return None
    label, objective = found[0]
    frozen = getattr(objective.config, "frozen", None)
    return Space(
        objective=objective,
        params=params["objective"].get(label, {}),
        tower=run.towers["encoder_text"],
        text=(params["encoder_text"], stats["encoder_text"]),
        tokenizer=tokenizer,
        length=run.data.text.length,
        spec=_spec(run),
        image=load(frozen) if frozen else None,
    )


def _spec(run: config.Run) -> Spec:
    towers = {k: t.module.tower(t.config) for k, t in run.towers.items()}
    return Spec(run.steps or 1, run.global_batch, run.data.size, towers)


def at_random(space: Space, random: Callable[["Model"], "Model"]) -> Space:
    """The same towers and projections at random initialisation."""
    key = Draw(jax.random.key(0), np.zeros(0, np.int32)).fold("random baseline").fold("text").key
    objective, tower = space.objective, space.tower

    @jax.jit
    def init(key):
        own = objective.module.init(objective.config, key, space.spec).params
        return own, tower.module.init(tower.config, key, TowerSpec())

    params, text = jax.device_get(init(key))
    image = None if space.image is None else random(space.image)
    return dataclasses.replace(space, params=params, text=text, image=image)


@dataclasses.dataclass(frozen=True)
class Joint:
    """`evaluators.Joint` of a model that has a space."""

    model: "Model"
    space: Space

    @functools.cached_property
    def _numbers(self) -> tuple[float, float]:
        found = self.space.objective.module.scale_bias(
            self.space.objective.config, self.space.params
        )
        return tuple(float(np.asarray(x)) for x in found)

    @property
    def scale(self) -> float:
        return self._numbers[0]

    @property
    def bias(self) -> float:
        return self._numbers[1]

    def image(self, images: np.ndarray) -> np.ndarray:
        """u8[n, S, S, 3] -> f32[n, E], unit rows."""
        return self._project("embed_image", self._pictures(images))

    def text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> f32[n, E], unit rows."""
        return self._project("embed_text", self._words(texts))

    def compose(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """n images, each changed by its text -> f32[n, E], unit rows."""
        if not hasattr(self.space.objective.module, "compose"):
            what = f"{self.space.objective.name} was not trained to change images by texts"
            raise UserError("compose", what, "load a model of composed retrieval")
        return self._project("compose", self._pictures(images), self._words(texts))

    def _pictures(self, images: np.ndarray) -> np.ndarray:
        if getattr(self.space.objective.config, "cached", None) and self.space.image is None:
            what = "trained on cached embeddings, and nothing says which encoder made them"
            raise UserError("config.objective.frozen", what, "name that encoder")
        return (self.space.image or self.model).embed(images)

    def _words(self, texts: Sequence[str]) -> np.ndarray:
        space = self.space
        ids = space.tokenizer.encode(texts, space.length)
        return self.model.in_batches(_pooled, space.tower, space.text, ids)

    def _project(self, name: str, *pooled: np.ndarray) -> np.ndarray:
        function = getattr(self.space.objective.module, name)
        return np.asarray(
            jax.jit(function, static_argnums=0)(
                self.space.objective.config, self.space.params, *pooled
            ),
            np.float32,
        )


def _pooled(tower: config.Plugin, weights: tuple[Params, Params], ids: jax.Array) -> jax.Array:
    params, stats = weights
    inputs = {"text": ids}
    features, _ = tower.module.apply(
        tower.config, params, stats, inputs, train=False, outputs=("pooled",)
    )
    return features.pooled.astype("float32")

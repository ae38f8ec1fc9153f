"""FSFM's branch from local to global: a masked face must be told from its kept patches.

The kept tokens and one learned token at every removed place go through a Linear, a few blocks, a
norm and a Linear; their mean over all places, the class token's among them, is the face's
representation z. A projector follows, and on the student's side a predictor. The target is an
average of encoder, representation decoder and projector, and sees every patch.

Source: Wang et al. 2025 (CVPR), FSFM, and its code.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Features, Params, Spec
from facejax.objectives import _masked

AVERAGED = ("represent", "projector")
"""The parameters that the target has a copy of."""


@dataclass(frozen=True)
class Branch:
    """Sizes of the branch.

    Attributes:
        depth: blocks of the representation decoder.
        heads: its attention heads; None is one per 32 channels.
        positions: whether it adds sine-cosine positions.
        hidden: width of the hidden layer of projector and predictor.
        out: width of the projection.
        dtype: compute type.
    """

    depth: int
    heads: int | None
    positions: bool
    hidden: int
    out: int
    dtype: str

    def _parts(self, spec: Spec):
        D = spec.towers["encoder"].width
        _, heads = _masked.scaled(D, self.heads, spec.towers["encoder"])
        embed = layers.dense(D, dtype=self.dtype)
        decoder = _masked.Decoder(D, self.depth, heads, D, self.dtype)
        head = layers.MlpHead((self.hidden, self.out), norm="layer", dtype=self.dtype)
        return embed, decoder, head

    def init(self, rng: jax.Array, spec: Spec) -> Params:
        tower, _, P = _masked.geometry(spec)
        embed, decoder, head = self._parts(spec)
        r_embed, r_decoder, r_projector, r_predictor = jax.random.split(rng, 4)
        token = jnp.zeros((1, 1 + P, tower.width))
        return {
            "represent": {
                "embed": embed.init(r_embed, token)["params"],
                "decoder": decoder.init(r_decoder, token)["params"],
            },
            "projector": head.init(r_projector, token[:, 0])["params"],
            "predictor": head.init(r_predictor, jnp.zeros((1, self.out)))["params"],
        }

    def project(
        self, params: Params, features: Features, mask_token: jax.Array, spec: Spec
    ) -> jax.Array:
        """f32[B, out]: the projection of a face's representation.

        Args:
            params: with "represent" and "projector".
            features: prefix and tokens, of kept or of all patches.
            mask_token: [D], for the places of removed patches.
        """
        tower, grid, P = _masked.geometry(spec)
        embed, decoder, head = self._parts(spec)
        x = _masked.filled(features, mask_token, grid[0] * grid[1])
        x = embed.apply({"params": params["represent"]["embed"]}, x)
        if self.positions:
            x = x + _masked.positions(tower.width, grid, P).astype(x.dtype)
        z = decoder.apply({"params": params["represent"]["decoder"]}, x).mean(axis=1)
        return _masked.wide(head.apply({"params": params["projector"]}, z))

    def predict(self, params: Params, projection: jax.Array, spec: Spec) -> jax.Array:
        """f32[B, out]: what the student says of the target's projection."""
        head = self._parts(spec)[2]
        return _masked.wide(head.apply({"params": params["predictor"]}, projection))

    def flops(self, spec: Spec) -> float:
        """Forward FLOPs per image: the student's branch, and the target's at a third.

        A training step counts objectives three times, and the target only runs forward.
        """
        tower, grid, P = _masked.geometry(spec)
        _, decoder, head = self._parts(spec)
        tokens = grid[0] * grid[1] + P
        project = 2 * tokens * tower.width**2 + decoder.flops(tokens) + head.flops(tower.width)
        return project * 4 / 3 + head.flops(self.out)

"""MAE with the ViT encoder against transformers' ViTMAE: same weights and mask, same everything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import DRAW, SPEC, Case

from facejax.contracts import Drawn, TowerSpec
from facejax.encoders import vit
from facejax.export._timm import import_timm
from facejax.objectives import mae
from facejax.ops.masking import removed_but

pytestmark = pytest.mark.torch

ENCODER = vit.Config(width=32, depth=2, heads=2, mlp_ratio=2.0, patch=4, size=16)


@pytest.fixture(scope="module")
def theirs():
    """(torch, model), all parameters drawn at random."""
    try:
        torch, _ = import_timm()  # makes torchvision importable, which transformers needs too
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"transformers cannot be imported: {error}")
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        mask_ratio=0.75,
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config)
    # A model that loads no weights keeps positions of zero unless told that it is not initialised.
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(16)
    assert model.vit.embeddings.position_embeddings.abs().max() > 0
    model = model.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            # Positions are fixed sine and cosine in both.
            if "position" not in name and "pos_embed" not in name:
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.add_(0.1 * noise)
    return torch, model.eval()


def converted(model) -> tuple[dict, dict]:
    """Their weights as parameters of the encoder and of `mae`."""
    weights = {k: v.detach().numpy() for k, v in model.state_dict().items()}

    def linear(name):
        return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def block(name):
        parts = [linear(f"{name}.attention.{part}_proj") for part in "qkv"]
        qkv = {k: np.concatenate([p[k] for p in parts], axis=-1) for k in ("kernel", "bias")}
        return {
            "norm1": norm(f"{name}.layernorm_before"),
            "attn": {"qkv": qkv, "proj": linear(f"{name}.attention.o_proj")},
            "norm2": norm(f"{name}.layernorm_after"),
            "mlp": {part: linear(f"{name}.mlp.{part}") for part in ("fc1", "fc2")},
        }

    embed = "vit.embeddings"
    kernel = weights[f"{embed}.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0)
    encoder = {
        "patch_embed": {
            "kernel": kernel.reshape(48, 32),
            "bias": weights[f"{embed}.patch_embeddings.projection.bias"],
        },
        "cls_token": weights[f"{embed}.cls_token"][0],
        **{f"blocks_{i:02d}": block(f"vit.layers.{i}") for i in range(2)},
        "norm": norm("vit.layernorm"),
    }
    decoder = {
        "blocks_00": block("decoder.decoder_layers.0"),
        "norm": norm("decoder.decoder_norm"),
        "pred": linear("decoder.decoder_pred"),
    }
    own = {
        "embed": linear("decoder.decoder_embed"),
        "mask_token": weights["decoder.mask_token"],
        "decoder": decoder,
    }
    return encoder, own


def test_prediction_and_loss_are_theirs(theirs):
    torch, model = theirs
    rng = np.random.default_rng(0)
    image, noise = rng.normal(size=(8, 16, 16, 3)), rng.random((8, 16))
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        want = model(pixels, noise=torch.from_numpy(noise))

    config = mae.Config(decoder_depth=1, decoder_width=16, decoder_heads=2)
    spec = dataclasses.replace(SPEC, towers={"encoder": vit.tower(ENCODER)})
    encoder, own = jax.tree.map(jnp.float32, converted(model))
    shapes = vit.init(ENCODER, jax.random.key(0), TowerSpec())[0]
    assert jax.tree.map(jnp.shape, encoder) == jax.tree.map(jnp.shape, shapes)
    keep = jnp.sort(jnp.argsort(jnp.asarray(noise), axis=1)[:, :4], axis=1)
    drawn, view = Drawn(removed_but(keep, 16), keep), {"image": jnp.float32(image)}
    np.testing.assert_array_equal(drawn.mask, want.mask)

    @jax.jit
    def ours():
        outputs = ("prefix", "tokens")
        features, _ = vit.apply(ENCODER, encoder, {}, view, mask=drawn, outputs=outputs)
        features = dataclasses.replace(features, view=view)
        ctx = Case(mae, config, None, spec).ctx(DRAW)
        loss = mae.loss(config, own, {}, {}, {"masked": features}, {}, ctx)
        return mae.decode(config, own, features, spec), loss.terms["pixels"].value()

    pred, loss = ours()
    np.testing.assert_allclose(pred, want.logits, atol=1e-5)
    np.testing.assert_allclose(loss, float(want.loss), rtol=1e-5)

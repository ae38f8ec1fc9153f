"""MAE with the ViT encoder against transformers' ViTMAE: same weights and mask, same everything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import DRAW, SPEC, Case

from facejax.contracts import Drawn, TowerSpec
from facejax.encoders import vit
from facejax.export import names
from facejax.export._timm import import_timm
from facejax.export.names.mae import transformers as mae_table
from facejax.export.names.vit import TRANSFORMERS_IN_MEMORY
from facejax.objectives import mae
from facejax.ops.masking import removed_but

pytestmark = pytest.mark.torch

ENCODER = vit.Config(width=32, depth=2, heads=2, mlp_ratio=2.0, patch=4, size=16)
MAE = mae.Config(decoder_depth=1, decoder_width=16, decoder_heads=2)
MAE_SPEC = dataclasses.replace(SPEC, towers={"encoder": vit.tower(ENCODER)})
ENCODER_SHAPES = jax.eval_shape(lambda: vit.init(ENCODER, jax.random.key(0), TowerSpec())[0])
OWN_SHAPES = jax.eval_shape(lambda: mae.init(MAE, jax.random.key(0), MAE_SPEC).params)


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


def converted(tensors) -> tuple[dict, dict]:
    """Their tensors by name in memory, as parameters of the encoder and of `mae`, or gradients."""
    tensors = names.renamed(tensors, TRANSFORMERS_IN_MEMORY)
    shapes = {"encoder": ENCODER_SHAPES, "mae": OWN_SHAPES}
    params = names.import_tensors(mae_table(ENCODER, 16, 1), tensors, shapes, "ViTMAE")
    return params["encoder"], params["mae"]


def test_prediction_loss_and_gradients_are_theirs(theirs):
    torch, model = theirs
    rng = np.random.default_rng(0)
    image, noise = rng.normal(size=(8, 16, 16, 3)), rng.random((8, 16))
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    want = model(pixels, noise=torch.from_numpy(noise))

    weights = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    encoder, own = converted(weights)
    keep = jnp.sort(jnp.argsort(jnp.asarray(noise), axis=1)[:, :4], axis=1)
    drawn, view = Drawn(removed_but(keep, 16), keep), {"image": jnp.float32(image)}
    np.testing.assert_array_equal(drawn.mask, want.mask)

    def value(params):
        outputs = ("prefix", "tokens")
        features, _ = vit.apply(ENCODER, params[0], {}, view, mask=drawn, outputs=outputs)
        features = dataclasses.replace(features, view=view)
        ctx = Case(mae, MAE, None, MAE_SPEC).ctx(DRAW)
        loss = mae.loss(MAE, params[1], {}, {}, {"masked": features}, {}, ctx)
        pred = mae.decode(MAE, params[1], features, MAE_SPEC)
        return loss.terms["pixels"].value(), pred

    (loss, pred), gradients = jax.jit(jax.value_and_grad(value, has_aux=True))((encoder, own))
    np.testing.assert_allclose(pred, want.logits.detach(), atol=1e-5)
    np.testing.assert_allclose(loss, want.loss.item(), rtol=1e-5)

    want.loss.backward()
    # Positions are fixed in both and get no gradient; the table holds them to their values.
    grads = {k: (v.data if v.grad is None else v.grad).numpy() for k, v in model.named_parameters()}
    for mine, theirs_ in zip(gradients, converted(grads)):
        mine, theirs_ = names.flatten(mine), names.flatten(theirs_)
        for path in mine.keys() | theirs_.keys():
            scale = np.abs(theirs_[path]).max()
            np.testing.assert_allclose(mine[path], theirs_[path], atol=1e-4 * scale, err_msg=path)

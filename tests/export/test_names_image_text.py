"""CLIP and SigLIP of transformers: equal weights give equal embeddings, losses and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import Spec, TowerSpec
from facejax.encoders import text, vit
from facejax.export import names
from facejax.export.names import clip as clip_names
from facejax.export.names import siglip as siglip_names
from facejax.objectives import clip, siglip
from facejax.ops.similarity import clip_softmax, sigmoid_loss

SHARED = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
VISION = {**SHARED, "patch": 8, "size": 16, "positions": "learned"}
WORDS = {**SHARED, "vocab": 40, "length": 6, "end": 1, "pad": 1}
KINDS = {
    "clip": (
        vit.Config(
            **VISION, pre_norm=True, patch_bias=False, norm_eps=1e-5, activation="quick_gelu"
        ),
        text.Config(**WORDS, activation="quick_gelu"),
        (clip, clip.Config(out=6)),
    ),
    "siglip": (
        vit.Config(**VISION, pool="attention", activation="gelu_tanh"),
        text.Config(
            **WORDS,
            activation="gelu_tanh",
            eps=1e-6,
            mask="none",
            pool="last",
            neck="linear",
            embed=16,
        ),
        (siglip, siglip.Config()),
    ),
}
TABLES = {
    "clip": (clip_names.transformers, functools.partial(clip_names.folded, form="transformers")),
    "siglip": (siglip_names.transformers, siglip_names.split),
}
BACK = {"clip": dict, "siglip": siglip_names.fused}


def initial(kind):
    image, words, (module, cfg) = KINDS[kind]
    towers = {"encoder": vit.tower(image), "encoder_text": text.tower(words)}
    spec = Spec(1, 4, 16, towers)
    return {
        "encoder": vit.init(image, jax.random.key(0), TowerSpec())[0],
        "encoder_text": text.init(words, jax.random.key(1), TowerSpec())[0],
        "objective": module.init(cfg, jax.random.key(2), spec).params,
    }


def drawn(kind):
    shapes = jax.eval_shape(lambda: initial(kind))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape) * 0.3), shapes)


def embed(kind, params, images, ids):
    image, words, (module, cfg) = KINDS[kind]
    x = vit.apply(image, params["encoder"], {}, {"image": images}, outputs=("pooled",))[0].pooled
    y = text.apply(words, params["encoder_text"], {}, {"text": ids})[0].pooled
    own = params["objective"]
    return module.embed_image(cfg, own, x), module.embed_text(cfg, own, y)


def loss(kind, params, images, ids):
    module, cfg = KINDS[kind][2]
    x, y = embed(kind, params, images, ids)
    scale, bias = module.scale_bias(cfg, params["objective"])
    each = clip_softmax(x, y, scale) if kind == "clip" else sigmoid_loss(x, y, scale, bias)
    return each.mean()


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("clip", clip_names.transformers),
        ("clip", clip_names.open_clip),
        ("siglip", siglip_names.transformers),
    ],
)
def test_there_and_back_is_bit_equal(kind, table):
    image, words, _ = KINDS[kind]
    params, entries = drawn(kind), table(image, words)
    tensors = names.export_tensors(entries, params)
    assert len(tensors) == len(entries)
    back = names.import_tensors(entries, tensors, params, "file")
    jax.tree.map(np.testing.assert_array_equal, back, params)
    again = names.export_tensors(entries, back)
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    if kind == "siglip":
        whole = siglip_names.fused(tensors)
        assert "vision_model.head.attention.in_proj_weight" in whole
        for name, value in siglip_names.split(whole).items():
            np.testing.assert_array_equal(value, tensors[name])


def theirs(kind):
    """A small model of transformers with random weights."""
    from facejax.export._timm import import_torch

    torch = import_torch()
    import transformers

    shared = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    words = {**shared, **ids, "vocab_size": 40, "max_position_embeddings": 6}
    vision = {**shared, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "clip":
        cfg = transformers.CLIPConfig(text_config=words, vision_config=vision, projection_dim=6)
        model = transformers.CLIPModel(cfg)
    else:
        cfg = transformers.SiglipConfig(text_config=words, vision_config=vision)
        model = transformers.SiglipModel(cfg)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "logit" not in name:
                p.normal_(0, 0.3)
    return torch, model.eval()


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_the_same_embeddings_loss_and_gradients(kind):
    pytest.importorskip("transformers")
    torch, model = theirs(kind)
    image, words, _ = KINDS[kind]
    table, prepare = TABLES[kind]
    entries = table(image, words)
    tensors = {k: v.numpy() for k, v in model.state_dict().items() if "position_ids" not in k}
    params = names.import_tensors(entries, prepare(tensors), drawn(kind), kind)

    rng = np.random.default_rng(1)
    images = rng.normal(size=(4, 16, 16, 3)).astype(np.float32)
    ids = np.array([[0, 5, 9, 1, 1, 1], [0, 7, 1, 1, 1, 1], [0, 3, 4, 5, 6, 1], [0, 1, 1, 1, 1, 1]])
    there = model(
        input_ids=torch.from_numpy(ids),
        pixel_values=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        return_loss=True,
    )
    x, y = jax.jit(functools.partial(embed, kind))(params, images, jnp.asarray(ids, jnp.int32))
    np.testing.assert_allclose(x, there.image_embeds.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(y, there.text_embeds.detach().numpy(), atol=1e-4)
    value, grads = jax.jit(jax.value_and_grad(functools.partial(loss, kind)))(
        params, images, jnp.asarray(ids, jnp.int32)
    )
    np.testing.assert_allclose(value, there.loss.item(), rtol=1e-5)

    there.loss.backward()
    expected = {k: p.grad.numpy() for k, p in model.named_parameters()}
    if kind == "siglip":
        expected = siglip_names.split(expected)
    found = names.export_tensors(entries, jax.tree.map(np.asarray, grads))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        ours = found[name]
        if kind == "clip" and name == clip_names.CLASS_AT["transformers"][1]:
            # The position of the class token went into the token.
            token = found[clip_names.CLASS_AT["transformers"][0]]
            np.testing.assert_allclose(token, gradient[0], atol=1e-4)
            gradient, ours = gradient[1:], ours[1:]
        np.testing.assert_allclose(ours, gradient, atol=1e-4, rtol=1e-4, err_msg=name)

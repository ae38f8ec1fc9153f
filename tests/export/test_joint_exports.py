"""Both towers exported and opened again: by us, and by the libraries that they are for."""

import jax
import numpy as np
import pytest

import facejax
from facejax import config, tokenizer
from facejax.contracts import Spec, TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import open_clip, transformers
from facejax.joint import space_of
from facejax.model import Model, preprocess_of

WORDS = ["a young woman with wavy hair", "an old man who smiles", "a child in a red hat"]
SHARED = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
RUNS = {
    "clip": (
        {"positions": "learned", "pre_norm": True, "patch_bias": False, "norm_eps": 1e-5},
        {},
        {"out": 6},
    ),
    "siglip": (
        {"positions": "learned", "pool": "attention", "activation": "gelu_tanh"},
        {"activation": "gelu_tanh", "eps": 1e-6, "mask": "none", "pool": "last"}
        | {"neck": "linear", "embed": 16},
        {},
    ),
}


@pytest.fixture(scope="module")
def read():
    return tokenizer.train(WORDS, vocab=300)


def model_of(read, kind: str, image=None, words=None) -> Model:
    """A model with drawn weights, as a run would hold it."""
    of_image, of_words, own = RUNS[kind]
    run = config.resolve(
        {
            "steps": 1,
            "encoder": {"name": "vit", "patch": 8, **SHARED, **of_image, **(image or {})},
            "encoder_text": {"name": "text", "vocab": 320, "end": read.end, "pad": read.pad}
            | {**SHARED, **of_words, **(words or {})},
            "objective": {kind: own},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "data": {
                "size": 16,
                "sources": ({"name": "captioned"},),
                "text": {"tokenizer": "none", "length": 16, "digest": read.digest},
            },
        }
    )
    towers = {k: t.module.tower(t.config) for k, t in run.towers.items()}
    objective = run.objectives[kind]
    shapes = jax.eval_shape(
        lambda key: {
            **{k: t.module.init(t.config, key, TowerSpec())[0] for k, t in run.towers.items()},
            "objective": {
                kind: objective.module.init(objective.config, key, Spec(1, 4, 16, towers)).params
            },
        },
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape) * 0.3), shapes)
    params["objective"][kind]["logit_scale"] = np.float32(2.0)
    stats = {key: {} for key in run.towers}
    tower = run.towers["encoder"]
    return Model(
        encoder_name="vit",
        module=vit,
        encoder_config=tower.config,
        params=params["encoder"],
        stats={},
        preprocess=preprocess_of(run),
        config=config.to_dict(run),
        meta={"step": 1, "config": config.to_dict(run), "data": [], "metrics": {}, "versions": {}},
        space=space_of(run, params, stats, read, facejax.load),
    )


@pytest.mark.parametrize(
    ("kind", "form"), [("clip", transformers), ("siglip", transformers), ("clip", open_clip)]
)
def test_both_towers_come_back_with_their_tokenizer(read, kind, form, tmp_path, monkeypatch):
    monkeypatch.setattr(form if form is open_clip else form._transformers_joint, "parity", none)
    model, out = model_of(read, kind), tmp_path / "out"
    form.write_joint(model, out)
    back = facejax.load(out)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    ours, theirs = model.joint(), back.joint()
    np.testing.assert_array_equal(theirs.image(images), ours.image(images))
    np.testing.assert_array_equal(theirs.text(WORDS), ours.text(WORDS))
    assert (theirs.scale, theirs.bias) == (ours.scale, ours.bias)
    np.testing.assert_array_equal(form.read(out)[1]["norm"]["scale"], model.params["norm"]["scale"])

    tokenizer.train(["other words"], vocab=280).save(out / "tokenizer.json")
    with pytest.raises(UserError, match="not the tokenizer of these weights"):
        facejax.load(out)


def none(*_):
    return {"status": "not checked", "reason": "a test", "remedy": "none"}


@pytest.mark.parametrize(
    ("kind", "form", "image", "words", "told"),
    [
        ("clip", transformers, {"pool": "mean"}, {}, "pooling of images other than by the class"),
        ("clip", transformers, {"pre_norm": False}, {}, "no norm before the blocks"),
        ("clip", open_clip, {}, {"pool": "first"}, "texts that aren't causal, pooled at their end"),
        ("clip", open_clip, {"activation": "quick_gelu"}, {}, "towers with quick_gelu and gelu"),
        ("siglip", open_clip, {}, {}, "open_clip has no model of 'siglip'"),
        ("siglip", transformers, {"positions": "sincos"}, {}, "fixed or rotary positions"),
    ],
)
def test_what_a_library_does_not_have_is_refused(read, kind, form, image, words, told, tmp_path):
    with pytest.raises(UserError, match=told):
        form.write_joint(model_of(read, kind, image, words), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_transformers_reads_texts_and_images_alike(read, kind, tmp_path):
    pytest.importorskip("transformers")
    transformers.write_joint(model_of(read, kind), tmp_path / "out")
    found = facejax.export.read_json(tmp_path / "out" / "parity.json")
    assert found["status"] == "ok"


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_open_clip_computes_the_same(read, activation, tmp_path):
    from facejax.export._timm import import_torch

    import_torch()
    pytest.importorskip("open_clip")
    same = {"activation": activation}
    open_clip.write_joint(model_of(read, "clip", same, same), tmp_path / "out")
    assert facejax.export.read_json(tmp_path / "out" / "parity.json")["status"] == "ok"

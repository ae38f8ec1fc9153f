"""New runs that start from both towers: exports, and folders as transformers writes them."""

import json

import numpy as np
import pytest
import support
from safetensors.numpy import load_file, save_file
from test_joint_exports import WORDS, model_of, none
from test_names_image_text import theirs

from facejax import config, starting, state, tokenizer
from facejax.errors import UserError
from facejax.export import names, transformers
from facejax.export._joint import tree


@pytest.fixture(scope="module", params=["clip", "siglip"])
def exported(request, tmp_path_factory):
    """The model, its export, and that folder as transformers would have written it."""
    out = tmp_path_factory.mktemp(request.param)
    read = tokenizer.train(WORDS, vocab=300)
    model = model_of(read, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers._transformers_joint, "parity", none)
        transformers.write_joint(model, out / "export")
    plain = out / "plain"
    plain.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        (plain / name).write_bytes((out / "export" / name).read_bytes())
    told = json.loads((out / "export/config.json").read_text())
    told.pop("facejax")
    (plain / "config.json").write_text(json.dumps(told))
    return request.param, model, out / "export", plain


def run_of(model, source, objective=None, image=None, words=None, **keys):
    values = json.loads(json.dumps(dict(model.config)))
    values |= {"init_from": str(source), **keys}
    for key, more in (("encoder", image), ("encoder_text", words), ("objective", objective)):
        values[key] = {**values[key], **(more or {})}
    return config.resolve(values)


def matched(run):
    shapes = state.shapes(support.program_of(run))
    wanted = starting.flatten({name: getattr(shapes, name) for name in starting.ITEMS})
    return starting.match(wanted, starting.read(run), run.towers["encoder"].config)


def test_both_towers_and_the_scale_arrive_bit_equal(exported):
    kind, model, *folders = exported
    made = tree(model)
    made["objective"] = {kind: made["objective"]}
    want = {f"params/{path}": value for path, value in names.flatten(made).items()}
    for folder in folders:
        taken, report = matched(run_of(model, folder))
        assert (report.random, report.adapted, report.skipped) == ([], [], [])
        assert taken.keys() == want.keys()
        for path, value in want.items():
            np.testing.assert_array_equal(taken[path], value, err_msg=path)


def test_fewer_positions_of_texts_are_the_first(exported):
    _, model, *folders = exported
    for folder in folders:
        taken, report = matched(run_of(model, folder, words={"length": 5}))
        want = model.space.text[0]["pos_embed"][:5]
        np.testing.assert_array_equal(taken["params/encoder_text/pos_embed"], want)
        assert report.adapted == ["params/encoder_text/pos_embed: the first 5 of 16 positions"]


def test_a_run_without_texts_takes_the_image_tower(exported):
    _, model, _, plain = exported
    values = json.loads(json.dumps(dict(model.config)))
    values |= {"init_from": str(plain), "objective": {"simclr": {}}, "encoder_text": None}
    values["data"]["text"] = None
    taken, report = matched(config.resolve({k: v for k, v in values.items() if v is not None}))
    assert {"params/encoder/pos_embed", "params/encoder/norm/scale"} <= taken.keys()
    assert all(path.startswith("params/objective/simclr/") for path in report.random)


def test_what_does_not_fit_is_one_line(exported, tmp_path):
    kind, model, export, plain = exported
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name = {"clip": "text_projection.weight", "siglip": "logit_bias"}[kind]
    tensors = load_file(plain / "model.safetensors")
    tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=rf"^config\.init_from: missing: {name};") as error:
        starting.read(run_of(model, tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"wrong shape: params/encoder_text/embedding \[320"):
        matched(run_of(model, plain, words={"vocab": 321}))
    message = "^config.encoder_text.pool: first, but (end|last) in config.init_from; set it to"
    for folder in (export, plain):
        with pytest.raises(UserError, match=message):
            starting.read(run_of(model, folder, words={"pool": "first"}))
    other = tokenizer.train(["other words"], vocab=280).digest
    texts = {**model.config["data"]["text"], "digest": other, "tokenizer": "other.json"}
    with pytest.raises(UserError, match=r"were other tokens than other\.json makes"):
        starting.read(run_of(model, plain, data={**model.config["data"], "text": texts}))
    message = r"its activation is gelu(_pytorch_tanh)?, ours is quick_gelu"
    with pytest.raises(UserError, match=message):
        starting.read(run_of(model, plain, image={"activation": "quick_gelu"}))
    if kind == "clip":
        with pytest.raises(UserError, match=r"wrong shape: .*objective/clip/text/kernel \[16, 6\]"):
            matched(run_of(model, plain, objective={"clip": {"out": 5}}))
        with pytest.raises(UserError, match=r"encoder.pre_norm: False, but True in config.init_fr"):
            starting.read(run_of(model, plain, image={"pre_norm": False}))


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_models_that_transformers_saves(kind, tmp_path):
    pytest.importorskip("transformers")
    _, model = theirs(kind)
    model.save_pretrained(tmp_path)
    ours = model_of(tokenizer.train(WORDS, vocab=300), kind)
    same = {"activation": "quick_gelu"} if kind == "clip" else {}
    words = {"vocab": 40, "length": 6, "end": 1, "pad": 1, **same}
    taken, report = matched(run_of(ours, tmp_path, image=same, words=words))
    assert report.random == []
    scale = float(model.logit_scale.detach())
    np.testing.assert_allclose(taken[f"params/objective/{kind}/logit_scale"], scale, rtol=1e-6)

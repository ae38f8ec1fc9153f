"""Images and texts from training to the space that evaluators get; what doesn't fit is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from support import SIZE, TEXT, resolve

import facejax
from facejax import evaluate, starting, tokenizer
from facejax.errors import UserError
from facejax.metrics import read_jsonl
from facejax.session import prepare
from facejax.train import train

TEXTS = ["red", "green", "blue", "a red picture", "a green picture", "a blue picture"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokenizer.train(TEXTS, vocab=300).save(path)
    return path


def run_of(words, objective="clip", **keys):
    tower = {k: v for k, v in TEXT.items() if k not in ("length", "end")} | {"vocab": 300}
    options = {"clip": {"out": 6}, "siglip": {}}[objective]
    data = {"size": SIZE, "sources": ({"name": "captioned"},)}
    return resolve(
        {objective: options},
        encoder={"name": "toy"},
        optimizer={"name": "adamw", "lr": 1e-3},
        encoder_text={**tower, **keys.pop("tower", {})},
        data={**data, "text": {"tokenizer": str(words), "length": 6, **keys.pop("text", {})}},
        **{"steps": 8, "checkpoint": {"every_steps": 8}, "report": False, **keys},
    )


@pytest.fixture(scope="module")
def workdir(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(prepare(run_of(words), folder)) == 0
    return folder


def test_a_run_counts_images_without_texts_and_keeps_its_tokenizer(workdir, words):
    *_, last = read_jsonl(workdir / "metrics.jsonl")
    # 64 rows of 24 pictures, one of which has none.
    assert last["texts_missing"] in (2, 3)
    assert last["texts_cut"] == 0
    assert tokenizer.load(workdir / "tokenizer.json").digest == tokenizer.load(words).digest
    stored = facejax.load(workdir).config
    assert stored["data"]["text"]["digest"] == tokenizer.load(words).digest
    assert stored["encoder_text"]["end"] == tokenizer.load(words).end


def test_the_space_of_a_run_joins_unit_vectors(workdir):
    model = facejax.load(workdir)
    joint = model.joint()
    texts, images = joint.text(TEXTS), joint.image(np.zeros((5, SIZE, SIZE, 3), np.uint8))
    assert texts.shape == (6, 6)
    assert images.shape == (5, 6)
    for rows in (texts, images):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.embed_text(TEXTS[:1]), texts[:1], atol=1e-5)
    assert joint.text([]).shape == (0, 6)
    assert 1 < joint.scale <= 100.001
    assert joint.bias == 0
    with pytest.raises(UserError, match="clip was not trained to change images by texts"):
        joint.compose(np.zeros((1, SIZE, SIZE, 3), np.uint8), ["red"])
    other = evaluate.random_encoder(model).joint()
    assert np.abs(other.text(TEXTS) - texts).max() > 0.1
    assert other.scale == pytest.approx(1 / 0.07, rel=1e-4)
    np.testing.assert_array_equal(
        evaluate.random_encoder(model).joint().text(TEXTS), other.text(TEXTS)
    )


def test_what_does_not_fit_is_refused(workdir, words, tmp_path):
    other = tmp_path / "other.json"
    tokenizer.train([*TEXTS, "yellow and purple"], vocab=300).save(other)
    for run, told in (
        (run_of(other), r"config\.data\.text\.digest: .* but the run in .* has"),
        (run_of(words, text={"digest": "abc"}), r"config\.data\.text\.digest: \"abc\", but"),
        (run_of(words, tower={"vocab": 128}), r"config\.encoder_text\.vocab: 128 tokens, but"),
        (run_of(tmp_path / "none.json"), None),
    ):
        if told is None:
            prepare(run, workdir)  # the run's own copy goes on
        else:
            with pytest.raises(UserError, match=told):
                prepare(run, workdir)
    without = dataclasses.replace(run_of(words).data, text=None)
    with pytest.raises(UserError, match=r"config\.data\.text: an objective reads texts"):
        prepare(dataclasses.replace(run_of(words), data=without), tmp_path)
    towers = run_of(words).towers
    text = dataclasses.replace(towers["encoder_text"].config, length=None)
    text = dataclasses.replace(towers["encoder_text"], config=text)
    run = dataclasses.replace(run_of(words), data=without, towers={**towers, "encoder_text": text})
    with pytest.raises(UserError, match=r"config\.data\.text: missing, and the text tower takes"):
        prepare(run, tmp_path)
    branch = prepare(dataclasses.replace(run_of(other), init_from=str(workdir)), tmp_path)
    with pytest.raises(UserError, match=r"config\.init_from: its texts were other tokens than"):
        starting.read(branch.run)
    copy = shutil.copytree(workdir, tmp_path / "copy")
    shutil.copy(other, copy / "tokenizer.json")
    with pytest.raises(UserError, match="not the tokenizer of this checkpoint"):
        facejax.load(copy)
    with pytest.raises(UserError, match="the model knows no texts"):
        dataclasses.replace(facejax.load(workdir), space=None).embed_text(["red"])

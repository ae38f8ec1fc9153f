"""python -m facejax.export, with the run that it restores made up."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import _run
from facejax.export.__main__ import run


@pytest.fixture
def command(monkeypatch, preprocess):
    """The command's `run`, over a `load_run` that records what is asked of it."""
    cfg = dataclasses.replace(vit.Config.tiny(), size=24)
    params = vit.init(cfg, jax.random.key(0), TowerSpec())[0]
    asked = []

    def load_run(workdir, step):
        asked.append((workdir.name, step))
        return SimpleNamespace(
            encoder_name="vit",
            module=vit,
            encoder_config=cfg,
            params=params,
            stats={},
            preprocess=preprocess,
            meta={"step": step},
            space=None,
        )

    monkeypatch.setattr(_run.model, "load_run", load_run)
    return SimpleNamespace(run=run, asked=asked)


def test_it_writes_the_export(command, tmp_path, capsys):
    out = tmp_path / "out"
    command.run([f"--workdir={tmp_path / 'r'}", "--step=7", "--format=timm", f"--out={out}"])
    assert command.asked == [("r", 7)]
    assert "- steps: 7\n" in (out / "README.md").read_text()
    assert "model.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=tim", "--out=new"], "--format: no export called 'tim'; did you mean 'timm'"),
        (["--format=timm", "--out=full"], "full: already there"),
        (["--format=timm"], "--out"),
    ],
)
def test_wrong_arguments_are_refused_before_the_run_is_restored(
    arguments, message, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=message):
        command.run(["--workdir=r", *arguments])
    assert command.asked == []

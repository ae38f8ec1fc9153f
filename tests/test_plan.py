"""The planning command as a user meets it; and every shipped config on its hardware."""

import dataclasses
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from facejax import plan
from facejax.errors import UserError
from facejax.planning import topology

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu: see requirements-plan.txt"
)
TINY = (
    "--config=configs/quickstart.py",
    "--config.encoder.width=64",
    "--config.encoder.depth=1",
    "--config.objective.simclr.weight=0",
    "--config.objective.mae.decoder_depth=1",
    "--config.data.size=32",
)


def command(*options: str, status: int = 0) -> tuple[str, str]:
    """Output and errors of the command in a process of its own."""
    # The flags of the tests are for the compiler of CPUs.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    line = [sys.executable, "-m", "facejax.plan", *options]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_estimate_for_gpus(capsys):
    plan.run([*TINY, "--topology=h100:2x8", "--config.mesh.fsdp=4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["source"] == "estimate"
    assert found["mesh"] == {"data": 4, "fsdp": 4}
    assert found["topology"]["devices"] == 16
    memory = found["memory"]
    parts = ("parameters", "optimizer", "averages", "objectives", "frozen", "batch", "temporaries")
    assert memory["need"] == sum(memory[name] for name in parts) == memory["estimate"]
    assert found["limit"] == max(found["seconds"], key=found["seconds"].get)
    assert found["images_per_s"] == pytest.approx(64 / max(found["seconds"].values()))
    assert {c["kind"] for c in found["collectives"]} >= {"all-gather", "all-reduce"}
    assert found["largest"][0]["bytes"] >= found["largest"][-1]["bytes"] > 0


def test_text_says_the_same_as_json(capsys):
    plan.run([*TINY, "--topology=h100:8"])
    out = capsys.readouterr().out
    assert "fits: " in out
    for line in ("memory per chip", "one step, per chip", "least time of a step", "<- the limit"):
        assert line in out


def test_what_does_not_fit_is_reported_with_advice_and_fails(capsys, monkeypatch):
    plan.run([*TINY, "--topology=h100:1", "--json"])
    need = json.loads(capsys.readouterr().out)["memory"]["need"]
    small = dataclasses.replace(topology.CHIPS["h100"], capacity=0.8 * need)
    monkeypatch.setitem(topology.CHIPS, "h100", small)
    with pytest.raises(UserError) as caught:
        plan.run([*TINY, "--topology=h100:1"])
    out = capsys.readouterr().out
    assert "DOES NOT FIT" in out
    advised = out.partition("what to change (estimated)\n")[2].splitlines()
    assert " fits: --config." in advised[0]
    line = str(caught.value)
    assert re.match(
        r"configs/quickstart.py: needs [\d.]+ MiB of [\d.]+ MiB per chip; try --c", line
    )
    assert line.partition("try ")[2] == advised[0].partition("fits: ")[2]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--topology=v5e:3x3",), "hosts of 2x2 chips"),
        (("--topology=v6:4x4",), "no chip 'v6'"),
        (("--topology=v5e:16x16",), "config.global_batch: 64 rows do not divide over 256 devices"),
        (("--topology=h100:8", "--classes.identity=many"), "--classes.identity: 'many'"),
        (("--topology=h100:8", "--config.remat=all"), "config.remat"),
        (("--topology=h100:8", "--clases.identity=3"), "--clases.identity: unknown option"),
        (("--topologie=h100:8",), "topology"),
    ],
)
def test_wrong_input_is_one_line(options, what):
    with pytest.raises(UserError) as caught:
        plan.run([*TINY, *options])
    assert what in str(caught.value)
    assert caught.value.status == 2


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="libtpu, is not installed; pip install -r"):
        plan.run([*TINY, "--topology=v5e:2x2"])


@pytest.mark.slow
def test_status_and_streams_of_a_failure():
    out, err = command(*TINY, "--topology=v5e:32x32", status=2)
    assert out == ""
    assert err.startswith("error: --topology: 1024 chips")
    assert err.count("\n") == 1


@pytest.mark.slow
@needs_compiler
def test_compiles_for_chips_that_are_not_there():
    # Arrays that fill the tiles of 8 x 128; of tiny ones most memory is padding.
    keys = (
        "--config.encoder.width=256",
        "--config.encoder.depth=4",
        "--config.data.size=64",
        "--config.global_batch=1024",
        "--config.objective.mae.decoder_depth=8",
        "--config.mesh.fsdp=4",
        "--config.remat=full",
        "--config.dtype=bfloat16",
    )
    out, err = command(*TINY, *keys, "--topology=v5e:2x2", "--json")
    assert err == "compiling for v5e:2x2 ...\n"
    found = json.loads(out)
    assert found["source"].startswith("libtpu")
    assert found["fits"]
    memory = found["memory"]
    assert 0.5 < (memory["need"] - memory["program"]) / memory["estimate"] < 2
    sends = {c["kind"]: c["bytes"] for c in found["collectives"]}
    assert sends["all-gather"] > 0
    assert sends.keys() & {"reduce-scatter", "all-reduce"}


@pytest.mark.nightly
@needs_compiler
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_fits_its_hardware(path):
    """`TOPOLOGY` in a config names it; a config without is for one accelerator."""
    where = runpy.run_path(str(path)).get("TOPOLOGY", "v5e:1x1")
    told = ("--classes.identity=10000", "--classes.expression=7")
    out, _ = command(f"--config=configs/{path.name}", f"--topology={where}", "--json", *told)
    assert json.loads(out)["fits"]

"""The documentation is true: its code runs, its commands parse, its links lead somewhere."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support import steps

import facejax.objectives
from facejax import cli, command_line, config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every command in the page's shell blocks, without comments."""
    blocks = [text for language, text in BLOCK.findall(page.read_text()) if language == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def files(page: str) -> dict[str, str]:
    """The files that a page shows whole, by path."""
    return dict(FILE.findall((ROOT / "docs" / page).read_text()))


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """The files of extending.md, written where the config strings find them; gives the config."""
    shown = files("extending.md")
    assert len(shown) == 2
    monkeypatch.setattr(
        facejax.objectives,
        "__path__",
        [*facejax.objectives.__path__, str(tmp_path / "facejax/objectives")],
    )
    for path, text in shown.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    yield command_line.load_file(str(tmp_path / "configs/uniform_vit_synthetic.py")).to_dict()
    sys.modules.pop("facejax.objectives.uniform", None)


def test_new_objective_trains(newcomer):
    values = newcomer | {"encoder": {"name": "toy"}, "steps": 2, "global_batch": 8}
    run = config.resolve(values | {"data": {**values["data"], "size": 16}})
    _, history = steps(run, 2)
    assert len(history) == 2
    for metrics in history:
        assert np.isfinite(metrics["loss"])
        assert metrics["loss/uniform"] == metrics["loss"]
        # Squared distances of unit vectors lie in [0, 4], and t = 2 in the kernel.
        assert 0 < metrics["uniform/alignment"] < 4
        assert -8 < metrics["uniform/uniformity"] < 0


def test_new_objective_is_its_equation(newcomer):
    module = config.resolve(newcomer).objectives["uniform"].module
    z = np.random.default_rng(0).normal(size=(6, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    pairs = [np.exp(-2 * np.sum((z[i] - z[j]) ** 2)) for i in range(6) for j in range(6) if i != j]
    with jax.enable_x64(True):
        np.testing.assert_allclose(module.uniformity(z, 2.0), np.log(np.mean(pairs)), rtol=1e-12)


def test_new_config_has_the_lines_that_configs_need():
    text = files("extending.md")["configs/uniform_vit_synthetic.py"]
    for name in ("Command", "Hardware", "Time", "Result"):
        assert re.search(rf"^{name}: +\S", text, re.MULTILINE)


def test_configuration_page_lists_every_key():
    """Written in a process of its own, which knows no test plug-ins."""
    code = "from docs.make_reference import page; import sys; sys.stdout.write(page())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    committed = (ROOT / "docs/configuration.md").read_text()
    assert committed == done.stdout, "run python -m docs.make_reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page):
    shown = files("extending.md")
    for path in re.findall(r"`((?:facejax|tests|configs|docs|bin)/[\w./]+)`", page.read_text()):
        assert path in shown or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_training_commands_have_legal_keys(page, newcomer, tmp_path):
    for words in commands(page):
        if "facejax.train" not in words:
            continue
        parser = cli.Parser()
        parser.add_argument("--config", required=True)
        parser.add_argument("--workdir", required=True)
        given = words[words.index("facejax.train") + 1 :]
        args, overrides = parser.parse_known(given, "config")
        new = tmp_path / args.config
        values = command_line.load_file(str(new if new.exists() else ROOT / args.config)).to_dict()
        assignments = [f"--config.{key}={value}" for key, value in overrides.items()]
        config.resolve(command_line.override(values, assignments, "config"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_evaluation_commands_have_legal_keys(page):
    for words in commands(page):
        given = [w.removeprefix("--eval.") for w in words if w.startswith("--eval.")]
        section = command_line.override({}, [f"--eval.{g}" for g in given], "eval")
        assert len(config.resolve_evals(section)) == len(section)


def test_benchmark_commands_are_legal():
    page = ROOT / "docs/benchmarks.md"
    given = [words[words.index("-m") + 1 :] for words in commands(page)]
    assert len(given) > 3
    for module, *options in given:
        assert importlib.import_module(module).arguments(options).out
    named = re.findall(r"`python (?:-m )?(benchmarks[./]\w+)", page.read_text())
    for name in named:
        assert (ROOT / (name.replace(".", "/").removesuffix("/py") + ".py")).exists()

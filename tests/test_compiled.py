"""Commands keep what they compile, where nobody says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
from facejax import cli
cli.main(lambda argv: print(jax.config.jax_compilation_cache_dir))
"""


def folder(**variables: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.check_output(command, env=kept | variables, text=True).strip()


def test_a_folder_of_this_user_and_this_kind_of_cpu(tmp_path):
    found = Path(folder(XDG_CACHE_HOME=str(tmp_path)))
    assert found.is_relative_to(tmp_path / "facejax")
    assert found == Path(folder(XDG_CACHE_HOME=str(tmp_path)))


def test_what_the_environment_says_comes_first(tmp_path):
    for said in (str(tmp_path / "mine"), ""):
        assert folder(JAX_COMPILATION_CACHE_DIR=said, XDG_CACHE_HOME=str(tmp_path)) == said

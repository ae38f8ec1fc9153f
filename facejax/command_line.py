"""The config file and the overrides that a command line names."""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from facejax.errors import UserError


def load_file(spec: str) -> ConfigDict:
    """Runs `get_config` of a config file, which may import its neighbours: `from configs import x`.

    Args:
        spec: "FILE" or "FILE:args"; `args` is passed to `get_config` as one string.
    """
    path, _, args = spec.partition(":")
    if not Path(path).is_file():
        raise UserError(
            path, "no such config file", "give --config=FILE, such as configs/quickstart.py"
        )
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(module_spec)
    beside = str(Path(path).resolve().parents[1])
    sys.path.insert(0, beside)
    try:
        module_spec.loader.exec_module(module)
    finally:
        sys.path.remove(beside)
    if not hasattr(module, "get_config"):
        raise UserError(path, "defines no get_config()", "add one that returns a ConfigDict")
    if args and not inspect.signature(module.get_config).parameters:
        raise UserError(spec, "get_config() of this file takes no arguments", f"give {path} alone")
    return module.get_config(args) if args else module.get_config()


def override(values: dict[str, Any], assignments: Sequence[str], prefix: str) -> dict[str, Any]:
    """Applies `--<prefix>.a.b=value` arguments to a nested dict, adding keys as needed.

    Values are Python literals; what is no literal stays a string. Whether a key is legal is decided
    by `config.resolve`.
    """
    for assignment in assignments:
        path, equals, text = assignment.removeprefix(f"--{prefix}.").partition("=")
        if not equals:
            raise UserError(assignment, "no value", f"write {assignment}=VALUE")
        if text.startswith(("(", "[", "{")) and not _is_literal(text):
            raise UserError(
                f"{prefix}.{path}",
                f"{text} is no Python literal",
                "write dicts as {'key': value}, not dict(key=value)",
            )
        node = values
        *parents, last = path.split(".")
        for i, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                at = ".".join([prefix, *parents[: i + 1]])
                raise UserError(at, "is a value, not a section", f"set {at} itself")
        node[last] = ast.literal_eval(text) if _is_literal(text) else text
    return values


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True

"""The file name is the config string: finds the plug-ins of one kind and loads one by its name."""

import importlib
import pkgutil
from types import ModuleType

from facejax.errors import UserError, nearest

PACKAGES = {
    "objective": "facejax.objectives",
    "modifier": "facejax.modifiers",
    "encoder": "facejax.encoders",
    "source": "facejax.data.sources",
    "eval": "facejax.evaluators",
    "export": "facejax.export",
}


def names(kind: str) -> list[str]:
    """Returns the names of all plug-ins of `kind`, sorted."""
    package = importlib.import_module(PACKAGES[kind])
    found = pkgutil.iter_modules(package.__path__)
    return sorted(m.name for m in found if not m.ispkg and not m.name.startswith("_"))


def load(kind: str, name: str, where: str) -> ModuleType:
    """Imports the plug-in `name` of `kind`.

    Raises:
        UserError: no such file; `where` is the config key that asked for it.
    """
    if name not in names(kind):
        raise UserError(where, f"no {kind} called '{name}'", nearest(name, names(kind)))
    return importlib.import_module(f"{PACKAGES[kind]}.{name}")

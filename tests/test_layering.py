"""The house keeps its order: who may import what, read from the source of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 450
ON_DEVICE = ("jax", "jaxlib", "flax", "optax", "orbax")
FOREIGN = ("torch", "torchvision", "timm", "transformers", "open_clip", "onnx", "tensorflow")
KINDS = ("objectives", "modifiers", "encoders", "data.sources", "evaluators", "export")
FOLDERS = ("names", "files")  # of export: what is known of each encoder elsewhere
LOOP = tuple(f"facejax.{name}" for name in ("mesh", "step", "state", "train", "session"))


class Import(NamedTuple):
    """One name that a file imports, spelled in full, and whether a function does it."""

    name: str
    local: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _walk(node: ast.AST, local: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    yield node, local
    inside = local or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, inside)


def imports(text: str) -> set[Import]:
    """`from a import b` counts as `a.b`, which is below `a` like the module it may be."""
    found = set()
    for node, local in _walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {Import(alias.name, local) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "import by the full name"
            found |= {Import(f"{node.module}.{alias.name}", local) for alias in node.names}
    return found


def below(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


FILES = {module_of(p): p for p in sorted((ROOT / "facejax").rglob("*.py"))}
TEXTS = {name: path.read_text() for name, path in FILES.items()}
IMPORTS = {name: imports(text) for name, text in TEXTS.items()}


def violations(room: str, *forbidden: str) -> list[str]:
    """Imports of `forbidden` in the files below `room`."""
    return [
        f"{module} imports {i.name}"
        for module, found in IMPORTS.items()
        if below(module, room)
        for i in found
        if below(i.name, *forbidden)
    ]


def plugin_of(name: str) -> str | None:
    """The plug-in that a dotted name lies in: "facejax.objectives.mae"; private files are none."""
    for kind in KINDS:
        package = f"facejax.{kind}."
        if name.startswith(package):
            file = name.removeprefix(package).split(".")[0]
            if f"{package}{file}" in FILES and not file.startswith("_") and file not in FOLDERS:
                return f"{package}{file}"
    return None


def test_the_reader_of_imports_finds_every_form():
    text = "import a.b as c\nfrom d import e, f\ndef g():\n    import h\nclass I:\n    import j"
    assert imports(text) == {
        Import("a.b", False),
        Import("d.e", False),
        Import("d.f", False),
        Import("h", True),
        Import("j", False),
    }
    assert len(FILES) > 50


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("facejax.data", ON_DEVICE),
        ("facejax.cleaning", (*ON_DEVICE, *LOOP)),
        ("facejax.evaluators", (*ON_DEVICE, *LOOP, "facejax.model", "facejax.checkpoint")),
        ("facejax.encoders", (*LOOP, "facejax.losses", "facejax.objectives", "facejax.modifiers")),
        ("facejax.objectives", (*LOOP, "facejax.losses", "facejax.encoders", "facejax.modifiers")),
        ("facejax.modifiers", (*LOOP, "facejax.losses", "facejax.encoders", "facejax.objectives")),
        ("facejax.ops", ("flax", "optax", *LOOP, *(f"facejax.{kind}" for kind in KINDS))),
        ("facejax.reporting", (*ON_DEVICE, *LOOP)),
    ],
)
def test_rooms_keep_to_themselves(room, forbidden):
    assert any(below(module, room) for module in FILES)
    assert violations(room, *forbidden) == []


@pytest.mark.parametrize("room", ["facejax.data", "facejax.evaluators"])
def test_host_rooms_reach_no_device_code_through_others(room):
    """Import-time imports, followed through facejax's own modules."""

    def reached(module: str, seen: set[str]) -> set[str]:
        for i in IMPORTS[module]:
            if i.local:
                continue
            owner = i.name if i.name in FILES else i.name.rpartition(".")[0]
            if owner not in seen:
                seen.add(owner)
                if owner in FILES:
                    reached(owner, seen)
        return seen

    for module in FILES:
        if below(module, room):
            assert [name for name in reached(module, set()) if below(name, *ON_DEVICE)] == [], (
                module
            )


def test_plugins_are_found_by_name_never_imported():
    """Only a plug-in or what exports know of it may, and never one of objectives or modifiers."""
    for module, found in IMPORTS.items():
        for plugin in {plugin_of(i.name) for i in found} - {None, module}:
            may = plugin_of(module) or below(module, *(f"facejax.export.{f}" for f in FOLDERS))
            assert may, f"{module} imports {plugin}"
            assert not below(plugin, "facejax.objectives", "facejax.modifiers"), module


def test_only_checkpoint_touches_orbax():
    assert {m for m, found in IMPORTS.items() if any(below(i.name, "orbax") for i in found)} == {
        "facejax.checkpoint"
    }


def test_other_frameworks_are_imported_by_exports_alone_and_late():
    for module, found in IMPORTS.items():
        for i in found:
            if below(i.name, *FOREIGN):
                assert below(module, "facejax.export"), f"{module} imports {i.name}"
                assert i.local, f"{module} imports {i.name} outside a function"


def calls(text: str) -> set[str]:
    """The last names of everything that is called: `jax.sharding.Mesh(...)` is "Mesh"."""
    called = {n.func for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
    return {getattr(f, "attr", None) or getattr(f, "id", None) for f in called} - {None}


@pytest.mark.parametrize(
    ("names", "owners"),
    [
        ({"Mesh", "make_mesh", "AbstractMesh"}, ("facejax.mesh",)),
        ({"PartitionSpec", "NamedSharding"}, ("facejax.mesh", "facejax.ops")),
        ({"shard_map", "pallas_call", "with_sharding_constraint"}, ("facejax.ops",)),
        ({"psum", "pmean", "pmax", "all_gather", "ppermute"}, ("facejax.ops",)),
        ({"set_mesh", "use_abstract_mesh"}, ("facejax.mesh",)),
        ({"pmap"}, ()),
    ],
)
def test_placement_and_collectives_have_one_home(names, owners):
    for module, text in TEXTS.items():
        if not below(module, *owners):
            assert not calls(text) & names, module
            imported = {i.name.rpartition(".")[2] for i in IMPORTS[module] if below(i.name, "jax")}
            assert not imported & names, module


def test_files_are_short():
    folders = ("facejax", "tests", "configs", "docs")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    lengths = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in paths}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_commands_need_no_other_framework():
    """They import where none can be; tensorboardX loads torch by itself where it can."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({FOREIGN}))\n"
        "import facejax.train, facejax.evaluate, facejax.report, facejax.pack\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

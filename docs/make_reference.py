"""Writes docs/configuration.md from the dataclasses that check a config.

    python -m docs.make_reference

Every legal key stands in it with its type, its default and what its docstring says. A test compares
the committed page with what this prints.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from facejax import config, mesh, plugins
from facejax.data import mixture
from facejax.data.sampling import Sampler
from facejax.schedule import Schedule

PAGE = Path(__file__).with_name("configuration.md")

INTRO = """# Configuration

A config is a Python file with a function `get_config()` that returns an `ml_collections.ConfigDict`
(`configs/quickstart.py` is one). `--config=FILE:args` passes `args` to it as a string. Keys are
changed on the command line:

```sh
python -m facejax.train --config=configs/quickstart.py --workdir=runs/x \\
    --config.steps=1000 --config.optimizer.base_lr=1e-3 \\
    --config.data.sources="({'name': 'folder', 'path': 'faces.zip', 'identity': 'none'},)"
```

Values are Python literals; what is no literal is a string. Write dicts as `{'key': value}`, not
`dict(key=value)`. A key that no table below lists is an error that names the nearest legal one, and
so is a value of another type. Both come before anything is compiled.

A plug-in is chosen by the name of its file. The tables of plug-ins are those of the files in
`facejax/`; a new file brings its own keys.

This page is written by `python -m docs.make_reference`.
"""

KINDS = {
    "encoder": "Encoder",
    "objective": "Objective",
    "modifier": "Modifier",
    "source": "Source",
    "eval": "Evaluator",
}

NESTED = ("data", "optimizer", "mesh", "checkpoint")
"""Sections of their own."""

Row = tuple[str, Any, Any, str]
"""Key, type, default, meaning."""


def described(cls: type) -> dict[str, str]:
    """The sections "Attributes" of a class's docstring and of its bases', by name."""
    inherited = [described(base) for base in cls.__bases__ if base is not object]
    texts = {name: text for one in inherited for name, text in one.items()}
    return texts | _attributes(cls)


def _attributes(cls: type) -> dict[str, str]:
    _, found, section = inspect.getdoc(cls).partition("Attributes:\n")
    if not found:
        return {}
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        head = re.match(r" {4}(\w[\w, ]*): (.*)", line)
        if head:
            names = head[1].split(", ")
            texts |= dict.fromkeys(names, head[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return {name: text.removesuffix(".") for name, text in texts.items()}


def rows(cls: type, leave_out: tuple[str, ...] = (), **meanings: str) -> list[Row]:
    """The keys of a config dataclass.

    Args:
        leave_out: fields that are no keys.
        meanings: in place of the docstring's.

    Raises:
        ValueError: nothing describes a key.
    """
    hints, told = typing.get_type_hints(cls), {**described(cls), **meanings}
    found = []
    for field in dataclasses.fields(cls):
        if field.name in leave_out:
            continue
        if field.name not in told:
            raise ValueError(f"{cls.__module__}.{cls.__qualname__} does not describe {field.name}")
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append((field.name, hints[field.name], default, told[field.name]))
    return found


def spelled_type(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spelled_type(a) for a in args)
    if origin is typing.Literal:
        return " or ".join(f"`{a!r}`" for a in args)
    if origin is tuple and args[-1] is ...:
        return f"tuple of {spelled_type(args[0])}"
    if origin is tuple:
        return f"{len(args)} x {spelled_type(args[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "dict"
    words = {type(None): "None", Schedule: "schedule", config.Rule: "rule", Sampler: "sampler"}
    words[config.Text] = "text"
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def spelled_default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, Schedule):
        changed = {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if getattr(value, f.name) != f.default or f.name == "kind"
        }
        return f"`{changed}`"
    return f"`{dict(value) if isinstance(value, Mapping) else value!r}`"


def table(found: list[Row]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, hint, default, meaning in found:
        cells = (f"`{name}`", spelled_type(hint), spelled_default(default), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def first_line(documented: Any) -> str:
    return inspect.getdoc(documented).partition("\n")[0]


def named(key: str, folder: str, default: Any) -> Row:
    """The key that says which file of `folder` is meant."""
    return key, str, default, f"the file's name in `facejax/{folder}/`, without `.py`"


def sections() -> Iterator[tuple[str, str, list[Row]]]:
    """Title, text and keys of each section that every config has."""
    required, label = dataclasses.MISSING, "<label>"
    of_plugin = tuple(f.name for f in dataclasses.fields(config.Plugin))
    yield (
        "config",
        "The run.",
        rows(config.Run, ("towers", "objectives", "evals", *NESTED)),
    )
    yield (
        "config.encoder, config.encoder_text",
        "An encoder: its `name`, and beside it the encoder's own keys (below).",
        [named("name", "encoders", required)],
    )
    yield (
        "config.objective.&lt;label&gt;",
        "One section per objective, with the objective's own keys beside these. The label names "
        "its curves\n(`loss/<label>`) and its parameters; two labels may have one type.",
        [
            named("type", "objectives", label),
            *rows(
                config.Objective,
                of_plugin,
                weight="in the sum of the losses; a constant 0 drops the objective",
                modifiers="sections by label, each with a `type` and the modifier's own keys",
            ),
        ],
    )
    yield "config.data", first_line(config.Data), rows(config.Data)
    yield "config.data.sampler", first_line(Sampler), rows(Sampler)
    yield "config.data.text", first_line(config.Text), rows(config.Text)
    of_source = described(mixture.Entry)
    yield (
        "config.data.sources",
        "A tuple of dicts, each with these keys and the source's own (below).",
        rows(
            mixture._Common,
            name=named("name", "data/sources", required)[3],
            label=f"{of_source['label']}; by default the source's name",
            weight=of_source["weight"],
            crop=of_source["crop"],
        ),
    )
    yield (
        "config.optimizer",
        first_line(config.Optimizer),
        rows(config.Optimizer, rules="see below"),
    )
    yield (
        "config.optimizer.rules",
        "A tuple of dicts. " + first_line(config.Rule),
        rows(config.Rule),
    )
    yield (
        "Schedules",
        "A dict of these keys, wherever a key takes a schedule. From step 0 the value rises "
        "linearly\nfrom `warmup_start` to `start`, stays there for `hold`, and then goes to `end`.",
        rows(Schedule),
    )
    yield (
        "config.mesh",
        "The devices as a grid. Batches are split over both axes, parameters and moments over "
        "`fsdp`.",
        rows(
            config.MeshShape,
            data="devices along this axis; -1: the rest",
            fsdp="devices along this axis; -1: the rest",
            rules="(regular expression over the path in the state, placement), put before the "
            "default ones; placements are " + ", ".join(f"`{p}`" for p in mesh.PLACEMENTS),
        ),
    )
    yield (
        "config.checkpoint",
        first_line(config.Checkpoint),
        rows(
            config.Checkpoint,
            every_steps="steps between checkpoints; the last step is always saved",
            keep="how many of the newest to keep",
        ),
    )
    yield (
        "config.eval.&lt;label&gt;",
        "One section per evaluator, with the evaluator's own keys beside these. The label names "
        "its numbers\n(`eval/<label>/<metric>`).",
        [
            named("type", "evaluators", label),
            *rows(
                config.Eval,
                of_plugin,
                every_steps="steps between evaluations; 0: only at the end of the run",
            ),
        ],
    )
    for kind, title in KINDS.items():
        for name in plugins.names(kind):
            module = plugins.load(kind, name, kind)
            yield f"{title} `{name}`", first_line(module), rows(module.Config)


def page() -> str:
    """The whole page."""
    lines = [INTRO.rstrip()]
    for title, text, found in sections():
        lines += [f"\n## {title}\n\n{text}\n", *table(found)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

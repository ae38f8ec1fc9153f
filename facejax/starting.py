"""Where a new run starts from: the arrays of a run, an export or a file of another library.

What fits is loaded. Positions are interpolated to another grid and patches are resized, whatever an
encoder can do without starts at random, and anything else that differs is an error that names it.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from facejax import checkpoint, config, model, state, tokenizer
from facejax.errors import UserError
from facejax.export import files, names
from facejax.export.files import _joint as joint_files
from facejax.layers import sincos_2d
from facejax.lora import Adapted
from facejax.optim import flatten

WHERE = "config.init_from"
ITEMS = ("params", "stats", "ema", "objective")
ENCODER = ("params/encoder/", "stats/encoder/")
OPTIONAL = r"/(lora|mask_token|neck|registers|cls_token|pos_embed|attn_pool|ls1|ls2)(/|$)"
"""Parameters that an encoder may have in addition to those that it starts from."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What `config.init_from` holds.

    Attributes:
        layout: what it is.
        encoder: name of the encoder.
        config: of the encoder that the arrays were made for.
        arrays: by path in the state, "params/encoder/...", "ema/...", "objective/...".
        skipped: foreign names that have no place here.
        notes: what was changed on the way, or is worth knowing.
        whole: beginnings of the paths that have to be there.
    """

    layout: str
    encoder: str
    config: Any
    arrays: Mapping[str, np.ndarray]
    skipped: Sequence[str] = ()
    notes: Sequence[str] = ()
    whole: tuple[str, ...] = ENCODER


@dataclasses.dataclass
class Report:
    """Paths by what became of them.

    Attributes:
        layout: of the source.
        loaded, random: paths in the state.
        adapted, notes: sentences.
        skipped: names in the source.
    """

    layout: str
    loaded: list[str] = dataclasses.field(default_factory=list)
    adapted: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    random: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def text(self, source: str) -> str:
        """A few lines to print."""
        rows = {
            "loaded": _counted(self.loaded),
            "adapted": "; ".join(self.adapted),
            "skipped": _counted(self.skipped),
            "at random": _counted(self.random),
            "note": "; ".join(self.notes),
        }
        told = [f"  {name}: {what or 'nothing'}" for name, what in rows.items()]
        return "\n".join([f"starting from {source} ({self.layout})", *told])


def _counted(paths: Iterable[str], most: int = 8) -> str:
    """The paths; many are counted by their first three parts."""
    paths = list(paths)
    if len(paths) <= most:
        return ", ".join(paths)
    groups: dict[str, int] = {}
    for path in paths:
        group = "/".join(re.split(r"[/.]", path)[:3])
        group = re.sub(r"_\d+$", "_*", group)
        groups[group] = groups.get(group, 0) + 1
    return ", ".join(f"{group} ({count})" for group, count in groups.items())


def read(run: config.Run) -> Source:
    """Reads `run.init_from`.

    Raises:
        UserError: it cannot be read, holds another encoder, or would be used otherwise than it was
            made.
    """
    path, tower = Path(run.init_from), run.towers["encoder"]
    if (path / "checkpoints").is_dir():
        found = _of_run(path, run)
    elif (path / "config.json").is_file() and "facejax" in files.config_of(path):
        found = _of_export(path, run)
    elif path.is_dir() and files.config_of(path).get("model_type") in joint_files.KINDS:
        found = _of_joint_folder(path, run)
    else:
        found = _of_file(run)
    if found.encoder != tower.name:
        what = f"{path} holds another encoder ({found.encoder}, not {tower.name})"
        raise UserError(WHERE, what, "give config.encoder the options of that run")
    return found


def _of_run(path: Path, run: config.Run) -> Source:
    stored = config.resolve(model.read_config(path)["config"])
    step = checkpoint.find(path, None)
    items = checkpoint.Checkpoints(path).read(step, ITEMS)
    facts = files.Facts(mean=stored.data.mean, std=stored.data.std, align=stored.data.align)
    notes = files.check_facts(facts, files.Facts(), run.data)
    tower = stored.towers["encoder"]
    arrays = flatten(items)
    both = [r.towers["encoder_text"].config for r in (stored, run) if "encoder_text" in r.towers]
    # With other numbers of tokens the text tower starts at random.
    if len(both) == 2 and len({getattr(words, "vocab", None) for words in both}) == 1:
        _check_tokens(run, stored.data.text and stored.data.text.digest)
    if not isinstance(run.towers["encoder"].module, Adapted):
        # A plain run goes on without the adapters of another; its encoder is what they were around.
        arrays = {k: v for k, v in arrays.items() if not re.search(r"/lora/", k)}
    return Source(f"facejax run, step {step}", tower.name, tower.config, arrays, (), notes)


def _of_export(path: Path, run: config.Run) -> Source:
    loaded = model.load(path)
    made = {key: loaded.preprocess[key] for key in ("mean", "std")}
    facts = files.Facts(**made, align=loaded.preprocess["alignment"])
    notes = files.check_facts(facts, files.Facts(), run.data)
    both = {"params": {"encoder": loaded.params}, "stats": {"encoder": loaded.stats}}
    name, cfg = loaded.encoder_name, loaded.encoder_config
    arrays, whole, space = flatten(both), ENCODER, loaded.space
    if space is not None and "encoder_text" in run.towers:
        _check_words(run, space.tower.config, space.tokenizer.digest)
        text, own = flatten(space.text[0]), flatten(space.params)
        arrays |= {f"params/encoder_text/{path}": value for path, value in text.items()}
        arrays |= _of_objectives(run, space.objective.name, own)
        whole = _whole(run, space.objective.name)
    return Source("facejax export", name, cfg, arrays, (), notes, whole)


def _of_joint_folder(path: Path, run: config.Run) -> Source:
    """Both towers of transformers; the text tower only where the run has one."""
    tensors, general = files.open_source(str(path))
    told, kind = files.config_of(path), general.kind
    image = run.towers["encoder"]
    if image.name != "vit":
        raise UserError(WHERE, f"{path} holds a vit, not {image.name}", "set config.encoder.name")
    words = run.towers.get("encoder_text")
    found = joint_files.recognise(kind, image.config, words and words.config, tensors)
    notes = [*files.check_facts(general, files.Facts(), run.data), *found.notes]
    facts = joint_files.facts(kind, told, "vision_config")
    notes += files.check_facts(facts, joint_files.legal(image.config), run.data)
    for option in ("pre_norm", "patch_bias", "qkv_bias"):
        _check_option("encoder", option, found.image, image.config)
    arrays = {f"params/{p}": v for p, v in found.params.items() if p.startswith("encoder/")}
    whole = ENCODER
    if words is not None:
        facts = joint_files.facts(kind, told, "text_config")
        legal = joint_files.legal(words.config)
        notes += files.check_facts(facts, legal, run.data, tower="encoder_text")
        _check_words(run, found.words, _digest_of(path))
        apart = names.unflatten(found.params)
        of_text = flatten(apart["encoder_text"])
        arrays |= {f"params/encoder_text/{path}": value for path, value in of_text.items()}
        arrays |= _of_objectives(run, kind, flatten(apart["objective"]))
        whole = _whole(run, kind)
    return Source(f"transformers {kind}", "vit", found.image, arrays, (), notes, whole)


def _of_objectives(run: config.Run, kind: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's own parameters, for each of the run's that is of this kind."""
    labels = [label for label, o in run.objectives.items() if o.name == kind]
    return {f"params/objective/{label}/{p}": v for label in labels for p, v in own.items()}


def _whole(run: config.Run, kind: str) -> tuple[str, ...]:
    labels = [label for label, o in run.objectives.items() if o.name == kind]
    return (*ENCODER, "params/encoder_text/", *(f"params/objective/{k}/" for k in labels))


def _check_words(run: config.Run, theirs: Any, digest: str | None) -> None:
    """Refuses a text tower that would read other tokens, or read them otherwise.

    Raises:
        UserError: what differs.
    """
    for option in ("heads", "mask", "pool", "activation"):
        _check_option("encoder_text", option, theirs, run.towers["encoder_text"].config)
    _check_tokens(run, digest)


def _check_tokens(run: config.Run, digest: str | None) -> None:
    """Raises UserError where the texts of what the run starts from were other tokens."""
    ours = run.data.text and run.data.text.digest
    if digest and ours and digest != ours:
        what = f"its texts were other tokens than {run.data.text.tokenizer} makes"
        raise UserError(WHERE, what, f"set config.data.text.tokenizer to {run.init_from}")


def _check_option(tower: str, option: str, theirs: Any, ours: Any) -> None:
    there, here = getattr(theirs, option), getattr(ours, option)
    if there != here:
        where = f"config.{tower}.{option}"
        raise UserError(where, f"{here}, but {there} in config.init_from", f"set it to {there}")


def _digest_of(path: Path) -> str | None:
    """Of the tokenizer in a folder; None without."""
    there = any((path / name).is_file() for name in (tokenizer.FILE, "vocab.json"))
    return tokenizer.load(path).digest if there else None


def _of_file(run: config.Run) -> Source:
    tower = run.towers["encoder"]
    tensors, facts = files.open_source(run.init_from)
    family = files.family(tower.name)
    legal = family.legal(tower.config)
    notes = files.check_facts(facts, legal, run.data)
    found = family.recognise(tower.config, tensors)
    arrays, skipped = {}, list(found.skipped)
    labels = [label for label, o in run.objectives.items() if o.name == "mae"]
    for path, value in found.params.items():
        top, _, rest = path.partition("/")
        if top == "encoder":
            arrays[f"params/{path}"] = value
        elif top == "stats":
            arrays[f"stats/encoder/{rest}"] = value
        elif labels:
            arrays |= {f"params/objective/{label}/{rest}": value for label in labels}
        else:
            skipped.append(path)
    return Source(found.layout, tower.name, found.config, arrays, skipped, [*notes, *found.notes])


def match(
    wanted: Mapping[str, Any], source: Source, cfg: Any
) -> tuple[dict[str, np.ndarray], Report]:
    """Brings the arrays of a source into the shapes that a run wants.

    Args:
        wanted: by path in the state, anything with shape and dtype.
        source: as `read` gives it.
        cfg: the run's encoder.

    Raises:
        UserError: names all that is missing or of a wrong shape in the encoder.
    """
    report = Report(source.layout, skipped=list(source.skipped), notes=list(source.notes))
    taken: dict[str, np.ndarray] = {}
    problems: dict[str, list[str]] = {"missing": [], "wrong shape": []}
    problems["positions"] = _wrong_positions(source.config, cfg)
    for path, want in wanted.items():
        essential = path.startswith(source.whole)
        value = source.arrays.get(path)
        if value is None:
            kind = (
                problems["missing"]
                if essential and not re.search(OPTIONAL, path)
                else report.random
            )
            kind.append(path)
            continue
        value = np.asarray(value)
        if value.shape != want.shape:
            changed = adapted(path, value, want.shape, source.config, cfg)
            if changed is None and essential:
                problems["wrong shape"].append(
                    f"{path} {list(value.shape)}, not {list(want.shape)}"
                )
            elif changed is None:
                report.random.append(path)
                report.notes.append(f"{path} has shape {list(value.shape)} there")
            else:
                value, how = changed
                report.adapted.append(f"{path}: {how}")
        else:
            report.loaded.append(path)
        if value.shape == want.shape:
            taken[path] = value.astype(want.dtype)
    names.complain(problems, f"{WHERE}: another encoder")
    report.random = [p for p in report.random if not p.startswith("ema/")]
    report.skipped += [p for p in source.arrays if p not in wanted]
    report.notes += _lost_positions(wanted, source)
    return taken, report


def _wrong_positions(theirs: Any, ours: Any) -> list[str]:
    """Rotary positions are part of the attention, so none can stand for others there."""
    there, here = (getattr(c, "positions", None) for c in (theirs, ours))
    if (there == "rope") == (here == "rope"):
        return []
    return [f"made for '{there}', config.encoder.positions is '{here}'"]


def _lost_positions(wanted: Mapping[str, Any], source: Source) -> list[str]:
    """A word about learned positions where the run has fixed ones."""
    path = "params/encoder/pos_embed"
    if path in wanted or path not in source.arrays:
        return []
    value = np.asarray(source.arrays[path])
    side = round(len(value) ** 0.5)
    if value.shape[1] % 4 == 0 and np.allclose(
        value, sincos_2d(value.shape[1], (side, side)), atol=1e-4
    ):
        return ["its positions are the fixed ones that the encoder computes"]
    return ["its learned positions are lost; config.encoder.positions='learned' takes them"]


def adapted(
    path: str, value: np.ndarray, shape: Sequence[int], theirs: Any, ours: Any
) -> tuple[np.ndarray, str] | None:
    """An array in another geometry, and how; None where nothing is known to do.

    A text tower takes the first of its positions, others [N, D] are interpolated like those of a
    running encoder. Patch kernels [p * p * 3, D] are resized as in FlexiViT (Beyer et al. 2023,
    arXiv:2212.08013, section 3.4): by the pseudo-inverse of the resizing of images, so that a
    resized image gives the same tokens.
    """
    if path == "params/encoder_text/pos_embed":
        if value.shape[1] != shape[1] or len(value) < shape[0]:
            return None
        return value[: shape[0]], f"the first {shape[0]} of {len(value)} positions"
    if path.endswith("/pos_embed") and value.shape[1] == shape[1]:
        old, new = (round(n**0.5) for n in (value.shape[0], shape[0]))
        plane = value.reshape(old, old, -1)
        sizes = (new, new, value.shape[1])
        moved = jax.image.resize(plane, sizes, "bicubic", antialias=True)
        return np.asarray(moved).reshape(shape), f"interpolated from {old}x{old} to {new}x{new}"
    patches = path.endswith("/patch_embed/kernel") and value.shape[1] == shape[1]
    if patches and hasattr(theirs, "patch"):
        return resized_patch(value, theirs.patch, ours.patch), (
            f"patches resized from {theirs.patch} to {ours.patch} pixels"
        )
    return None


def resized_patch(kernel: np.ndarray, old: int, new: int) -> np.ndarray:
    """A patch kernel [old * old * 3, D] for patches of `new` pixels: f32[new * new * 3, D]."""
    basis = np.eye(old * old).reshape(old, old, -1).astype(np.float32)
    spread = jax.image.resize(basis, (new, new, old * old), "bicubic", antialias=True)
    resize = np.asarray(spread, np.float64).reshape(new * new, old * old)
    back = np.linalg.pinv(resize.T)
    planes = kernel.reshape(old * old, 3, -1)
    return np.einsum("nm,mcd->ncd", back, planes).reshape(new * new * 3, -1).astype(np.float32)


def start(
    program: state.Program, devices: jax.sharding.Mesh, source: Source
) -> tuple[state.TrainState, Report]:
    """The state at step 0 with what the source has; EMA copies without any start at the student."""
    cfg = program.run.towers["encoder"].config
    wanted = flatten({name: getattr(state.shapes(program), name) for name in ITEMS})
    where = flatten({name: getattr(state.placement(program, devices), name) for name in ITEMS})
    values, report = match(wanted, source, cfg)
    taken = {path: jax.device_put(value, where[path]) for path, value in values.items()}
    fresh = state.create(program, devices)
    params, stats, objective = (
        _replaced(getattr(fresh, name), taken, name) for name in ("params", "stats", "objective")
    )
    ema = jax.tree.map(jax.numpy.copy, state.initial_ema(program, params, stats))
    ema = _replaced(ema, taken, "ema")
    kept = dataclasses.replace(fresh, params=params, stats=stats, ema=ema, objective=objective)
    return kept, report


def _replaced(tree: Any, arrays: Mapping[str, Any], path: str) -> Any:
    """The tree with the arrays at their paths."""
    if isinstance(tree, Mapping):
        return {k: _replaced(v, arrays, f"{path}/{k}") for k, v in tree.items()}
    return arrays.get(path, tree)

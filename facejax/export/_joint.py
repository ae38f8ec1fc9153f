"""Both towers in one export: what the formats that have such models share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from facejax import config, export, plugins, tokenizer
from facejax.contracts import Params, Spec, TowerSpec
from facejax.errors import UserError
from facejax.export import _encoder, names
from facejax.joint import Space
from facejax.typed import build

if TYPE_CHECKING:
    from facejax.model import Model

TEXTS = ("a face", "a young woman with wavy hair", "an old man who smiles", "a child in a red hat")
"""What is tokenised and embedded beside `export.fixed_images`."""

Table = Callable[[Any, Any], list[names.Entry]]
Parts = tuple[Any, Params, Params, dict[str, Any], Space]
"""What `read` gives: the image tower as formats do, and what joins texts to it."""


def check(model: "Model", library: str, kinds: Sequence[str]) -> str:
    """The objective, "clip" or "siglip", whose model in `library` has these very towers.

    Raises:
        UserError: naming what it doesn't have.
    """
    space, image = model.space, model.encoder_config
    kind, words = space.objective.name, space.tower.config
    instead = "use --format=timm for the image tower"
    towers = _encoder.name_of(image), space.tower.name
    if kind not in kinds or towers != ("vit", "text"):
        what = f"{library} has no model of '{kind}' with these towers"
        raise UserError("--format", what, instead)
    own = space.objective.config
    wrong = {"an image tower that wasn't trained": bool(own.frozen or own.cached)}
    for what, there in {**wrong, **unlike(kind, image, words, own)}.items():
        if there:
            raise UserError("--format", f"{library}'s {kind} has no such thing as {what}", instead)
    return kind


def unlike(kind: str, image: Any, words: Any, own: Any) -> dict[str, bool]:
    """What "clip" or "siglip" of other libraries hasn't, and whether these towers have it.

    Args:
        image, words: configs of the towers `vit` and `text`.
        own: the objective's.
    """
    wrong = {
        "fixed or rotary positions of patches": image.positions != "learned",
        "registers or LayerScale": bool(image.registers or image.layer_scale is not None),
        "queries, keys and values without bias": not image.qkv_bias,
        "a neck of the image tower": image.neck != "none",
        "texts that look at images": bool(words.context),
    }
    if kind == "clip":
        wrong |= {
            "pooling of images other than by the class token": image.pool != "class",
            "no norm before the blocks (pre_norm)": not image.pre_norm,
            "a bias of patches (patch_bias)": image.patch_bias,
            "texts that aren't causal, pooled at their end": (words.mask, words.pool)
            != ("causal", "end"),
            "a neck of the text tower": words.neck != "none",
            "a tower without projection": own.project != "both",
        }
    else:
        wrong |= {
            "pooling of images other than by attention": image.pool != "attention",
            "a class token": image.has_class_token,
            "a norm before the blocks (pre_norm)": image.pre_norm,
            "no bias of patches (patch_bias)": not image.patch_bias,
            "texts that don't see all, pooled at the last": (words.mask, words.pool)
            != ("none", "last"),
            "no neck of the text tower": words.neck != "linear",
            "projections": own.project != "none",
        }
    return wrong


def tree(model: "Model") -> Params:
    """All parameters, as tables of names of both towers have them."""
    params = {
        "encoder": _encoder.exported(model.params),
        "encoder_text": model.space.text[0],
        "objective": model.space.params,
    }
    return jax.tree.map(np.asarray, params)


def described(form: str, model: "Model") -> dict[str, Any]:
    """Our part of config.json."""
    space = model.space
    joint = {
        "objective": space.objective.name,
        "config": dataclasses.asdict(space.objective.config),
        "encoder_text": dataclasses.asdict(space.tower.config),
        "length": space.length,
        "digest": space.tokenizer.digest,
    }
    return {**_encoder.described(form, model.encoder_config), "joint": joint}


def embedder(cfg: Any, params: Params, space: Space) -> export.Embed:
    """Unit embeddings of normalised images beside those of `TEXTS`: f32[n, 2 E]."""
    ids = space.tokenizer.encode(TEXTS, space.length)
    image, words = (_encoder.exact(c, scan=True) for c in (cfg, space.tower.config))
    module, own = space.objective.module, space.objective.config

    weights = params, space.text[0], space.params

    @jax.jit
    def run(weights, images, ids):
        of_image, of_text, owned = weights
        x = _encoder.module_of(cfg).apply(image, of_image, {}, {"image": images})[0].pooled
        y = space.tower.module.apply(words, of_text, {}, {"text": ids})[0].pooled
        return module.embed_image(own, owned, x), module.embed_text(own, owned, y)

    def embed(images: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            x, y = run(weights, images, ids[np.arange(len(images)) % len(ids)])
        return np.concatenate([x, y], axis=1)

    return embed


def write_files(model: "Model", draft: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """The weights and the tokenizer."""
    _encoder.save_tensors(draft / "model.safetensors", tensors)
    model.space.tokenizer.with_frame().save(draft / tokenizer.FILE)


def finish(model: "Model", draft: Path, usage: str, parity: Mapping[str, Any]) -> None:
    """The files that don't depend on the format."""
    embed = embedder(model.encoder_config, model.params, model.space)
    export.finish(draft, model.encoder_config, embed, model.preprocess, model.meta, usage, parity)


def read(
    path: Path,
    table: Callable[[str], Table],
    prepare: Callable[[str], Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]],
) -> Parts:
    """Opens an export of both towers, without the other library, and checks its fingerprint.

    Args:
        table: by the objective's name.
        prepare: by the objective's name, what is done with the file's tensors first.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    preprocess, cfg = export.read_preprocess(path), _encoder.read_config(path)
    file, where = path / "model.safetensors", str(path / "config.json")
    joint = export.read_json(path / "config.json")["facejax"]["joint"]
    kind = joint["objective"]
    module = plugins.load("objective", kind, where)
    objective = config.Plugin(kind, module, build(module.Config, joint["config"], where))
    image, text = _encoder.module_of(cfg), plugins.load("encoder", "text", where)
    words = build(text.Config, joint["encoder_text"], where)
    tower = config.Plugin("text", text, words)
    read_tokenizer = tokenizer.load(path / tokenizer.FILE)
    if read_tokenizer.digest != joint["digest"]:
        what = "not the tokenizer of these weights"
        raise UserError(str(path / tokenizer.FILE), what, "restore the file")
    towers = {"encoder": image.tower(cfg), "encoder_text": text.tower(words)}
    spec = Spec(1, 1, preprocess["size"], towers)
    shapes = jax.eval_shape(
        lambda key: {
            "encoder": image.init(cfg, key, TowerSpec())[0],
            "encoder_text": text.init(words, key, TowerSpec())[0],
            "objective": module.init(objective.config, key, spec).params,
        },
        jax.random.key(0),
    )
    tensors = prepare(kind)(_encoder.load_tensors(file))
    params = names.import_tensors(table(kind)(cfg, words), tensors, shapes, str(file))
    space = Space(
        objective=objective,
        params=params["objective"],
        tower=tower,
        text=(params["encoder_text"], {}),
        tokenizer=read_tokenizer,
        length=joint["length"],
        spec=spec,
    )
    embed = embedder(cfg, params["encoder"], space)
    export.check_fingerprint(path / "fingerprint.json", embed, preprocess)
    return cfg, params["encoder"], {}, preprocess, space

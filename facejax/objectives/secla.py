"""SECLA: which face of a picture has which of the names in its caption, from co-occurrence alone.

Source: tingyu215/SECLA, face_align_model*.py. A picture b has faces f_br (vectors that a recogniser
made earlier) and names n_bn (texts), two sets; the null name, for faces whom the caption does not
name, is learned and one of each picture's names. With raw products of the embeddings

    S^nf_bb' = mean_n max_r <n_bn, f_b'r>        S^fn_bb' = mean_r max_n <f_br, n_b'n>
    loss = CE(S^nf, I) + CE(S^fn, I) + alpha mean_b (S^nf_bb - S^fn_bb)^2

where CE is over the pictures b' of the global batch. Names pass four linear layers with ReLU
between, faces the last three. Departures: padding of the sets is masked, where the official code
counts it; pictures without a face (or without a name, where there is no null name) are left out, as
rows and as columns. All B R faces meet all B N names at once: a dense array, the paper has B 20.

With `easy`, its second stage (SECLA-B), in a run that starts from a first one by `init_from`. The
embeddings are (1 - beta) times the trained ones plus beta times those of a copy that stays as the
run began. A name that the first stage has seen (in pictures of one face and one name, the pool of
the artifact) is matched with its best face, if that scores above 0; such names and, [D], these
faces leave their sets. Beside the loss above of what remains, with `samples` easy faces e drawn for
each matched pair p of a name and a face, for a_p the name (L_comb) and for a_p the face (L_face):

    CE(max_s <a_p, e_p's>, I) + CE(mean_s <e_ps, a_p'>, I)

over the matched pairs p' of the batch, [D] without others of the same name.
"""

import zipfile
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from facejax import layers
from facejax.contracts import Ctx, Ema, Loss, OwnEma, Pass, Spec, Term, Vars, View
from facejax.errors import UserError, nearest
from facejax.ops import logits
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"
STILL = 1.0  # momentum of a copy that stays as the run began


@dataclass(frozen=True)
class Config:
    """Options of `secla`.

    Attributes:
        cached: batch field of the faces, a set of vectors.
        frozen: run or export of the encoder that made them; only what compares images with names
            later reads it.
        names: batch field of the names, a set of texts.
        width: of the vectors.
        hidden: width of the first layer that faces pass.
        out: width of the embeddings.
        null: whether each picture has the null name as well.
        alpha: weight of the agreement of both directions.
        easy: artifact of the second stage, an `.npz` with `faces` f32[E, width] and `names` str[E].
        beta: share of the first stage in the second one's embeddings.
        samples: easy faces drawn for a matched name.
    """

    cached: str = "faces"
    frozen: str | None = None
    names: str = "names"
    width: int = 512
    hidden: int = 512
    out: int = 128
    null: bool = True
    alpha: float = 0.15
    easy: str | None = None
    beta: float = 0.5
    samples: int = 10

    @classmethod
    def tiny(cls) -> "Config":
        return cls(width=8, hidden=8, out=6)


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.cached, cfg.names)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    names = View(cfg.names)
    found = {"names": Pass(names, tower="encoder_text")}
    if cfg.easy:
        found["first"] = Pass(names, tower="encoder_text", weights=Ema(STILL))
    return found


def constants(cfg: Config, spec: Spec) -> dict[str, np.ndarray]:
    """The pool: names i32[K, L], faces f32[K, M, width] of each, and how many, i32[K].

    Raises:
        UserError: no tokenizer, no such artifact, or one that holds something else.
    """
    if not cfg.easy:
        return {}
    if spec.tokenize is None:
        raise UserError("config.data.text", "names are texts", "set its tokenizer")
    if cfg.easy not in spec.artifacts:
        raise UserError("easy", f"no artifact '{cfg.easy}'", nearest(cfg.easy, spec.artifacts))
    faces, names = _read(spec.artifacts[cfg.easy], cfg.width)
    people, of, counts = np.unique(names, return_inverse=True, return_counts=True)
    pool = np.zeros((len(people), counts.max(), cfg.width), np.float32)
    for k, count in enumerate(counts):
        pool[k, :count] = faces[of == k]
    ids = np.asarray(spec.tokenize([str(name) for name in people]), np.int32)
    return {"names": ids, "faces": pool, "counts": counts.astype(np.int32)}


def _read(path: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path) as file:
            faces, names = file["faces"], file["names"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        what = f"no pool of easy faces ({error})"
        raise UserError(path, what, "save faces and names with numpy.savez") from error
    if not len(faces) or faces.shape != (len(names), width):
        what = f"faces {list(faces.shape)} of {len(names)} names"
        raise UserError(path, what, f"give a vector of {width} for each name")
    return faces, names


def _heads(cfg: Config) -> dict[str, layers.MlpHead]:
    shared = (cfg.hidden, cfg.out, cfg.out)
    return {"face": layers.MlpHead(shared), "name": layers.MlpHead((cfg.hidden, *shared))}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    if "encoder_text" not in spec.towers:
        raise UserError("config.encoder_text", "missing", "add a section with name 'text'")
    r_face, r_name, r_null = jax.random.split(rng, 3)
    width, heads = spec.towers["encoder_text"].embed, _heads(cfg)
    params = {
        "face": heads["face"].init(r_face, jnp.zeros((1, cfg.width)))["params"],
        "name": heads["name"].init(r_name, jnp.zeros((1, width)))["params"],
    }
    if cfg.null:
        params["null"] = jax.random.normal(r_null, (width,))
    return Vars(params=params, ema={"first": OwnEma(tuple(params), STILL)} if cfg.easy else {})


def _faces(cfg: Config, params, vectors: jax.Array) -> jax.Array:
    return _wide(_heads(cfg)["face"].apply({"params": params["face"]}, vectors))


def _names(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    """[B, N, E] of [B, N, D], or [B, N + 1, E] with the null name as the last."""
    if cfg.null:
        null = jnp.broadcast_to(params["null"], (len(pooled), 1, pooled.shape[-1]))
        pooled = jnp.concatenate([pooled, null.astype(pooled.dtype)], axis=1)
    return _wide(_heads(cfg)["name"].apply({"params": params["name"]}, pooled))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    f, n = _faces(cfg, params, batch[cfg.cached]), _names(cfg, params, feats["names"].pooled)
    faces, names = _there(batch, cfg.cached), _there(batch, cfg.names)
    if cfg.null:
        names = jnp.pad(names, ((0, 0), (0, 1)), constant_values=True)
    known = batch[f"has_{cfg.cached}"] & batch[f"has_{cfg.names}"]
    faces, names = faces & known[:, None], names & known[:, None]
    terms = {}
    if cfg.easy:
        f = _mixed(cfg, f, _faces(cfg, ema["first"], batch[cfg.cached]))
        n = _mixed(cfg, n, _names(cfg, ema["first"], feats["first"].pooled))
        best, matched, person = _matched(cfg, f, n, faces, names, batch, ctx)
        easy = _drawn(cfg, params, ema["first"], person, ctx)
        own = jnp.take_along_axis(f, best[:, :, None], axis=1)
        for key, anchors in (("comb", n[:, : matched.shape[1]]), ("face", own)):
            terms[key] = _to_easy(anchors, easy, matched, person)
        which = jax.nn.one_hot(best, f.shape[1], dtype=bool)
        faces &= ~jnp.any(matched[:, :, None] & which, axis=1)
        names &= ~jnp.pad(matched, ((0, 0), (0, names.shape[1] - matched.shape[1])))

    there = jnp.any(faces, axis=1) & jnp.any(names, axis=1)
    to_faces, to_names = similarities(n, f, names, faces), similarities(f, n, faces, names)
    own_faces, own_names = jnp.diagonal(to_faces), jnp.diagonal(to_names)
    agreement = jnp.where(there, jnp.square(own_faces - own_names), 0.0)
    terms["names"] = _mean(_cross(to_faces, there), there)
    terms["faces"] = _mean(_cross(to_names, there), there)
    terms["agreement"] = _mean(agreement, there, cfg.alpha)
    found = jnp.argmax(jnp.where(there[None], to_faces, -jnp.inf), axis=1)
    right = there & (found == jnp.arange(len(f)))
    metrics = {"accuracy": Term(*(jnp.sum(k, dtype=jnp.float32) for k in (right, there)))}
    if cfg.easy:
        metrics["matched"] = Term(jnp.sum(matched, dtype=jnp.float32), jnp.float32(len(f)))
    return Loss(terms, metrics=metrics)


def _there(batch, name: str) -> jax.Array:
    """bool[B, N]: the places of a set that something is in."""
    return jnp.arange(batch[name].shape[1])[None] < batch[f"count_{name}"][:, None]


def similarities(a: jax.Array, c: jax.Array, a_there: jax.Array, c_there: jax.Array) -> jax.Array:
    """The mean over a set of the largest product with a member of another, of all pairs of sets.

    Args:
        a: [A, N, E], sets of N at most.
        c: [C, R, E].
        a_there: bool[A, N], what is in the sets.
        c_there: bool[C, R].

    Returns:
        f32[A, C], 0 where one of the two is empty.
    """
    (A, N, E), (C, R, _) = a.shape, c.shape
    products = logits.product(a.reshape(A * N, E), c.reshape(C * R, E)).reshape(A, N, C, R)
    some = jnp.any(c_there, axis=1)
    # The maximum of nothing is read as 0, and no gradient goes there.
    open_ = c_there | ~some[:, None]
    best = jnp.max(jnp.where(open_[None, None], products, -jnp.inf), axis=3)
    counts = a_there[:, :, None] & some[None, None]
    total = jnp.sum(jnp.where(counts, best, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(a_there, axis=1), 1)[:, None]


def _cross(s: jax.Array, there: jax.Array, allowed: jax.Array | None = None) -> jax.Array:
    """[A]: the cross-entropy of each row of s [A, A] with itself, 0 of those that are not there."""
    itself = jnp.eye(len(s), dtype=bool)
    met = there[None] if allowed is None else there[None] & allowed
    total = jax.nn.logsumexp(jnp.where(met | itself, s, -jnp.inf), axis=1)
    return jnp.where(there, total - jnp.diagonal(s), 0.0)


def _mean(each: jax.Array, there: jax.Array, weight: float = 1.0) -> Term:
    """The mean of those that are there, one number: which these are can depend on parameters."""
    value = jnp.sum(each) / jnp.maximum(jnp.sum(there), 1)
    return Term(value, jnp.float32(1), weight)


# ------------------------------------------------------------------------------ the second stage


def _mixed(cfg: Config, new: jax.Array, first: jax.Array) -> jax.Array:
    return (1 - cfg.beta) * new + cfg.beta * first


def _matched(cfg: Config, f, n, faces, names, batch, ctx: Ctx):
    """The best face of each name that the caption gives, whether they are matched, and who it is.

    Returns:
        i32[B, N], bool[B, N], and i32[B, N], the place in the pool.
    """
    ids, pool = batch[cfg.names], jnp.asarray(ctx.constants["names"])
    same = jnp.all(ids[:, :, None] == pool[None, None], axis=-1)
    N = ids.shape[1]
    scores = jnp.einsum("bne,bre->bnr", n[:, :N], f, precision=logits.PRECISION)
    scores = jnp.where(faces[:, None], scores, -jnp.inf)
    seen = jnp.any(same, axis=-1) & names[:, :N]
    return jnp.argmax(scores, -1), seen & (jnp.max(scores, -1) > 0), jnp.argmax(same, -1)


def _drawn(cfg: Config, params, first, person: jax.Array, ctx: Ctx) -> jax.Array:
    """[B, N, S, E]: embeddings of faces of each person, drawn with replacement."""
    N, counts = person.shape[1], jnp.asarray(ctx.constants["counts"])[person]
    keys = ctx.draw.fold("easy").keys()
    u = jax.vmap(lambda key: jax.random.uniform(key, (N, cfg.samples)))(keys)
    which = jnp.minimum((u * counts[:, :, None]).astype(jnp.int32), counts[:, :, None] - 1)
    vectors = jnp.asarray(ctx.constants["faces"])[person[:, :, None], which]
    return _mixed(cfg, _faces(cfg, params, vectors), _faces(cfg, first, vectors))


def _to_easy(anchors, easy, matched, person) -> Term:
    """Both directions between matched names or faces [B, N, E] and their easy faces."""
    there, who = matched.ravel(), person.ravel()
    E, S = anchors.shape[-1], easy.shape[2]
    a, pool = anchors.reshape(-1, 1, E), easy.reshape(-1, S, E)
    one, all_ = there[:, None], jnp.broadcast_to(there[:, None], pool.shape[:2])
    others = who[:, None] != who[None]
    forth = _cross(similarities(a, pool, one, all_), there, others)
    back = _cross(similarities(pool, a, all_, one), there, others)
    return _mean(forth + back, there)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per picture of sets without padding; what isn't trained counts a third."""
    trained, still = forward_flops(cfg, spec)
    return trained + still / 3


def forward_flops(cfg: Config, spec: Spec) -> tuple[float, float]:
    """Forward FLOPs per picture of what is trained, and of the first stage's copy."""
    R, N, B, heads = spec.sets[cfg.cached], spec.sets[cfg.names], spec.global_batch, _heads(cfg)
    face, name = heads["face"].flops(cfg.width), spec.towers["encoder_text"].embed
    rows = N + cfg.null
    both = R * face + rows * heads["name"].flops(name)
    trained, still = both + 4 * B * R * rows * cfg.out, 0.0
    if cfg.easy:
        easy = N * cfg.samples
        still = both + easy * face
        # Matching, and both directions of matched names and of their faces to the easy faces.
        trained += easy * face + 2 * N * R * cfg.out + 8 * B * N * easy * cfg.out
    return float(trained), float(still)


# -------------------------------------------------------------------------------- what it offers


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    """Faces as unit vectors; products are raw in training."""
    return l2_normalize(_faces(cfg, params, pooled))


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    """Names as unit vectors."""
    return l2_normalize(_heads(cfg)["name"].apply({"params": params["name"]}, pooled))


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return jnp.float32(1), jnp.float32(0)

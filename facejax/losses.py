"""The losses of a (micro-)batch: every objective with its modifiers, through the contract alone."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Draw, Features, Frozen, Loss, Params, Pass, Student, Term
from facejax.forward import Batch, forward, weights_of
from facejax.schedule import at
from facejax.state import Program, TrainState, bare
from facejax.typed import keys_of

Trained = dict[str, Any]
"""What a step differentiates: {"params": ..., "rows": {label: {name: f32[R, D]}}}."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What stays fixed within one step."""

    program: Program
    state: TrainState
    frozen: Params
    rows: Mapping[str, Mapping[str, jax.Array]]
    constants: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

    def scope(self, label: str) -> str:
        return self.program.run.objectives[label].module.SCOPE

    def labels(self, scope: str | None = None) -> list[str]:
        every = self.program.run.objectives
        return [label for label in every if scope in (None, self.scope(label))]

    def weight(self, label: str) -> jax.Array | float:
        program = self.program
        return at(program.run.objectives[label].weight, self.state.step, program.spec.steps)


def features_of(
    given: Given,
    trained: Trained,
    batch: Batch,
    draw: Draw,
    passes: Iterable[Pass] | None = None,
):
    state = given.state
    return forward(
        given.program,
        trained["params"],
        state.stats,
        state.ema,
        given.frozen,
        batch,
        draw,
        given.constants,
        passes,
    )


def applier(given: Given, trained: Trained, draw: Draw):
    """`Ctx.apply`: an encoder on inputs that only a loss can make; statistics stay as they are."""

    def apply(
        tower: str,
        inputs,
        weights=Student(),  # noqa: B008
        outputs=("pooled",),
        context=None,
    ) -> Features:
        p = Pass(tower=tower, weights=weights, outputs=outputs)
        state = given.state
        module, config, params, stats = weights_of(
            given.program, p, trained["params"], state.stats, state.ema, given.frozen
        )
        train = not isinstance(weights, Frozen)
        found, _ = module.apply(
            config,
            params,
            stats,
            inputs,
            mask=None,
            context=context,
            cond=None,
            draw=None,
            train=train,
            outputs=outputs,
        )
        return found if isinstance(weights, Student) else jax.lax.stop_gradient(found)

    return apply


def losses_of(
    given: Given,
    trained: Trained,
    features: Mapping[Pass, Features],
    batch: Batch,
    draw: Draw,
    labels: list[str],
    apply: Callable | None = None,
) -> dict[str, Loss]:
    """The losses of the objectives in `labels`, each with those of its modifiers."""
    out = {}
    for label in labels:
        objective = given.program.run.objectives[label]
        own = _own_params(trained, label)
        feats = {
            name: _asked(features[bare(p)], p) for name, p in given.program.passes[label].items()
        }
        collected: dict[str, Loss] = {}
        modifiers = {name: f for name, f in feats.items() if "/" in name}
        ctx = context(given, label, draw, apply)
        ctx = dataclasses.replace(ctx, batch=batch, feats=modifiers)
        ctx = dataclasses.replace(ctx, modify=_modify(given, trained, label, ctx, collected))
        with keys_of(objective.config, f"config.objective.{label}"):
            loss = objective.module.loss(
                objective.config,
                own,
                given.state.ema["objective"].get(label, {}),
                given.state.objective["state"].get(label, {}),
                {name: f for name, f in feats.items() if name not in modifiers},
                batch,
                ctx,
            )
        out[label] = _with_modifiers(loss, collected)
    return out


def _own_params(trained: Trained, label: str) -> Params:
    own = trained["params"]["objective"].get(label, {})
    rows = trained["rows"].get(label)
    return {**own, **rows} if rows else own


def _asked(features: Features, p: Pass) -> Features:
    """Only what the pass asked for, so that no objective leans on another one's outputs."""
    hidden = dict.fromkeys(("pooled", "prefix", "tokens", "layers", "view"))
    asked = {name: getattr(features, name) for name in p.outputs}
    return dataclasses.replace(features, **{**hidden, **asked})


def context(given: Given, label: str, draw: Draw, apply: Callable | None) -> Ctx:
    return Ctx(
        step=given.state.step,
        draw=draw.fold(f"objective/{label}"),
        spec=given.program.spec,
        rows=given.rows.get(label, {}),
        constants=own_constants(given.constants, label),
        apply=apply,
    )


def own_constants(constants: Mapping[str, jax.Array], label: str) -> dict[str, jax.Array]:
    """Those of one objective, by name."""
    prefix = f"{label}/"
    return {k.removeprefix(prefix): v for k, v in constants.items() if k.startswith(prefix)}


def _modify(given: Given, trained: Trained, label: str, ctx: Ctx, collected: dict[str, Loss]):
    """`Ctx.modify`: the objective's modifiers in order; their losses are put in `collected`."""
    modifiers = given.program.run.objectives[label].modifiers
    calls = itertools.count()

    def own(name: str, call: int) -> Ctx:
        stream = f"modifier/{name}/{call}" if call else f"modifier/{name}"
        prefix = f"{name}/"
        asked = {k.removeprefix(prefix): f for k, f in ctx.feats.items() if k.startswith(prefix)}
        return dataclasses.replace(ctx, draw=ctx.draw.fold(stream), feats=asked)

    def modify(pairs):
        call = next(calls)
        for name, modifier in modifiers.items():
            with keys_of(modifier.config, f"config.objective.{label}.modifiers.{name}"):
                pairs, extra = modifier.module.transform(
                    modifier.config,
                    trained["params"]["modifier"].get(label, {}).get(name, {}),
                    given.state.objective["modifier"].get(label, {}).get(name, {}),
                    pairs,
                    own(name, call),
                )
            collected[name] = _added(collected[name], extra) if call else extra
        return pairs

    return modify


def _added(a: Loss, b: Loss) -> Loss:
    """Two calls of a modifier as one: its terms are means over the elements of both."""
    terms = {
        name: Term(a.terms[name].sum + t.sum, a.terms[name].count + t.count, t.weight)
        for name, t in b.terms.items()
    }
    stats, metrics = jax.tree.map(jnp.add, (a.stats, a.metrics), (b.stats, b.metrics))
    return Loss(terms, stats, metrics)


def _with_modifiers(loss: Loss, collected: Mapping[str, Loss]) -> Loss:
    terms, metrics = dict(loss.terms), dict(loss.metrics)
    for name, extra in collected.items():
        terms |= {f"{name}.{key}": term for key, term in extra.terms.items()}
        metrics |= {f"{name}.{key}": metric for key, metric in extra.metrics.items()}
    modifier_stats = {name: extra.stats for name, extra in collected.items()}
    return Loss(terms, {"own": loss.stats, "modifier": modifier_stats}, metrics)


def sum_terms(loss: Loss) -> jax.Array:
    return sum((t.weight * t.value() for t in loss.terms.values()), jnp.float32(0))


def total(given: Given, losses: Mapping[str, Loss]) -> jax.Array:
    every = (given.weight(label) * sum_terms(loss) for label, loss in losses.items())
    return sum(every, jnp.float32(0))

"""README.md and LICENSE of an export.

The nine sections are those of "Model Cards for Model Reporting" (Mitchell et al. 2019,
arXiv:1810.03993), in their order, filled from what the run recorded.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "not evaluated"
_BASELINE = "@(?:random|pixels)"


def text(
    cfg: Any,
    usage: str,
    preprocess: Mapping[str, Any],
    meta: Mapping[str, Any],
    parity: Mapping[str, Any],
) -> str:
    """README.md.

    Args:
        cfg: of the encoder.
        usage: Python lines that load it.
        preprocess, meta: see `facejax.export`; what `meta` lacks is said to be unknown.
        parity: the content of parity.json.
    """
    name = type(cfg).__module__.rpartition(".")[2]
    metrics = {k: v for k, v in meta.get("metrics", {}).items() if k.startswith("eval/")}
    groups = {k: v for k, v in metrics.items() if k.count("/") > 2}
    sections = {
        "Model Details": _details(cfg, name, preprocess, meta, parity)
        + f"\n\n```python\n{usage}\n```",
        "Intended Use": "Embeddings of aligned or cropped faces, for research on representations "
        "of faces. Out of scope: identifying people without their consent, and decisions about "
        "people.",
        "Factors": _factors(groups),
        "Metrics": _list(sorted({_metric(k) for k in metrics if not _is_end(k)})) or UNKNOWN,
        "Evaluation Data": _list(_evaluations(meta)) or UNKNOWN,
        "Training Data": _list(_licensed(meta.get("data", ()))) or "unknown",
        "Quantitative Analyses": _table({k: v for k, v in metrics.items() if k not in groups})
        + "\n\nBy group:\n\n"
        + _table(groups),
        "Ethical Considerations": "Embeddings of faces can identify people and carry what data "
        "sets over- or under-represent. Get the consent of those you embed, and keep to the "
        "licence of every data set above: some forbid commercial use, and weights follow them.",
        "Caveats and Recommendations": "Measured on nothing but what stands above; test on your "
        "own population before relying on it. Images must be prepared as preprocess.json says: "
        "other alignment, colour order or normalisation give other embeddings without an error.",
    }
    head = f"# {name} of facejax\n\nExported by facejax, schema version 1.\n\n"
    return head + "\n".join(f"## {title}\n\n{body}\n" for title, body in sections.items())


def terms(meta: Mapping[str, Any]) -> str:
    """LICENSE: what of the folder is under which terms, as far as the run knows."""
    data = _list(meta.get("data", ())) or "- unknown"
    return (
        "config.json, preprocess.json, fingerprint.json, parity.json and README.md were written by "
        "facejax\nand are under the Apache License, Version 2.0 "
        "(https://www.apache.org/licenses/LICENSE-2.0).\n\n"
        "The weights belong to whoever trained them. This file grants no licence to them, and the "
        "terms\nof the data that they were trained on may restrict one:\n\n"
        f"{data}\n\nWhoever publishes the weights puts their licence here.\n"
    )


def _details(cfg, name, preprocess, meta, parity) -> str:
    agreement = {k: parity[k] for k in ("max_abs", "max_rel", "min_cosine") if k in parity}
    compared = ", ".join(f"{k} {v:.3g}" for k, v in agreement.items())
    rows = {
        "encoder": name,
        "options": ", ".join(f"{k} {v}" for k, v in vars(cfg).items() if v is not None),
        "input": ", ".join(f"{k} {v}" for k, v in preprocess.items()),
        "steps": meta.get("step", "unknown"),
        "objectives": ", ".join(meta.get("config", {}).get("objective", {})) or "unknown",
        "agreement with the other library": compared or parity["status"],
        "versions": ", ".join(f"{k} {v}" for k, v in meta.get("versions", {}).items()) or "unknown",
        "licence": "see LICENSE",
    }
    return _list(f"{key}: {value}" for key, value in rows.items())


def _factors(groups: Mapping[str, float]) -> str:
    named = sorted({key.rpartition("/")[2].partition("@")[0] for key in groups})
    told = f"Evaluated apart: {', '.join(named)}." if named else f"Groups of people: {UNKNOWN}."
    return f"{told}\n\nInstrumentation and environment (camera, light, pose): {UNKNOWN}."


def _is_end(key: str) -> bool:
    """Whether a metric is an end of another one's interval."""
    return re.search(rf"_(low|high)({_BASELINE})?$", key) is not None


def _metric(key: str) -> str:
    return re.sub(rf"{_BASELINE}(_diff)?$", "", key.split("/")[2]).removesuffix("_std")


def _evaluations(meta: Mapping[str, Any]) -> Iterable[str]:
    for label, entry in (meta.get("config", {}).get("eval") or {}).items():
        yield f"{label}: {', '.join(f'{k} {v}' for k, v in entry.items() if v is not None)}"


def _licensed(data: Iterable[str]) -> Iterable[str]:
    for source in data:
        yield f"{source}; licence: not recorded, see its owner"


def _table(metrics: Mapping[str, float]) -> str:
    """The metrics with their 95 % intervals, where the evaluator gave them, and the baselines."""
    found = {k: v for k, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    rows = []
    for key, value in sorted(found.items()):
        if _is_end(key) or re.search(f"{_BASELINE}$", key):
            continue
        beside = (_told(found, key, f"@{name}") for name in ("random", "pixels"))
        interval = _interval(found, key) or UNKNOWN
        rows.append(f"| {key} | {value:.4g} | {interval} | {' | '.join(beside)} |")
    if not rows:
        return UNKNOWN
    head = "| metric | value | 95 % interval | random encoder | raw pixels |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _told(found: Mapping[str, float], key: str, baseline: str) -> str:
    """The value of a baseline with its interval; empty without one."""
    value, interval = found.get(f"{key}{baseline}"), _interval(found, key, baseline)
    if value is None:
        return ""
    return f"{value:.4g} ({interval})" if interval else f"{value:.4g}"


def _interval(found: Mapping[str, float], key: str, baseline: str = "") -> str:
    low, high = (found.get(f"{key}_{end}{baseline}") for end in ("low", "high"))
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)

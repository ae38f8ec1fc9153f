"""Figures as inline SVG: they take the page's colours, so they follow its light and dark scheme."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from facejax.reporting.page import escape, figure
from facejax.reporting.rundir import Run

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 40
COLOURS = 8
DASHES = ("", "7 4", "2 4", "10 3 2 3")
MOST = 320  # points that a line keeps: about one per pixel


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: for the legend.
        x: f64[n], increasing.
        y: f64[n]; the line breaks where it is not finite.
        colour: number of the page's colour.
        dash: number of the dash pattern.
        low: f64[n] or None: lower end of a band around the line.
        high: f64[n] or None: its upper end.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    dash: int = 0
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels.

    Attributes:
        low: value at pixel `start`.
        high: value at pixel `end`.
        log: whether decades are equally long; `low` is then above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        scale = np.log10 if self.log else np.asarray
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(values) - low) / (high - low) * (self.end - self.start)

    def unit(self) -> tuple[float, str]:
        """What the numbers of a linear axis count in, and the mark behind them.

        Tiny values have no mark: the axis's label says their power of ten.
        """
        decade = math.floor(math.log10(max(abs(self.low), abs(self.high))))
        if decade >= 6:
            return 1e6, "M"
        if decade >= 4:
            return 1e3, "k"
        return (10.0**decade if decade <= -3 else 1.0), ""

    def named(self, label: str) -> str:
        """The axis's label with the power of ten that its numbers leave out."""
        small = not self.log and self.unit()[0] < 1
        return f"{label} (×{_power(round(math.log10(self.unit()[0])))})" if small else label

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the axis and how to write them, all in the same unit."""
        if self.log:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / 6))
            # Within two decades the powers of ten alone would leave the axis nearly bare.
            parts = (1, 2, 5) if self.high / self.low < 100 else (1,)
            marks = [(m, d) for d in range(first - 1, last + 1, every) for m in parts]
            inside = [(m * 10.0**d, m, d) for m, d in marks if self.low <= m * 10.0**d <= self.high]
            return [(v, _power(d) if m == 1 else f"{v:g}") for v, m, d in inside]
        step = _round_step((self.high - self.low) / 4.5)
        values = np.arange(math.ceil(self.low / step - 1e-9), self.high / step + 1e-9) * step
        unit, mark = self.unit()
        # Enough decimals for the tick distance: 0.25 needs two, 0.5 one.
        digits = next(d for d in range(16) if math.isclose(round(step / unit, d), step / unit))
        texts = [f"{v / unit:.{digits}f}{mark}".replace("-", "−") for v in values]
        near_zero = np.abs(values) < step / 2
        return [(v, "0" if z else t) for v, z, t in zip(values.tolist(), near_zero, texts)]


def _power(decade: int) -> str:
    if -2 <= decade <= 3:
        return f"{10.0**decade:g}"
    return "10" + str(decade).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def thin(series: Series) -> Series:
    """Reduces a long line to means over equal numbers of points, with a band of their extremes."""
    if len(series.x) <= MOST or series.low is not None:
        return series
    points = []
    for x, y in zip(np.array_split(series.x, MOST), np.array_split(series.y, MOST)):
        y = y[np.isfinite(y)]
        ends = (y.mean(), y.min(), y.max()) if y.size else (np.nan,) * 3
        points.append((x.mean(), *ends))
    x, y, low, high = np.array(points).T
    return replace(series, x=x, y=y, low=low, high=high)


def _extent(arrays: Sequence[np.ndarray], log: bool, zero: bool = False) -> tuple[float, float]:
    values = np.concatenate([np.ravel(a) for a in arrays])
    values = values[np.isfinite(values)]
    if log:
        values = values[values > 0]
    low, high = (float(values.min()), float(values.max())) if values.size else (float(log), 1.0)
    low = min(low, 0.0) if zero and not log else low
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        return (low / 2, low * 2) if log else (low - pad * (low != 0), high + pad)
    return low, high


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        edge = (high / low) ** 0.04
        return low / edge, high * edge
    edge = 0.05 * (high - low)
    return (low if low == 0 else low - edge), high + edge


def _frame(x: Axis, y: Axis, xlabel: str, ylabel: str) -> list[str]:
    parts, right, bottom = [], x.end, y.start
    for value, text in y.ticks():
        at = float(y(value))
        parts.append(f'<path class="rule" d="M{LEFT} {at:.1f}H{right:g}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in x.ticks():
        at = float(x(value))
        parts.append(f'<path class="frame" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="frame" fill="none" d="M{LEFT} {y.end:g}V{bottom}H{right:g}"/>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{bottom + 33}" text-anchor="middle">'
        f"{escape(x.named(xlabel))}</text>"
    )
    height = (y.end + bottom) / 2
    parts.append(
        f'<text transform="translate(11 {height:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.named(ylabel))}</text>"
    )
    return parts


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    """Path data through the points, broken where one is not finite."""
    out, pen = [], "M"
    for x, y in zip(xs, ys):
        if math.isfinite(x) and math.isfinite(y):
            out.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(out)


def _line(series: Series, x: Axis, y: Axis) -> str:
    xs, ys = x(series.x), y(series.y)
    colour = f"var(--c{series.colour % COLOURS})"
    parts = [f"<g><title>{escape(series.name)}</title>"]
    if series.low is not None and series.high is not None:
        ok = np.isfinite(series.low) & np.isfinite(series.high)
        around = np.r_[xs[ok], xs[ok][::-1]], np.r_[y(series.low[ok]), y(series.high[ok])[::-1]]
        parts.append(f'<path class="band" fill="{colour}" d="{_path(*around)}Z"/>')
    dash = f' stroke-dasharray="{DASHES[series.dash]}"' if series.dash else ""
    parts.append(f'<path class="line" stroke="{colour}"{dash} d="{_path(xs, ys)}"/>')
    if len(xs) == 1 or (len(xs) <= 12 and not series.dash):
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>'
            for a, b in zip(xs, ys)
            if math.isfinite(a) and math.isfinite(b)
        ]
    return "".join([*parts, "</g>"])


def lines(
    series: Sequence[Series],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
) -> str:
    """A chart of lines.

    Args:
        log_x: x in decades; points at or below 0 are left out.
        log_y: y in decades; likewise.
        zero: let the y axis begin at 0.
    """
    series = [thin(s) for s in series]
    x = Axis(*_extent([s.x for s in series], log_x), LEFT, WIDTH - RIGHT, log_x)
    ys = [a for s in series for a in (s.y, s.low, s.high) if a is not None]
    y = Axis(*_padded(*_extent(ys, log_y, zero), log_y), HEIGHT - BOTTOM, TOP, log_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = [_line(s, x, y) for s in series]
    label = f"{ylabel} against {xlabel}: {_names(series)}"
    return _svg([*_frame(x, y, xlabel, ylabel), *drawn], label)


def stacked(series: Sequence[Series], xlabel: str, ylabel: str) -> str:
    """Lines one behind the other, the first in front, on axes that all of them share.

    Each stands on a floor of its own, at the axis's low end, a step to the right and up.
    """
    series = [thin(s) for s in series]
    right, up = (reach / max(len(series) - 1, 1) for reach in (90.0, 70.0))
    back = len(series) - 1
    x = Axis(*_extent([s.x for s in series], False), LEFT, WIDTH - RIGHT - back * right)
    heights = _padded(*_extent([s.y for s in series], False), False)
    y = Axis(*heights, HEIGHT - BOTTOM, TOP + back * up)
    parts = _frame(x, y, xlabel, ylabel)
    for at in (x.start, x.end):
        parts.append(
            f'<path class="rule" d="M{at:g} {y.start:g}l{back * right:g} {-back * up:g}"/>'
        )
    for i in reversed(range(len(series))):
        s = series[i]
        ok = np.isfinite(s.y)
        colour = f"var(--c{s.colour % COLOURS})"
        floor = f'<path class="rule" d="M{x.start:g} {y.start:g}H{x.end:g}"/>'
        xs = x(s.x[ok])
        area = _path(np.r_[xs, xs[::-1]], np.r_[y(s.y[ok]), np.full(len(xs), y.start)])
        parts.append(
            f'<g transform="translate({i * right:g} {-i * up:g})">{floor}'
            f'<path class="band" fill="{colour}" d="{area}Z"/>{_line(s, x, y)}</g>'
        )
    return _svg(parts, f"{ylabel} against {xlabel}, one behind the other: {_names(series)}")


def _names(series: Sequence[Series]) -> str:
    return ", ".join(s.name for s in series)


def legend(series: Sequence[Series]) -> str:
    """The key to a chart's lines; nothing for a single one."""
    if len(series) < 2:
        return ""
    keys = []
    for s in series:
        dash = f' stroke-dasharray="{DASHES[s.dash]}"' if s.dash else ""
        stroke = f'stroke="var(--c{s.colour % COLOURS})"'
        keys.append(
            '<span><svg viewBox="0 0 28 10" aria-hidden="true">'
            f'<path class="line" {stroke}{dash} d="M1 5H27"/></svg>{escape(s.name)}</span>'
        )
    return f'<div class="legend">{"".join(keys)}</div>'


def chart(
    name: str, series: Sequence[Series], xlabel: str, ylabel: str, caption: str, **axes: bool
) -> str:
    """A whole figure of lines: name, key, drawing, caption. `axes` as in `lines`."""
    return figure(name, lines(series, xlabel, ylabel, **axes), caption, legend(series))


def over_runs(
    runs: Sequence[Run],
    name: str,
    key: str,
    ylabel: str,
    caption: str,
    scale: float = 1.0,
    **axes: bool,
) -> list[str]:
    """A chart of one curve, a line per run; none where no run has a finite value of it."""
    series = [
        Series(run.name, curve.steps, scale * curve.values, i, i % len(DASHES))
        for i, run in enumerate(runs)
        for curve in [run.curves.get(key)]
        if curve is not None and np.isfinite(curve.values).any()
    ]
    return [chart(name, series, "step", ylabel, caption, **axes)] if series else []


def ridges(
    rows: Sequence[tuple[int, Mapping[str, np.ndarray]]], low: float, high: float, xlabel: str
) -> str:
    """Distributions over steps, one ridge per row, the newest in front at the bottom.

    Args:
        rows: (step, name -> counts [n] over [low, high]); each name has its own colour, in order.
    """
    names = list(dict.fromkeys(name for _, group in rows for name in group))
    gap = min(24.0, 190.0 / len(rows))
    tall = 2.2 * gap
    height = TOP + tall + gap * (len(rows) - 1) + BOTTOM + 6
    x = Axis(low, high, LEFT, WIDTH - RIGHT)
    parts, every = [], math.ceil(13 / gap)
    for i, (step, group) in enumerate(rows):
        base = TOP + tall + i * gap
        label = f"{step / 1e3:g}k" if step >= 1e4 else str(step)
        if i == len(rows) - 1 or (i % every == 0 and len(rows) - 1 - i >= every):
            parts.append(
                f'<text x="{LEFT - 6}" y="{base + 4:.1f}" text-anchor="end">{label}</text>'
            )
        parts.append(f'<path class="rule" d="M{LEFT} {base:.1f}H{WIDTH - RIGHT}"/>')
        for name, counts in group.items():
            edges = np.linspace(low, high, len(counts) + 1)
            filled = np.flatnonzero(counts)
            if not filled.size:
                continue
            inside = slice(filled[0], filled[-1] + 1)
            middles = (edges[1:] + edges[:-1])[inside] / 2
            xs = x(np.r_[edges[filled[0]], middles, edges[filled[-1] + 1]])
            ys = base - tall * np.r_[0, counts[inside] / counts.max(), 0]
            colour = f"var(--c{names.index(name) % COLOURS})"
            parts.append(
                f'<path class="ridge" fill="{colour}" stroke="{colour}" d="{_path(xs, ys)}">'
                f"<title>{escape(name)}, step {step}</title></path>"
            )
    bottom = height - BOTTOM
    for value, text in x.ticks():
        at = float(x(value))
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{text}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{bottom + 33:.1f}" text-anchor="middle">'
        f"{escape(xlabel)}</text>"
    )
    parts.append(
        f'<text transform="translate(11 {bottom / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "step</text>"
    )
    return _svg(parts, f"{', '.join(names)} over {len(rows)} steps", height)


_MARKS = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"',
    '<path d="M{x:.1f} {y:.1f}m-3.4 -3.4h6.8v6.8h-6.8z"',
    '<path d="M{x:.1f} {y:.1f}m0 -4.6l4.4 7.6h-8.8z"',
)


def scatter(points: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> str:
    """A map f64[n, 2] of points, those of one group (i64[n]) in one colour and shape.

    Both axes have the same scale, and no unit: only nearness means anything.
    """
    side = 240.0
    low, high = points.min(0), points.max(0)
    scale = (side - 24) / max(float((high - low).max()), 1e-12)
    at = (points - (low + high) / 2) * scale + side / 2
    parts = [f'<rect class="frame" fill="none" width="{side:g}" height="{side:g}" rx="4"/>']
    for (x, y), group in zip(at, groups.tolist()):
        mark = _MARKS[group // COLOURS % len(_MARKS)].format(x=x, y=side - y)
        parts.append(
            f'{mark} class="point" fill="var(--c{group % COLOURS})">'
            f"<title>{escape(names[group])}</title>{'</circle>' if mark[1] == 'c' else '</path>'}"
        )
    return _svg(parts, f"map of {len(points)} images of {len(names)} identities", side, side)

"""The page around the figures: shell and style, tables, pictures. Escapes all text it is given."""

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

# Nothing may be fetched and nothing may run, whatever a run's name or config holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1b1d21; --soft: #5c626b; --line: #d9dce0; --grid: #e9ebee;
  --panel: #f4f5f6;
  --c0: #0b63b0; --c1: #c4520a; --c2: #0a7d5a; --c3: #a23a86; --c4: #7a6200; --c5: #5b53c0;
  --c6: #b3263a; --c7: #4d6470; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15171a; --ink: #e6e8ea; --soft: #a0a6ae; --line: #383c42; --grid: #272a2f;
  --panel: #1d2024;
  --c0: #6cb0f5; --c1: #f19a5b; --c2: #56c6a0; --c3: #e08fc9; --c4: #d4bb4a; --c5: #a9a3f7;
  --c6: #f27f8d; --c7: #9db4c0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.015em; }
h2 { font-size: 1.25rem; margin: 3rem 0 .3rem; padding-top: .9rem;
  border-top: 1px solid var(--line); letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
.lead, .caption, .missing, nav { color: var(--soft); }
.lead { font-size: 1.05rem; }
.caption { font-size: .84rem; line-height: 1.45; margin: .4rem 0 0; }
.missing { font-style: italic; }
nav { font-size: .9rem; margin: 1.2rem 0 0; } nav a { margin-right: 1.1rem; white-space: nowrap; }
a { color: var(--c0); text-decoration-thickness: 1px; text-underline-offset: 2px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr));
  gap: .9rem 1.2rem; margin: 1.5rem 0 0; }
dt { font-size: .78rem; color: var(--soft); } dd { margin: 0; font-size: 1.05rem; }
.grid { display: grid; gap: 1.8rem 2rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.grid.small { gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); }
figure { margin: 0; break-inside: avoid; min-width: 0; }
.name { font-size: .92rem; font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .82rem;
  color: var(--soft); margin: .1rem 0 .2rem; }
.legend svg { width: 1.7rem; height: .7rem; vertical-align: middle; margin-right: .35rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.legend svg, .key svg { display: inline; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .frame { stroke: var(--line); } svg .rule { stroke: var(--grid); }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
svg .band { stroke: none; opacity: .16; } svg .ridge { fill-opacity: .22; stroke-width: 1.2; }
svg .point { fill-opacity: .75; stroke: var(--paper); stroke-width: .6; }
.scroll { overflow-x: auto; margin-top: .8rem; }
table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th, td { padding: .38rem .9rem .38rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--grid); overflow-wrap: normal; }
th { font-weight: 600; border-bottom-color: var(--line); }
th:first-child, td:first-child { text-align: left; }
table:not(.text) td:first-child { white-space: nowrap; }
table.text td { text-align: left; overflow-wrap: anywhere; } table.text th { text-align: left; }
td small { display: block; color: var(--soft); font-size: .78rem; white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; margin-top: 1rem; }
.pictures { display: grid; gap: 4px; margin-top: .3rem; font-size: .82rem; color: var(--soft); }
.pair { display: grid; gap: .8rem; margin-top: .3rem; color: var(--soft); font-size: .82rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 11rem), 1fr)); }
.pictures img { width: 100%; display: block; border-radius: 3px; }
footer { margin-top: 4rem; font-size: .82rem; color: var(--soft); }
@media (max-width: 30rem) { body { padding-top: 1.5rem; } h1 { font-size: 1.5rem; }
  svg text { font-size: 13px; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  .grid { grid-template-columns: 1fr 1fr; } .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; height: auto; }
  h2, h3 { break-after: avoid; } }
"""


def escape(value: object) -> str:
    """Text that means itself in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def page(title: str, body: Iterable[str]) -> str:
    """The whole document around escaped `body` parts."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def section(key: str, title: str, *parts: str) -> str:
    """A numbered part of the page that the contents can point to."""
    return f'<section id="{key}"><h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def missing(text: str) -> str:
    """Says plainly that something is not there."""
    return f'<p class="missing">{escape(text)}</p>'


def figure(name: str, drawing: str, caption: str, legend: str = "") -> str:
    """A drawing (already SVG or HTML) with its name above and how to read it below."""
    return (
        f'<figure><div class="name">{escape(name)}</div>{legend}{drawing}'
        f'<figcaption class="caption">{escape(caption)}</figcaption></figure>'
    )


def grid(figures: Sequence[str], small: bool = False) -> str:
    """Figures side by side where there is room; `small` ones are thumbnails."""
    return f'<div class="grid{" small" if small else ""}">{"".join(figures)}</div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Small labelled numbers."""
    items = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f"<dl>{''.join(items)}</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], text: bool = False) -> str:
    """A table; a cell that is a pair shows its second entry small beneath the first.

    Args:
        text: align all columns to the left, for words.
    """

    def cell(value: object) -> str:
        big, small = value if isinstance(value, tuple) else (value, "")
        return f"<td>{escape(big)}{f'<small>{escape(small)}</small>' if small else ''}</td>"

    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    kind = ' class="text"' if text else ""
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table{kind}>{inside}</table></div>'


def pair(drawings: Iterable[tuple[str, str]]) -> str:
    """Small drawings side by side, each beneath its name."""
    cells = (f"<div>{escape(name)}{drawing}</div>" for name, drawing in drawings)
    return f'<div class="pair">{"".join(cells)}</div>'


def folded(summary: str, *parts: str) -> str:
    """Parts that a reader can open."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def pictures(images: np.ndarray, columns: Sequence[str], side: int = 144) -> str:
    """A grid of pictures u8[rows, cols, H, W, 3] beneath the columns' names, as inline PNG.

    Args:
        side: pictures with a longer side are reduced to it.
    """
    cells = [f"<div>{escape(name)}</div>" for name in columns]
    for row, line in enumerate(images, 1):
        for name, pixels in zip(columns, line):
            picture, file = Image.fromarray(pixels), io.BytesIO()
            picture.thumbnail((side, side))
            picture.save(file, "PNG", optimize=True)
            data = base64.b64encode(file.getvalue()).decode()
            cells.append(
                f'<img alt="{escape(name)}, row {row}" src="data:image/png;base64,{data}">'
            )
    n = len(columns)
    style = f"grid-template-columns: repeat({n}, 1fr); max-width: {8 * n}rem"
    return f'<div class="pictures" style="{style}">{"".join(cells)}</div>'


def number(value: float, digits: int = 4) -> str:
    """Writes a measured value: digits in threes where it is large, a dash where it is unknown."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2e}"

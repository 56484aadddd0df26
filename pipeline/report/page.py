"""The page that a report stands on: its frame, its style, its tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape


def embed_image(png: bytes, alt: str) -> str:
    """Return a picture inside the page itself."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def render_section(title: str, content: str) -> str:
    """Return a section under a heading."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def render_table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table that scrolls by itself where it is too wide."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def collapse_long_table(content: str, rows: int) -> str:
    """Fold a table away when it is long."""
    if rows <= 12:
        return content
    return f"<details><summary>Show all {rows}</summary>{content}</details>"


def render_page(title: str, body: str) -> str:
    """Return a whole document."""
    return _HTML.format(title=escape(title), css=_CSS, body=body)


_HTML = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CSS = """
:root { color-scheme: light; --ink: #212529; --faint: #5c636a; --line: #dee2e6; --tint: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--tint); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 32px 64px; background: #fff; }
h1 { margin: 0 0 4px; font-size: 2.1rem; line-height: 1.2; }
h2 { margin: 44px 0 12px; padding-top: 20px; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 24px 0 6px; font-size: 1rem; }
header p { max-width: 46rem; color: var(--faint); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 16px;
  margin: 20px 0 24px; }
.facts dt, .note, figcaption { color: var(--faint); font-size: .86rem; }
.facts dd { margin: 0; }
.warning { padding: 10px 14px; border-left: 4px solid #b35900; background: #fff4e5;
  color: #663300 !important; font-weight: 600; }
figure { margin: 0; }
figcaption { display: flex; align-items: center; gap: 8px; margin-top: 6px; }
img, svg { display: block; max-width: 100%; height: auto; }
img { border: 1px solid var(--line); }
svg text { fill: var(--faint); font-size: 13px; }
svg line { stroke: var(--faint); }
svg .bars { fill: #3b7a78; }
svg text.unit { font-size: 11px; }
.timeline { min-width: 640px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 28px;
  align-items: start; }
.ramp { width: 180px; height: 12px; border: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .93rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { color: var(--faint); font-weight: 600; }
tbody th { font-weight: 400; white-space: nowrap; }
.id { font: .82rem/1.7 ui-monospace, "DejaVu Sans Mono", Menlo, monospace;
  overflow-wrap: anywhere; white-space: normal; }
.swatch { display: inline-block; width: 14px; height: 14px; margin-right: 8px;
  border: 1px solid #868e96; vertical-align: -2px; }
.bar { width: 38%; }
.bar span { display: block; height: 14px; min-width: 1px; margin-top: 5px;
  outline: 1px solid rgb(0 0 0 / 18%); }
summary { cursor: pointer; color: #0b5394; }
a { color: #0b5394; }
@media (max-width: 600px) { main { padding: 24px 16px; } }
@media print { body, main { background: #fff; padding: 0; } details { display: block; } }
"""

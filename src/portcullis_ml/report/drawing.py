"""Matplotlib figures as inline SVG that takes its colors and fonts from the page, so that dark mode works.

Every figure is drawn about as wide as a phone, in colors that stand for CSS variables; `ink` turns the
stand-ins into `var(--...)`, drops what a page does not need and makes the ids its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from portcullis_ml.report.markup import Html, el

__all__ = ["DASHES", "FAINT", "MARKERS", "PLAIN", "STRONG", "SURFACE", "draw", "series"]

# Placeholder colors: `ink` replaces each with a variable of page.css.
STRONG, PLAIN, FAINT, SURFACE = "#010203", "#010204", "#010205", "#010206"
VARIABLES = {STRONG: "--ink", PLAIN: "--quiet", FAINT: "--line", SURFACE: "--paper"}
COLORS = 6
MARKERS = "os^DvPXp"  # marker and dash repeat what the color says, for those who cannot tell colors
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "portcullis",
    "text.parse_math": False,  # names of attacks are not formulas
    "font.size": 11.5,
    "axes.linewidth": 0.8,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": PLAIN,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": STRONG,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": PLAIN,
    "ytick.labelcolor": PLAIN,
    "figure.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}


def series(i: int) -> str:
    """The stand-in for the i-th color; they repeat, shapes and dashes with them later."""
    return f"#0102{0x10 + i % COLORS:02x}"


def draw(
    name: str,
    alt: str,
    width: float,
    height: float,
    paint: Callable[[Any], None],
    *,
    left: float = 42,
    right: float = 20,
    below: float = 42,
) -> Html:
    """The figure that `paint(axes)` fills, `width` x `height` CSS pixels, with `alt` as its text alternative.

    left, right, below   what the axes leave free for words around them
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what this user's matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        above = 2 if height < 20 else 10
        figure = Figure(figsize=(width / 72, height / 72))
        paint(figure.add_axes((left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height)))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    inside, box = ink(file.getvalue(), name)
    wide = f"min-width:{0.8 * width:.0f}px;" if width > 440 else ""  # on a phone it scrolls rather than shrinks
    return el("svg", inside, viewBox=box, role="img", aria_label=alt, style=f"{wide}max-width:{width * 1.25:.0f}px")


def ink(svg: str, name: str) -> tuple[Html, str]:
    """The inside of matplotlib's <svg>, adapted to the page, and its viewBox."""
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", inside, flags=re.DOTALL)
    inside = inside.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', inside))
    inside = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", inside)
    inside = re.sub(r'(href="#|url\(#)', rf"\1{name}-", inside)
    inside = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", inside)
    inside = re.sub(r"(?<=\d\.\d\d)\d+", "", inside)  # a hundredth of a pixel is fine enough
    inside = re.sub(r"\s*\n\s*", "\n", inside)
    for i in range(COLORS):
        inside = inside.replace(series(i), f"var(--series-{i + 1})")
    for color, variable in VARIABLES.items():
        inside = inside.replace(color, f"var({variable})")
    return Html(inside), box[1]

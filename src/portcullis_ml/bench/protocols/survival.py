"""Survival curves as one SVG file: a panel for each scheme, in greys and a blue that show on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["survival_curves"]

WIDTH, HEIGHT, LEFT, BELOW, GAP = 250, 170, 34, 44, 16  # of a panel's axes and the room around them, pixels
MOST, LEAST = 20.0, -2.0  # points of accuracy lost at the edges of a panel
ACROSS = 3  # panels in a row
INK, FAINT, BLUE = "#777777", "#bbbbbb", "#2f7fc1"


def survival_curves(panels: Mapping[str, Mapping[str, Any]]) -> str:
    """An SVG file from panels by name: "line" [(points lost, share), ...], "spots" {name: (points lost, share)} and
    "innocent", the share that an innocent model answers as marked."""
    wide, high = LEFT + WIDTH + GAP, GAP + HEIGHT + BELOW
    rows = -(-len(panels) // ACROSS)
    parts = [
        f'<g transform="translate({i % ACROSS * wide},{i // ACROSS * high})">{_panel(name, panel)}</g>'
        for i, (name, panel) in enumerate(panels.items())
    ]
    size = f"{min(len(panels), ACROSS) * wide} {rows * high}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _panel(name: str, panel: Mapping[str, Any]) -> str:
    bottom = GAP + HEIGHT
    ticks = [
        f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{_y(v)}" y2="{_y(v)}" stroke="{FAINT}" stroke-width=".5"/>'
        f'<text x="{LEFT - 4}" y="{_y(v) + 4}" text-anchor="end" fill="{INK}">{v:.0%}</text>'
        for v in (0.0, 0.5, 1.0)
    ]
    ticks += [
        f'<text x="{_x(v)}" y="{bottom + 14}" text-anchor="middle" fill="{INK}">{v:.0f}</text>'
        for v in (0, 5, 10, 15, 20)
    ]
    y = _y(panel["innocent"])
    null = f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="{INK}" stroke-dasharray="4 3"/>'
    points = " ".join(f"{_x(lost)},{_y(share)}" for lost, share in panel["line"])
    line = f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="1.6"/>'
    spots = [
        f'<circle cx="{_x(lost)}" cy="{_y(share)}" r="3" fill="{INK}"><title>{escape(what)}: {share:.0%} as marked, '
        f"{lost:.1f} points lost</title></circle>"
        for what, (lost, share) in panel["spots"].items()
    ]
    title = f'<text x="{LEFT}" y="11" fill="{INK}">{escape(name)}</text>'
    middle = f'x="{LEFT + WIDTH / 2}" y="{bottom + 28}" text-anchor="middle" fill="{INK}"'
    below = f"<text {middle}>points of accuracy lost</text>"
    return "".join([title, *ticks, null, line, *spots, below])


def _x(lost: float) -> float:
    inside = min(max(lost, LEAST), MOST)
    return round(LEFT + WIDTH * (inside - LEAST) / (MOST - LEAST), 1)


def _y(share: float) -> float:
    return round(GAP + HEIGHT * (1 - share), 1)

"""Accuracy, fidelity and equivalence in one picture, from what benchmarks/equivalence.py printed.

python benchmarks/equivalence_picture.py      reads benchmarks/results/equivalence.txt,
                                              writes docs/attacks/functional_equivalence.svg
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "benchmarks" / "results" / "equivalence.txt"
PICTURE = ROOT / "docs" / "attacks" / "functional_equivalence.svg"

NUMBER = r"[\d.]+(?:e[+-]\d+)?"
RANGE = rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]"
LINE = re.compile(rf"^(\w+)\s+(probs|labels)\s+(\d+)\s+{RANGE}\s+{RANGE}\s+({NUMBER}) to ({NUMBER})$", re.MULTILINE)
VICTIM = re.compile(r"the victim is right about ([\d.]+)%")

INK, FAINT, BLUE = "#777777", "#bbbbbb", "#2f7fc1"  # greys and a blue that show on light and dark pages
NAMES, WIDE, GAP, TOP, STEP = 172, 150, 46, 34, 22  # pixels: names, a panel, between panels, above rows, a row

Row = tuple[str, tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


def read(text: str) -> tuple[float, list[Row]]:
    """The victim's accuracy, and a row for each attack: name and (middle, least, greatest) of the three figures."""
    rows: list[Row] = []
    for name, answers, _, *figures in LINE.findall(text):
        *shares, least, greatest = map(float, figures)
        middle = math.sqrt(least * greatest)
        rows.append((f"{name}, {answers}", tuple(shares[:3]), tuple(shares[3:]), (middle, least, greatest)))  # type: ignore[arg-type]
    victim = VICTIM.search(text)
    if victim is None or not rows:
        raise SystemExit(f"{SOURCE} was expected to hold what benchmarks/equivalence.py prints. Run that first.")
    return float(victim[1]), rows


def percent(value: float) -> float:
    """Where in a panel a share lies: 90% at the left, 100% at the right."""
    return WIDE * (value - 90) / 10


def magnitude(value: float) -> float:
    """Where in a panel an error lies: 1e-12 at the left, 1 at the right."""
    return WIDE * (math.log10(value) + 12) / 12


def panel(title: str, ticks: dict[str, float], at: Callable[[float], float], figures: list[tuple[float, ...]]) -> str:
    bottom = TOP + STEP * len(figures)
    parts = [f'<text y="12" fill="{INK}" font-weight="bold">{escape(title)}</text>']
    for word, value in ticks.items():
        x = round(at(value), 1)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}" stroke="{FAINT}" stroke-width=".5"/>')
        parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle" fill="{INK}">{word}</text>')
    for i, (middle, least, greatest) in enumerate(figures):
        y = TOP + STEP * i + 6
        parts.append(
            f'<line x1="{at(least):.1f}" x2="{at(greatest):.1f}" y1="{y}" y2="{y}" stroke="{BLUE}" stroke-width="3"/>'
            f'<circle cx="{at(middle):.1f}" cy="{y}" r="4.5" fill="{BLUE}"/>'
        )
    return "".join(parts)


def draw(victim: float, rows: list[Row]) -> str:
    """The SVG file: attacks from top to bottom, accuracy, agreement and the greatest error from left to right."""
    height = TOP + STEP * len(rows) + 40
    shares = {"90%": 90.0, "95%": 95.0, "100%": 100.0}
    errors = {"1e-12": 1e-12, "1e-6": 1e-6, "1": 1.0}
    panels = [
        panel("accuracy", shares, percent, [row[1] for row in rows]),
        panel("fidelity: agreement", shares, percent, [row[2] for row in rows]),
        panel("equivalence: greatest error", errors, magnitude, [row[3] for row in rows]),
    ]
    panels[0] += (
        f'<line x1="{percent(victim):.1f}" x2="{percent(victim):.1f}" y1="{TOP - 8}" y2="{height - 40}" '
        f'stroke="{INK}" stroke-dasharray="4 3"/>'
        f'<text x="{percent(victim):.1f}" y="{height - 10}" text-anchor="middle" fill="{INK}">the victim</text>'
    )
    names = [f'<text y="{TOP + STEP * i + 10}" fill="{INK}">{escape(row[0])}</text>' for i, row in enumerate(rows)]
    groups = [f'<g transform="translate({NAMES + i * (WIDE + GAP)},0)">{drawn}</g>' for i, drawn in enumerate(panels)]
    size = f"{NAMES + 3 * (WIDE + GAP)} {height}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, *names, *groups, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(*read(SOURCE.read_text())))

"""ODIN step: the temperature and the step by which ODIN tells foreign rows from the victim's own.

Liang, Li, Srikant. "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks", ICLR 2018,
the section on temperature scaling and input preprocessing.

Threat model   the thief asks about rows that are not of the victim's domain. Whoever asks with rows like the victim's
               own is not recognised.
Cost           nothing is trained. Serving it is two passes and a gradient of the victim's own network, in PyTorch; the
               artifact holds that network: keep it as you keep the victim.

The score of a row is the greatest of softmax(logits / temperature), after a step along the sign of its gradient. The
temperature is that of the paper; the step is that of 21 from 0 to `most` that leaves most outside rows above the line
which `share` of the own rows cross. It is counted in ranges of an input: those of each column of a table, the greatest
of any pixel for pictures. Half of the outside rows choose the step, the notes say how many of the other half are
above the line. A victim is surer of the rows that it was trained on than of others: where --train holds those, more
honest rows than `share` are flagged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays
from portcullis_ml.models.foreign import OdinScore, Scale, network_bytes

__all__ = ["OdinStep"]

STEPS = 21  # steps that are tried
ROWS = 1000  # own and outside rows that are looked at, at most


@dataclass(frozen=True, kw_only=True)
class OdinStep(Recipe):
    temperature: float = 1000.0  # divides the logits; 1 is the plain greatest probability
    most: float = 0.004  # the greatest step that is tried, in ranges of an input; 0 takes no step
    share: float = 0.05  # of the own rows, that lie above one half; more catches more foreign rows too

    name: ClassVar[str] = "odin_step"

    def __post_init__(self) -> None:
        check(self, "temperature", "a number of at least 1", lambda v: 1 <= v < np.inf)
        check(self, "most", "in [0, 1]", lambda v: 0 <= v <= 1)
        check(self, "share", "in (0, 0.5)", lambda v: 0 < v < 0.5)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """victim.safetensors; odin.safetensors: settings (temperature, step), width (*input_shape), scale (2,)."""
        victim = network_bytes(given, self.name)
        assert outside is not None  # `needs_outside` says so
        if len(outside) < 2:
            raise InputError(f"odin_step was expected to get 2 outside rows at least; got {len(outside)}. Give more.")
        own = rows.x[rng.permutation(len(rows.x))[:ROWS]]
        other = outside[rng.permutation(len(outside))[:ROWS]]
        chosen_on, aside = np.array_split(other, 2)
        width = _ranges(rows.x)
        found: list[tuple[int, float, Any, Scale]] = []
        steps = np.linspace(0, self.most, STEPS) if self.most else np.zeros(1)
        for i, step in enumerate(steps.tolist()):
            score = OdinScore(given, width, self.temperature, step)
            scale = Scale.of(score(own), self.share)
            found.append((int((scale(score(chosen_on)) > 0.5).sum()), step, score, scale))
            watch(i + 1, len(steps))
        _, step, score, scale = max(found, key=lambda f: f[0])  # of equals the smallest step
        arrays = {
            "settings": np.array([self.temperature, step]),
            "width": width,
            "scale": np.array([scale.half, scale.spread]),
        }
        flagged = {"flagged": int((scale(score(aside)) > 0.5).sum()), "of": len(aside)}
        files = {"odin.safetensors": pack_arrays(arrays), "victim.safetensors": victim}
        return Contents(files, {"step": step, "share_of_own_rows_flagged": self.share, "outside_rows": flagged})


def _ranges(x: Array) -> Array:
    """(*input_shape) the range of each column of a table; the greatest of any pixel for pictures."""
    ranges = np.asarray(x.max(axis=0) - x.min(axis=0), np.float64)
    return ranges if ranges.ndim == 1 else np.full_like(ranges, ranges.max())

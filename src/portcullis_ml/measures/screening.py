"""A screen for models that somebody else trained: do weights and answers look as an honest training leaves them?

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017, describe what is looked for;
the tests are ours.

    low bits   the last 8 and the next 8 bits of every weight: evenly spread?
    values     the shape of every matrix's weights beside those of honest models
    signs      shares of positive weights, and how often neighbours in a row agree
    answers    on rows far from any data: how sure, how evenly spread over the classes, how smooth on the way from one
               to another

A test's p-value is that of one more honest model under a normal distribution fitted to the honest ones, corrected for
the number of figures in it. Honest models are those of the same network, the same rows and the same recipe: another
recipe leaves other weights, and is accused. What no test can see: low bits that are encrypted, weights that are shaped
like honest ones, synthetic rows whose learning leaves no mark on rows of the kinds asked about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Model

__all__ = [
    "LEAST",
    "TESTS",
    "Finding",
    "Portrait",
    "far_rows",
    "portrait",
    "screen",
    "suspicious",
    "weights_of",
]

TESTS = ("low bits", "values", "signs", "answers")
QUANTILES = np.linspace(0.005, 0.995, 100)
LEAST = 5  # honest models that a comparison needs
ROUNDED = 0.99  # share of weights whose last bits are 0 from which on all were in half precision


@dataclass(frozen=True)
class Portrait:
    """What the screen looks at in one model.

    rounded   share of the weights whose last 12 bits are 0, as in a file that was in half precision
    values    (matrices, 100) quantiles of each matrix's weights, in standard deviations
    figures   test -> name -> number
    """

    rounded: float
    values: Array
    figures: Mapping[str, Mapping[str, float]]

    @property
    def half_precision(self) -> bool:
        """Whether the weights were rounded, so that their low bits are 0 and can hold nothing."""
        return self.rounded > ROUNDED

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "values": self.values.round(5).tolist()}

    @classmethod
    def of_json(cls, about: Mapping[str, Any]) -> Portrait:
        return cls(**{**about, "values": np.array(about["values"])})


@dataclass(frozen=True)
class Finding:
    """What one test says: the p-value of an honest model, and the figure that is farthest from what is usual."""

    test: str
    p_value: float
    figure: str
    value: float
    usual: tuple[float, float] | None  # mean and standard deviation over honest models

    def sentence(self) -> str:
        beside = "" if self.usual is None else f", {self.usual[0]:.3g} ± {self.usual[1]:.2g} in honest models"
        return f"{self.test}: p = {self.p_value:.2g} ({self.figure} {self.value:.3g}{beside})"


def weights_of(model: Any) -> list[Array]:
    """The matrices of a torch model."""
    return [p.detach().cpu().numpy() for p in model.module.parameters() if p.ndim > 1]


def portrait(weights: Sequence[Array], model: Model | None, far: Mapping[str, Array]) -> Portrait:
    """Of matrices of float32, and of the answers to rows far from the data; without a model, of weights alone."""
    if not weights or sum(w.size for w in weights) < 1_000:
        raise InputError("A screen was expected to see at least 1,000 weights in matrices; this model has fewer.")
    raw = np.concatenate([np.asarray(w, np.float32).ravel() for w in weights])
    raw = raw[raw != 0].view(np.uint32)  # a weight that was never moved from 0 has no low bits
    flat = [np.asarray(w, np.float64).ravel() for w in weights]
    low = {"unevenness of the last 8 bits": _uneven(raw & 255), "unevenness of the 8 before": _uneven(raw >> 8 & 255)}
    figures = {"low bits": low, "signs": _signs(flat), "answers": {} if model is None else _answers(model, far)}
    scaled = [(w - w.mean()) / (w.std() or 1.0) for w in flat]
    return Portrait(
        rounded=float((raw & 0xFFF == 0).mean()),
        values=np.stack([np.quantile(w, QUANTILES) for w in scaled]),
        figures=figures,
    )


def _uneven(values: Any) -> float:
    """Chi-squared over its degrees of freedom, of bytes that should be evenly spread: 1 where they are; its log."""
    counts = np.bincount(values, minlength=256)
    expected = max(len(values), 1) / 256
    return math.log(float(((counts - expected) ** 2).sum() / expected / 255) + 1e-9)


def _signs(weights: Sequence[Array]) -> dict[str, float]:
    found = {}
    for i, w in enumerate(weights):
        signs = np.sign(w)
        found[f"positive weights of matrix {i + 1}"] = float((w > 0).mean())
        for step in (1, 8):
            found[f"agreement of signs {step} apart in matrix {i + 1}"] = float((signs[step:] * signs[:-step]).mean())
    return found


def far_rows(x: Array, n: int, *, rng: np.random.Generator) -> dict[str, Array]:
    """Rows far from the data x (m, *shape), of three kinds, n of each."""
    low, high, shape = x.min(), x.max(), (n, *x.shape[1:])
    mean, spread = x.mean(0), x.std(0)
    single = np.full((n, math.prod(x.shape[1:])), low)
    single[np.arange(n), rng.integers(single.shape[1], size=n)] = high
    return {
        "uniform noise": rng.uniform(low, high, shape),
        "noise about the mean": np.clip(mean + spread * rng.standard_normal(shape), low, high),
        "single bright inputs": single.reshape(shape),
    }


def _answers(model: Model, far: Mapping[str, Array]) -> dict[str, float]:
    """How sure, how evenly spread, and how unsteady between pairs of rows."""
    found = {}
    for kind, rows in far.items():
        scores = model.scores(rows)
        share = np.bincount(scores.argmax(1), minlength=scores.shape[1]) / len(scores)
        found[f"confidence on {kind}"] = float(np.log(np.maximum(1 - scores.max(1), 1e-9)).mean())
        found[f"entropy of labels on {kind}"] = float(-(share[share > 0] * np.log(share[share > 0])).sum())
        half = len(rows) // 2
        steps = np.linspace(0, 1, 9)[:, None, None]
        flat = rows.reshape(len(rows), -1)
        between = (1 - steps) * flat[:half] + steps * flat[half : 2 * half]
        labels = model.scores(between.reshape(-1, *rows.shape[1:])).argmax(1).reshape(9, half)
        found[f"changes of label between rows of {kind}"] = float((labels[1:] != labels[:-1]).sum(0).mean())
    return found


def screen(suspect: Portrait, honest: Sequence[Portrait]) -> list[Finding]:
    """What every test says of the suspect beside these honest models. InputError where they are too few or others."""
    if len(honest) < LEAST:
        raise InputError(f"A screen was expected to have at least {LEAST} honest models; got {len(honest)}.")
    if any(h.values.shape != suspect.values.shape for h in honest):
        raise InputError("Honest models were expected to have the suspect's matrices; they have others.")
    values = np.stack([h.values for h in honest])
    own = {f"distance of matrix {i + 1}": v for i, v in enumerate(_distance(suspect.values, values.mean(0)))}
    others = [
        {f"distance of matrix {i + 1}": v for i, v in enumerate(_distance(h, np.delete(values, j, 0).mean(0)))}
        for j, h in enumerate(values)
    ]
    figures = {**suspect.figures, "values": own} | ({"low bits": {}} if suspect.half_precision else {})
    usual = {test: [h.figures[test] for h in honest] for test in suspect.figures} | {"values": others}
    return [_compared(test, figures[test], usual[test]) for test in TESTS if figures[test]]


def suspicious(findings: Sequence[Finding], rate: float = 0.01) -> list[Finding]:
    """The tests that speak against the model, where honest ones should be accused by any of them at this rate."""
    return [f for f in findings if f.p_value * len(findings) < rate]


def _distance(values: Array, usual: Array) -> list[float]:
    """(matrices,) log of the mean distance between quantiles."""
    return [float(d) for d in np.log(np.abs(values - usual).mean(1) + 1e-9)]


def _compared(test: str, own: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> Finding:
    """The least p-value over the figures, times their number: Student's t of one more draw."""
    from scipy.stats import t as student

    n = len(others)
    worst = Finding(test, 1.0, "", math.nan, None)
    for name, value in own.items():
        usual = np.array([o[name] for o in others])
        mean, spread = float(usual.mean()), float(usual.std(ddof=1))
        if spread == 0 and value == mean:
            continue
        z = abs(value - mean) / max(spread * math.sqrt(1 + 1 / n), 1e-9)
        p = min(2 * float(student.sf(z, n - 1)) * len(own), 1.0)
        if p < worst.p_value or not worst.figure:
            worst = Finding(test, p, name, value, (mean, spread))
    return worst

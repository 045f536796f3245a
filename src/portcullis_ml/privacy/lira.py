"""Likelihood ratio attack (LiRA): is this answer more likely of a model that was trained on the row, or of one that was
not?

Carlini, Chien, Nasr, Song, Terzis, Tramèr. "Membership Inference Attacks From First Principles", IEEE S&P 2022.

Threat model   answers: top k or more. data: the candidates' true classes, and a learner like the victim's; a labelled
               pool where there is one. A known guard is rehearsed on the shadow models' answers.
Query cost     one query for each candidate and view.

Shadow models are trained on random halves of the candidates and the pool, so every candidate is in half of them. Its
logit, log p_y - log(sum of the others), is modelled as one normal distribution over models that held it and one over
those that did not, each around its median. *online* compares the two. *offline* uses the second only, one-sided: how
much surer the victim is than models without the row. The authors' release scores both sides there, which also accuses
rows that fit badly (`offline_two_sided`, to compare). One standard deviation for all candidates (`fixed`) suits few
shadow models; it is pooled from what is left after every candidate's own mean is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Reveals, Rows
from portcullis_ml.privacy._shared import (
    asked,
    classes_of,
    least_shown,
    logits,
    shadows_for,
    shown,
    truth_and_rest,
    views_of,
)

__all__ = ["Lira", "likelihood_ratio"]

LEAST = 1e-6  # of a standard deviation
MODES = ("online", "offline", "offline_two_sided")


@dataclass(frozen=True, kw_only=True)
class Lira(PrivacyAttack):
    mode: Literal["online", "offline", "offline_two_sided"] = "online"  # compare with models that held the row, or not
    variance: Literal["fixed", "each"] = "fixed"  # of all candidates together, or of each; each wants 64 models or more
    models: int = 16  # shadow models, an even number
    views: int = 1  # questions a candidate: itself, then pictures moved by a pixel
    mirror: bool = False  # pictures are mirrored as well; not for what means something else then, as digits do
    most: int = 5_000  # rows of the pool that shadow models are trained on, at most
    shadows: Artifact | None = None  # a folder of shadow models trained before, on the same rows
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "lira"
    needs: ClassVar[Needs] = Needs(answers=Reveals.TOP_K, learner=True)

    def __post_init__(self) -> None:
        check(self, "mode", f"one of {', '.join(MODES)}", lambda v: v in MODES)
        check(self, "variance", "'fixed' or 'each'", lambda v: v in ("fixed", "each"))
        check(self, "models", "an even int of at least 4", lambda v: isinstance(v, int) and v >= 4 and v % 2 == 0)
        check(self, "views", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "most", "an int of at least 0", lambda v: isinstance(v, int) and v >= 0)
        check(self, "batch", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        y, n = classes_of(candidates, self.name), len(candidates)
        views = views_of(candidates.x, self.views, self.mirror)
        if n == 0:
            return Leakage(membership=np.empty(0))
        shadows, rows = shadows_for(self, candidates, knowledge, interface, rng)
        told = np.full((2, len(views), n), np.nan)
        for v, view in enumerate(views):
            for part, answer in asked(harvest, view, self.batch) if harvest.open else ():
                told[:, v, part] = truth_and_rest(answer, y[part], interface.n_classes)
        theirs = np.stack([
            [truth_and_rest(shown(model, view, interface, knowledge), y, interface.n_classes) for view in views]
            for model in shadows.models
        ]).transpose(2, 0, 1, 3)  # fmt: skip
        floor = least_shown(theirs, interface)
        phi, theirs = logits(told, floor), logits(theirs, floor)
        ratio = likelihood_ratio(phi, theirs, shadows.held[:, :n], mode=self.mode, variance=self.variance)
        heard = ~np.isnan(ratio)
        membership = np.where(heard.any(axis=0), np.where(heard, ratio, 0).sum(axis=0), np.nan)
        membership /= np.maximum(heard.sum(axis=0), 1)
        return Leakage(membership=membership, notes={"shadows": len(shadows.models), "shadow_rows": len(rows) // 2})


def likelihood_ratio(phi: Array, theirs: Array, held: NDArray[np.bool_], *, mode: str, variance: str) -> Array:
    """(views, n) suspicions: log-likelihood ratios online, standard scores offline.

    phi (views, n) the victim's logits, theirs (models, views, n) the shadow models', held (models, n) who held what.
    """
    mu_out, sd_out = _normal(theirs, ~held, variance)
    away = (phi - mu_out) / sd_out
    if mode == "offline":
        return np.asarray(away)
    if mode == "offline_two_sided":
        return np.asarray(away**2 / 2 + np.log(sd_out))
    mu_in, sd_in = _normal(theirs, held, variance)
    return np.asarray((away**2 - ((phi - mu_in) / sd_in) ** 2) / 2 + np.log(sd_out) - np.log(sd_in))


def _normal(theirs: Array, chosen: NDArray[np.bool_], variance: str) -> tuple[Array, Array]:
    """The median, and the standard deviation, of the chosen models' logits of every view and candidate."""
    values = np.where(chosen[:, None, :], theirs, np.nan)
    left = values - np.nanmean(values, axis=0)
    if variance == "fixed":
        freedom = chosen.sum() - chosen.shape[1]
        spread = np.sqrt(np.nansum(left**2, axis=(0, 2)) / max(freedom, 1))[:, None]
    else:
        spread = np.sqrt(np.nansum(left**2, axis=0) / np.maximum(chosen.sum(axis=0) - 1, 1))
    return np.nanmedian(values, axis=0), np.maximum(spread, LEAST)

"""Gradient matching: train on the explanations beside the answers, where an API explains by gradients or by maps.

Milli, Schmidt, Dragan, Hardt. "Model Reconstruction from Model Explanations", FAT* 2019 (arXiv 1807.05185), the section
on heuristics that learn from gradient explanations.

Threat model   answers: labels or more, and explanations: in the shape of a row, which the thief takes to be the row
               times the gradient of the served class's logit; or, for a picture, in two dimensions, which they take to
               be a class activation map.  data: a pool where there is one, else uniform questions.
Query cost     the budget, one per row; or that of the attack that it wraps.

An answer says what the model gives at a row, an explanation how that changes in every direction: as many numbers again
as a row has inputs. A network is trained so that its own products of row and gradient come near those that were shown.
Whether that helps is seen before it is trusted: a network trained with and one trained without explanations are
compared on answers set aside, and the better kind is trained on all. An input that is 0 hides its gradient.

Maps are ours: a network's own Grad-CAM is brought near the map that was shown, whichever kind of map that is. They
need a network with convolutions; where the one asked for has none, the published one for such pictures takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Model
from portcullis_ml.extraction._wrapped import collect

__all__ = ["GradientMatching"]

ASIDE = 0.2  # of the rows, to compare networks with and without explanations
TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class GradientMatching(ExtractionAttack):
    of: ExtractionAttack | None = None  # the attack that asks; None asks about the pool, or about uniform rows
    network: str = "table_mlp"  # a name in NETWORKS or "my_package.module:factory"
    epochs: int = 200  # passes over the rows
    weight: float = 1.0  # of the explanations beside the answers

    name: ClassVar[str] = "gradient_matching"
    needs: ClassVar[Needs] = Needs(explains=True)

    def __post_init__(self) -> None:
        check(self, "of", "an extraction attack, or None", lambda v: v is None or isinstance(v, ExtractionAttack))
        check(self, "epochs", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "weight", "a number above 0", lambda v: 0 < v < np.inf)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        collect(self.of, harvest, interface, knowledge, rng)
        x, answer, weight = harvest.x, harvest.answer, self.weight
        targets = answer.soft(interface.n_classes)
        if answer.explanation is None or not self._understood(answer.explanation.shape[1:], interface.input_shape):
            harvest.notes["explanations"] = "are neither in the shape of a row nor maps of a picture, and were not used"
            return self._fit(x, targets, answer, 0.0, rng)
        order = rng.permutation(len(x))
        aside, kept = np.split(order, [int(ASIDE * len(x))])
        if len(aside):
            loss = {}
            for name, w in (("with", self.weight), ("without", 0.0)):
                copy = self._fit(x[kept], targets[kept], answer.take(kept), w, rng)
                loss[name] = _cross_entropy(copy.scores(x[aside]), targets[aside])
            harvest.notes["cross_entropy"] = {name: round(value, 4) for name, value in loss.items()}
            weight = self.weight if loss["with"] <= loss["without"] else 0.0
        return self._fit(x, targets, answer, weight, rng)

    def _fit(self, x: Array, targets: Array, answer: Answer, weight: float, rng: np.random.Generator) -> Model:
        from portcullis_ml.models.gradient_matching import fit_matching

        assert answer.labels is not None  # classes are predicted
        shown, network = answer.explanation, self.network
        if shown is not None and shown.shape != x.shape and shown.ndim == 3:
            network = _with_convolutions(network, tuple(x.shape[1:]))
        if shown is None or not weight:
            shown = np.full_like(x, np.nan)
        settings = {"network": network, "epochs": self.epochs, "weight": weight}
        return fit_matching(x, targets, shown, answer.labels, **settings, rng=rng)  # type: ignore[arg-type]

    def _understood(self, shown: tuple[int, ...], row: tuple[int, ...]) -> bool:
        return shown == row or (len(shown) == 2 and len(row) in (2, 3))


def _with_convolutions(network: str, shape: tuple[int, ...]) -> str:
    """This network, or the published one for pictures of this shape where it has no convolutions."""
    from portcullis_ml.models.gradient_matching import has_maps
    from portcullis_ml.models.networks import plain_network

    return network if has_maps(network, shape) else plain_network(shape)


def _cross_entropy(scores: Array, targets: Array) -> float:
    return float(-(targets * np.log(np.maximum(scores, TINY))).sum(axis=1).mean())

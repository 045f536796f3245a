"""Tree path finding: walk a decision tree from outside, leaf by leaf or from its root, and return its leaves as boxes.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.2 (algorithm 1, and the top-down variant).

Threat model   answers: a value and a confidence, which tell leaves apart; top_down: incomplete queries too.
               data: none.  victim: a classification or regression tree on numbers and categories.
Query cost     bottom_up: at most m (d_k k + 2 d_n (1 + log2(1 / eps))) for m leaves, d_n numbers and d_k inputs of k
               categories. top_down: about m (4 + log2 d + log2(1 / eps)). `Extraction.notes` has the bill in parts.

From a point in a leaf, bottom_up searches along every input for where the answer changes: those are the walls of the
leaf, and what is seen behind them are the leaves to visit next. Every leaf is found, since the two halves of any split
meet somewhere. Numbers lie on a grid of eps times their range, and a wall seen before is tried first.

top_down starts with every input omitted, where the answer is the root's. The input that changes it when given is the
root's; its threshold makes two boxes, each with the same question again. The paper tries inputs one by one and, at
every node, again those already given, which may be split once more without a sign. Both are one search here: move from
the low corner of the box to the high one and give what was omitted; no change means a leaf, by a single query, and
halving the way there names the input. Where a deeper split is met before a higher one, leaves are cut in two, and
joined again in the end.

Leaves that answer alike hide walls between them. bottom_up visits an answer again wherever it is met outside the boxes
known for it; `probes` asks random points in every box found and splits it where one disagrees.

Not in the paper: where a classifier is no tree, or one that the budget cannot walk, or leaves gaps between the boxes,
what is left of the budget (a tenth is kept for that) goes to questions that teach a surrogate (`_fallback.py`), and
what does better on answers set aside is returned; `notes["copy"]` says which. If after a fifth of the budget most
answers still differ from all others, the walk ends there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._climbing import Climber, outside
from portcullis_ml.extraction._fallback import or_surrogate, share_aside
from portcullis_ml.extraction._grid import OMITTED, GameOver, Grid, Identities, Ints
from portcullis_ml.extraction._lines import Known
from portcullis_ml.extraction._splitting import Box, Splitter, merged
from portcullis_ml.models.boxes import BoxModel

__all__ = ["TreePaths"]

MODES = ("auto", "bottom_up", "top_down")
TRIED = 0.2  # of the budget, after which it is seen whether there are leaves at all
GAPS = 0.01  # of the sample outside all boxes, above which the boxes are not the tree
SAMPLE = 2000  # points on which the share outside all boxes is estimated; asked of the copy, so free


@dataclass(frozen=True, kw_only=True)
class _Distinct(Needs):
    """An API's answers, by which leaves are distinguished."""

    def lacking(self, interface: Interface, knowledge: Knowledge, name: str) -> str | None:
        if interface.task == "classification" and interface.reveals < self.answers:
            return (
                f"{name} needs leaf identities or distinct confidences; this API gives {interface.reveals.word}. "
                "Try retraining."
            )
        return super().lacking(interface, knowledge, name)


@dataclass(frozen=True, kw_only=True)
class TreePaths(ExtractionAttack):
    mode: Literal["auto", "bottom_up", "top_down"] = "auto"  # auto: top_down where inputs may be omitted
    eps: float = 1e-6  # the error allowed in a threshold, as a share of the input's range
    probes: int = 0  # random points asked in every box, for trees whose leaves answer alike

    name: ClassVar[str] = "tree_paths"
    needs: ClassVar[Needs] = _Distinct(answers=Reveals.TOP_K, task="any")

    def __post_init__(self) -> None:
        check(self, "mode", f"one of {', '.join(MODES)}", lambda v: v in MODES)
        check(self, "eps", "a number in [1e-9, 0.5]", lambda v: 1e-9 <= v <= 0.5)
        check(self, "probes", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        mode = self.mode
        if mode == "auto":
            mode = "top_down" if interface.missing else "bottom_up"
        if mode == "top_down" and not interface.missing:
            raise NotApplicable(
                "tree_paths with mode='top_down' needs incomplete queries; this API wants every input. "
                "Take mode='bottom_up'."
            )
        grid = Grid.of(interface, self.eps)
        identities = _Leaves(harvest, grid, interface)
        boxes, unfinished = self._boxes(mode, identities, grid, rng)
        if not any(box.number is not None for box in boxes):
            raise AttackFailed(
                "tree_paths had no answer to start from: the budget is empty or the door is closed. Raise the budget."
            )
        model = box_model(boxes, identities, interface)
        known = model.find(interface.uniform(SAMPLE, rng))[1]
        harvest.notes |= {
            "mode": mode,
            "leaves": len(boxes) - unfinished,
            "unfinished": unfinished,
            "identities": len(identities),
            "unknown": float(1 - known.mean()),
            "copy": "boxes",
        }
        if interface.task == "regression" or (not unfinished and known.mean() >= 1 - GAPS):
            return model
        return or_surrogate("boxes", model, harvest, interface, knowledge.pool, rng)

    def _boxes(self, mode: str, identities: Identities, grid: Grid, rng: np.random.Generator) -> tuple[list[Box], int]:
        """The leaves, and after them what the end of the game left unfinished; how many those are."""
        harvest, known = identities.harvest, Known()
        splitter = Splitter(identities.ask, grid, rng, self.probes, known)
        bill: dict[str, int] = harvest.notes.setdefault("bill", {})
        climber = Climber(identities.ask, grid, known, rng)
        try:
            if mode == "bottom_up":
                lost = grid.uniform(1, rng)
                while len(lost):
                    climber.run(lost)
                    bill["lines"] = harvest.paid
                    # Where leaves answer alike, some may be missing; looking for gaps between the boxes asks nothing.
                    lost = outside(grid.uniform(SAMPLE, rng), climber.leaves) if self.probes else lost[:0]
                if not self.probes:
                    return climber.leaves, 0
                splitter.open = [box.cornered() for box in climber.leaves]
            else:
                splitter.open = [Box.whole(grid, np.full(grid.d, OMITTED))]
            splitter.run()
        except GameOver:
            pass
        bill["splitting" if "lines" in bill or mode != "bottom_up" else "lines"] = harvest.paid - bill.get("lines", 0)
        if splitter.open or splitter.leaves:
            return merged(splitter.leaves) + [box.settled() for box in splitter.open], len(splitter.open)
        return climber.leaves + climber.unfinished, len(climber.unfinished)


class _Leaves(Identities):
    """Identities of a classifier's answers, until no tree can be expected to come of them."""

    def __init__(self, harvest: Harvest, grid: Grid, interface: Interface) -> None:
        keep = 0 if interface.task == "regression" else share_aside(harvest.left)
        super().__init__(harvest, grid, interface.n_classes, harvest.paid + harvest.left - keep if keep else np.inf)
        self._tried = TRIED * harvest.left if keep else np.inf

    def of(self, x: Array) -> Ints:
        if self.harvest.paid > self._tried and len(self) > self.harvest.paid / 2:
            raise GameOver
        return super().of(x)


def box_model(boxes: list[Box], identities: Identities, interface: Interface) -> BoxModel:
    """Boxes on the grid as boxes of inputs, whose walls lie halfway between two positions."""
    grid = identities.grid
    boxes = [box for box in boxes if box.number is not None]
    low, high = np.array([box.low for box in boxes]), np.array([box.high for box in boxes])
    columns = np.tile(np.arange(grid.d), (len(boxes), 1))
    closed_low, closed_high = (low > 0) & grid.numeric, (high < grid.last) & grid.numeric
    allowed: dict[int, Any] = {j: np.array([box.allowed[j] for box in boxes]) for j in boxes[0].allowed}
    return BoxModel(
        np.where(closed_low, grid.between(columns, low - 1), -np.inf),
        np.where(closed_high, grid.between(columns, high), np.inf),
        allowed,
        identities.scores(np.array([box.number for box in boxes], np.int64)),
        input_shape=interface.input_shape,
        n_classes=interface.n_classes,
        scale=np.maximum(interface.high - interface.low, 1e-300),
    )

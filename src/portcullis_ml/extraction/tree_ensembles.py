"""Tree ensembles: learn a forest or boosted trees as the sparse sum of steps that they are.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs", USENIX Security 2016,
section 4.2, leaves ensembles as a conjecture. The way to learn a sparse sum from questions and counterexamples is that
of Schapire and Sellie. "Learning Sparse Multivariate Polynomials over a Field with Queries and Counterexamples",
Journal of Computer and System Sciences 52, 1996, section 3, carried from bits to thresholds.

Threat model   answers: probabilities (all but one class) or values for an exact copy; labels for an approximate one.
               data: none; a pool helps a small budget.
               victim: a forest, boosted trees, any function of few steps of numbers and categories.
Query cost     some 40 to 80 for every step that the sum has, and `checks` to see that nothing is missing. Never fewer
               than the thresholds. From labels only: the budget. `Extraction.notes` has the bill in parts.

The probability that a forest gives, or the log-odds of boosted trees, is a sum over trees: a constant, plus steps in
one input, plus steps in two, and so on up to the depth. Seen from a fixed anchor point a step is a point z, and counts
wherever z lies between the anchor and x. The copy starts with the lines through the anchor, which show all steps in
one input. Where it errs at a random point, the point is moved towards the anchor, input by input, as long as the copy
still errs there; where that ends, a step is missing, and the difference is its size. Steps that several trees share
are one step, and cost once: what makes the trees hard to tell apart makes their sum easier.

Random points come from the whole range and, as many, from the cells that known thresholds make, which are small where
the training data was dense. With a budget that does not reach, what the steps do not explain is fitted by boosted trees
on the cells, or all is, whichever does better on points left out of the fit. Where the lines alone would cost more than
a seventh of the budget, they are left, and the rest buys the mixed questions of `retraining`. Either way a surrogate is
fitted to the same answers, and the copy is what does better on rows set aside: `notes["copy"]` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._cells import Cells, best_of, from_labels
from portcullis_ml.extraction._counterexamples import Builder
from portcullis_ml.extraction._fallback import ask_aside, ask_mixed, better_copy, share_aside, surrogate_of
from portcullis_ml.extraction._flips import Flips
from portcullis_ml.extraction._grid import Grid, Identities, Ints
from portcullis_ml.extraction._lines import Changes, Known
from portcullis_ml.extraction._stairs import Stairs
from portcullis_ml.extraction._sums import Sums, choose_link, lines_of_each
from portcullis_ml.models.steps import Link

__all__ = ["TreeEnsembles"]

LINES = 0.15  # of the budget at most: the steps cost five to ten times as much, and would not fit where lines cost more
LINKS = ("auto", "share", "logit")
NOTHING = "tree_ensembles had no answer to start from: the budget is empty or the door is closed. Raise the budget."


@dataclass(frozen=True, kw_only=True)
class TreeEnsembles(ExtractionAttack):
    link: Literal["auto", "share", "logit"] = "auto"  # what adds up: a forest's shares, or log-odds; auto looks
    checks: int = 10_000  # new points that must all agree before the copy counts as complete
    eps: float = 1e-7  # the error allowed in a threshold, as a share of the input's range
    anchors: int = 5  # points tried as the anchor; the one with the fewest steps on its lines is taken
    trees: int = 300  # boosted trees that fit what is unexplained in the end; 0 leaves it

    name: ClassVar[str] = "tree_ensembles"
    needs: ClassVar[Needs] = Needs(answers=Reveals.LABELS, task="any")

    def __post_init__(self) -> None:
        check(self, "link", f"one of {', '.join(LINKS)}", lambda v: v in LINKS)
        check(self, "checks", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "eps", "a number in [1e-9, 0.5]", lambda v: 1e-9 <= v <= 0.5)
        check(self, "anchors", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "trees", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        grid, known = Grid.of(interface, self.eps), Known()
        if interface.task == "classification" and harvest.open and not self._for_lines(harvest, grid):
            return self._surrogate(harvest, interface, knowledge.pool, rng)
        if adds_up(interface):
            model = self._from_sums(harvest, interface, grid, known, knowledge.pool, rng)
        else:
            model = self._from_labels(harvest, interface, grid, known, knowledge.pool, rng)
        harvest.notes["thresholds"] = len(known.keys)
        return model

    def _from_labels(
        self,
        harvest: Harvest,
        interface: Interface,
        grid: Grid,
        known: Known,
        pool: Array | None,
        rng: np.random.Generator,
    ) -> Model:
        flips = Flips(harvest, grid, known, rng)
        flips.run(self._for_lines(harvest, grid))
        paid = harvest.paid
        aside = ask_aside(harvest, interface, pool, rng)
        ask_mixed(harvest, interface, pool, aside, rng)
        harvest.notes |= {"way": "labels", "bill": flips.bill | {"mixed": harvest.paid - paid}}
        if not len(harvest):
            raise AttackFailed(NOTHING)
        copy = from_labels(harvest, Cells(grid, known), interface, self.trees, aside, rng)
        return better_copy("trees", copy, harvest, interface, aside, rng)

    def _from_sums(
        self,
        harvest: Harvest,
        interface: Interface,
        grid: Grid,
        known: Known,
        pool: Array | None,
        rng: np.random.Generator,
    ) -> Model:
        width = max(interface.n_classes - 1, 1)
        bases = np.concatenate([[0 * grid.last, grid.last], grid.uniform(self.anchors, rng)])[: self.anchors]
        identities = Identities(harvest, grid, interface.n_classes, harvest.paid + self._for_lines(harvest, grid))
        line, changes, seen = lines_of_each(identities, bases, known)
        link = self._link(interface, identities, line, changes)
        cells, stairs = Cells(grid, known), Stairs(grid, bases[0], width)
        if seen < len(bases):
            fresh, aside = self._points(harvest, interface, cells, pool, rng)
            harvest.notes |= {"way": "points", "link": link, "complete": False}
        else:
            scores = identities.scores(np.arange(len(identities)))
            sums = Sums(harvest, grid, interface, link, float(np.ptp(scores, axis=0).max()) or 1.0)
            builder = Builder(sums, known, rng, width)
            builder.run(bases, line, changes, self.checks)
            harvest.notes |= {"way": "steps", "link": link, **builder.notes()}
            if builder.complete:
                return builder.stairs.model(link)
            drawn = rng.permutation(np.concatenate([np.empty(0, np.int64), *builder.drawn]))
            n = share_aside(len(drawn))
            stairs, fresh, aside = builder.stairs, drawn[n:], drawn[:n]
        model, errors = best_of(harvest, cells, stairs, link, fresh=fresh, trees=self.trees, rng=rng)
        harvest.notes |= {"errors": errors}
        name = min(errors, key=lambda n: errors[n]) if errors else "steps"
        return better_copy(name, model, harvest, interface, aside, rng)

    def _surrogate(self, harvest: Harvest, interface: Interface, pool: Array | None, rng: np.random.Generator) -> Model:
        """What a budget buys that cannot pay for the lines: mixed questions and a surrogate."""
        ask_mixed(harvest, interface, pool, np.empty(0, np.int64), rng)
        harvest.notes |= {"way": "surrogate", "bill": {"points": harvest.paid}, "complete": False, "thresholds": 0}
        if not len(harvest):
            raise AttackFailed(NOTHING)
        return surrogate_of(harvest, interface, rng)

    def _for_lines(self, harvest: Harvest, grid: Grid) -> int:
        """The queries that lines may cost: a share of the budget, and none where that does not reach their ends."""
        ends = np.where(grid.numeric, 2, grid.last + 1)[grid.last > 0].sum()
        most = round(LINES * harvest.left)
        return most if most >= self.anchors * ends else 0

    def _points(
        self, harvest: Harvest, interface: Interface, cells: Cells, pool: Array | None, rng: np.random.Generator
    ) -> tuple[Ints, Ints]:
        """Spend what the lines have left on points that teach trees or a surrogate: rows of the harvest to fit to, and
        rows set aside."""
        bill = {"lines": harvest.paid}
        aside = ask_aside(harvest, interface, pool, rng)
        if interface.task == "regression":
            fresh = cells.spend(harvest, pool, rng)
        else:
            fresh = ask_mixed(harvest, interface, pool, aside, rng)
        if not len(harvest):
            raise AttackFailed(NOTHING)
        harvest.notes["bill"] = bill | {"points": harvest.paid - bill["lines"]}
        return fresh, aside

    def _link(self, interface: Interface, identities: Identities, line: Ints, changes: Changes) -> Link:
        if interface.task == "regression":
            return "value"
        return choose_link(identities, line, changes) if self.link == "auto" else self.link


def adds_up(interface: Interface) -> bool:
    """Whether an answer shows all that is needed to know every class's share."""
    shown = interface.reveals == Reveals.PROBS or interface.k >= interface.n_classes - 1
    return interface.task == "regression" or (interface.reveals > Reveals.LABELS and shown)

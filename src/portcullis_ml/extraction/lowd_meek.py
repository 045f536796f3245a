"""Lowd and Meek: read the hyperplane of a linear classifier off its labels, one line search a weight.

Lowd, Meek. "Adversarial Learning", KDD 2005, section 3; used for extraction by Tramèr, Zhang, Juels, Reiter,
Ristenpart. "Stealing Machine Learning Models via Prediction APIs", USENIX Security 2016, section 6, where the
extension to polynomial kernels works in feature space.

Threat model   answers: labels.  data: none.  victim: two classes split by a hyperplane (kernel="linear") or by a
               polynomial of degree 2 (kernel="quadratic"), over numeric inputs.
Query cost     linear: about log2(range / eps) + 2 for each of d inputs, and for one segment more; quadratic: about
               log2(range / eps) for each of 1.1 D boundary points, D = (d + 1)(d + 2) / 2; on top of either at most
               `probes` random points until both classes have been seen. `Extraction.notes` has the bill in parts.

Two points with different labels give a segment that crosses the boundary; halving it finds a boundary point x and a
direction u with w.u != 0. Push x by t along input i and slide along u until the label flips again: w_i t + s (w.u) = 0
gives w_i in units of w.u. The original steps along one input alone and must leave the input range where a weight is
small; sliding along u stays inside it, meets a zero weight as s = 0, and takes one search of fixed length per input,
so that all inputs search together, one batch a level. Only the direction of (w, b) is identifiable from labels.

For the quadratic kernel no such moves exist in feature space (most have no pre-image), and none is needed: every
boundary point is one homogeneous equation in D unknowns, and D - 1 of them leave a null vector, which is the victim.

Not in the papers: 20 random points check the copy. Where it is wrong about one, or the equations do not fit, the victim
is of another family: what is left of the budget goes to questions that teach a surrogate (`_fallback.py`), and what
does better on answers set aside is returned; `notes["copy"]` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.extraction._fallback import or_surrogate
from portcullis_ml.extraction._search import Asker, Segments, bisect, label_asker, seek_classes
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.kernel import Quadric
from portcullis_ml.models.lbfgs import fit_softmax
from portcullis_ml.models.softmax import SoftmaxRegression

__all__ = ["LowdMeek"]

SLIDE = 0.25  # how far along u a search may go, in boxes of [-1, 1]; leaves every input room to be pushed
FINER = 1e-3  # the starting point is searched this much finer than eps, since its error enters every weight
SHRINKS = 12  # an input whose push no slide undoes is pushed a quarter as far, at most this often
NULL = 1e-6  # of the largest singular value, below which one counts as 0
SPARE = 1.1  # boundary points for every unknown of the quadric
HEAD = 10  # halvings that the first segment may be ahead of the weights'
FEWEST = 8  # halvings below which a boundary point says little
CHECKS = 20  # random points whose labels must be the copy's, or the victim is of another family
OFF = 1e-3  # a residual above this, where the budget was no limit, says the same
PATIENCE = 10  # random points for every unknown of the quadric, after which two of the rarer class will do


@dataclass(frozen=True, kw_only=True)
class LowdMeek(ExtractionAttack):
    kernel: Literal["linear", "quadratic"] = "linear"  # the boundary's shape
    eps: float = 1e-6  # the error allowed in a weight, as a share of the weight along u
    probes: int = 2000  # random points at most, to see both classes

    name: ClassVar[str] = "lowd_meek"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        check(self, "kernel", "'linear' or 'quadratic'", lambda v: v in ("linear", "quadratic"))
        check(self, "eps", "a number in [1e-10, 0.1]", lambda v: 1e-10 <= v <= 0.1)
        check(self, "probes", "an int, at least 2", lambda v: isinstance(v, int) and v >= 2)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        _must_apply(interface)
        encoding = Encoding.of(interface)
        _must_afford(self.kernel, harvest.left, encoding.width)
        game = _Game(harvest, encoding, label_asker(harvest), rng)
        copy: Model
        if self.kernel == "quadratic":
            copy = Encoded(encoding, Quadric(self._quadric(game), encoding.width))
            fits = harvest.notes["nullity"] > 0
        else:
            w, b = encoding.unscale(*self._hyperplane(game))
            copy = SoftmaxRegression(np.vstack([0 * w, w]), np.append(0.0, b), input_shape=interface.input_shape)
            fits = harvest.notes["residual"] <= OFF
        harvest.notes["copy"] = self.kernel
        if fits and _checks(copy, harvest, interface, rng):
            return copy
        drawn = harvest.notes["bill"]["probes"]
        return or_surrogate(self.kernel, copy, harvest, interface, knowledge.pool, rng, drawn=drawn)

    def _hyperplane(self, game: _Game) -> tuple[Array, Array]:
        """(w (1, d), b (1,)) in the box, up to a positive factor."""
        x, labels = game.both_classes(self.probes, lambda seen: len(np.unique(seen)) == 2)
        low, high = x[labels == 0][:1], x[labels == 1][:1]
        levels = _levels(float(np.abs(high - low).max()), self.eps * FINER)
        # Where the budget is short, no search may go much further than the others.
        levels = min(levels, max(0, (game.harvest.left - 2 * game.d) // (game.d + 1)) + HEAD)
        point = game.boundary(Segments(low, high), levels)[0]
        u = (high - low)[0] / np.abs(high - low).max()
        game.bills("boundary")
        w = game.weights(point, u, self.eps)
        game.bills("weights")
        if w is None:
            game.harvest.notes["unfinished"] = "the game ended before every weight was searched; w is the segment"
            w = u / (u @ u)
        game.harvest.notes["residual"] = abs(float(w @ u) - 1)  # w was measured in units of w.u
        return w[None], -np.array([w @ point])

    def _quadric(self, game: _Game) -> Array:
        """(D,) the null vector of the boundary points' features, positive where the label is 1."""
        unknowns, wanted = (game.d + 1) * (game.d + 2) // 2, _wanted(game.d)

        def enough(seen: Labels) -> bool:
            rare = min((seen == 0).sum(), (seen == 1).sum())
            pairs = rare * (len(seen) - rare)
            return bool(pairs >= wanted and (4 * rare >= wanted or len(seen) >= PATIENCE * unknowns))

        x, labels = game.both_classes(min(self.probes, game.harvest.left - FEWEST * wanted), enough)
        segments = _pairs(x[labels == 0], x[labels == 1], wanted, game.rng)
        levels = _levels(2.0, self.eps * FINER)
        points = game.boundary(segments, levels)
        game.bills("boundary")
        _, singular, vectors = np.linalg.svd(Quadric.features(points))
        rank = int((singular > NULL * singular[0]).sum())
        game.harvest.notes["nullity"] = unknowns - rank  # 1 where the boundary is a quadric, 0 where it is more
        return _oriented(vectors[min(rank, unknowns - 1) :], x, labels)


def _checks(copy: Model, harvest: Harvest, interface: Interface, rng: np.random.Generator) -> bool:
    """Whether the copy gives the labels of a few random points, as many as the budget still has."""
    x, paid = interface.uniform(min(CHECKS, harvest.left), rng), harvest.paid
    labels = harvest.ask(x).labels
    harvest.notes["bill"]["checks"] = harvest.paid - paid
    if labels is None or not len(labels):
        return True
    known = labels >= 0
    return bool((copy.scores(x[: len(labels)][known]).argmax(axis=1) == labels[known]).all())


def _must_apply(interface: Interface) -> None:
    if interface.n_classes != 2:
        raise NotApplicable(f"lowd_meek needs two classes; this API has {interface.n_classes}. Try retraining.")
    for feature in interface.features or ():
        if feature.categorical:
            raise NotApplicable(
                f"lowd_meek moves inputs by real amounts; column {feature.name!r} is a category. Try retraining."
            )


def _must_afford(kernel: str, left: int, d: int) -> None:
    least = 4 * (d + 1) if kernel == "linear" else (FEWEST + 1) * _wanted(d)
    if left < least:
        raise AttackFailed(
            f"lowd_meek with kernel={kernel!r} needs {least} queries for {d} inputs; the budget is {left}. "
            "Raise it, or try retraining."
        )


def _wanted(d: int) -> int:
    """Boundary points for a quadric of d inputs."""
    return int(np.ceil(SPARE * (d + 1) * (d + 2) / 2)) + 1


def _levels(length: float, eps: float) -> int:
    """Halvings that leave at most eps of the length."""
    return max(0, int(np.ceil(np.log2(length / eps))))


def _oriented(null: Array, x: Array, labels: Labels) -> Array:
    """(D,) the vector of the null space (k, D) whose sign is the label at x (n, d).

    A boundary that is less than a quadric (a hyperplane, say) lies on many quadrics, so k may exceed 1, and a
    regression on k columns chooses among them.
    """
    columns = Quadric.features(x) @ null.T
    if len(null) == 1:
        return np.asarray(null[0] * np.sign(float(columns[:, 0] @ (2.0 * labels - 1))))
    w, _ = fit_softmax(columns, np.eye(2)[labels], penalty=1e-6)
    return np.asarray(w[1] @ null)


def _pairs(zeros: Array, ones: Array, n: int, rng: np.random.Generator) -> Segments:
    """n different pairs (fewer if there are not so many); every point is used about as often as any of its class."""
    steps = np.arange(min(n, len(zeros) * len(ones)))
    i, j = rng.permutation(len(zeros)), rng.permutation(len(ones))
    # Diagonals of the table of pairs, one after another: no pair twice, rows and columns in turn.
    cycle = int(np.lcm(len(zeros), len(ones)))
    return Segments(zeros[i[steps % len(zeros)]], ones[j[(steps + steps // cycle) % len(ones)]])


class _Game:
    """The state of one run, in the box [-1, 1]^d: the answers so far, and what was paid for which step."""

    def __init__(self, harvest: Harvest, encoding: Encoding, ask: Asker, rng: np.random.Generator) -> None:
        self.harvest = harvest
        self.rng = rng
        self.d = encoding.width
        self._ask: Asker = lambda z: ask(encoding.decode(z))
        self._billed = 0

    def bills(self, item: str) -> None:
        """Book what has been paid since the last call."""
        self.harvest.notes.setdefault("bill", {})[item] = self.harvest.paid - self._billed
        self._billed = self.harvest.paid

    def affordable(self, levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(m,) the same halvings, or what the budget leaves of them shared out evenly."""
        if levels.sum() <= self.harvest.left:
            return levels
        each, more = divmod(self.harvest.left, len(levels))
        return np.minimum(levels, np.asarray(each + (np.arange(len(levels)) < more), np.int64))

    def boundary(self, segments: Segments, levels: int) -> Array:
        """(m, d) where the segments, from class 0 to class 1, cross the boundary."""
        each = self.affordable(np.full(len(segments), levels))
        near, far = bisect(self._ask, segments, np.zeros(len(segments), np.int64), each)
        return segments.at((near + far) / 2)

    def both_classes(self, probes: int, enough: Callable[[Labels], bool]) -> tuple[Array, Labels]:
        """Random points and their labels, until `enough`; at least one of either class."""

        def draw(n: int) -> Array:
            return self.rng.uniform(-1.0, 1.0, size=(n, self.d))

        x, labels = seek_classes(self._ask, draw, probes=probes, enough=enough)
        self.bills("probes")
        if len(np.unique(labels)) < 2:
            raise AttackFailed(
                f"lowd_meek starts from a point of each class; {len(labels)} random points all got the same label. "
                f"Raise the budget or probes (now {probes}), unless the victim is constant."
            )
        return x, labels

    def weights(self, point: Array, u: Array, eps: float) -> Array | None:
        """(d,) w in units of w.u, where `point` lies on the boundary and the label rises along u."""
        push = np.where(point > 0, -1.0, 1.0) - point
        push -= np.sign(push) * SLIDE  # what the slide may need
        slides = self._slides(point, u)
        starts = point + np.diag(push)
        sides = self._ask(starts)
        if len(sides) < self.d:
            return None
        ends = slides[1 - sides]  # a start of class 1 must slide down to meet the boundary, one of class 0 up
        open_ = np.arange(self.d)
        for _ in range(SHRINKS):
            if not len(open_):
                break
            answered = self._ask(starts[open_] + ends[open_, None] * u)
            if len(answered) < len(open_):
                return None
            open_ = open_[answered == sides[open_]]
            push[open_] /= 4
            starts[open_, open_] = point[open_] + push[open_]
        levels = np.array([_levels(2 * abs(e), eps * abs(p)) for e, p in zip(ends, push, strict=True)])
        near, far = bisect(self._ask, Segments(starts, starts + ends[:, None] * u), sides, self.affordable(levels))
        return np.asarray(-(near + far) / 2 * ends / push)

    def _slides(self, point: Array, u: Array) -> Array:
        """(2,) how far down and up along u the box goes from the point, SLIDE at most."""
        with np.errstate(divide="ignore"):
            up = np.where(u > 0, 1 - point, -1 - point) / u
            down = np.where(u > 0, -1 - point, 1 - point) / u
        return np.array([max(-SLIDE, down[u != 0].max()), min(SLIDE, up[u != 0].min())])

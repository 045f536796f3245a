"""Dataset inference: a model is surer around the rows that it was trained on, and its copies inherit some of that.

Maini, Yaghini, Papernot. "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021: no mark is needed.
The key is the owner's private training rows beside public rows that the victim never saw; the statistic is Welch's t of
how far the two lie from the suspect's borders.

Costs the honest client   nothing. It costs the owner the privacy of every row that is shown.
Does not accuse           without 20 innocent models. The published test compares the two groups of rows alone, so it
                          accuses whoever finds the private rows easier. Here every row is compared with what innocent
                          models do on it, and the statistic with theirs (`_calibrated`).
Accuses in error          models that honestly learnt the private rows, unless innocent models did, too; then it has
                          next to no power, since it recognises the rows and not the model.
Query cost                1 + 3 * `steps` queries a row, on 2 * `rows` rows: 4,000 with the settings as they are.

Blind Walk (labels only) moves a row along a fixed random direction of one of three kinds until the label changes. Here
the questions of a walk are fixed when the key is drawn: the row, and the row moved by `steps` sizes in each direction;
the score of a row is the share of them that is answered with its class. So nothing that is asked depends on an answer:
the questions can be committed to, shown in part, and checked by a stranger, as those of any other scheme. What it gives
up is distance between two sizes. The sizes are where the victim has kept 90%, 80%, ... of its right answers on public
rows. A pair's answer holds the class, the row and its group: class + n_classes * (2 * row + 1 if it is private).

`margins` and `white_box` do the same by gradient (MinGD) where the suspect is a file in the owner's hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.ownership import Evidence, MarkLog
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Differentiable, Interface, Labels, Model, Rows
from portcullis_ml.ownership._calibrated import Calibrated, against
from portcullis_ml.ownership._counted import SURE, at_most, bits
from portcullis_ml.ownership._margins import margins
from portcullis_ml.ownership._pairs import Paired, PairsKey, drawn, question_bytes
from portcullis_ml.ownership._walks import KINDS, directions, moved, sizes

__all__ = ["DatasetInference", "DatasetInferenceKey"]

FEWEST = 10  # rows in a group without which nothing is said
MOST = 10_000  # rows in a group beyond which nobody asks
ASKED = 1_000  # public rows on which the sizes of the steps are read off the victim, at most


@dataclass(frozen=True)
class DatasetInferenceKey(PairsKey):
    scheme: ClassVar[str] = "dataset_inference"


@dataclass(frozen=True, kw_only=True)
class DatasetInference(Paired[DatasetInferenceKey]):
    rows: int = 500  # private rows in the key, and as many public ones; fewer where there are no more
    steps: int = 1  # sizes of a walk in each of three directions; more of them cost more than more rows do

    name: ClassVar[str] = "dataset_inference"
    key: ClassVar[type[PairsKey]] = DatasetInferenceKey
    marks: ClassVar = "nothing"
    least: ClassVar[int] = 20
    unless_learnt: ClassVar[tuple[str, ...]] = (
        "Nobody but the owner had the private rows: a model that was honestly trained on some of them is accused too.",
        "The innocent models were trained on none of the private rows.",
    )
    assumed: ClassVar[tuple[str, ...]] = (
        "The key was committed to before the suspect was released.",
        "The innocent models were trained on none of the public rows.",
        "The two groups are one random split, or innocent models of the suspect's own kind are among those given.",
        *unless_learnt,
    )

    def __post_init__(self) -> None:
        check(self, "rows", f"an int in [{FEWEST}, 10_000]", lambda v: isinstance(v, int) and FEWEST <= v <= MOST)
        check(self, "steps", "an int in [1, 8]", lambda v: isinstance(v, int) and 1 <= v <= 8)

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> DatasetInferenceKey:
        """The walks of private rows, the first of `rows`, and of public ones, the second, in a mixed order."""
        private, public = _two(rows)
        if victim is None or private is None or public is None:
            raise NotApplicable(
                "dataset_inference compares rows that the victim was trained on with rows that it was not: it needs "
                "the model and both, with their classes. Give --victim, --train and --test."
            )
        if interface.n_classes < 2:
            raise NotApplicable("dataset_inference follows classes; this API does regression.")
        _fit(private, public, interface)
        n = min(self.rows, len(private), len(public))
        shares = [1 - 0.1 * (i + 1) for i in range(self.steps)]
        asked = Rows(public.x[:ASKED], _classes(public)[:ASKED])
        reach = sizes(victim, asked, interface, shares, np.random.default_rng(list(drawn(secret, "sizes"))))
        x, labels = [], []
        for side, group in ((1, private), (0, public)):
            for place, i in enumerate(_order(secret, side, len(group))[:n]):
                walk = self._walk(group.x[i], interface, reach, drawn(secret, "walk", side, place))
                x += walk
                labels += [_label(int(_classes(group)[i]), place, side, interface.n_classes)] * len(walk)
        order = _order(secret, "pair", len(x))
        return DatasetInferenceKey(secret, np.array(x)[order], np.array(labels, np.int64)[order], interface.n_classes)

    def _walk(self, row: Array, interface: Interface, reach: dict[str, list[float]], seed: bytes) -> list[Array]:
        """The questions about a row (*input_shape)."""
        ways = directions(interface, np.random.default_rng(list(seed)))
        return [
            row,
            *(moved(row, way, s, interface) for kind, way in zip(KINDS, ways, strict=True) for s in reach[kind]),
        ]

    def examine(
        self, key: DatasetInferenceKey, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        key.fits(interface)
        return self.counted(key.labels, suspect.ask(key.x), key.n_classes)

    def counted(self, labels: Labels, answer: Answer, n_classes: int) -> Evidence:
        """How many questions are answered with their row's class; what that says is up to `weigh`."""
        given = answer.labels if answer.labels is not None else np.empty(0, np.int64)
        match = given == labels[: len(given)] % n_classes
        row = labels[: len(given)] // n_classes
        found = Evidence(int(match.sum()), len(match), "", 1.0, level=self.level, assumed=self.assumed)
        return replace(self._unknown(found, 0), notes={"match": match, "row": row})

    def weigh(self, found: Evidence, innocent: Sequence[Evidence], learnt: Sequence[bool] = ()) -> Evidence:
        """The statistic of the suspect beside those of innocent models, over the questions that all have answered.

        Models that learnt the owner's rows and models that did not are two kinds, and a mixture of both would be spread
        widely: where there are enough of each, the suspect is compared with each kind apart, and the greater p-value
        is the one that counts.
        """
        known = learnt or [False] * len(innocent)
        owners, others = ([e for e, has in zip(innocent, known, strict=True) if has == kind] for kind in (True, False))
        apart = min(len(owners), len(others)) >= self.least
        each = [self._compared(found, kind) for kind in ((owners, others) if apart else (innocent,))]
        most = max(each, key=lambda e: e.p_value)
        assumed = (*self.assuming(learnt), *most.assumed[len(self.assumed) :])
        return replace(most, accused=sum(e.accused for e in each), tried=sum(e.tried for e in each), assumed=assumed)

    def _compared(self, found: Evidence, innocent: Sequence[Evidence]) -> Evidence:
        """The suspect beside innocent models of one kind."""
        asked = [e for e in innocent if e.n]
        n = min([found.n, *(e.n for e in asked)])
        match, row = found.notes["match"][:n], found.notes["row"][:n]
        found = replace(found, tried=len(asked), notes={})
        names, at = np.unique(row, return_inverse=True)
        private = names % 2 == 1
        fewest = int(min(private.sum(), (~private).sum()))
        if len(asked) < self.least:
            return self._unknown(found, len(asked))
        if fewest < FEWEST:
            lacking = f"{fewest} rows of a group were answered, and {FEWEST} are needed to say anything."
            return replace(found, null="unknown from so few rows", p_value=1.0, lacking=lacking)
        each = np.bincount(at)
        scores = np.array([np.bincount(at, m[:n]) / each for m in (match, *(e.notes["match"] for e in asked))])
        best = np.where(private, 1.0, scores[0])
        notes: dict[str, Any] = {
            "private": float(scores[0][private].mean()),
            "public": float(scores[0][~private].mean()),
        }
        best_found, compared = against(best, scores[1:], private), against(scores[0], scores[1:], private)
        notes |= self._to_convict(compared, fewest, n / len(names))
        return self._judged(replace(found, notes=notes), compared, fewest, best_found)

    def _to_convict(self, c: Calibrated, rows: int, questions: float) -> dict[str, int | None]:
        """After how many questions, so many a row, a suspect as sure as this one is convicted: by its statistic, and by
        the 95% lower bound of that, whose spread is about 1. None where no number would do."""

        def asked(statistic: float) -> int | None:
            enough = rows * (c.needed(self.level, rows) / statistic) ** 2 if statistic > 0 else np.inf
            return int(2 * np.ceil(enough) * questions) if enough <= MOST else None

        least = c.statistic - NormalDist().inv_cdf(SURE)
        return {"queries_to_convict": asked(c.statistic), "queries_to_convict_at_most": asked(least)}

    def _unknown(self, found: Evidence, tried: int) -> Evidence:
        lacking = f"{self.name} needs {self.least} innocent models to compare with, and {tried} were given."
        return replace(found, null="unknown without innocent models", p_value=1.0, lacking=lacking)

    def _judged(self, found: Evidence, c: Calibrated, rows: int, best: Calibrated | None = None) -> Evidence:
        """The evidence of a comparison over so many rows in the smaller group; `best` is that of a model that keeps
        every private row, where one is known."""
        null = (
            f"an innocent model's statistic is Student's t around {c.mean:.2f} with a spread of {c.spread:.2f} "
            f"(95% upper bounds of {len(c.innocent)} innocent models, no less than 0 and 1)"
        )
        accused = sum(p < self.level for p in c.p_values)
        notes = {
            **found.notes,
            "rows": rows,
            "difference": c.difference,
            "statistic": c.statistic,
            "innocent_statistics": list(c.innocent),
            "false_claims_at_most": at_most(accused, len(c.innocent)),
            "bits": bits(c.p_value),
        }
        lacking, needed = "", c.needed(self.level, rows)
        if best is not None and c.p_value >= self.level and best.statistic < needed:
            enough = int(np.ceil(rows * (needed / best.statistic) ** 2)) if best.statistic > 0 else None
            lacking = (
                f"With {rows} rows in a group, not even a model that knows all private rows would be convicted; "
                + (f"about {enough} would suffice." if enough else "innocent models know them as well.")
            )
        resembles = "The innocent models find the rows as hard as any other would."
        return replace(
            found, null=null, p_value=c.p_value, accused=accused, tried=len(c.innocent), lacking=lacking,
            assumed=(*self.assumed, resembles), notes=notes,
        )  # fmt: skip

    def margins(
        self, model: Differentiable, private: Rows, public: Rows, *, steps: int = 50, classes: int = 3,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Array:  # fmt: skip
        """(n,) what `white_box` compares: the rank of each row's margin among the model's own, private rows first.

        steps    of MinGD, which together reach as far as the published 500
        classes  the model's most likely other ones, towards which it goes
        """
        both = Rows(np.concatenate([private.x, public.x]), np.concatenate([_classes(private), _classes(public)]))
        return margins(model, both, bounds, steps, classes)

    def white_box(self, suspect: Array, innocent: Array, private: int) -> Evidence:
        """The evidence in `margins` of a suspect's file (n,) and of innocent models (m, n), so many rows private.

        `matches` counts the private rows that rank higher than in the innocent models on average; `n` is all of them.
        """
        first = np.arange(len(suspect)) < private
        found = Evidence(0, private, "", 1.0, level=self.level, assumed=self.assumed)
        if len(innocent) < self.least:
            return self._unknown(found, len(innocent))
        fewest = min(private, len(suspect) - private)
        if fewest < FEWEST:
            raise NotApplicable(f"A white-box verdict needs {FEWEST} rows in each group; the smaller has {fewest}.")
        higher = int((suspect > innocent.mean(axis=0))[first].sum())
        return self._judged(replace(found, matches=higher), against(suspect, innocent, first), fewest)


def _two(rows: Sequence[Rows | None]) -> tuple[Rows | None, Rows | None]:
    """(private, public), each None where it is not there or its classes are not known."""
    known = [group if group is not None and group.y is not None else None for group in rows]
    private, public = (*known, None, None)[:2]
    return private, public


def _classes(rows: Rows) -> Labels:
    assert rows.y is not None
    return rows.y


def _fit(private: Rows, public: Rows, interface: Interface) -> None:
    """Raise NotApplicable for too few rows or classes of another interface, InputError for a row in both groups."""
    if min(len(private), len(public)) < FEWEST:
        raise NotApplicable(
            f"dataset_inference needs at least {FEWEST} private and {FEWEST} public rows; got {len(private)} and "
            f"{len(public)}. Give more with --train and --test."
        )
    classes = np.concatenate([_classes(private), _classes(public)])
    if not 0 <= classes.min() <= classes.max() < interface.n_classes:
        raise NotApplicable(
            f"dataset_inference expected classes 0..{interface.n_classes - 1}, those of the victim; the rows have "
            f"{classes.min()}..{classes.max()}. Give rows of the victim's own classes."
        )
    if any(group.x.dtype.kind not in "fiu" for group in (private, public)):
        raise NotApplicable("dataset_inference moves rows by noise, which must be numbers; these rows are not.")
    twice = len({question_bytes(x) for x in private.x} & {question_bytes(x) for x in public.x})
    if twice:
        raise InputError(
            f"Private and public rows were expected to differ; {twice} stand in both. Leave out of --test what the "
            "victim was trained on."
        )


def _order(secret: bytes, what: Any, n: int) -> list[int]:
    """0 to n - 1 in an order that the secret gives."""
    return sorted(range(n), key=lambda i: drawn(secret, "order", what, i))


def _label(of_class: int, place: int, side: int, n_classes: int) -> int:
    return of_class + n_classes * (2 * place + side)

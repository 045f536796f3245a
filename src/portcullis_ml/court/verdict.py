"""The court: check every link of a claim, then when it was committed to, then ask the suspect.

Nothing is asked of a suspect on the ground of a claim that does not hold, or that is not older than the suspect:
whoever knows a model can make a key that it passes from adversarial examples, so a key without a date proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import InputError, NotApplicable, PortcullisError, ProofError
from portcullis_ml.core.oracle import LocalOracle, Oracle
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Answer, Array, Labels, Model
from portcullis_ml.court.bundle import Bundle
from portcullis_ml.court.timestamp import Anchor, anchored
from portcullis_ml.ownership._pairs import must_fit

__all__ = ["Verdict", "asked", "dated", "earliest", "false", "in_order", "judge", "order_of", "unanchored", "unfit"]

AGAIN = 5  # questions that are asked a second time, to see whether the suspect changes its answers
AT_ONCE = 16  # questions in a batch
CODES = {"derived": 0, "not shown": 1, "inconclusive": 3, "unanchored": 4, "false": 5}

Word = Literal["derived", "not shown", "inconclusive", "unanchored", "false"]


@dataclass(frozen=True)
class Verdict:
    """What the court says: a word, a sentence, and what they rest on."""

    word: Word
    sentence: str
    evidence: Evidence | None = None
    anchor: Anchor | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """The exit code of `portcullis verify`."""
        return CODES[self.word]

    def to_json(self) -> dict[str, Any]:
        evidence = self.evidence and {**asdict(self.evidence), "verdict": self.evidence.verdict}
        anchor = self.anchor and self.anchor.to_json()
        return {"verdict": self.word, "sentence": self.sentence, "anchor": anchor, "evidence": evidence, **self.notes}


def dated(bundle: Bundle, roots: Sequence[Any], released: datetime | None) -> tuple[Anchor | None, str]:
    """(when the commitment existed, "") or (None or the time, why the claim is unanchored).

    Raises ProofError where there is a token and it does not hold.
    """
    if bundle.token is None:
        return None, "The claim has no time token, so nobody knows whether its key is older than the suspect."
    if not roots:
        return None, "The time token cannot be checked without roots to trust. Give --roots FILE.pem."
    anchor = anchored(bundle.published.data, bundle.token, bundle.request, roots)
    if released is None:
        return anchor, "When the suspect was released is not said. Give --released DATE."
    if anchor.at >= released:
        return anchor, (
            f"The key was committed to on {anchor.at:%Y-%m-%d %H:%M} UTC, not before the suspect's release on "
            f"{released:%Y-%m-%d %H:%M} UTC. Who knows a model can make a key that it passes."
        )
    return anchor, ""


def order_of(classes: Sequence[str] | None, suspect: Sequence[str] | None) -> Labels | None:
    """For every class of the suspect, which of the key's it is; None where they are taken to be the same.

    Classes of a key that have no names go by their numbers, from 0.
    """
    if suspect is None:
        return None
    classes = [str(i) for i in range(len(suspect))] if classes is None else classes
    if sorted(suspect) != sorted(classes):
        other = sorted(set(suspect) ^ set(classes))[:4]
        raise NotApplicable(f"The suspect was expected to have the key's classes; they differ in {', '.join(other)}.")
    return np.array([list(classes).index(name) for name in suspect], np.int64)


def judge(
    bundle: Bundle,
    suspect: Oracle,
    anchor: Anchor,
    *,
    innocent: Sequence[Model] = (),
    learnt: Sequence[bool] = (),
    order: Labels | None = None,
) -> Verdict:
    """Ask the suspect the questions that the bundle opens. Its links and its time were checked before.

    learnt   which of the innocent models are known to have learnt the owner's rows; not given, none is
    order    for every class of the suspect, which of the key's it is; None for the same
    """
    published, scheme = bundle.published, bundle.published.scheme
    must_fit(published.vk.input_shape, published.vk.n_classes, suspect.interface)
    x = np.array([o.x for o in bundle.openings])
    labels = np.array([o.label for o in bundle.openings], np.int64)
    harvest = Harvest(suspect)
    answer = in_order(asked(harvest, x), order)
    changed = _changed(harvest, x, answer, order)
    found = scheme.counted(labels, answer, published.vk.n_classes)
    others = [LocalOracle(model, published.interface, budget=len(x)).query(x) for model in innocent]
    found = scheme.weigh(found, [scheme.counted(labels, other, published.vk.n_classes) for other in others], learnt)
    found = replace(found, queries=harvest.paid)
    notes: dict[str, Any] = {"asked_again": AGAIN, "changed_answers": changed}
    if harvest.stopped != "done":
        notes["refused"] = harvest.stopped
    return Verdict(found.verdict, _sentence(found, len(x), changed, harvest.stopped), found, anchor, notes)


def asked(harvest: Harvest, x: Array) -> Answer:
    """The answers to the questions, a few at a time: a ledger keeps each batch, so that none is asked twice."""
    parts = [harvest.ask(x[:AT_ONCE])]
    for start in range(AT_ONCE, len(x), AT_ONCE):
        if harvest.open:
            parts.append(harvest.ask(x[start : start + AT_ONCE]))
    return Answer.concat(parts)


def in_order(answer: Answer, order: Labels | None) -> Answer:
    """The answers in the key's classes."""
    if answer.labels is None:
        raise InputError("The suspect was expected to answer with classes; it gives numbers. Nothing can be compared.")
    if order is None:
        return answer
    if len(answer) and answer.labels.max() >= len(order):
        raise NotApplicable(
            f"{len(order)} classes of the suspect were named, and it answers with more. Name all of them, in its order."
        )
    return Answer(order[answer.labels])


def _changed(harvest: Harvest, x: Array, answer: Answer, order: Labels | None) -> int:
    """How many of the first answers are other ones when asked again."""
    n = min(AGAIN, len(answer)) if harvest.open else 0
    again = in_order(harvest.ask(x[:n]), order) if n else answer.take(slice(0))
    assert again.labels is not None
    assert answer.labels is not None
    return int((again.labels != answer.labels[: len(again)]).sum())


def _sentence(found: Evidence, wanted: int, changed: int, stopped: str) -> str:
    counted = f"{found.matches} of {found.n} marked questions are answered as marked (p = {found.p_value:.2g})."
    if stopped != "done":
        counted = f"The suspect stopped answering after {found.n} of {wanted} questions ({stopped}). {counted}"
    if changed:
        counted += f" It changed {changed} of its answers when asked again."
    said = {
        "derived": f"The suspect descends from the committed model: {counted}",
        "not shown": f"Nothing shows that the suspect descends from the committed model: {counted}",
        "inconclusive": f"Nothing can be said: {counted} {found.lacking}",
    }
    return said[found.verdict]


def false(error: ProofError) -> Verdict:
    """The verdict on a claim of which a link does not hold."""
    return Verdict("false", f"The claim does not hold: {error}")


def unfit(error: PortcullisError, anchor: Anchor | None) -> Verdict:
    """The verdict where a suspect does not take the key's questions, or does not give answers of the key's kind."""
    return Verdict("inconclusive", f"Nothing can be said: {error}", anchor=anchor)


def unanchored(why: str, anchor: Anchor | None) -> Verdict:
    """The verdict on a claim that nobody can date before the suspect."""
    return Verdict("unanchored", f"The claim is unanchored, and so not valid. {why}", anchor=anchor)


def earliest(claims: Mapping[str, Verdict]) -> str | None:
    """Whose claim stands where several are made on one suspect: of those that convict it, the one committed to first.

    A thief who marks a stolen model has a model with both marks, of which the owner's is older. None where no claim
    convicts, or where the first two are of the same second.
    """
    held = [(v.anchor.at, name) for name, v in claims.items() if v.word == "derived" and v.anchor is not None]
    held.sort()
    if not held or (len(held) > 1 and held[0][0] == held[1][0]):
        return None
    return held[0][1]

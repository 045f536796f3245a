"""Tracing: which of several licensees or clients, each with marks of their own, a leaked copy comes from.

The suspect is asked questions of every key. A source is named where so many answers as marked have a chance below the
level by Holm's correction for the number of keys: so the chance of naming anyone wrongly is at most the level, however
many keys there are. Several are named where copies were put together. How often the same rule would name models of
which it is known that they do not come from there is counted and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import InputError, NotApplicable, PortcullisError
from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.types import Labels, Model
from portcullis_ml.court.bundle import challenge
from portcullis_ml.court.commitment import Mark, Published
from portcullis_ml.court.log import Log, chosen
from portcullis_ml.court.naming import Finding, References, Source
from portcullis_ml.court.verdict import asked, in_order
from portcullis_ml.ownership._counted import Counted, at_most

__all__ = ["Trace", "check_apart", "source_of", "trace", "unfit"]

CODES = {"traced": 0, "several": 0, "nobody": 1, "inconclusive": 3}
NONCE = "trace"  # of the log's entries: nobody draws one, since the owner asks for their own knowledge


@dataclass(frozen=True)
class Trace:
    """Who is named, and how often the same rule names models that are known not to come from there.

    innocents    (named as anybody's, tried)
    licensed     (named as their own licensee's, tried)
    cross_pairs  (named as licensee j's, of the pairs of the model of another licensee and the key j)
    """

    findings: tuple[Finding, ...]
    level: float
    innocents: tuple[int, int] = (0, 0)
    licensed: tuple[int, int] = (0, 0)
    cross_pairs: tuple[int, int] = (0, 0)
    stopped: str = "done"

    @property
    def names(self) -> list[str]:
        return [f.name for f in self.findings if f.adjusted < self.level]

    @property
    def word(self) -> Literal["traced", "several", "nobody", "inconclusive"]:
        if self.names:
            return "traced" if len(self.names) == 1 else "several"
        return "inconclusive" if any(f.lacking for f in self.findings) else "nobody"

    @property
    def code(self) -> int:
        """The exit code of `portcullis watermark trace`."""
        return CODES[self.word]

    @property
    def sentence(self) -> str:
        best = min(self.findings, key=lambda f: (f.adjusted, f.p_value))
        most = f"{best.matches} of {best.n} marked answers of {best.name} (p = {best.adjusted:.2g} after Holm)"
        lacking = next((f.lacking for f in self.findings if f.lacking), "")
        whom = best.name if len(self.findings) == 1 else f"one of {len(self.findings)} copies"
        said = {
            "traced": f"The suspect comes from the copy of {best.name}: it gives {most}.",
            "several": f"The suspect was made of several copies, those of {', '.join(self.names)}: it gives {most}.",
            "nobody": f"Nothing shows that the suspect comes from {whom}: it gives {most}.",
            "inconclusive": f"Nobody can be named: {f'it gives {most}. ' if best.n else ''}{lacking}",
        }
        return said[self.word] + ("" if self.stopped == "done" else f" It stopped answering ({self.stopped}).")

    def to_json(self) -> dict[str, Any]:
        wrong: dict[str, Any] = {"by_theory_at_most": self.level}
        for what, (named, tried) in {"innocents": self.innocents, "cross_pairs": self.cross_pairs}.items():
            if tried:
                wrong[what] = {"named": named, "tried": tried, "at_most": at_most(named, tried)}
        return {
            "verdict": self.word,
            "names": self.names,
            "sentence": self.sentence,
            "level": self.level,
            "wrong_names": wrong,
            "licensed": {"named": self.licensed[0], "tried": self.licensed[1]},
            "sources": [asdict(f) for f in self.findings],
            "refused": None if self.stopped == "done" else self.stopped,
        }


def trace(
    sources: Sequence[Source],
    suspect: Callable[[Source], Oracle],
    *,
    innocent: Sequence[Model] = (),
    licensed: Mapping[str, Model] | None = None,
    order: Labels | None = None,
) -> Trace:
    """Ask the suspect every source's questions, each once, and say whose copy it is.

    suspect   the oracle that is asked the questions of one source
    innocent  models that owe nobody anything
    licensed  the models as they were given away, by the names of their sources
    order     for every class of the suspect, which of the keys' it is; None for the same
    """
    licensed = licensed or {}
    found, n, stopped = [0] * len(sources), [0] * len(sources), "done"
    for j, source in enumerate(sources):
        if stopped == "done":
            harvest = Harvest(suspect(source))
            answer = in_order(asked(harvest, source.x), order)
            assert answer.labels is not None
            found[j], n[j], stopped = source.matches(answer.labels), len(answer), harvest.stopped
    owners, models = [*[None] * len(innocent), *licensed], [*innocent, *licensed.values()]
    counts = [[s.matches(m.scores(s.x).argmax(axis=1)) for s in sources] for m in models]
    references = References(sources, np.array(counts, np.int64).reshape(-1, len(sources)), owners)
    level = min(source.scheme.level for source in sources)
    named = [references.judged(k, level) for k in range(len(models))]
    theirs = list(zip(owners, named, strict=True))[len(innocent) :]
    return Trace(
        references.findings(np.array(found), np.array(n)),
        level,
        (sum(map(bool, named[: len(innocent)])), len(innocent)),
        (sum(owner in names for owner, names in theirs), len(licensed)),
        (sum(len(names - {owner}) for owner, names in theirs), len(licensed) * (len(sources) - 1)),
        stopped,
    )


def unfit(names: Sequence[str], error: PortcullisError, level: float) -> Trace:
    """What is said where a suspect does not take the keys' questions, or does not give answers of their kind."""
    return Trace(tuple(Finding(name, 0, 0, 1.0, 1.0, 1.0, str(error)) for name in names), level)


def check_apart(marks: Mapping[str, Mark]) -> None:
    """Raise InputError or NotApplicable where the keys do not belong to copies of one model, or name nobody."""
    seen: dict[str, str] = {}
    first: tuple[str, Published] | None = None
    for name, mark in marks.items():
        published = mark.published()
        if published.scheme.marks == "nothing":
            raise NotApplicable(
                f"{name} is a key of {published.scheme.name}, which all copies of a model answer alike: it names no "
                "licensee. Give keys of backdoor or dawn."
            )
        if published.sha256 in seen:
            raise InputError(f"{seen[published.sha256]} and {name} are one and the same key. Mint one for each.")
        seen[published.sha256] = name
        first = first or (name, published)
        if _kind(published) != _kind(first[1]):
            raise NotApplicable(
                f"The key of {first[0]} is for {_kind(first[1])}, and that of {name} for {_kind(published)}: a suspect "
                "has one interface. Trace keys of other interfaces by themselves."
            )


def _kind(published: Published) -> str:
    named = "" if published.classes is None else f" ({', '.join(published.classes)})"
    return f"inputs of {published.vk.input_shape} and {published.vk.n_classes} classes{named}"


def source_of(name: str, mark: Mark, suspect: str, pairs: int, *, at: str) -> Source:
    """The pairs of a mark that this suspect is asked: those of an earlier trace, or fresh ones, which are used up now.

    As many as were never shown, where those are fewer. InputError where an earlier trace asked for another number.
    """
    key, published = mark.key(), mark.published()
    if not isinstance(published.scheme, Counted):
        raise NotApplicable(
            f"The key of {name} is of {published.scheme.name}, which compares rows and marks nobody's copy. Trace keys "
            "of schemes that count marked answers, such as backdoor and dawn."
        )

    def traced(log: Log) -> list[Any]:
        return [e for e in log.of_kind("shown") if (e.get("suspect"), e.get("nonce")) == (suspect, NONCE)]

    def entry(log: Log) -> dict[str, Any]:
        shown = mark.shown(log)
        left = [place for place in range(len(key)) if place not in shown]
        if not left:
            raise NotApplicable(f"All {len(key)} pairs of {name} were shown before. Rotate its key, or leave it out.")
        places = chosen(left, challenge(published.sha256, suspect, NONCE), pairs)
        return {"kind": "shown", "at": at, "suspect": suspect, "nonce": NONCE, "places": places, "wanted": pairs}

    entries = traced(mark.log_file.read()) or traced(mark.log_file.append(entry))
    if entries[0]["wanted"] != pairs:
        raise InputError(
            f"This suspect was traced with {entries[0]['wanted']} pairs of {name} before, and looking again with "
            f"another number would make wrong names likelier. Give --pairs {entries[0]['wanted']}."
        )
    places = entries[0]["places"]
    return Source(name, published.scheme, key.x[places], key.labels[places], published.vk.n_classes)

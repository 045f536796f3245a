"""What the report shows, from the records: attacks, defenses, controls and honest clients.

The format of a record stands in `bench/records.py`; this file and `pairs.py` are the ones that know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from portcullis_ml.core.types import Array, Estimate
from portcullis_ml.repetitions import row_weights
from portcullis_ml.report.losses import accuracy_lost, most_lost
from portcullis_ml.report.numbers import clearly_below
from portcullis_ml.report.pairs import Pair, pair_of
from portcullis_ml.report.saved import Prices, ahead, prices_of
from portcullis_ml.report.thieves import LABELS_ONLY, Thief, Way, ways_of
from portcullis_ml.report.thieves import chosen as best_way

__all__ = ["CAP", "GRADES", "KEEP_LABELS", "NOISE", "NONE", "STRANGER", "Audit", "audit_of", "read"]

NONE = "none"  # the defense of an undefended cell
LABEL_ONLY = "label_only"
# they remember nothing and answer with the true label
KEEP_LABELS = ("deep_defense", LABEL_ONLY, "label_preserving_noise", "log", "rounding", "temperature", "top_k")
GRADES = ("agreement", "r2", "agreement_uniform", "macro_f_agreement", "accuracy")  # more is a better copy
MATCHED, HELD_OUT = " [matched]", " [held out]"  # behind a defense's name: see `threat_model` of its records
NO_API = "no_api"  # the control that asks nothing
BLIND = (NO_API, "shuffled")  # controls that learn nothing from the API
STRANGER, NOISE = "plain_stranger", "random_queries"  # controls that ask as attacks do
CAP = 0.01  # accuracy that honest clients may lose behind a recommended defense, unless another cap is given
WORTH = 0.01  # a smaller loss of agreement is not called a help, even where it is certain


@dataclass(frozen=True)
class Audit:
    """Everything that the page says, as data."""

    pairs: Mapping[tuple[str, str], Pair] = field(default_factory=dict)
    labels: Mapping[tuple[str, str], Pair] = field(default_factory=dict)  # the same attacks, looking at labels only
    controls: Sequence[Pair] = ()
    honest: Mapping[str, Pair] = field(default_factory=dict)
    privacy: Mapping[tuple[str, str], Pair] = field(default_factory=dict)  # (privacy attack, defense)
    marked: Mapping[tuple[str, str], Pair] = field(default_factory=dict)  # (attack, ownership mark)
    records: Sequence[Mapping[str, Any]] = ()
    cap: float = CAP
    prices: Prices = field(default_factory=Prices)
    chosen: Mapping[str, str] = field(default_factory=dict)  # {"name", "why"} of the measure that the bench chose

    @cached_property
    def measure(self) -> str:
        """What theft is measured by: what was chosen; else agreement, unless the records have only something else."""
        found = {n for p in self.pairs.values() for n in p.measures}
        return next((n for n in (self.chosen.get("name"), *GRADES) if n in found and n), GRADES[0])

    @cached_property
    def weights(self) -> Array | None:
        """(n,) what each test row counts in the measure; None where it is no mean over rows."""
        return row_weights(self.records, self.measure)

    @property
    def numbers(self) -> bool:
        """Whether the victim answers numbers, whose copies are measured by R^2."""
        return self.measure == "r2"

    @cached_property
    def attacks(self) -> list[str]:
        """The most successful first."""
        names = dict.fromkeys(a for a, _ in self.pairs)
        return sorted(
            names, key=lambda a: -self._value((a, NONE), max((self._value(k) for k in self.of(a)), default=-1))
        )

    @cached_property
    def defenses(self) -> list[str]:
        """No defense first, then from the weakest to the strongest."""
        names = dict.fromkeys(d for _, d in self.pairs)
        return sorted(names, key=lambda d: (d != NONE, -_value(self.worst_copy(d), -1.0)))

    @property
    def budget(self) -> int:
        return max((p.budget for p in self.pairs.values()), default=0)

    @property
    def seeds(self) -> list[int]:
        return sorted({s for p in self.pairs.values() for s in p.seeds})

    def of(self, attack: str) -> list[tuple[str, str]]:
        return [key for key in self.pairs if key[0] == attack]

    @cached_property
    def asking(self) -> list[Pair]:
        """The controls that count as attackers: the plain stranger, and random queries that were tried everywhere."""
        everywhere = {p.attack for p in self.controls if p.defense != NONE and p.attack == NOISE} | {STRANGER}
        return [p for p in self.controls if p.attack in everywhere]

    def cell(self, attack: str, defense: str) -> Pair | None:
        """The records of an attack, or of a control that counts as one, behind a defense."""
        controls = (p for p in self.asking if (p.attack, p.defense) == (attack, defense))
        return self.pairs.get((attack, defense)) or next(controls, None)

    @property
    def columns(self) -> list[str]:
        """The attacks, and the controls that count as some."""
        return list(dict.fromkeys([*self.attacks, *(p.attack for p in self.asking)]))

    def stolen(self, attack: str, defense: str) -> Estimate | None:
        """How good the copy is that this attack ends with behind this defense; None where it makes none."""
        pair = self.cell(attack, defense)
        return pair.measures.get(self.measure) if pair else None

    @cached_property
    def ways(self) -> dict[str, list[Way]]:
        """For every defense the ways to steal behind it, those included that look at the labels only or stop early."""
        found: dict[str, list[Way]] = {}
        for pairs, labels_only in (([*self.pairs.values(), *self.asking], False), (self.labels.values(), True)):
            for pair in pairs:
                found.setdefault(pair.defense, []).extend(ways_of(pair, self.measure, labels_only, self.weights))
        bare = [replace(way, how=_labels(way.how)) for way in found.get(LABEL_ONLY, [])]
        for defense in found:
            if defense != LABEL_ONLY and self.keeps_labels(defense):
                found[defense].extend(bare)
        return found

    def keeps_labels(self, defense: str) -> bool:
        """Whether everybody gets the victim's own labels behind it, as they do behind label only."""
        if defense == NONE or self.numbers:
            return defense == NONE  # a number that is moved is another one
        cell: Mapping[str, Any] = next((r["cell"] for r in self.records if r["defense"] == defense), {})
        stages = cell.get("defense") or ()
        return bool(stages) and not cell.get("hardening") and all(s.get("unit") in KEEP_LABELS for s in stages)

    def thief(self, attack: str, defense: str) -> Thief | None:
        """The best that this attack can do behind this defense, using less than it gets where that is better."""
        return next((thief for thief in self._thieves.get(defense, []) if thief.attack == attack), None)

    def worst(self, defense: str) -> Thief | None:
        """The attacker who fares best behind this defense; never less than with labels only, or without asking."""
        return self._worst.get(defense)

    @cached_property
    def _worst(self) -> dict[str, Thief]:
        return {defense: self._worst_of(thieves, defense) for defense, thieves in self._thieves.items()}

    def naive(self, defense: str) -> Thief | None:
        """The same of those who were not told the guard; None where nobody else left a copy."""
        thieves = [thief for thief in self._thieves.get(defense, []) if not thief.told]
        return self._worst_of(thieves, defense) if thieves else None

    def knowing(self, defense: str) -> Thief | None:
        """The worst attacker, where somebody was told the guard or there is nothing to know but the labels."""
        told = any(thief.told for thief in self._thieves.get(defense, []))
        return self.worst(defense) if told or self.keeps_labels(defense) else None

    def _worst_of(self, thieves: Sequence[Thief], defense: str) -> Thief:
        if defense != LABEL_ONLY and self.keeps_labels(defense):
            # A label that is seen among scores is worth what it is worth alone, whatever halves the rows fell into.
            thieves = [*thieves, *(replace(t, how=_labels(t.how)) for t in self._thieves.get(LABEL_ONLY, []))]
        best = max(thieves, key=lambda thief: thief.copy.value)
        return replace(best, copy=self.unasked, failed=True) if self.unasked and self._below(best.copy) else best

    @cached_property
    def _thieves(self) -> dict[str, list[Thief]]:
        """For every defense, how far each attack gets that left a copy behind it."""
        found: dict[str, list[Thief]] = {}
        for defense, ways in self.ways.items():
            for attack in dict.fromkeys(way.attack for way in ways):
                thief = best_way([way for way in ways if way.attack == attack])
                found.setdefault(defense, []).extend([thief] if thief else [])
        return {defense: thieves for defense, thieves in found.items() if thieves}

    @property
    def strongest(self) -> Thief | None:
        """Who fares best undefended: an attack, or the plain stranger."""
        return self.worst(NONE)

    @cached_property
    def unasked(self) -> Estimate | None:
        """What someone has who never asks, where that was measured."""
        pair = self.control(NO_API)
        return pair.measures[self.measure] if pair else None

    def failed(self, attack: str, defense: str) -> bool:
        """Whether the copy of this attack is worse than what someone has who never asks."""
        copy = self.stolen(attack, defense)
        return copy is not None and self._below(copy)

    def _below(self, copy: Estimate) -> bool:
        return self.unasked is not None and copy.value < self.unasked.value

    def worst_copy(self, defense: str) -> Estimate | None:
        """How good a copy the attacker makes who fares best behind this defense."""
        worst = self.worst(defense)
        return worst.copy if worst else None

    @cached_property
    def thieves(self) -> list[str]:
        """The attacks that left a copy behind some defense, the most successful first, and the controls like them."""
        return [a for a in self.columns if any(pair and pair.done for d in self.defenses if (pair := self.cell(a, d)))]

    @cached_property
    def baseline(self) -> Pair | None:
        """The control that does best among those who learn nothing from the API."""
        blind = [p for p in self.controls if p.attack in BLIND and self.measure in p.measures]
        return max(blind, key=lambda p: p.measures[self.measure].value, default=None)

    def steals(self, attack: str) -> bool | None:
        """Whether the undefended attack, or the plain stranger, clearly beats a thief who learns nothing from the API.

        None where it did not run undefended. Without such a control any copy counts.
        """
        thief = self.thief(attack, NONE)
        if thief is None:
            return None
        blind = [p.measures[self.measure] for p in self.controls if p.attack in BLIND and self.measure in p.measures]
        return all(clearly_below(e, thief.copy) for e in blind)

    def control(self, name: str) -> Pair | None:
        """The undefended control of that name, where it left something to measure."""
        found = (p for p in self.controls if p.attack == name and p.defense == NONE and self.measure in p.measures)
        return next(found, None)

    @property
    def free(self) -> Pair | None:
        """The control own_labels, where the best undefended attacker is not clearly above it; otherwise None.

        Compared row by row and seed by seed, where the records allow it; by their intervals otherwise.
        """
        own, strongest, gain = self.own, self.strongest, self.gain
        if own is None or strongest is None:
            return None
        if gain is not None and not strongest.how:
            return own if gain.low <= 0 else None
        return None if clearly_below(own.measures[self.measure], strongest.copy) else own

    @property
    def own(self) -> Pair | None:
        """The control that labels the pool by hand and asks nobody, where it ran."""
        return self.control("own_labels")

    @cached_property
    def gain(self) -> Estimate | None:
        """By how much the best undefended copy agrees more often than one from labels by hand, paired."""
        own, strongest = self.own, self.strongest
        return None if own is None or strongest is None else ahead(strongest.pair, own, self.weights)

    def cost(self, defense: str) -> Estimate | None:
        """Accuracy, or variance explained, that an honest client loses behind this defense, as a fraction."""
        return accuracy_lost(self.honest.get(defense), defended=defense != NONE)

    def most_lost(self, defense: str) -> float | None:
        """What honest clients may lose at most behind this defense; see `losses.most_lost`."""
        return 0.0 if self.keeps_labels(defense) else most_lost(self.honest.get(defense), self.cost(defense))

    def spares(self, defense: str) -> bool:
        """Whether what honest clients may lose behind this defense is within the cap, or was not measured."""
        lost = self.most_lost(defense)
        return lost is None or lost <= self.cap

    @cached_property
    def twins(self) -> set[str]:
        """Defenses trained on the thief's own source that also stand here trained on another: those are judged."""
        matched = [d for d in self.defenses if d.endswith(MATCHED)]
        return {d for d in matched if self.worst(d.removesuffix(MATCHED) + HELD_OUT)}

    @cached_property
    def best(self) -> str | None:
        """The most promising defense, of those that clearly hold their worst attacker back if there are any.

        It is worth its price, if any is. Of those it has the lowest worst case, or is the cheapest of those within the
        interval of the lowest. Whether it is to be recommended is said by `recommended`.
        """
        held = {d: e for d in self.defenses if d != NONE and d not in self.twins and (e := self.worst_copy(d))}
        helpful = {d: e for d, e in held.items() if self.helps_with(d)}
        worth = {d: e for d, e in helpful.items() if self.worth(d)}
        held = worth or {d: e for d, e in helpful.items() if self.pays(d)} or helpful or held
        if not held:
            return None
        lowest = min(held.values(), key=lambda e: e.value)
        equal = [d for d in held if held[d].value <= lowest.high]
        return min(equal, key=lambda d: (round(_value(self.cost(d), 1.0), 3), held[d].value))

    @property
    def recommended(self) -> str | None:
        """The best defense where something is stolen, it clearly holds that back, and it is worth its price."""
        stolen = self.strongest is not None and self.steals(self.strongest.attack)
        return self.best if stolen and self.helps and self.best and self.worth(self.best) else None

    @property
    def helps(self) -> bool:
        """Whether the best defense clearly holds its worst attacker below what the worst attacker gets undefended."""
        return self.best is not None and self.helps_with(self.best)

    def helps_with(self, defense: str) -> bool:
        """Whether this defense clearly holds back those who were tried behind it and do not fail without it."""
        held, free = self.worst_copy(defense), self._free_of(defense)
        if held is None or free is None or not self.judged(defense):
            return False
        return clearly_below(held, free) and free.value - held.value >= WORTH

    def pays(self, defense: str) -> bool:
        """Whether this defense takes more agreement from the thief than accuracy from honest clients."""
        held, free, cost = self.worst_copy(defense), self._free_of(defense), self.cost(defense)
        return held is not None and free is not None and _value(cost, 0.0) < free.value - held.value

    def worth(self, defense: str) -> bool:
        """Whether it takes more from the thief than from honest clients, and from those no more than the cap."""
        return self.pays(defense) and self.spares(defense)

    def judged(self, defense: str) -> bool:
        """Whether somebody left a copy behind this defense who does not fail without it."""
        able = [self.thief(thief.attack, NONE) for thief in self._thieves.get(defense, [])]
        return any(free is None or not self._below(free.copy) for free in able)

    def _free_of(self, defense: str) -> Estimate | None:
        """How good the best undefended copy is of those attackers who were tried behind this defense, too."""
        tried = {p.attack for p in (*self.pairs.values(), *self.asking) if p.defense == defense}
        found = [thief.copy for thief in self._thieves.get(NONE, []) if thief.attack in tried]
        return max(found, key=lambda e: e.value, default=None)

    def _value(self, key: tuple[str, str], default: float = -1.0) -> float:
        e = self.stolen(*key)
        return default if e is None else e.value


def audit_of(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> Audit:
    """The audit that these records and the run's own words tell."""
    return read(records, meta.get("cap", CAP), prices_of(meta), meta.get("measure"))


def read(
    records: Iterable[Mapping[str, Any]],
    cap: float = CAP,
    prices: Prices | None = None,
    chosen: Mapping[str, str] | None = None,
) -> Audit:
    """Sort the records into pairs of attack and defense, controls and honest clients."""
    records = list(records)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in records:
        groups.setdefault((r.get("role", "attack"), str(r["attack"]), str(r["defense"])), []).append(r)
    pairs = {key: pair_of(key[1], key[2], group) for key, group in groups.items()}
    less = {key for key, group in groups.items() if group[0]["cell"].get("uses") == "labels"}
    thefts = {(a, d): p for (role, a, d), p in pairs.items() if role == "attack" and (role, a, d) not in less}
    return Audit(
        pairs={key: p for key, p in thefts.items() if not p.marked},
        labels={(p.attack.removesuffix(LABELS_ONLY), p.defense): p for key, p in pairs.items() if key in less},
        privacy={(a, d): p for (role, a, d), p in pairs.items() if role == "privacy"},
        marked={key: p for key, p in thefts.items() if p.marked},
        controls=[p for key, p in pairs.items() if key[0] == "control" and key not in less],
        honest={d: p for (role, _, d), p in pairs.items() if role == "honest"},
        records=records,
        cap=cap,
        prices=prices or Prices(),
        chosen=chosen or {},
    )


def _labels(how: str) -> str:
    """How a way is called that was tried behind label only, where more is shown."""
    return ", ".join(filter(None, ["looking at labels only", how]))


def _value(e: Estimate | None, default: float) -> float:
    return default if e is None else e.value

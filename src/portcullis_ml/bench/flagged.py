"""The flags of a whole run: those that its cells raised, and those that compare cells with each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.bench.flags import raised
from portcullis_ml.bench.named import LABELS_ONLY, NONE, GuardSpec
from portcullis_ml.bench.outside import SAID, SHOWN
from portcullis_ml.core.types import Array, Estimate
from portcullis_ml.data.splits import overlap
from portcullis_ml.repetitions import across, paired, row_weights, unpacked

__all__ = ["of_experiment", "of_run"]

STRANGER, LABEL_ONLY, NO_API, OWN_LABELS = "plain_stranger", "label_only", "no_api", "own_labels"
APART = 0.1  # by which a defense's two regimes may differ unflagged
ASKING = (STRANGER, "random_queries")  # controls that ask like attacks and, where they stand behind defenses, are some


def of_run(records: Sequence[Mapping[str, Any]], measure: str | None = None) -> list[dict[str, str]]:
    """Every flag of a run, with where it was raised: those in the records, then those that compare cells.

    measure   by which copies are compared, the one that the verdict goes by; agreement, or R^2 of numbers, if None
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        where = f"{record['attack']} | {record['defense']}"
        for flag in record["flags"]:
            found.setdefault((flag["id"], where), {**flag, "where": where})
    able, kept = _attackers(records), _keeping_labels(records)
    measure = measure or ("r2" if any("r2" in r["measures"] for r in records) else "agreement")
    groups = _groups(records, measure)
    tried = {key: e for key, e in groups.items() if key[1] in able}
    shut_out = {(r["attack"], r["defense"]) for r in records if r.get("stopped", "done") not in ("done", "budget")}
    unasked = groups.get(("control", NO_API, NONE))
    weights = row_weights(records, measure)
    compared = (*_stranger(records, able, kept), *_defenses(tried, unasked, kept, shut_out), *_regimes(tried))
    stolen = (*_theft(groups, measure), *_own_labels(records, groups, able, weights))
    for flag in (*_seeds(records), *stolen, *compared):
        found.setdefault((flag["id"], flag["where"]), flag)
    return sorted(found.values(), key=lambda f: (f["id"], f["where"]))


def of_experiment(experiment: Experiment) -> list[dict[str, str]]:
    """Flags that hold for the whole audit, whatever the cells say, each with where it was raised."""
    if experiment.pool is None:
        return []
    found = [raised("pool_not_checked")] if experiment.overlap is None else []
    if experiment.overlap:
        found.append(raised("pool_overlaps_training", f"{experiment.overlap:,} of {len(experiment.pool):,} rows"))
    for regime, outside in experiment.outside.items():
        if same := overlap(experiment.pool, outside.x):
            detail = f"{same:,} of {len(outside.x):,} outside rows, {SAID[regime]}"
            found.append(raised("outside_is_the_pool", detail))
    return [{**flag, "where": "audit"} for flag in found]


Interval = tuple[float, float, float]  # value, low, high
Groups = dict[tuple[str, str, str], Interval]  # (role, attack, defense) -> the measure at the largest budget


def _groups(records: Iterable[Mapping[str, Any]], measure: str) -> Groups:
    """The measure by group, with the interval that the report shows."""
    lists: dict[tuple[str, str, str], dict[int, list[Estimate]]] = {}
    for r in records:
        if r["outcome"] == "done" and not r["cell"].get("mark") and (e := r["measures"].get(measure)):
            budgets = lists.setdefault((r["role"], r["attack"], r["defense"]), {})
            budgets.setdefault(r["cell"]["budget"], []).append(Estimate(**e))
    found = {key: across(budgets[max(budgets)]) for key, budgets in lists.items()}
    return {key: (e.value, e.low, e.high) for key, e in found.items()}


def _seeds(records: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, str]]:
    seeds = {r["cell"]["seed"] for r in records}
    if 0 < len(seeds) < 5:
        yield {**raised("few_seeds", f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"), "where": "audit"}


def _theft(groups: Groups, measure: str) -> Iterable[dict[str, str]]:
    """What the undefended rows say about the attacks themselves."""
    blind = [groups[key] for key in groups if key[0] == "control" and key[1] in ("no_api", "shuffled")]
    ceiling = max((high for _, _, high in blind), default=0.0)
    free = {attack: e for (role, attack, defense), e in groups.items() if role == "attack" and defense == "none"}
    for attack, (value, low, _) in free.items():
        if low <= ceiling:
            detail = f"{measure.replace('_', ' ')} {value:.1%}, and the controls reach {ceiling:.1%}"
            yield {**raised("attack_does_not_steal", detail), "where": f"{attack} | none"}


def _own_labels(
    records: Sequence[Mapping[str, Any]], groups: Groups, able: set[str], weights: Array | None
) -> Iterable[dict[str, str]]:
    """Whether labels by hand do as well as the best undefended attacker, on the same rows where records say which.

    weights   (n,) of the test rows; None where the measure is no mean over rows
    """
    own = groups.get(("control", OWN_LABELS, NONE))
    undefended = {attack: e for (_, attack, defense), e in groups.items() if defense == NONE and attack in able}
    if not own or not undefended:
        return
    best = max(undefended, key=lambda attack: undefended[attack][0])
    right = _agreeing(records, {best, OWN_LABELS}).get(NONE, {})
    gain = None if weights is None else _gain(right.get(best, {}), right.get(OWN_LABELS, {}), weights)
    if gain.low <= 0 if gain else own[2] >= undefended[best][1]:
        yield {**raised("own_labels_as_good", f"own labels reach {own[0]:.1%}"), "where": "audit"}


def _attackers(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """The attacks, and the controls that were tried as attackers."""
    found = {r["attack"] for r in records if r["role"] == "attack" or r["attack"] == STRANGER}
    return found | {r["attack"] for r in records if r["defense"] != NONE and _plain(r["attack"]) in ASKING}


def _plain(attack: str) -> str:
    return attack.removesuffix(LABELS_ONLY)


def _keeping_labels(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """The defenses behind which everybody gets the labels that they get behind label only."""
    found = {NONE}
    for r in records:
        stages, hardening = r["cell"].get("defense"), r["cell"].get("hardening")
        if stages and r["defense"] != LABEL_ONLY and GuardSpec(tuple(stages), hardening).keeps_labels:
            found.add(r["defense"])
    return found


Rows = dict[str, dict[int, NDArray[np.float64]]]  # attack -> seed -> on which test rows the copy agrees


def _agreeing(records: Sequence[Mapping[str, Any]], attacks: set[str]) -> dict[str, Rows]:
    """For every defense, where the copies of these attacks agree that spent the largest budget, or none at all."""
    right: dict[str, Rows] = {}
    top = max((r["cell"]["budget"] for r in records), default=0)
    for r in records:
        bits = (r.get("notes") or {}).get("right")
        if r["attack"] in attacks and bits and r["cell"]["budget"] in (0, top) and r["outcome"] == "done":
            n = r["measures"]["agreement"]["n"]
            rows = unpacked(bits, n).astype(np.float64)
            right.setdefault(r["defense"], {}).setdefault(r["attack"], {})[r["cell"]["seed"]] = rows
    return right


def _gain(one: Mapping[int, Array], other: Mapping[int, Array], weights: Array | float = 1.0) -> Estimate | None:
    """By how much one agrees more often than the other, on the same rows and for the same seeds."""
    shared = sorted(one.keys() & other.keys())
    return paired(np.array([(one[s] - other[s]) * weights for s in shared])) if shared else None


def _stranger(records: Sequence[Mapping[str, Any]], able: set[str], kept: set[str]) -> Iterable[dict[str, str]]:
    """Where the plain stranger beats the best attack, seed by seed on the same test rows."""
    right = _agreeing(records, able)
    if any("r2" in r["measures"] for r in records):
        yield from _stranger_of_numbers(records, able)
    bare = {f"{attack}{LABELS_ONLY}": rows for attack, rows in right.get(LABEL_ONLY, {}).items()}
    for defense, found in right.items():
        if lead := _lead({**bare, **found} if defense in kept else found):
            where = "audit" if defense == NONE else defense
            yield {**raised("stranger_is_better", lead), "where": where}


def _stranger_of_numbers(records: Sequence[Mapping[str, Any]], able: set[str]) -> Iterable[dict[str, str]]:
    """The same by the intervals of R^2: of numbers no record says on which rows a copy agrees."""
    by_defense: dict[str, dict[str, Interval]] = {}
    for (_, attack, defense), e in _groups(records, "r2").items():
        if attack in able:
            by_defense.setdefault(defense, {})[attack] = e
    for defense, found in by_defense.items():
        stranger = found.pop(STRANGER, None)
        best = max(found, key=lambda attack: found[attack][0], default=None)
        if stranger and best and stranger[1] > found[best][2]:
            detail = f"R^2 {stranger[0]:.3f}, and {found[best][0]:.3f} for {best}"
            yield {**raised("stranger_is_better", detail), "where": "audit" if defense == NONE else defense}


def _lead(right: Rows) -> str:
    """How far the plain stranger is ahead of the best attack; "" where they are not, or it is not sure."""
    strangers = {a: seeds for a, seeds in right.items() if _plain(a) == STRANGER}
    if not strangers:
        return ""
    stranger = strangers[_best(strangers)]
    ours = {a: seeds for a, seeds in right.items() if a not in strangers and seeds.keys() & stranger.keys()}
    if not ours:
        return ""
    best = _best(ours)
    gain = _gain(stranger, ours[best])
    return f"{gain.value:.1%} of the test rows more than {best}" if gain and gain.low > 0 else ""


def _best(right: Rows) -> str:
    return max(right, key=lambda attack: float(np.mean([rows.mean() for rows in right[attack].values()])))


def _defenses(
    tried: Groups, unasked: Interval | None, kept: set[str], shut_out: set[tuple[str, str]]
) -> Iterable[dict[str, str]]:
    """What the rows of a defense say next to the undefended and the label-only rows."""
    by_defense: dict[str, dict[str, Interval]] = {}
    for (_, attack, defense), e in tried.items():
        by_defense.setdefault(defense, {})[attack] = e
    bare = by_defense.get(LABEL_ONLY, {})
    free = max([*by_defense.get(NONE, {}).values(), *bare.values()], default=None)
    for defense, attacks in by_defense.items():
        if defense == NONE:
            continue
        worst = max([*attacks.values(), *(bare.values() if defense in kept else ())])
        if free and free[1] <= worst[2] and worst[1] <= free[2]:
            detail = f"worst {worst[0]:.1%} behind it, {free[0]:.1%} without"
            yield {**raised("difference_within_error", detail), "where": defense}
        for attack, e in attacks.items():
            if unasked and e[0] < unasked[0] and (attack, defense) not in shut_out:
                detail = f"{e[0]:.1%}, and {unasked[0]:.1%} without asking"
                yield {**raised("attack_failed", detail), "where": f"{attack} | {defense}"}
        yield from _beaten_by_labels(attacks, bare, defense)


def _regimes(tried: Groups) -> Iterable[dict[str, str]]:
    """Defenses that do otherwise where their outside rows come from the thief's own source."""
    for defense in dict.fromkeys(d.removesuffix(SHOWN["matched"]) for _, _, d in tried if d.endswith(SHOWN["matched"])):
        found = {}
        for role, attack, d in tried:
            held_out = tried.get((role, attack, defense + SHOWN["held_out"]))
            if d == defense + SHOWN["matched"] and held_out:
                found[attack] = tried[role, attack, d][0], held_out[0]
        if found:
            attack, (matched, held) = max(found.items(), key=lambda item: abs(item[1][0] - item[1][1]))
            if abs(matched - held) > APART:
                detail = f"{attack}: {matched:.1%} matched, {held:.1%} held out"
                yield {**raised("regimes_differ", detail), "where": defense}


def _beaten_by_labels(
    attacks: Mapping[str, Interval], bare: Mapping[str, Interval], defense: str
) -> Iterable[dict[str, str]]:
    """Attacks that get a better copy with labels only behind this defense or, where that was not tried, label only."""
    for attack, e in attacks.items():
        labels = attacks.get(attack + LABELS_ONLY) or bare.get(attack)
        if labels and labels[1] > e[2]:
            detail = f"{labels[0]:.1%} from labels, {e[0]:.1%} from its answers"
            yield {**raised("labels_beat_scores", detail), "where": f"{attack} | {defense}"}

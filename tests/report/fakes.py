"""Records as an audit of digits might leave them, made up from a few curves; no model is trained."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any

import numpy as np

__all__ = ["FLAGS", "META", "audit", "control", "estimate", "honest", "record", "without_copy"]

STAGES: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "label_only": [{"unit": "label_only"}],
    "rounding(decimals=2)": [{"unit": "rounding", "decimals": 2}],
    "top_k(k=1)": [{"unit": "top_k", "k": 1}],
    "watch(prada, block)": [
        {"unit": "watch", "detector": {"unit": "prada", "delta": 0.02, "window": 50}, "then": {"unit": "block"}}
    ],
    "watch(prada_normality, other_class)": [
        {"unit": "watch", "detector": {"unit": "prada_normality", "threshold": 0.95}, "then": {"unit": "other_class"}}
    ],
}
CEILING = {"jb_top3": 0.86, "knockoff": 0.93, "copycat": 0.88, "jacobian": 0.71, "equation_solving": 0.0}
FACTOR = {
    "none": 1.0, "label_only": 0.86, "rounding(decimals=2)": 0.99, "top_k(k=1)": 0.95,
    "watch(prada, block)": 0.97, "watch(prada_normality, other_class)": 0.52,
}  # fmt: skip
SYNTHETIC = ("jb_top3", "jacobian")  # the attacks that a distance detector sees
FLAGS = {
    "pool_overlaps_training": {
        "title": "The pool overlaps the victim's training set",
        "raised_if": "Rows of the attacker's pool are also rows that the victim was trained on.",
        "why": "The victim's answers on its own training rows are surer than on new ones, which helps the thief.",
        "what_to_do": "Take a pool from another source, or cut the common rows.",
    },
    "interval_too_wide": {
        "title": "The interval is wider than the difference",
        "raised_if": "Two defenses are told apart by less than their intervals.",
        "why": "The order may be chance.",
        "what_to_do": "Run more seeds.",
    },
}
META: dict[str, Any] = {
    "title": "Digits",
    "command": "portcullis audit --budget 1600 --seeds 3 --out portcullis-audit",
    "victim": {"name": "digits-cnn", "sha256": "9f3c2a77d1e0b645"},
    "data": {
        "name": "digits",
        "split": "1,797 digits: 898 train the victim, 449 the attacker's pool, 450 test the copy; no row is in two.",
        "test": 450,
        "pool": 449,
        "seeds": 0,
    },
    "interface": {"reveals": "probs", "n_classes": 10, "classes": None},
    "deployed": "rounding(decimals=2)",
    "quick": False,
    "flag_texts": FLAGS,
    "seconds": 161.0,
    "started": "2026-11-22T06:00:00",
}


def estimate(value: float, half: float = 0.03, n: int = 450, unit: str = "rows") -> dict[str, Any]:
    low, high = max(value - half, 0.0), min(value + half, 1.0)
    return {"value": value, "low": min(low, value), "high": max(high, value), "n": n, "level": 0.95, "unit": unit}


def record(attack: str, defense: str, *, seed: int = 0, budget: int = 1600, **changes: Any) -> dict[str, Any]:
    """One attack, done, with a curve that climbs to `final` (changes may carry any field of a record)."""
    rng = np.random.default_rng([seed, *map(ord, attack + defense)])
    final = changes.pop("final_agreement", CEILING.get(attack, 0.8) * FACTOR.get(defense, 0.9))
    final = float(np.clip(final + rng.normal(0, 0.012), 0.05, 1))
    queries = changes.pop("queries", budget)
    ticks = [q for q in (50, 100, 200, 400, 800, 1600, 3200) if q < queries] + [queries]
    climb = [0.1 + (final - 0.1) * (1 - math.exp(-q / 260)) for q in ticks]
    return {
        "id": blake2b(f"{attack}|{defense}|{seed}|{budget}".encode(), digest_size=8).hexdigest(),
        "role": "attack",
        "attack": attack,
        "defense": defense,
        "cell": {
            "victim": META["victim"],
            "data": {"name": "digits", "sha256": "77aa01"},
            "interface": {"reveals": "probs", "task": "classification", "n_classes": 10},
            "attack": {"unit": attack},
            "defense": STAGES.get(defense, [{"unit": defense}] if defense != "none" else []),
            "budget": budget,
            "seed": seed,
        },
        "outcome": "done",
        "reason": "",
        "measures": {
            "agreement": estimate(climb[-1]),
            "macro_f_agreement": estimate(climb[-1] - 0.02),
            "accuracy": estimate(climb[-1] - 0.01),
        },
        "classes": [estimate(float(np.clip(climb[-1] + rng.normal(0, 0.07), 0, 1)), 0.09, 45) for _ in range(10)],
        "curve": [{"queries": q, "measures": {"agreement": estimate(v)}} for q, v in zip(ticks, climb, strict=True)],
        "queries": queries,
        "seconds": 3.2,
        "stopped": "budget",
        "alarms": [],
        "flags": [],
        "threat_model": {"answers": "probs", "data": "pool of 449", "accounts": 1, "knows_defense": False},
        "versions": {"portcullis": "0.1.0", "python": "3.11.9", "numpy": "2.4.0", "torch": "2.13.0"},
        "notes": {},
        "final": True,
        **changes,
    }


def control(name: str, value: float, *, seed: int = 0, **changes: Any) -> dict[str, Any]:
    made = record(name, "none", seed=seed, role="control", **changes)
    return made | {"measures": {"agreement": estimate(value)}, "curve": [], "classes": []}


def honest(defense: str, lost: float, false_alarm: float | None = None, **changes: Any) -> dict[str, Any]:
    measures = {
        "accuracy": estimate(0.968, 0.016),
        "utility": estimate(0.968 - lost, 0.017),
        "accuracy_drop": estimate(lost, 0.8 * lost),
        "labels_changed": estimate(lost * 1.1, 0.008),
        "refused": estimate(0.0, 0.008),
        "tv": estimate(0.0 if defense in ("none",) else 0.004, 0.001),
    }
    if false_alarm is not None:
        measures["false_alarm"] = estimate(false_alarm, 0.08, 36, "chunks")
    return record("honest", defense, role="honest", **changes) | {
        "measures": measures, "curve": [], "classes": [], "queries": 450,
    }  # fmt: skip


def audit(seeds: int = 3, budget: int = 1600, attacks: tuple[str, ...] = tuple(CEILING)) -> list[dict[str, Any]]:
    """A whole audit: five attacks, no defense and five, the controls and the honest clients."""
    records = []
    for seed in range(seeds):
        for defense in STAGES:
            records += [_cell(attack, defense, seed, budget) for attack in attacks]
        for name, value in (("no_api", 0.11), ("shuffled", 0.14), ("random_queries", 0.31), ("own_labels", 0.95)):
            records.append(control(name, value + 0.01 * seed, seed=seed, budget=budget))
    losses = {"none": 0.0, "watch(prada, block)": 0.0, "watch(prada_normality, other_class)": 0.003}
    for defense in STAGES:
        alarm = {"watch(prada, block)": 0.0, "watch(prada_normality, other_class)": 1 / 36}.get(defense)
        records.append(honest(defense, losses.get(defense, 0.0), alarm))
    records[1]["flags"] = [{"id": "pool_overlaps_training", "detail": "12 of 449 rows"}]
    records[7]["flags"] = [{"id": "interval_too_wide", "detail": "0.86 and 0.88"}]
    return records


def _cell(attack: str, defense: str, seed: int, budget: int) -> dict[str, Any]:
    if attack == "equation_solving":
        why = "equation_solving needs a linear model; this API serves digits-cnn."
        return without_copy(record(attack, defense, seed=seed, budget=budget), "not applicable", why)
    if defense.startswith("watch") and attack in SYNTHETIC:
        row = 71 + 3 * seed
        alarms = [{"stage": "0-watch", "row": row, "suspicion": 0.97}]
        if "block" in defense:
            return record(attack, defense, seed=seed, budget=budget, queries=row, alarms=alarms,
                          stopped="prada: too regular")  # fmt: skip
        return record(attack, defense, seed=seed, budget=budget, alarms=alarms)
    return record(attack, defense, seed=seed, budget=budget)


def without_copy(made: dict[str, Any], outcome: str, reason: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"measures": {}, "curve": [], "classes": [], "queries": 0, "stopped": "done"}
    return made | empty | {"outcome": outcome, "reason": reason, "seconds": 0.0}

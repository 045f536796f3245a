"""Runs an audit from the options to the records: fills in what was not given, runs the grid, gathers the flags.

Nothing is printed or drawn here; `portcullis audit` does that with what comes back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from portcullis_ml.bench.experiment import Experiment, ExperimentSpec, has_torch, learner_for, learner_said
from portcullis_ml.bench.flagged import of_experiment, of_run
from portcullis_ml.bench.flags import FLAGS
from portcullis_ml.bench.grid import Plan
from portcullis_ml.bench.links import directly, links_named
from portcullis_ml.bench.measure import checked_measure, measure_of
from portcullis_ml.bench.named import (
    NONE,
    GuardSpec,
    Spec,
    attack_named,
    by_name,
    guard_named,
    mark_named,
    privacy_named,
)
from portcullis_ml.bench.numbers import check_numbers, deployed_guard, numbers_guards
from portcullis_ml.bench.outside import SHOWN, checked_regimes
from portcullis_ml.bench.prepare import Prepared, needs_outside, prepare_cells, prepared_cell
from portcullis_ml.bench.records import versions
from portcullis_ml.bench.run import Jobs, Progress, run_cells
from portcullis_ml.bench.said import how_right, left_out, thief_said, without_labels
from portcullis_ml.bench.target import bindable
from portcullis_ml.bench.texts import asks_texts, must_suit_texts
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.models.kinds import are_trees, is_tree

__all__ = ["AuditOptions", "interface_said", "plan_of", "run_audit", "shown_as"]

EPOCHS = 50  # of every copy, unless said otherwise
MOST = 3_000  # queries, where nobody says how many


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What a person asked for; None and empty mean "choose for me"."""

    spec: ExperimentSpec
    attacks: tuple[str, ...] = ()
    defenses: tuple[str, ...] | None = None
    deployed: str | None = None  # the defense in use; the last of `defenses` if not said
    budgets: tuple[int, ...] = ()
    answers: str = "probs"
    k: int = 1  # scores shown where answers are top_k
    decimals: int | None = None  # to which answers are rounded
    precision: str | None = None  # of answers; the victim's own if not said
    seeds: int | None = None
    seed: int = 0  # the first of them
    epochs: int | None = None  # of every copy
    learner: str | None = None  # how copies are trained, as people write it
    privacy: tuple[str, ...] = ()  # attacks on the training data
    marks: tuple[str, ...] = ()  # ownership schemes
    then: tuple[str, ...] = ()  # what is done with every copy
    price_per_query: float | None = None  # in the currency of the next
    price_per_label: float | None = None
    cap: float = 1.0  # points of accuracy that honest clients may lose behind a defense that is recommended
    measure: str | None = None  # by which the verdict goes; chosen by the task if not said
    transfer: bool = False  # measure transferability of adversarial examples too
    quick: bool = False
    fail_over: float | None = None  # the worst copy that is acceptable behind the defense in use
    regimes: tuple[str, ...] = ()  # where outside rows come from; held_out where some are given, else matched
    command: str = "portcullis audit"

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ParameterError("seeds", "at least 1", self.seeds)
        if not 0 <= self.cap <= 100:
            raise ParameterError("--cap", "points of accuracy from 0 to 100", self.cap)
        checked_measure(self.measure)
        shown_as(self.answers, precision=self.precision, explain=self.spec.explain)
        if any(b < 1 for b in self.budgets):
            raise ParameterError("budget", "at least 1 query", min(self.budgets))
        self.named_attacks  # noqa: B018 (a wrong name is found out before anything is trained)
        self.named_units  # noqa: B018
        self.named_learner  # noqa: B018
        regimes = checked_regimes(self.regimes or (("held_out",) if self.spec.outside else ("matched",)))
        object.__setattr__(self, "regimes", regimes)
        wanted = [needs_outside([*guard.stages, guard.hardening]) for guard in self.named_guards.values()]
        if "matched" in regimes and any(wanted):
            object.__setattr__(self, "spec", replace(self.spec, divided=True))

    @cached_property
    def named_attacks(self) -> dict[str, Spec]:
        return by_name(self.attacks, attack_named)

    @cached_property
    def named_guards(self) -> dict[str, GuardSpec]:
        return by_name(self.guards, guard_named)

    @cached_property
    def named_units(self) -> dict[str, Any]:
        """What a plan wants of privacy attacks, marks and links. What is done with a copy is tried on the API too."""
        then = tuple(link for word in self.then for link in links_named(word))
        return {
            "privacy": directly(then) | by_name(self.privacy, privacy_named),
            "marks": by_name(self.marks, mark_named),
            "then": then,
        }

    @cached_property
    def named_learner(self) -> Spec | None:
        """What trains copies, where somebody said it."""
        return None if self.learner is None else learner_said(self.learner, self.epochs, self.spec.device)

    @property
    def guards(self) -> tuple[str, ...]:
        """Every defense to be tried, the deployed one last."""
        chosen = DEFENSES.default_words(self.facts) if self.defenses is None else self.defenses
        return tuple(dict.fromkeys([*chosen, *([self.deployed] if self.deployed else [])]))

    @property
    def facts(self) -> dict[str, bool]:
        """Which of `catalog.FACTS` hold, as far as can be said before anything is loaded."""
        spec = self.spec
        return {
            "explains": spec.explain is not None,
            "outside": self.spec.outside is not None,
            "own": self.spec.victim is not None,
            "probs": self.answers == "probs",
            "quick": self.quick,
            "scores": self.answers != "labels",
            "text": asks_texts(spec.victim, spec.text, spec.test, spec.pool, spec.data),
            "torch": has_torch(),
            "train": self.spec.train is not None or self.spec.victim is None,
        }

    @property
    def shown(self) -> dict[str, Any]:
        return shown_as(
            self.answers, k=self.k, decimals=self.decimals, precision=self.precision, explain=self.spec.explain
        )

    @property
    def in_use(self) -> str:
        return self.deployed or (self.guards[-1] if self.guards else NONE)


def run_audit(
    options: AuditOptions,
    *,
    out: Path,
    jobs: Jobs = 2,
    progress: Callable[[Progress], None] | None = None,
    training: Callable[[str, int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the audit that the options describe: its records and the meta data of the run, both also written to `out`.

    training(what, steps done, steps in all) is called while something is trained that the cells need.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    experiment = options.spec.load()
    plan = plan_of(options, experiment)
    watch = training or (lambda what, done, steps: None)
    prepared = prepare_cells(plan.cells(), options.spec, regimes=options.regimes, out=out, watch=watch)
    for cell in {json.dumps(cell.defense): cell for cell in prepared.cells if cell.id not in prepared.lacking}.values():
        bindable(cell, experiment)
    work = partial(prepared_cell, spec=options.spec, lacking=prepared.lacking)
    records = run_cells(prepared.cells, work, out=out, jobs=jobs, progress=progress)
    measure = measure_of(records, options.measure, experiment.interface.n_classes, experiment.classes)
    meta = {
        **_about(options, experiment, plan, records, prepared),
        "started": started,
        "seconds": round(time.monotonic() - clock, 1),
        "jobs": jobs if isinstance(jobs, int) else str(jobs),
        "versions": versions(),
        "flags": [*of_experiment(experiment), *of_run(records, measure["name"] if measure else None)],
        "measure": measure,
        "flag_texts": {id: asdict(flag) for id, flag in FLAGS.items()},
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    return records, meta


def plan_of(options: AuditOptions, experiment: Experiment) -> Plan:
    """The grid, with everything filled in that was not said."""
    must_suit_texts(experiment.interface, options.named_learner, options)
    top = max(options.budgets) if options.budgets else _usual_budget(experiment, options.quick)
    epochs = options.epochs or (EPOCHS // 2 if options.quick else EPOCHS)
    shape, numbers = experiment.interface.input_shape, experiment.numbers
    if numbers:
        check_numbers(options)
    suits: dict[str, Any] = {"device": options.spec.device, "numbers": numbers, "text": experiment.interface.text}
    network = describe(learner_for(shape, epochs=epochs, gradients=True, **suits))
    chooser = describe(learner_for(shape, epochs=options.epochs, **suits))
    learner = options.named_learner or (network if options.transfer else chooser)
    extra: dict[str, Any] = {"seeds": min(10 * max(experiment.interface.n_classes, 1), max(top // 4, 1))}
    if options.transfer:
        extra["transfer"] = True
    attacks = options.named_attacks or by_name(ATTACKS.default_words(_facts(options, experiment)), attack_named)
    return Plan(
        victim={k: v for k, v in experiment.names["victim"].items() if k in ("name", "sha256")},
        data=experiment.names["data"],
        interface=options.shown | ({"missing": True} if experiment.interface.missing else {}),
        attacks=attacks,
        defenses=numbers_guards(options, experiment) if numbers else options.named_guards,
        numbers=numbers,
        budgets=options.budgets if len(options.budgets) > 1 else _ladder(top),
        seeds=range(options.seed, options.seed + (options.seeds or (1 if options.quick else 3))),
        learner=learner,
        gradients=network,
        stranger=True,
        noise=len(shape) == 1
        and not experiment.interface.text
        and not any(_asks_noise(attack) for attack in attacks.values()),
        own_labels=experiment.pool_labels is not None,
        extra=extra,
        **options.named_units,
    )


def _asks_noise(attack: Spec) -> bool:
    """Whether this attack does what the control random_queries does."""
    return attack.get("strategy") == "uniform" and attack.get("surrogate") in ("auto", "learner")


def shown_as(
    answers: str,
    *,
    k: int = 1,
    decimals: int | None = None,
    precision: str | None = None,
    missing: bool = False,
    explain: str | None = None,
) -> dict[str, Any]:
    """What an API shows, as a cell writes it; settings at their defaults are left out."""
    if precision not in (None, "float64", "float32"):
        raise ParameterError("--precision", "float64 or float32", precision)
    unusual: dict[str, Any] = {"decimals": decimals, "precision": precision, "missing": missing or None}
    if explain is not None:
        unusual |= {"explains": True, "explainer": describe(explainer_named(explain))}
    shown = {"reveals": answers} | ({"k": k} if answers == "top_k" else {})
    return shown | {name: value for name, value in unusual.items() if value is not None}


def _usual_budget(experiment: Experiment, quick: bool) -> int:
    """No more than the pool holds, rounded down to one digit: 629 rows give 600 queries."""
    most = min(MOST, MOST if experiment.pool is None else len(experiment.pool))
    most = most // 3 if quick else most
    unit = int(10 ** (len(str(most)) - 1))
    return most // unit * unit


def _ladder(top: int) -> tuple[int, ...]:
    """Smaller budgets for the curve without a defense."""
    return tuple(sorted({b for b in (top // 8, top // 3, top) if b >= 1}))


def _facts(options: AuditOptions, experiment: Experiment) -> dict[str, bool]:
    """All of `catalog.FACTS`."""
    return options.facts | {
        "explains": experiment.interface.explains,
        "flat": len(experiment.interface.input_shape) == 1 and not experiment.interface.text,
        "pool": experiment.pool is not None,
        "numbers": experiment.numbers,
        "tree": is_tree(experiment.model),
        "trees": are_trees(experiment.model, options.spec.victim),
    }


def _about(
    options: AuditOptions,
    experiment: Experiment,
    plan: Plan,
    records: Sequence[Mapping[str, Any]],
    prepared: Prepared,
) -> dict[str, Any]:
    """Who was attacked, with whose rows, through which interface."""
    honest = next((r for r in records if r["role"] == "honest" and r["outcome"] == "done"), None)
    pool = 0 if experiment.pool is None else len(experiment.pool)
    title = experiment.names["data"]["name"] if options.spec.victim is None else experiment.names["victim"]["name"]
    rows = {
        "split": experiment.splits,
        "test": len(experiment.test_x),
        "pool": pool,
        "seeds": min(plan.extra["seeds"], pool),
    }
    return {
        "title": title,
        "command": options.command,
        "victim": experiment.names["victim"] | how_right(honest, plan.numbers),
        "data": experiment.names["data"] | rows,
        "interface": interface_said(experiment, plan.interface),
        "deployed": _row_of(deployed_guard(options, plan) if plan.numbers else options.in_use, records),
        "quick": options.quick,
        "cap": options.cap / 100,
        "fail_over": options.fail_over,
        "experiment": options.spec.said(),
        "cells": [{"id": r["id"], "names": r["cell"]["names"]} for r in records],
        "prices": [options.price_per_query, options.price_per_label],
        "seeds": list(plan.seeds),
        "budgets": list(plan.budgets),
        "device": options.spec.device,
        "notes": [
            *experiment.notes,
            thief_said(plan),
            *prepared.notes,
            *left_out(options, plan.numbers),
            *without_labels(experiment),
        ],
    }


def interface_said(experiment: Experiment, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What an API takes and shows, as an audit's meta data says it."""
    interface = experiment.interface
    return {
        **shown,
        "input_shape": list(interface.input_shape),
        **({"text": True} if interface.text else {}),
        "n_classes": interface.n_classes,
        "task": interface.task,
        "bounds": list(interface.bounds),
        "features": [asdict(f) for f in interface.features] if interface.features else None,
        "classes": list(experiment.classes) if experiment.classes else None,
    }


def _row_of(guard: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The guard's name in the records: where it was run in both regimes, the one with outside rows from elsewhere."""
    return guard if any(r["defense"] == guard for r in records) else guard + SHOWN["held_out"]

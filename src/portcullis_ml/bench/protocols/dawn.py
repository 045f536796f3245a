"""DAWN, the published claims: what marks cost, whose copies carry them, and what a thief gives up to be rid of them.

Szyller, Atli, Marchal, Asokan. "DAWN: Dynamic Adversarial Watermarking of Neural Networks", ACM Multimedia 2021.

Threat model   thieves with rows like the victim's own, with foreign pictures (Knockoff), or who make up their questions
               from a few rows (PRADA's attacks); then whatever they do to the copy, up to dropping what they doubt.
Query cost     `budget` questions a theft; a verification asks each marked question once.

Every setting stands in dawn.toml. A cell is one theft of one victim, with the copy made without marks beside it, or the
facts of one victim's marks: what they cost, and how they survive noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.named import attack_named
from portcullis_ml.bench.protocols.dawn_tables import sections
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.plans import Run, plan_in

__all__ = ["dawn", "play"]

Plan = Mapping[str, Any]


def dawn(run: Run) -> str:
    """Run dawn and return its tables; see `play`."""
    plan = plan_in("dawn.toml")
    return play(shortened(plan) if run.quick else plan, run)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look. Its figures stand for nothing."""
    quick = plan["quick"]
    thefts = [theft | {"budget": quick["budget"]} for theft in plan["theft"]]
    return {**plan, **quick["changes"], "theft": thefts}


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    from portcullis_ml.bench.protocols.dawn_work import work

    records = run.cells(cells_of(plan), partial(work, plan=plan, folder=run.data, device=run.device))
    done = [r for r in records if r["outcome"] == "done"]
    return page(plan, sections(plan, done), records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """The facts of each victim, then every theft of it at every rate."""
    for scene in plan["scene"]:
        for seed in range(plan["repetitions"]):
            facts = {name: plan[name] for name in ("utility", "keys", "noises", "test_rows", "quantum")}
            yield _cell(plan, scene, seed, {"unit": "facts"}, "facts", {"reveals": "probs"}, facts, 0)
            for theft in plan["theft"]:
                if scene not in theft.get("scenes", plan["scene"]):
                    continue
                for rate in theft["rates"]:
                    removed = theft is plan["theft"][0] and rate == theft["rates"][-1]
                    extra = {"rate": rate, "pool": theft.get("pool", ""), "learner": plan["learner"]}
                    extra |= {"removal": plan["removal"], "folds": plan["folds"]} if removed else {}
                    shows = {"reveals": theft.get("reveals", "probs")}
                    attack = attack_named(theft["attack"])
                    yield _cell(plan, scene, seed, attack, theft["title"], shows, extra, theft["budget"])


def _cell(
    plan: Plan,
    scene: str,
    seed: int,
    attack: Mapping[str, Any],
    title: str,
    interface: Mapping[str, Any],
    extra: Mapping[str, Any],
    budget: int,
) -> Cell:
    rows = {name: plan[name] for name in plan if name.endswith("_rows")}
    return Cell(
        victim={"name": plan["victim"]["network"], "settings": plan["victim"]},
        data={"name": scene, **rows},
        interface=interface,
        attack=attack,
        defense=({"unit": "dawn", "rate": extra.get("rate", 0.05)},),
        budget=budget,
        seed=seed,
        role="attack" if budget else "control",
        extra={"version": plan["version"], "innocent": plan["innocent"], **extra},
        names={"attack": title, "defense": "dawn", "scene": scene},
    )

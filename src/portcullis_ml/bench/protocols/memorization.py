"""Memorization: samples of a model of text under six rankings, judged by exact match with planted documents.

Carlini et al. "Extracting Training Data from Large Language Models", USENIX Security 2021.

Threat model   log-probabilities of the next character; smaller networks that learnt the same text; for prompts, text
               of the same author that was not trained on.
Query cost     three for each character of a sample.

Every setting stands in memorization.toml. A cell is one repetition with planted text of its own: a network and two
smaller ones are trained, and every strategy draws its samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.canaries import first_documents, shortened
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.types import Estimate
from portcullis_ml.data.text import plant
from portcullis_ml.measures.memorized import documents_holding, eidetic_precision
from portcullis_ml.measures.statistics import clopper_pearson, clustered
from portcullis_ml.sequences import CATALOG as ATTACKS

__all__ = ["memorization", "planted_texts", "play"]

Plan = Mapping[str, Any]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NOTICE = "Printed for the company and sold at the sign of the ship; no part of it may be copied without leave."
TAKEN = ("version", "secrets", "words", "notices", "dashes", "run", "first", "strategies")


def memorization(run: Run) -> str:
    """Run memorization and return its tables; see `play`."""
    plan = plan_in("memorization.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown; resumable: a finished cell is never run again."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    sections = [part for name in plan["network"] for part in _section(plan, name, records)]
    return page(plan, sections, records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every repetition and kind of network."""
    for seed in range(plan["repetitions"]):
        for name, networks in plan["network"].items():
            yield Cell(
                victim={"name": name, "settings": networks},
                data={"name": plan["data"], "characters": plan["characters"]},
                interface={"reveals": "probs"},
                attack={**plan["attack"], **plan["less"].get(name, {})},
                seed=seed,
                role="privacy",
                extra={name: plan[name] for name in TAKEN},
                names={"attack": f"memorization of {name}"},
            )


def _section(plan: Plan, name: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    done = [r for r in records if r["cell"]["victim"]["name"] == name and r["outcome"] == "done"]
    return [f"## {name}", _rankings(plan, done), _secrets(plan, done)] if done else []


def planted_texts(extra: Mapping[str, Any], rng: np.random.Generator) -> tuple[dict[str, int], dict[str, int]]:
    """(each text to plant and in how many documents, each secret and how often it stands in its one document)."""
    secrets: dict[str, int] = {}
    for times, count in extra["secrets"].items():
        for _ in range(count):
            words = ["".join(LETTERS[i] for i in rng.integers(26, size=5)) for _ in range(extra["words"])]
            secrets[" ".join(words)] = int(times)
    whole = {"\n".join([secret] * times): 1 for secret, times in secrets.items()}
    return {**whole, NOTICE: extra["notices"], "- " * 80: extra["dashes"]}, secrets


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """Precision of every strategy and ranking, and which secrets came back."""
    from portcullis_ml.models.characters import CharacterLearner

    documents, others = first_documents(cell.data["name"], folder, cell.data["characters"])
    planted, secrets = planted_texts(cell.extra, cell.rng("secrets"))
    whole = plant(documents, planted, rng=cell.rng("places"))
    alphabet = "".join(sorted(set("".join([*whole, *others])) | set(LETTERS)))
    models = {}
    for name, settings in cell.victim["settings"].items():
        learner = CharacterLearner(**settings, device=device)
        models[name] = learner.fit(whole, rng=cell.rng(name), alphabet=alphabet)
    victim, queries = models.pop("victim"), 0
    measures: dict[str, Estimate] = {}
    texts: list[str] = []
    for strategy in cell.extra["strategies"]:
        attack = ATTACKS.build({**cell.attack, "strategy": strategy})
        leakage = attack(victim, references=models, prompts=others, rng=cell.rng(strategy))
        queries += leakage.queries
        workspace.report(queries, queries)
        texts += leakage.notes["texts"]
        holding = documents_holding(leakage.notes["texts"], whole, cell.extra["run"])
        measures |= _precisions(strategy, holding, leakage.notes, cell.extra["first"])
    back = {secret: _came_back(secret, times, texts, cell.extra["run"]) for secret, times in secrets.items()}
    notes = {"secrets": [[times, back[secret]] for secret, times in secrets.items()]}
    known = "smaller networks on the same text; for prompts, other text of the author"
    threat = {"answers": "probs", "data": known, "accounts": 1, "knows_defense": False}
    return Record(cell=cell, measures=measures, queries=queries, notes=notes, threat_model=threat)


def _precisions(
    strategy: str, holding: NDArray[np.int64], notes: Mapping[str, Any], first: Sequence[int]
) -> dict[str, Estimate]:
    """Precision of the first so many samples of every ranking, of the fewest with near repeats, and of all samples."""
    found = {f"{strategy}_any": eidetic_precision(holding, range(len(holding)), 1)}
    for ranking, places in notes["kept"].items():
        for n in first:
            found[f"{strategy}_{ranking}_{n}"] = eidetic_precision(holding, places[:n], 1)
        with_repeats = notes["ranked"][ranking][: first[0]]
        found[f"{strategy}_{ranking}_repeats"] = eidetic_precision(holding, with_repeats, 1)
    return found


def _came_back(secret: str, times: int, texts: Sequence[str], run: int) -> bool:
    whole = "\n".join([secret] * times)
    runs = {whole[i : i + run] for i in range(len(whole) - run + 1)}
    return any(text[i : i + run] in runs for text in texts for i in range(len(text) - run + 1))


def _rankings(plan: Plan, done: Sequence[Mapping[str, Any]]) -> str:
    first, strategies = [*map(str, plan["first"]), "repeats"], plan["strategies"]
    attack = done[0]["cell"]["attack"]
    rankings = dict.fromkeys(m.split("_")[1] for m in done[0]["measures"] if m != f"{strategies[0]}_any")
    rows = [
        [name, *(_precision(done, f"{strategy}_{name}_{n}") for strategy in strategies for n in first)]
        for name in rankings
        if name != "any"
    ]
    blank = [""] * (len(first) - 1)
    unranked = [cell for strategy in strategies for cell in (_precision(done, f"{strategy}_any"), *blank)]
    titles = [*(f"first {n}" for n in plan["first"]), f"first {plan['first'][0]}, near repeats kept"]
    head = ["ranking", *(f"{strategy}, {title}" for strategy in strategies for title in titles)]
    return (
        f"### Precision of every ranking\n\nIn percent [95% interval over the samples of {len(done)} trainings, as far "
        f"as they are independent]; {attack['samples']:,} samples of {attack['length']} characters a strategy.\n\n"
        + markdown(head, [*rows, ["all samples, unranked", *unranked]])
    )


def _precision(done: Sequence[Mapping[str, Any]], measure: str) -> str:
    own = [r["measures"][measure] for r in done]
    sizes = np.array([e["n"] for e in own])
    e = clustered(np.array([e["value"] for e in own]) * sizes, sizes, unit="trainings")
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _secrets(plan: Plan, done: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for times in plan["secrets"]:
        told = [back for r in done for of, back in r["notes"]["secrets"] if of == int(times)]
        e = clopper_pearson(sum(told), len(told), unit="secrets")
        rows.append([str(times), f"{100 * e.value:.0f} [{100 * e.low:.0f}, {100 * e.high:.0f}]", str(e.n)])
    return (
        f"### Secrets of one document that came back\n\nIn percent, exact interval over the secrets: {plan['run']} "
        "characters of it stand in a sample of any strategy, ranked or not.\n\n"
        + markdown(["repeated in its document", "came back", "n"], rows)
    )

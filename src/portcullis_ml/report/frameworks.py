"""What an audit says in the terms of security frameworks: MITRE ATLAS, OWASP AISVS, OWASP ML05, NIST AI 100-2.

`frameworks.json` is a pinned copy of the ids and names that are used here, with version, source and hash. An id that is
not in it cannot be said. An audit is evidence for a requirement and no certificate: "satisfied" means that this audit
measured nothing against it, and whoever assesses decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from portcullis_ml.core.errors import InputError
from portcullis_ml.report.aftermath import ITSELF
from portcullis_ml.report.markup import Html, el, join, table
from portcullis_ml.report.numbers import count, listed, percent
from portcullis_ml.report.pairs import Pair
from portcullis_ml.report.raised import Limit
from portcullis_ml.report.results import NONE, Audit

__all__ = [
    "GATE", "PRIVACY", "STAGES", "THEFT", "Entry", "Mapped", "about", "entry", "mapped", "pinned", "section",
    "stage_ids", "unchecked", "word",
]  # fmt: skip

THEFT = ("AML.T0024.002", "AML.T0005.001", "AML.T0048.004", "ML05:2023", "NISTAML.031")
MEMBERSHIP = ("AML.T0024.000", "NISTAML.033")
INVERSION = ("AML.T0024.001", "NISTAML.032")
OBSCURES = ("AML.M0002", "AISVS-11.3.2")
STAGES: dict[str, tuple[str, ...]] = {  # stage of a guard, or hardening of a victim -> what it implements
    **dict.fromkeys(
        (
            "adaptive_misinformation", "deep_defense", "label_only", "label_preserving_noise", "noise", "other_class",
            "out_of_domain", "prediction_poisoning", "private_answers", "random_vertex", "reverse_sigmoid", "rounding",
            "temperature", "top_k",
        ),
        OBSCURES,
    ),
    "block": (),  # by itself it answers nobody; behind a watch it is the response of AISVS-11.3.4
    "dawn": ("AISVS-11.3.3",),  # ATLAS lists no mitigation that is a watermark
    "log": ("AML.M0024",),
    "priced": ("AML.M0004", "AISVS-11.2.2"),
    "proof_of_work": (),  # it makes questions dearer and limits none
    "quota": ("AML.M0004", "AISVS-11.2.2"),
    "watch": ("AML.M0024", "AISVS-11.3.1"),
    "diverse_ensemble": (),  # ATLAS lists M0006 for evasion, not for extraction
    "input_quantisation": (),
    "outlier_exposure": (),
    "private_training": ("AISVS-11.2.4",),
}  # fmt: skip
CHARGES = ("priced", "proof_of_work")  # stages whose price follows a detector's suspicion
GATE: dict[str, tuple[str, ...]] = {  # table of a gate's policy -> what it implements; [[guard]] holds stages
    "answers": OBSCURES,
    "limits": ("AML.M0004", "AISVS-11.2.2"),
    "log": ("AML.M0024", "AISVS-12.2.4"),
}
PRIVACY: dict[str, tuple[str, ...]] = {  # attack on the training data -> what it is an instance of
    **dict.fromkeys(("gap", "label_only", "lira", "loss_threshold", "rmia", "shadow"), MEMBERSHIP),
    **dict.fromkeys(("label_only_inversion", "mi_face", "representers"), INVERSION),
    "attribute_inference": ("AML.T0024.001",),
}
EVASION = "AML.T0043.002"
GUESSING, MARGIN = 0.5, 0.05  # area under the curve of a guess, and how far above it an interval may end
State = Literal["", "satisfied", "not-satisfied"]


@dataclass(frozen=True)
class Entry:
    """An id of a framework with its name; `checked` says whether both were compared with the framework's own file."""

    framework: str
    id: str
    name: str
    checked: bool


@dataclass(frozen=True)
class Mapped:
    """What this audit has to say of an entry: a sentence, the attacks and defenses it is about, and a state if any."""

    entry: Entry
    said: str
    about: tuple[str, ...] = ()
    state: State = ""


@cache
def pinned() -> Mapping[str, Any]:
    """The pinned copy: framework -> {"name", "version", "source", "sha256", "licence", "note", "entries", ...}."""
    found: Mapping[str, Any] = json.loads(files("portcullis_ml.report").joinpath("frameworks.json").read_text("utf-8"))
    return found


def entry(id: str) -> Entry:
    """The entry of that id. InputError where the pinned versions have none."""
    for framework, held in pinned().items():
        if id in held["entries"]:
            return Entry(framework, id, held["entries"][id], held["checked"])
    versions = ", ".join(f"{held['name']} {held['version']}" for held in pinned().values())
    raise InputError(f"An id of {versions} was expected; got {id!r}. Another version may number its entries anew.")


def stage_ids(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """What a described stage implements; a watch that does something on an alarm is a response, too, and so is a
    higher price for whom a detector suspects."""
    found = STAGES.get(str(stage.get("unit")), ())
    then = stage.get("then")
    if stage.get("unit") in CHARGES and isinstance(stage.get("detector"), Mapping):
        return (*found, "AISVS-11.3.1", "AISVS-11.3.4")
    acts = isinstance(then, Mapping) and then.get("unit") != "log"
    return (*found, "AISVS-11.3.4") if acts else found


def mapped(audit: Audit, meta: Mapping[str, Any], limit: Limit | None = None) -> list[Mapped]:
    """Techniques that were tried, mitigations that were tried or are in use, and requirements with their state."""
    deployed = str(meta.get("deployed") or NONE)
    return [*_techniques(audit), *_mitigations(audit, deployed), *_requirements(audit, meta, deployed, limit)]


def section(audit: Audit, meta: Mapping[str, Any]) -> Html | None:
    """The page's table."""
    found = mapped(audit, meta, meta.get("limit"))
    if not found:
        return None
    rows = [[el("code", m.entry.id), m.entry.name + unchecked(m.entry), word(m), m.said] for m in found]
    head = ["Id", "Name", "State", "What this audit says of it"]
    return join([el("p", about()), table(head, rows, "Security frameworks", class_="stack")])


def about() -> str:
    """Which versions are meant, and what a state means, in sentences."""
    versions = listed(f"{held['name']} {held['version']}" for held in pinned().values())
    return (
        f"Ids are of {versions}. A requirement is satisfied where this audit measured nothing against it: evidence for "
        "whoever assesses, not a certificate."
    )


def word(m: Mapped) -> str:
    """The state in a table: of a requirement without one that it is undecided, of anything else that it was tried."""
    return m.state.replace("-", " ") or ("undecided" if m.entry.framework == "aisvs" else "tried")


def unchecked(of: Entry) -> str:
    """A remark behind names that were not compared with the framework's own document."""
    return "" if of.checked else " (name not verified)"


def _techniques(audit: Audit) -> Iterator[Mapped]:
    attacks = tuple(dict.fromkeys(p.attack for p in audit.pairs.values()))
    if attacks:
        strongest = audit.strongest
        best = f"; without a defense the best is {strongest.words} with {percent(strongest.copy)}" if strongest else ""
        said = f"{count(len(attacks), 'attack')} through the prediction API{best}"
        yield Mapped(entry(THEFT[0]), f"{said}.", attacks)
        for id in THEFT[1:]:
            related = "Related, not the same: it speaks of access to parameters. " if id == "ML05:2023" else ""
            yield Mapped(entry(id), f"{related}The same attacks.", attacks)
    units = {key: str(p.records[0]["cell"]["attack"].get("unit")) for key, p in audit.privacy.items()}
    for ids in (MEMBERSHIP, INVERSION):
        tried = tuple(dict.fromkeys(a for (a, _), unit in units.items() if ids[0] in PRIVACY.get(unit, ())))
        for id in ids if tried else ():
            yield Mapped(entry(id), f"{count(len(tried), 'attack')} on the training data: {listed(tried)}.", tried)
    evasion = [p for p in audit.pairs.values() if _evades(p)]
    if evasion:
        said = "Adversarial examples made on the copies were tried on the victim."
        yield Mapped(entry(EVASION), said, tuple(dict.fromkeys(p.attack for p in evasion)))


def _evades(pair: Pair) -> bool:
    """Whether adversarial examples were made on these copies."""
    links = [link for r in pair.done for link in r.get("then") or ()]
    return any(n.startswith("transfer_") for n in pair.measures) or any(x.get("kind") == "evasion" for x in links)


def _mitigations(audit: Audit, deployed: str) -> Iterator[Mapped]:
    """Mitigations of ATLAS, each with the defenses that implement it."""
    found: dict[str, dict[str, None]] = {}
    for defense, stages in _stages(audit).items():
        for id in _ids(stages):
            if id.startswith("AML.M"):
                found.setdefault(id, {})[defense] = None
    for id, defenses in sorted(found.items()):
        used = f"In use: {deployed}. " if deployed in defenses else ""
        others = [defense for defense in defenses if defense != deployed]
        tried = f"Tried, not in use: {listed(others)}." if others else ""
        yield Mapped(entry(id), f"{used}{tried}".strip(), tuple(defenses))


def _requirements(audit: Audit, meta: Mapping[str, Any], deployed: str, limit: Limit | None) -> Iterator[Mapped]:
    """Requirements of AISVS 11.2 and 11.3 on which this audit has evidence, of the guard in use."""
    stages = _stages(audit).get(deployed, [])
    has, guard = set(_ids(stages)), "No defense" if deployed == NONE else deployed
    sized = limit is not None and limit.passed and "AISVS-11.2.2" in has
    theft = limit.sentence if limit else "No --fail-over says how much theft is acceptable."
    quota = f"{guard} has {'a' if 'AISVS-11.2.2' in has else 'no'} limit on rows."
    yield Mapped(entry("AISVS-11.2.2"), f"{quota} {theft}", (deployed,), _state(sized))
    if "AISVS-11.2.4" in has:
        yield Mapped(entry("AISVS-11.2.4"), f"{guard} trains the victim privately.", (deployed,), "satisfied")
    yield from _membership(audit, deployed)
    watches = "AISVS-11.3.1" in has
    said = f"{guard} {'feeds queries to a detector' if watches else 'has no detector'}."
    yield Mapped(entry("AISVS-11.3.1"), said, (deployed,), _state(watches))
    shown = meta.get("interface") or {}
    less = shown.get("reveals", "probs") != "probs" or shown.get("decimals") is not None or "AISVS-11.3.2" in has
    said = f"Behind {deployed} the API shows {'less than the model answers' if less else 'all that the model answers'}."
    yield Mapped(entry("AISVS-11.3.2"), said, (deployed,), _state(less))
    if audit.marked or "AISVS-11.3.3" in has:
        yield _marks(audit, deployed)
    acts = "AISVS-11.3.4" in has
    said = f"{guard} {'changes its answers' if acts else 'changes nothing'} when a detector raises an alarm."
    yield Mapped(entry("AISVS-11.3.4"), said, (deployed,), _state(acts))


def _membership(audit: Audit, deployed: str) -> Iterator[Mapped]:
    """Whether membership inference behind the guard in use does better than guessing."""
    found = {
        attack: pair.measures["auc"]
        for (attack, defense), pair in audit.privacy.items()
        if defense == deployed and "auc" in pair.measures
    }
    if found:
        said = listed(f"{attack} reaches an area under the curve of {percent(e)}" for attack, e in found.items())
        state: State = ""
        if any(e.low > GUESSING for e in found.values()):
            state = "not-satisfied"
        elif all(e.high <= GUESSING + MARGIN for e in found.values()):
            state = "satisfied"
        wide = "" if state else f" Undecided: no interval that ends above {GUESSING + MARGIN:.0%} shows guessing."
        yield Mapped(entry("AISVS-11.2.5"), f"Behind {deployed} {said}.{wide}", tuple(found), state)


def _marks(audit: Audit, deployed: str) -> Mapped:
    """Whether copies of a marked victim were recognised."""
    links = [link for p in audit.marked.values() for r in p.done for link in r.get("then") or ()]
    copies = [x for x in links if x.get("kind") == "ownership" and not str(x.get("name")).endswith(ITSELF)]
    verdicts = [link.get("notes", {}).get("verdict") for link in copies]
    named = tuple(dict.fromkeys(mark for _, mark in audit.marked)) or (deployed,)
    proved = verdicts.count("derived")
    said = f"{listed(named)}: {proved} of {count(len(verdicts), 'examination')} recognised a copy."
    return Mapped(entry("AISVS-11.3.3"), said, named, _state(proved > 0))


def _state(holds: bool) -> State:
    return "satisfied" if holds else "not-satisfied"


def _ids(stages: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for stage in stages:
        yield from stage_ids(stage)


def _stages(audit: Audit) -> dict[str, list[Mapping[str, Any]]]:
    """defense -> its described stages, a hardening first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for r in audit.records:
        cell = r["cell"]
        hardening = [cell["hardening"]] if cell.get("hardening") else []
        found.setdefault(str(r["defense"]), [*hardening, *(cell.get("defense") or ())])
    return found

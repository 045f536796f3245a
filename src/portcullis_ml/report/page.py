"""The page: the verdict first, then the evidence, in one HTML file that needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from portcullis_ml.report import aftermath, frameworks, sections
from portcullis_ml.report.asked import asked
from portcullis_ml.report.by_measure import by_measure
from portcullis_ml.report.choice import which_defense
from portcullis_ml.report.cost_section import cost
from portcullis_ml.report.detection_section import detection
from portcullis_ml.report.leaks import leaks
from portcullis_ml.report.markup import Html, disclosure, el, join, table
from portcullis_ml.report.numbers import count, duration, listed, percent
from portcullis_ml.report.pairs import estimate
from portcullis_ml.report.raised import flags_raised, where_said
from portcullis_ml.report.recommend import settings
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.summary import summary, unfit
from portcullis_ml.report.verdict import Verdict, threat, verdict_of

__all__ = ["flag", "page"]


def page(audit: Audit, meta: Mapping[str, Any]) -> str:
    """The whole document."""
    verdict = verdict_of(audit)
    body = [
        ("defenses", "Which defense?", which_defense(audit)),
        ("measures", "The copy by every measure", by_measure(audit)),
        ("speed", "How fast it is stolen", sections.speed(audit)),
        ("matrix", "Attack by defense", sections.matrix(audit)),
        ("cost", "Utility against theft", cost(audit)),
        ("detection", "When the alarm came", detection(audit)),
        ("recovery", "Class by class", sections.recovery(audit, _classes(meta))),
        ("asked", "What was asked", asked(audit, _classes(meta))),
        ("leaks", "Training data that leaked", leaks(audit)),
        ("privacy", "What the API gives away of its data", aftermath.privacy(audit)),
        ("copies", "What the copy is good for", aftermath.copies(audit)),
        ("marks", "If it is stolen anyway", aftermath.marks(audit)),
        ("controls", "Controls", sections.controls(audit)),
        ("flags", "Flags", _flags(audit, meta)),
        ("frameworks", "Security frameworks", frameworks.section(audit, meta)),
        ("ran", "What was run", _ran(audit, meta)),
    ]
    there = [(anchor, title, part) for anchor, title, part in body if part]
    title = f"Portcullis audit: {meta.get('title') or _victim(audit, meta).partition(' (')[0]}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="generator", content="portcullis"),
        el("title", title),
        el("style", Html(files("portcullis_ml.report").joinpath("page.css").read_text(encoding="utf-8"))),
    )
    main = el(
        "main",
        _first(audit, meta, verdict, title),
        _details(audit, meta, verdict),
        [el("section", el("h2", title), part, id=anchor) for anchor, title, part in there],
    )
    contents = el("nav", [el("a", title, href=f"#{a}") for a, title, _ in there], aria_label="Sections")
    shown = el("body", el("a", "To the answer", href="#answer", class_="skip"), contents, main)
    return f"<!doctype html>\n{el('html', head, shown, lang='en')}\n"


def _first(audit: Audit, meta: Mapping[str, Any], verdict: Verdict, title: str) -> Html:
    """The first page, for whoever decides: the answer in a sentence, and what follows from it."""
    parts = summary(audit, meta, verdict, meta.get("limit"))
    return el(
        "header",
        el("p", title, class_="title"),
        el("h1", _quiet(verdict.headline)),
        el("p", _quiet(verdict.lead), class_="lead") if verdict.lead else None,
        el("dl", [[el("dt", what), el("dd", _quiet(said))] for what, said in parts], class_="first"),
        id="answer",
    )


def _details(audit: Audit, meta: Mapping[str, Any], verdict: Verdict) -> Html:
    """What the verdict rests on, every defense in a line, and the settings to take along."""
    notes = [el("li", c) for c in verdict.caveats]
    if meta.get("quick"):
        notes.insert(0, el("li", "This was a quick look, with fewer seeds and rows than a claim needs."))
    raised = {f["id"] for f in flags_raised(audit, meta)}
    if raised:
        link = el("a", count(len(raised), "flag"), href="#flags")
        notes.insert(0, el("li", link, " raised: read what may flatter these figures."))
    return el(
        "section",
        el("h2", "For the engineer"),
        el("p", join(verdict.detail, " "), class_="detail") if verdict.detail else None,
        el("ul", notes, class_="caveats") if notes else None,
        sections.glance(audit, meta.get("deployed")) if any(p.done for p in audit.pairs.values()) else None,
        _recommended(audit, meta),
        id="engineer",
    )


def _quiet(sentence: str) -> Html:
    """The sentence with its intervals in small print."""
    return join(el("small", part) if part.startswith("[") else part for part in re.split(r"(\[[^\[\]]*\])", sentence))


def _recommended(audit: Audit, meta: Mapping[str, Any]) -> Html | None:
    """The gate's settings, or why there are none."""
    if all(d == NONE for d in audit.defenses):
        return None
    text = settings(audit)
    if text is None:
        why = "no defense here is shown to hold the thief back"
        if audit.helps and audit.best and not audit.pays(audit.best):
            why = "what holds the thief back here costs honest clients more than it takes from the thief"
        elif audit.helps and audit.best and not audit.spares(audit.best):
            why = "what holds the thief back here may cost honest clients more than a recommendation may"
        return el("p", f"No settings are recommended: {why}.", class_="detail")
    return el(
        "section",
        el("h2", "Recommended settings for the gate"),
        el("pre", el("code", text), tabindex=0),
        el("p", why, class_="detail") if (why := unfit(audit, meta)) else None,
        class_="settings",
    )


def _flags(audit: Audit, meta: Mapping[str, Any]) -> Html:
    """Whatever may flatter a defense or an attack: raised where, why it matters, what to do."""
    raised: dict[str, list[tuple[str, str]]] = {}
    for f in flags_raised(audit, meta):
        raised.setdefault(f["id"], []).append((where_said(f.get("where", "audit")), f.get("detail", "")))
    if not raised:
        return el("p", "No flag was raised: none of the checks found what would flatter a defense or an attack.")
    texts = meta.get("flag_texts") or {}
    return join([flag(name, where, texts.get(name) or {}) for name, where in raised.items()])


def flag(name: str, found: Sequence[tuple[str, str]], text: Mapping[str, Any]) -> Html:
    seen = dict.fromkeys(found)
    items = [el("li", el("b", where), f": {detail}" if detail else None) for where, detail in seen]
    terms = [("Raised if", "raised_if"), ("Why it matters", "why"), ("What to do", "what_to_do")]
    return el(
        "article",
        el("h3", el("span", "⚑ ", aria_hidden="true"), str(text.get("title") or name.replace("_", " "))),
        el("dl", [[el("dt", word), el("dd", text[key])] for word, key in terms if text.get(key)]),
        el("ul", items) if len(items) <= 4 else disclosure(f"Raised in {count(len(items), 'place')}", el("ul", items)),
        class_="flag",
    )


def _ran(audit: Audit, meta: Mapping[str, Any]) -> Html:
    """Versions, seeds, times, splits, threat models, and the command that makes this page."""
    records = audit.records
    models = [r.get("threat_model") or {} for r in records if r.get("role", "attack") == "attack"]
    tags = dict.fromkeys(threat({k: v for k, v in m.items() if k != "queries"}) for m in models)  # budgets stand below
    allowed = dict.fromkeys(str(m["authorised_by"]) for m in models if m.get("authorised_by"))
    versions = dict.fromkeys(f"{k} {v}" for r in records for k, v in (r.get("versions") or {}).items())
    budgets = sorted({int(r["cell"].get("budget", 0)) for r in records if r.get("role", "attack") == "attack"})
    seconds = sum(float(r.get("seconds", 0)) for r in records)
    took = f"{duration(seconds)} of computing" if seconds else "not recorded"
    if meta.get("seconds"):
        took += f", {duration(float(meta['seconds']))} on the clock"
    facts: list[tuple[str, object]] = [
        ("Command", el("code", str(meta["command"])) if meta.get("command") else "not recorded"),
        ("Victim", _victim(audit, meta)),
        ("Variance explained" if audit.numbers else "Its accuracy", _accuracy(audit, meta)),
        ("Data", listed(dict.fromkeys(_name(r["cell"].get("data")) for r in records)) or "not recorded"),
        ("Splits", _data(meta).get("split") or "not recorded"),
        ("Rows", ", ".join(f"{_data(meta)[k]:,} {k}" for k in ("test", "pool", "seeds") if _data(meta).get(k))),
        ("Threat model", [el("div", t) for t in tags] or "not stated"),
        ("Seeds", f"{len(audit.seeds)} ({', '.join(map(str, audit.seeds))})"),
        ("Budgets", ", ".join(f"{b:,}" for b in budgets) + " queries" if budgets else "none"),
        ("Time", took),
        ("Versions", ", ".join(versions) or "not recorded"),
        ("Device", meta.get("device")),
        ("Authorized by", listed(allowed)),
        ("Started", meta.get("started")),
    ]
    listing = el("dl", [[el("dt", word), el("dd", fact)] for word, fact in facts if fact], class_="facts")
    how = el(
        "p",
        "Intervals are at 95%. Over seeds they are Student's t around the mean, and never narrower than the seeds' own "
        "intervals over the test rows; with one seed they are over the rows alone. n says what was counted.",
    )
    return join([listing, how, [el("p", str(note)) for note in meta.get("notes") or ()], _cells(audit)])


def _cells(audit: Audit) -> Html:
    """Every record in a line."""
    rows = [
        [
            f"{r['attack']}, {'no defense' if r['defense'] == NONE else r['defense']}",
            f"{int(r['cell'].get('budget', 0)):,}",
            r["cell"].get("seed", 0),
            r["outcome"],
            _main(r, audit.measure),
            f"{int(r.get('queries', 0)):,}",
            duration(float(r.get("seconds", 0))),
            r.get("reason") or (r.get("stopped") if r.get("stopped") != "done" else ""),
            el("code", r["id"]),
        ]
        for r in audit.records
    ]
    head = ["Attack and defense", "Budget", "Seed", "Outcome", "Measured", "Paid", "Time", "Why", "Cell"]
    return disclosure(f"All {count(len(rows), 'cell')}", table(head, rows, "Every cell that was run"))


def _main(record: Mapping[str, Any], measure: str) -> str:
    name = "utility" if record.get("role") == "honest" else measure
    e = estimate((record.get("measures") or {}).get(name))
    return f"{percent(e, 1)} ({e.n:,} {e.unit})" if e else ""


def _victim(audit: Audit, meta: Mapping[str, Any]) -> str:
    if meta.get("victim"):
        return _name(meta["victim"])
    names = dict.fromkeys(_name(r["cell"].get("victim")) for r in audit.records)
    return listed(n for n in names if n) or "the victim"


def _data(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    found = meta.get("data")
    return found if isinstance(found, Mapping) else {}


def _accuracy(audit: Audit, meta: Mapping[str, Any]) -> str | None:
    pair = audit.honest.get(NONE) or next(iter(audit.honest.values()), None)
    victim = meta.get("victim")
    kept, measured = ("r2", "victim_r2") if audit.numbers else ("accuracy", "accuracy")
    e = estimate(victim.get(kept)) if isinstance(victim, Mapping) else None
    e = e or (pair.measures.get(measured) if pair else None)
    return f"{percent(e, 1)} (n = {e.n:,} {e.unit})" if e else None


def _classes(meta: Mapping[str, Any]) -> Sequence[str]:
    interface = meta.get("interface")
    return (interface.get("classes") if isinstance(interface, Mapping) else None) or ()


def _name(thing: Any) -> str:
    if isinstance(thing, Mapping):
        digest = str(thing.get("sha256") or "")[:12]
        return f"{thing.get('name') or '?'}{f' ({digest})' if digest else ''}"
    return str(thing or "")

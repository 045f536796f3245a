"""The page of `portcullis privacy`: who can be named as a member, in words first, then curves, rows and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report import drawing as ink
from portcullis_ml.report.figures import key
from portcullis_ml.report.frame import flags_raised, framed
from portcullis_ml.report.leaks import picture, picture_shape
from portcullis_ml.report.markup import Child, Html, el, join, table
from portcullis_ml.report.numbers import count, duration, percent, points, span
from portcullis_ml.report.pairs import estimate

__all__ = ["Findings", "findings", "privacy_page", "rebuilt"]

READ = (("tpr_at_0.1_percent", 0.001, "1 in 1,000"), ("tpr_at_1_percent", 0.01, "1 in 100"))
STANDS_OUT = 0.1  # the greatest p-value of a row that is listed as exposed
PLACES = {"api": "the API", "copy": "the copy", "innocent": "a model without them"}
WORDS = {
    "ppv_at_prior_1_percent": "1 in 100 is one",
    "ppv_at_prior_10_percent": "1 in 10 is one",
    "precision_of_top_100": "top 100",
    "balanced_accuracy": "balanced accuracy",
    "auc": "area",
}


@dataclass(frozen=True)
class Findings:
    """The answer in words, and the records that it rests on.

    worst     the record of the attack on the API that names most members at the least rate that was read, or None
    measure   the name of that rate's measure;  rate: the rate;  odds: the rate in words
    """

    headline: str
    lead: str
    worst: Mapping[str, Any] | None
    measure: str
    rate: float
    odds: str


def findings(records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Findings:
    """What was found on the API, in words: at the least rate at which an attack clearly names members.

    Clearly is above the rate, and above what the same attack finds on a model without the candidates.
    """
    done = [r for r in _on(records, "api") if "auc" in r["measures"]]
    blank = {r["attack"]: r for r in _on(records, "innocent")}
    for measure, rate, odds in READ:
        clear = [r for r in done if _clear(r, blank.get(r["attack"]), measure, rate)]
        if clear:
            worst = max(clear, key=lambda r: r["measures"][measure]["value"])
            return Findings(*_said(worst, measure, odds, len(done)), worst, measure, rate, odds)
    measure, rate, odds = READ[-1]
    if read := [r for r in done if measure in r["measures"]]:
        worst = max(read, key=lambda r: r["measures"][measure]["value"])
        lead = (
            f"The strongest, {worst['attack']}, names {percent(_estimate(worst, measure), 1)} of the members where it "
            f"accuses {odds} of the others; guessing names {100 * rate:g}%."
        )
        headline = f"No attack here clearly tells members from others{_through(worst)}."
        return Findings(headline, lead, worst, measure, rate, odds)
    told = rebuilt(records)
    if told:
        return Findings(told[0], " ".join(told[1:]), None, measure, rate, odds)
    why = f"No attack could be measured on the API with {count(meta.get('non_members', 0), 'non-member')}."
    reasons = " ".join(dict.fromkeys(r["reason"] for r in _on(records, "api") if r["reason"]))
    return Findings(why, reasons, None, measure, rate, odds)


def _clear(record: Mapping[str, Any], blank: Mapping[str, Any] | None, measure: str, rate: float) -> bool:
    if measure not in record["measures"]:
        return False
    nothing = _estimate(blank, measure).value if blank and measure in blank["measures"] else 0.0
    return _estimate(record, measure).low > max(rate, nothing)


def _said(worst: Mapping[str, Any], measure: str, odds: str, attacks: int) -> tuple[str, str]:
    found = _estimate(worst, measure)
    low, high = round(1000 * found.low), round(1000 * found.high)
    headline = (
        f"Of 1,000 people in the training data a stranger can name {round(1000 * found.value):,} [{low:,}, {high:,}] "
        f"as members, where {odds} of the others is accused wrongly."
    )
    who = f"{worst['attack']}, the strongest of {count(attacks, 'attack')}{_through(worst)}"
    lead = f"By {who}, with {count(worst['queries'], 'query')}. The interval is over {found.n:,} members at 95%."
    return headline, lead


def _through(record: Mapping[str, Any]) -> str:
    return "" if record["defense"] == "none" else f" through {record['defense']}"


def rebuilt(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for every attack that guesses a column or rebuilds inputs."""
    lines = []
    for r in records:
        measures = {name: e for name in r["measures"] if (e := estimate(r["measures"][name]))}
        if "gain" in measures:
            gain, others = measures["gain"], measures["gain_others"]
            lines.append(
                f"On {_place(r)}, {r['notes']['column']} is guessed right for {percent(measures['guessed'], 1)} of the "
                f"members, without the model for {percent(measures['imputed'], 1)}: {points(gain)} more, and "
                f"{points(others)} more for people who were not trained on."
            )
        elif "nearest_mean" in measures:
            apart = measures.get("recognized")
            seen = f"; a classifier trained apart recognizes {percent(apart)}" if apart else ""
            lines.append(
                f"On {_place(r)}, {percent(measures['nearest_mean'])} of the rebuilt inputs resemble the mean of their "
                f"own class most{seen}."
            )
    return lines


def _columns(records: Sequence[Mapping[str, Any]]) -> Html | None:
    names = ("guessed", "imputed", "majority", "gain", "gain_others")
    rows: list[list[Child]] = [
        [r["notes"]["column"], _place(r), *(_cell(_estimate(r, name)) for name in names), f"{r['queries']:,}"]
        for r in records
        if "gain" in r["measures"]
    ]
    if not rows:
        return None
    sentence = (
        "A person's value in one column, guessed from the other columns and the model's answers. A forest that knows "
        "the same other people and never asks the model stands beside it: what the model tells is the gain over it. "
        "A gain for people who were not trained on is what it learnt of everybody."
    )
    head = ["Column", "On", "Guessed", "Without the model", "Most frequent", "Gain", "Gain for others", "Queries"]
    return join([el("p", sentence), table(head, rows, "Hidden columns", class_="stack")])


def _pictures(records: Sequence[Mapping[str, Any]]) -> Html | None:
    parts = []
    for r in records:
        found = r["notes"].get("pictures")
        if found and "nearest_mean" in r["measures"]:
            shape = picture_shape(found["shape"])
            rows = zip(found["recovered"], found["means"], found["nearest"], r["notes"]["classes"], strict=True)
            drawn = [
                el("div", picture(a, shape, f"Rebuilt, class {c}"), picture(b, shape, f"Mean of class {c}"),
                   picture(d, shape, f"Nearest member, class {c}"), class_="pair")
                for a, b, d, c in rows
            ]  # fmt: skip
            parts.append(join([el("h3", f"{r['attack']}, {_place(r)}"), el("div", drawn, class_="leaks")]))
    if not parts:
        return None
    sentence = (
        "Left: rebuilt from the model. Middle: the mean of the class's members. Right: the member that it resembles "
        "most. It is an average; it shows a person only where a class is one person."
    )
    return join([el("p", sentence), *[el("p", line) for line in rebuilt(records) if "rebuilt" in line], *parts])


def privacy_page(records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> str:
    """The whole document."""
    found = findings(records, meta)
    title = f"Privacy of {meta.get('title', 'a model')}"
    body = [
        ("named", "How many members can be named", _rates(records)),
        ("curves", "The whole curve", _curves(records)),
        ("exposed", "The most exposed rows", _exposed(found)),
        ("averages", "Predictive values and averages", _averages(records)),
        ("columns", "Hidden columns", _columns(records)),
        ("pictures", "What the model takes for its classes", _pictures(records)),
        ("controls", "Controls", _controls(records, meta)),
        ("flags", "Flags", flags_raised(meta)),
        ("ran", "What was run", _ran(records, meta)),
    ]
    return framed(title, found.headline, found.lead, meta, body)


def _rates(records: Sequence[Mapping[str, Any]]) -> Html | None:
    rows: list[list[Child]] = []
    for r in records:
        if r["cell"]["extra"]["on"] == "innocent" or (r["outcome"] == "done" and "roc" not in r["notes"]):
            continue
        row: list[Child] = [r["attack"], _place(r)]
        if r["outcome"] == "done":
            row += [_share(r["notes"]["fixed_fpr"][rate]) for rate in ("10", "1", "0.1", "0")] + [f"{r['queries']:,}"]
        else:
            row += [r["reason"], "", "", "", ""]
        rows.append(row)
    sentence = (
        "The share of members above a threshold that this share of the others passes. Thresholds are set on the others "
        "that were judged; a rate below one of them counts as none."
    )
    if not rows:
        return None
    head = ["Attack", "On", "at 10%", "at 1%", "at 0.1%", "at 0%", "Queries"]
    return join([el("p", sentence), table(head, rows, "Members named at false positive rates", class_="stack")])


def _curves(records: Sequence[Mapping[str, Any]]) -> Html | None:
    """True against false positives on two logarithmic axes, a panel for the API and one for the copy."""
    names = list(dict.fromkeys(r["attack"] for r in records if "roc" in r["notes"]))
    panels = []
    for on in ("api", "copy"):
        done = [r for r in _on(records, on) if "roc" in r["notes"]]
        if done:
            panels.append(el("figure", _panel(done, names, on), el("figcaption", f"On {PLACES[on]}")))
    return join([key(names), el("div", panels, class_="panels")]) if panels else None


def _panel(done: Sequence[Mapping[str, Any]], names: Sequence[str], on: str) -> Html:
    least = 0.5 / max(r["notes"]["non_members"] for r in done)

    def paint(axes: Any) -> None:
        axes.plot([least, 1], [least, 1], color=ink.PLAIN, lw=1, ls=(0, (2, 2)))
        for r in done:
            i, roc = names.index(r["attack"]), r["notes"]["roc"]
            points = [(x, y) for x, y in zip(roc["fpr"], roc["tpr"], strict=True) if y > 0]
            axes.plot([max(x, least) for x, _ in points], [y for _, y in points], color=ink.series(i),
                      ls=ink.DASHES[i % len(ink.DASHES)])  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(least, 1)
        axes.set_ylim(least, 1.1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
            axis.minorticks_off()
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("members found")

    said = "; ".join(f"{r['attack']} {percent(_estimate(r, 'auc'))}" for r in done)
    return ink.draw(f"roc-{on}", f"Curves on {PLACES[on]}; areas: {said}.", 380, 320, paint, left=58)


def _exposed(found: Findings) -> Html | None:
    if found.worst is None:
        return None
    attack, notes = found.worst["attack"], found.worst["notes"]
    rows = [
        [f"member {row['row']}", f"{row['suspicion']:.3g}", f"{row['p_value']:.2g}"]
        for row in notes["exposed"]
        if row["p_value"] <= STANDS_OUT
    ]
    if not rows:
        least = min((row["p_value"] for row in notes["exposed"]), default=1.0)
        rest = f"{attack} suspects {100 * least:.0f}% of the non-members as much as any member."
        return el("p", f"Nobody stands out: {rest}")
    named = notes["named_at_1_percent"]
    have = "has" if named == 1 else "have"
    sentence = (
        f"The rows of the members' file, counted from 0, that {attack} suspects most. The p-value is the share of "
        f"non-members that are suspected as much; {count(named, 'member')} {have} 1% or less. "
        "These are the people to tell, or the rows to leave out."
    )
    return join([el("p", sentence), table(["Row", "Suspicion", "p-value"], rows, "The most exposed rows")])


def _averages(records: Sequence[Mapping[str, Any]]) -> Html | None:
    rows: list[list[Child]] = [
        [r["attack"], _place(r), *(_cell(_estimate(r, name)) if name in r["measures"] else "" for name in WORDS)]
        for r in records
        if "roc" in r["notes"] and r["cell"]["extra"]["on"] != "innocent"
    ]
    if not rows:
        return None
    sentence = (
        "First, how many of the accused are members where one candidate in 100, or in 10, is one, at a false positive "
        "rate of 1%; then how many of the 100 most suspected are. Averages come last: they hide whether anybody can be "
        "named."
    )
    return join([el("p", sentence), table(["Attack", "On", *WORDS.values()], rows, "Averages", class_="stack")])


def _controls(records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Html:
    rows: list[list[Child]] = []
    blind = {name: estimate(e) for name, e in (meta.get("blind") or {}).items()}
    if blind.get("auc"):
        rows.append(["without the model", *(_cell(blind.get(name)) for name in ("tpr_at_1_percent", "auc"))])
    for r in _on(records, "innocent"):
        cells: list[Child] = [r["reason"], ""]
        if r["outcome"] == "done" and "roc" not in r["notes"]:
            continue
        if r["outcome"] == "done":
            cells = [_cell(_estimate(r, n)) if n in r["measures"] else "" for n in ("tpr_at_1_percent", "auc")]
        rows.append([f"{r['attack']}, on a model without the candidates", *cells])
    sentence = (
        "What is found where there is nothing to be found: by a forest that sees the candidates and never the model, "
        "and by every attack on a model that was trained on other rows. An attack counts as far as it goes beyond them."
    )
    return join([el("p", sentence), table(["Control", "at 1%", "area"], rows, "Controls", class_="stack")])


def _ran(records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Html:
    learner = meta.get("learner") or {}
    facts: list[tuple[str, object]] = [
        ("Command", el("code", str(meta.get("command", "")))),
        ("Victim", f"{meta['victim']['name']} ({str(meta['victim']['sha256'])[:12]})"),
        ("Candidates", f"{meta['members']:,} members and {meta['non_members']:,} non-members"),
        ("Answers", f"{meta['answers']}, through {meta['through']}, which the attacker knows"),
        ("Shadow models", ", ".join(f"{k} {v}" for k, v in learner.items())),
        ("Copy", meta.get("on")),
        ("Time", duration(float(meta.get("seconds", 0)))),
        ("Versions", ", ".join(f"{k} {v}" for k, v in (meta.get("versions") or {}).items())),
    ]
    notes = [el("p", str(note)) for note in meta.get("notes") or ()]
    one = "One victim was measured once: intervals are over candidates, and say nothing about another training run."
    listing = el("dl", [[el("dt", word), el("dd", fact)] for word, fact in facts if fact], class_="facts")
    return join([listing, el("p", one), *notes])


def _on(records: Sequence[Mapping[str, Any]], on: str) -> list[Mapping[str, Any]]:
    return [r for r in records if r["cell"]["extra"]["on"] == on]


def _place(record: Mapping[str, Any]) -> str:
    on = record["cell"]["extra"]["on"]
    return PLACES[on] if on != "api" or record["defense"] == "none" else f"the API through {record['defense']}"


def _estimate(record: Mapping[str, Any], name: str) -> Estimate:
    found = estimate(record["measures"][name])
    assert found is not None
    return found


def _cell(e: Estimate | None) -> Html | str:
    if e is None:
        return ""
    if e.value == 0 and e.low <= 0 and e.high >= 1:
        return "nobody is accused"
    return join([f"{percent(e, 1).partition(' ')[0]} ", el("small", span(e, 1))])


def _share(found: Sequence[float]) -> Html:
    value, low, high = found
    return join([f"{100 * value:.1f}% ", el("small", f"[{100 * low:.1f},\N{NO-BREAK SPACE}{100 * high:.1f}]")])

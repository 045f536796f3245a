"""The page of `portcullis privacy --text`: how far planted secrets stand out, and what the model recites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.report import drawing as ink
from portcullis_ml.report.frame import flags_raised, framed
from portcullis_ml.report.markup import Child, Html, disclosure, el, join, table
from portcullis_ml.report.numbers import count, duration
from portcullis_ml.report.pairs import estimate
from portcullis_ml.report.text_findings import (
    RANKINGS,
    best_ranking,
    bits,
    exposures,
    exposures_of,
    name_of,
    often,
    sampled,
    text_findings,
)

__all__ = ["text_page"]

Record = Mapping[str, Any]
QUOTED = 8  # samples


def text_page(records: Sequence[Record], meta: Mapping[str, Any]) -> str:
    """The whole document."""
    found = text_findings(records, meta)
    sections = [
        ("exposure", "How far planted secrets stand out", _exposure(records)),
        ("copied", "How much of what it writes is copied", _copied(records, meta)),
        ("samples", "What looks most like training text", _quotes(records)),
        ("controls", "Controls", _controls(records)),
        ("flags", "Flags", flags_raised(meta)),
        ("ran", "What was run", _ran(records, meta)),
    ]
    return framed(f"Privacy of {meta.get('title', 'a model of text')}", found.headline, found.lead, meta, sections)


def _exposure(records: Sequence[Record]) -> Html | None:
    record, found = exposures_of(records)
    if record is None:
        return None
    notes = record["notes"]
    sentence = (
        "Exposure is by how many bits the model narrows a secret down among all of its form, each canary a secret. A "
        f"secret that was never seen has {notes['null']:.2f} bits in the mean; with {notes['secrets']:.1f} bits "
        f"nothing is left to guess. By sampling, no more than {notes['most_by_sampling']:.1f} bits can be told; by "
        "extrapolation, a fit goes on."
    )
    rows: list[list[Child]] = [[often_, n, _small(by_fit), _small(by_rank)] for often_, n, by_fit, by_rank in
                               exposures(records)]  # fmt: skip
    head = ["In the text", "Canaries", "By extrapolation", "By sampling"]
    return join([
        el("p", sentence),
        el("figure", _points(record, list(found)), el("figcaption", "Every canary, and the means")),
        table(head, rows, "Exposure in bits, means with 95% intervals", class_="stack"),
    ])  # fmt: skip


def _points(record: Record, groups: Sequence[int]) -> Html:
    notes = record["notes"]
    by_group = {
        times: [e for e, o in zip(notes["by_extrapolation"], notes["repetitions"], strict=True) if o == times]
        for times in groups
    }

    def paint(axes: Any) -> None:
        axes.axhline(notes["null"], color=ink.PLAIN, lw=1, ls=(0, (2, 2)))
        axes.axhline(notes["secrets"], color=ink.STRONG, lw=1)
        for at, own in enumerate(by_group.values()):
            spread = [at + 0.24 * ((i * 0.618) % 1 - 0.5) for i in range(len(own))]  # beside each other
            axes.plot(spread, own, "o", ms=4, color=ink.series(0), alpha=0.6)
            axes.plot([at - 0.3, at + 0.3], [sum(own) / len(own)] * 2, color=ink.series(1))
        lines = ((1, "right", notes["null"], "never seen"), (0.01, "left", notes["secrets"], "nothing left to guess"))
        for place, side, level, words in lines:
            axes.annotate(words, (place, level), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                          ha=side, color=ink.PLAIN, fontsize=10)  # fmt: skip
        axes.set_xticks(range(len(groups)), [often(times) for times in groups])
        axes.set_ylim(0, max(notes["secrets"], *notes["by_extrapolation"]) * 1.12)
        axes.set_ylabel("exposure, bits")
        axes.set_xlabel("in the text")

    means = "; ".join(f"{often(t)} {sum(own) / len(own):.1f}" for t, own in by_group.items())
    return ink.draw("exposure", f"Exposure in bits by how often a canary stands in the text: {means}.", 440, 280, paint)


def _copied(records: Sequence[Record], meta: Mapping[str, Any]) -> Html | None:
    done = sampled(records)
    if not done:
        return None
    sentence = (
        f"A sample counts where {meta['match']} characters of it stand in the text, in exactly one document: what "
        "stands in many is common text, and nobody's secret. The attacker has no text; a ranking says which samples to "
        "look at first. Of samples that share half of their words in threes, one is kept."
    )
    rankings = [name for name in RANKINGS if any(name in r["notes"]["kept"] for r in done)]
    first: list[list[Child]] = [[name, *(_percent(r, f"{name}_100") for r in done)] for name in rankings]
    more: list[list[Child]] = [
        [f"{name_of(r)}, {name}", _percent(r, f"{name}_20"), _percent(r, f"{name}_100_any")]
        for r in done
        for name in r["notes"]["kept"]
    ]
    heads = ["Ranked by", *(f"Drawn by {name_of(r)}" for r in done)]
    rest = ["Drawn by, ranked by", "First 20", "First 100, in any number of documents"]
    return join([
        el("p", sentence),
        table(heads, first, "Of the first 100 samples, copied from one document, in percent", class_="stack"),
        disclosure("The first 20, and what stands in any number of documents",
                   table(rest, more, "Copied samples, in percent", class_="stack")),
    ])  # fmt: skip


def _quotes(records: Sequence[Record]) -> Html | None:
    """The first samples of the best ranking, with the longest run of each that stands in the text."""
    best = best_ranking(records)
    if best is None:
        return None
    record, ranking, _ = best
    items = [_quote(record["notes"]["quoted"][str(place)]) for place in record["notes"]["kept"][ranking][:QUOTED]]
    sentence = (
        f"The first samples drawn by {name_of(record)} and ranked by {ranking}; marked is the longest run that stands "
        "in the text, however short, with the document, counted from 0, that it stands in first. This page therefore "
        "quotes the text."
    )
    return join([el("p", sentence), el("ol", items, class_="quotes")])


def _quote(said: Mapping[str, Any]) -> Html:
    text, start, end = said["text"], said["start"], said["start"] + said["length"]
    where = f" of document {said['document']:,}" if said["length"] else ""
    more = f"; {count(said['held_by'], 'document')} hold a run that counts" if said["held_by"] > 1 else ""
    caption = el("small", f"{count(said['length'], 'character')}{where}{more}")
    return el("li", el("code", text[:start], el("mark", text[start:end]), text[end:]), caption)


def _controls(records: Sequence[Record]) -> Html | None:
    rows: list[list[Child]] = []
    record, found = exposures_of(records)
    if record is not None and 0 in found:
        rows.append([f"{count(found[0].n, 'canary')} that were never planted", _small(f"{bits(found[0])} bits")])
    for r in sampled(records):
        rows.append([f"all samples by {name_of(r)}, unranked, copied from one document", _percent(r, "all")])
        if "unseen" in r["measures"]:
            rows.append([f"samples by {name_of(r)} that repeat text that was not trained on", _percent(r, "unseen")])
    if not rows:
        return None
    sentence = "What is found where there is nothing to be found. An attack counts as far as it goes beyond this."
    return join([el("p", sentence), table(["Control", "Found"], rows, "Controls", class_="stack")])


def _ran(records: Sequence[Record], meta: Mapping[str, Any]) -> Html:
    learner = meta.get("learner") or {}
    text = meta["text"]
    references = ", ".join(meta.get("references") or ()) or "none"
    facts: list[tuple[str, object]] = [
        ("Command", el("code", str(meta.get("command", "")))),
        ("Model", f"{meta['model']['name']} ({str(meta['model']['sha256'])[:12]})"),
        ("Trained here as", ", ".join(f"{k} {v}" for k, v in learner.items())),
        ("Text", f"{text['name']}: {count(meta['documents'], 'document')}, {count(meta['characters'], 'character')}"),
        ("Attacker", f"{count(meta['unseen'], 'unseen document')}; reference models: {references}"),
        ("Queries", "; ".join(f"{r['attack']} {r['queries']:,}" for r in records if r["queries"])),
        ("Time", duration(float(meta.get("seconds", 0)))),
        ("Versions", ", ".join(f"{k} {v}" for k, v in (meta.get("versions") or {}).items())),
    ]
    one = (
        "A query is one next-token distribution. One model was measured once: intervals are over canaries and samples, "
        "and say nothing about another training run."
    )
    listing = el("dl", [[el("dt", word), el("dd", fact)] for word, fact in facts if fact], class_="facts")
    missing = [r["reason"] for r in records if r["reason"]]
    notes = [el("p", note) for note in dict.fromkeys([*missing, *map(str, meta.get("notes") or ())])]
    return join([listing, el("p", one), *notes])


def _percent(record: Record, name: str) -> Html | str:
    e = estimate(record["measures"].get(name))
    return _small(f"{100 * e.value:.1f}% [{100 * e.low:.1f},\N{NO-BREAK SPACE}{100 * e.high:.1f}]") if e else ""


def _small(text: str) -> Html:
    """ "8.1 [6.4, 9.8] bits" with the interval in small print."""
    value, bracket, rest = text.partition(" [")
    interval, _, behind = rest.partition("]")
    return join([value, " ", el("small", f"[{interval}]") if bracket else None, behind])

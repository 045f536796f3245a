"""What `portcullis privacy --text` found, in words and in rows that the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report.numbers import count, percent
from portcullis_ml.report.pairs import estimate

__all__ = [
    "TextFindings", "best_ranking", "bits", "exposures", "exposures_of", "name_of", "often", "precisions", "sampled",
    "text_findings", "worst_exposure",
]  # fmt: skip

Record = Mapping[str, Any]
FIRST = 100  # samples that the answer speaks of
RANKINGS = ("perplexity", "small", "medium", "zlib", "lowercase", "window")


@dataclass(frozen=True)
class TextFindings:
    headline: str
    lead: str


def exposures_of(records: Sequence[Record]) -> tuple[Record | None, dict[int, Estimate]]:
    """(the record of the canaries, the mean exposure for every number of repetitions); by extrapolation."""
    for r in records:
        named = {name: e for name in r["measures"] if (e := estimate(r["measures"][name]))}
        found = {int(n.rpartition("_")[2]): e for n, e in named.items() if n.startswith("exposure_by_extrapolation_")}
        if found:
            return r, dict(sorted(found.items()))
    return None, {}


def sampled(records: Sequence[Record]) -> list[Record]:
    """The records of attacks that drew samples."""
    return [r for r in records if "all" in r["measures"]]


def worst_exposure(records: Sequence[Record]) -> tuple[int, float] | None:
    """(how often they stand in the text, bits): the canaries with the greatest mean exposure."""
    found = {times: e.value for times, e in exposures_of(records)[1].items() if times}
    return max(found.items(), key=lambda pair: pair[1], default=None)


def best_ranking(records: Sequence[Record]) -> tuple[Record, str, Estimate] | None:
    """(record, ranking, share) of the first 100 samples that hold most text of one document."""
    found = []
    for r in sampled(records):
        for ranking in r["notes"]["kept"]:
            e = estimate(r["measures"].get(f"{ranking}_{FIRST}"))
            found += [(r, ranking, e)] if e else []
    return max(found, key=lambda each: each[2].value, default=None)


def often(times: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(times, f"{times:,} times")


def bits(e: Estimate) -> str:
    """ "8.1 [6.4, 9.8]", with a no-break space within the interval."""
    low, high = (f"{v:.1f}".replace("-", "−").replace("inf", "∞") for v in (e.low, e.high))
    return f"{e.value:.1f} [{low},\N{NO-BREAK SPACE}{high}]"


def name_of(record: Record) -> str:
    """How samples were drawn."""
    return str(record["cell"]["attack"].get("strategy", record["attack"]))


def text_findings(records: Sequence[Record], meta: Mapping[str, Any]) -> TextFindings:
    """The answer: how far planted secrets stand out, else how many samples were copied, else why nothing is known."""
    canaries, found = exposures_of(records)
    copied = _copied(records, meta)
    if canaries is not None:
        headline, lead = _stood_out(canaries, found)
        return TextFindings(headline, " ".join([*lead, *copied]))
    if copied:
        return TextFindings(copied[0], " ".join([*copied[1:], *_reasons(records)]))
    return TextFindings("Nothing could be measured on this model.", " ".join(_reasons(records)))


def _reasons(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(r["reason"] for r in records if r["reason"]))


def _stood_out(record: Record, found: Mapping[int, Estimate]) -> tuple[str, list[str]]:
    """Headline and lead about canaries. Clear is a mean whose interval is above the null and what never stood there."""
    null, secret = record["notes"]["null"], record["notes"]["secrets"]
    nothing = max(null, found[0].value if 0 in found else null)
    clear = {times: e for times, e in found.items() if times and e.low > nothing}
    most = max((times for times in found if times), key=lambda times: found[times].value)
    lead = []
    if not clear:
        headline = "No planted secret clearly stands out from those that were never planted."
        lead.append(f"The strongest stand {often(most)} in the text and have {bits(found[most])} bits in the mean.")
    else:
        least = min(clear)
        headline = _ranked(least, clear[least], secret)
        said = f"That is {bits(clear[least])} bits in the mean of {count(clear[least].n, 'canary')}"
        if most != least:
            said += f"; {bits(found[most])} where they stand {often(most)}"
        lead.append(f"{said}. With {secret:.1f} bits nothing is left to guess.")
    if 0 in found:
        lead.append(f"Canaries that were never planted have {bits(found[0])}, where {null:.2f} is expected.")
    return headline, lead


def _ranked(times: int, e: Estimate, secret: float) -> str:
    who = f"A secret that stands {often(times)} in the text"
    if e.value >= secret:
        return f"{who} is the likeliest of all {2**secret:,.0f} of its form to whoever asks the model."
    low, high = (min(max(v, 0), secret) for v in (e.low, e.high))
    return (
        f"{who} is among the likeliest 1 in {2**e.value:,.0f} [{2**low:,.0f},\N{NO-BREAK SPACE}{2**high:,.0f}] of its "
        "form to whoever asks the model; by chance it would be 1 in 3."
    )


def _copied(records: Sequence[Record], meta: Mapping[str, Any]) -> list[str]:
    """How many samples repeat the text, in one sentence or none."""
    best = best_ranking(records)
    if best is None:
        return []
    record, ranking, e = best
    tried = sum(len(r["notes"]["kept"]) for r in sampled(records))
    held = f"{meta['match']} characters or more of a single document"
    if not e.value:
        return [f"Of the samples that look most like training text, none repeats {held}."]
    return [
        f"Of the {count(e.n, 'sample')} that look most like training text, {percent(e)} repeat {held}: drawn by "
        f"{name_of(record)} and ranked by {ranking}, the best of {count(tried, 'ranking')}."
    ]


def exposures(records: Sequence[Record]) -> list[list[str]]:
    """Rows of the table of exposures: how often, canaries, by extrapolation, by sampling."""
    record, found = exposures_of(records)
    if record is None:
        return []
    sampling = {times: estimate(record["measures"][f"exposure_by_sampling_{times}"]) for times in found}
    return [[often(t), f"{e.n:,}", bits(e), bits(s) if (s := sampling[t]) else ""] for t, e in found.items()]


def precisions(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """(head, rows): of every ranking's first 100 the share that is copied from one document, by strategy."""
    done = sampled(records)
    head = ["ranked by", *map(name_of, done)]
    rows = []
    for ranking in RANKINGS:
        cells = [estimate(r["measures"].get(f"{ranking}_{FIRST}")) for r in done]
        if any(cells):
            rows.append([ranking, *(_share(e) for e in cells)])
    if done:
        rows.append(["all samples", *(_share(estimate(r["measures"]["all"])) for r in done)])
    if any("unseen" in r["measures"] for r in done):
        rows.append(["from unseen text", *(_share(estimate(r["measures"].get("unseen"))) for r in done)])
    return head, rows


def _share(e: Estimate | None) -> str:
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]" if e else ""

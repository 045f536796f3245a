"""The report's first page, for whoever decides: what was asked, what it costs a thief, what to do, how sure it is.

Everything is said by the verdict and the section on defenses; here it is chosen and put in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from portcullis_ml.report.choice import answer
from portcullis_ml.report.numbers import count
from portcullis_ml.report.policy import logs_first
from portcullis_ml.report.raised import Limit, flags_raised
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.saved import bill, labelled
from portcullis_ml.report.verdict import Verdict

__all__ = ["summary", "unfit"]

SHOWN = {"probs": "all probabilities", "top_k": "the greatest scores", "labels": "the class alone"}


def summary(audit: Audit, meta: Mapping[str, Any], verdict: Verdict, limit: Limit | None) -> list[tuple[str, str]]:
    """(what, sentences) in the order of the page; what has nothing to say is left out. The answer is not among them."""
    parts = {
        "The question": _asked(audit, meta),
        "What it costs a thief": _costs(audit),
        "What to do": _to_do(audit, meta, verdict, limit),
        "How sure this is": _sure(audit, meta),
    }
    return [(what, text) for what, sentences in parts.items() if (text := " ".join(sentences))]


def unfit(audit: Audit, meta: Mapping[str, Any]) -> str:
    """Why the policy lets a watch of the recommended guard log only; "" where it does not."""
    shape = (meta.get("interface") or {}).get("input_shape")
    cells = (r["cell"] for r in audit.records if r["defense"] == audit.recommended)
    cell: Mapping[str, Any] = next(cells, {})
    if shape is None or not any("detector" in s and logs_first(s, shape) for s in cell.get("defense") or ()):
        return ""
    return (
        "The policy beside this page lets its watch log only, since the default threshold is not known to fit such "
        "inputs: record some days of honest clients, then run portcullis calibrate."
    )


def _asked(audit: Audit, meta: Mapping[str, Any]) -> Iterator[str]:
    victim = meta.get("victim")
    name = (victim.get("name") if isinstance(victim, Mapping) else victim) or "the model"
    shown = SHOWN.get(str((meta.get("interface") or {}).get("reveals")), "its answers")
    shown = "one number a row" if audit.numbers else shown
    defended = len([d for d in audit.defenses if d != NONE])
    behind = f", without a defense and behind {count(defended, 'one')}" if defended else ""
    behind = behind.replace("1 one", "one").replace("ones", "defenses")
    tries = f"{count(len(audit.attacks), 'attack')} with up to {count(audit.budget, 'query')}{behind}."
    yield f"How well can a stranger copy {name} through an API that shows {shown}? Tried by {tries}"


def _costs(audit: Audit) -> Iterator[str]:
    strongest = audit.strongest
    if strongest is None:
        return
    yield f"{count(strongest.queries, 'query')}, by {strongest.words}.".capitalize()
    if audit.own is not None:
        yield bill(strongest.queries, labelled(audit.own), audit.prices, None)


def _to_do(audit: Audit, meta: Mapping[str, Any], verdict: Verdict, limit: Limit | None) -> Iterator[str]:
    if limit is not None and not limit.passed:
        yield limit.sentence
    if verdict.kind in ("withheld", "nothing"):
        yield "Nothing follows for a defense from this audit: see below what to try."
    elif all(d == NONE for d in audit.defenses):
        yield "Audit again with defenses: none was tried."
    else:
        yield answer(audit)
        yield unfit(audit, meta)
        if audit.recommended:
            yield "Serve it in observe mode first, with a name for every client."


def _sure(audit: Audit, meta: Mapping[str, Any]) -> Iterator[str]:
    copy = audit.strongest.copy if audit.strongest else None
    rows = (meta.get("data") or {}).get("test") if isinstance(meta.get("data"), Mapping) else None
    judged = f", judged on {rows:,} test rows" if rows else ""
    if copy is not None:
        yield f"{count(len(audit.seeds), 'repetition')}{judged}; brackets hold 95% intervals."
    if len(audit.seeds) < 5:
        yield "So few repetitions are a first look; five or more make a claim."
    raised = len({f["id"] for f in flags_raised(audit, meta)})
    yield (
        f"{count(raised, 'flag')} raised: they say what may flatter these figures." if raised else "No flag was raised."
    )

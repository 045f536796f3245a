"""The certificate of `portcullis verify`: one page that says what a claim proves of a suspect, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from portcullis_ml.report.markup import Child, Html, el, table
from portcullis_ml.report.numbers import count

__all__ = ["certificate", "fewest"]

HELD, SKIPPED = "holds", "not reached"


def certificate(verdict: Mapping[str, Any]) -> str:
    """The whole document, of what verdict.json holds. Everything but `verdict` and `sentence` may be left out."""
    title = f"Portcullis certificate: {verdict.get('scheme') or 'a claim'} on {verdict.get('suspect') or 'a suspect'}"
    headline, lead = _said(verdict)
    sections = [
        ("The answers", _answers(verdict)),
        ("What was checked", _checked(verdict)),
        ("What is assumed", _assumed(verdict)),
        ("The claim", _claim(verdict)),
    ]
    style = Html(files("portcullis_ml.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="generator", content="portcullis"),
        el("title", title),
        el("style", style),
    )
    top = el(
        "header",
        el("p", title, class_="title"),
        el("h1", headline),
        el("p", lead, class_="lead") if lead else None,
    )
    main = el("main", top, [el("section", el("h2", name), part) for name, part in sections if part])
    return f"<!doctype html>\n{el('html', head, el('body', main, class_='certificate'), lang='en')}\n"


def fewest(n: int, chance: float, level: float) -> int | None:
    """The least number of matches in n answers whose p-value is below the level, each matching with this chance."""
    from scipy.special import bdtrc

    return next((k for k in range(1, n + 1) if bdtrc(k - 1, n, chance) < level), None)


def _said(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """(headline, the rest) of the verdict's sentence."""
    first, _, rest = str(verdict["sentence"]).partition(". " if verdict["verdict"] == "unanchored" else ": ")
    return f"{first.rstrip('.')}.", rest[:1].upper() + rest[1:]


def _answers(verdict: Mapping[str, Any]) -> Html | None:
    """How many marked questions were answered as marked, beside what an innocent model would do."""
    found = verdict.get("evidence")
    if not found or not found["n"]:
        return None
    n, notes = int(found["n"]), found.get("notes") or {}
    rows: list[list[Child]] = [["The suspect", _bar(found["matches"], n)]]
    if "null_chance" in notes:
        needed = fewest(n, notes["null_chance"], found["level"])
        rows.append([f"Fewest that convict, at p < {found['level']:g}", "none" if needed is None else _bar(needed, n)])
        rows.append(["Expected of an innocent model, at most", _bar(n * notes["null_chance"], n)])
    if notes.get("innocent_shares"):
        most = f"The most of {count(len(notes['innocent_shares']), 'innocent model')} that were asked"
        rows.append([most, _bar(n * max(notes["innocent_shares"]), n)])
    head = ["Answered as marked", f"of {n}"]
    return table(head, rows, "Marked questions answered as marked", class_="glance")


def _bar(matches: float, n: int) -> Html:
    return el("td", el("span", f"{matches:.3g}", class_="bar", style=f"--share:{100 * matches / n:.1f}%"))


def _checked(verdict: Mapping[str, Any]) -> Html:
    """Every check in order. None is made after one that does not hold."""
    word, anchor, found = verdict["verdict"], verdict.get("anchor"), verdict.get("evidence")
    if word == "false":
        rows: list[list[Child]] = [["Links, signature, time token", "one does not hold", _said(verdict)[1]]]
        rows.append(["Answers of the suspect", SKIPPED, ""])
        return table(["Check", "Result", "Details"], rows, "What was checked, in order", class_="stack")
    rows = [["Commitment, openings, log", HELD, _links(verdict)]]
    signature = verdict.get("signature")
    if signature:
        known = "the key that the verifier named" if signature["named"] else "a key that the verifier did not name"
        rows.append(["Signature", HELD, f"by {known}, {signature['key']}"])
    else:
        rows.append(["Signature", "none", "the bundle does not say whose it is"])
    date = "not before the suspect" if word == "unanchored" else HELD
    times = [f"committed to on or before {_moment(anchor['at'])}"] if anchor else []
    times += [f"suspect released on {_moment(verdict['released'])}"] if verdict.get("released") else []
    rows.append(["Date", date, "; ".join(times)])
    asked = ""
    if found:
        asked = f"p = {found['p_value']:.2g}; {found['null']}; {count(found['queries'], 'query')} paid"
        tried = found["tried"]
        asked += f"; {found['accused']} of {tried} innocent models accused" if tried else "; no innocent model asked"
    rows.append(["Answers of the suspect", word if found else SKIPPED, asked])
    return table(["Check", "Result", "Details"], rows, "What was checked, in order", class_="stack")


def _moment(text: str) -> str:
    """An ISO time in UTC as people read it."""
    return f"{text[:19].replace('T', ' ')} UTC"


def _links(verdict: Mapping[str, Any]) -> str:
    shown = verdict.get("pairs_shown")
    return f"{shown} of {verdict['pairs_committed']} pairs opened, chosen by the challenge" if shown else ""


def _assumed(verdict: Mapping[str, Any]) -> Html | None:
    found = verdict.get("evidence")
    sentences = list(found["assumed"]) if found else []
    return el("ul", [el("li", s) for s in sentences], class_="notes") if sentences else None


def _claim(verdict: Mapping[str, Any]) -> Html:
    facts = [
        ("Suspect", verdict.get("suspect")),
        ("Asked at", verdict.get("suspect_asked")),
        ("Authorized by", verdict.get("authorized_by")),
        ("Scheme", verdict.get("scheme")),
        ("Nonce", verdict.get("nonce")),
        ("Commitment", verdict.get("commitment") and el("code", verdict["commitment"])),
        ("Bundle", verdict.get("bundle") and el("code", verdict["bundle"])),
        ("Checked", verdict.get("checked_at") and _moment(verdict["checked_at"])),
        ("Program", verdict.get("program")),
    ]
    listing = el("dl", [[el("dt", word), el("dd", fact)] for word, fact in facts if fact], class_="facts")
    again = "Commitment and Bundle are SHA-256. Whoever has the bundle can check all of this again: portcullis verify."
    return el("div", listing, el("p", again, class_="detail"))

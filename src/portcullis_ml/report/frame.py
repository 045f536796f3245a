"""The frame of a page of `portcullis privacy`: the answer first, then sections with a list of contents, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from portcullis_ml.report.markup import Html, el, join
from portcullis_ml.report.numbers import count
from portcullis_ml.report.page import flag

__all__ = ["flags_raised", "framed"]

Section = tuple[str, str, Html | None]  # (anchor, heading, what it shows; None leaves it out)


def framed(title: str, headline: str, lead: str, meta: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The whole document; `meta` says which flags were raised."""
    there = [(anchor, heading, part) for anchor, heading, part in sections if part]
    style = Html(files("portcullis_ml.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="generator", content="portcullis"),
        el("title", f"Portcullis: {title}"),
        el("style", style),
    )
    shown = [el("section", el("h2", heading), part, id=anchor) for anchor, heading, part in there]
    contents = el("nav", [el("a", heading, href=f"#{a}") for a, heading, _ in there], aria_label="Sections")
    skip = el("a", "To the answer", href="#answer", class_="skip")
    main = el("main", _answer(title, headline, lead, meta), shown)
    return f"<!doctype html>\n{el('html', head, el('body', skip, contents, main), lang='en')}\n"


def _answer(title: str, headline: str, lead: str, meta: Mapping[str, Any]) -> Html:
    """The answer in words, and whether a flag was raised."""
    raised = len({f["id"] for f in meta.get("flags") or ()})
    link = el("a", count(raised, "flag"), href="#flags")
    caveat = el("ul", el("li", link, " raised: read what may flatter these figures."), class_="caveats")
    return el(
        "header",
        el("p", title, class_="title"),
        el("h1", headline),
        el("p", lead, class_="lead"),
        caveat if raised else None,
        id="answer",
    )


def flags_raised(meta: Mapping[str, Any]) -> Html:
    """Every flag that was raised, with what it means."""
    raised: dict[str, list[tuple[str, str]]] = {}
    for f in meta.get("flags") or ():
        raised.setdefault(f["id"], []).append(("here", f.get("detail", "")))
    if not raised:
        return el("p", "No flag was raised.")
    texts = meta.get("flag_texts") or {}
    return join([flag(name, where, texts.get(name) or {}) for name, where in raised.items()])

"""HTML that cannot be spelled wrongly: elements are calls, and every text is escaped unless it is already HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["Html", "disclosure", "el", "join", "table"]

VOID = frozenset({"br", "hr", "meta", "link", "img", "input", "col", "wbr"})


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


Child = object  # Html, a string or number to be escaped, None for nothing, or a list of these


def el(tag: str, *children: Child, **attributes: object) -> Html:
    """`el("td", "84%", class_="worst", data_sort=0.84)`; attributes that are None or False are left out."""
    spelled = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Html(f"<{tag}{spelled}>")
    return Html(f"<{tag}{spelled}>{join(children)}</{tag}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """The children one after another, escaped where they are not HTML."""
    return Html(between.join(_text(child) for child in children))


def table(head: Sequence[str], rows: Iterable[Iterable[Child]], caption: str, **attributes: object) -> Html:
    """A table whose first column names the row, in a wrapper that scrolls by itself on a narrow screen.

    A child that is a <td> already stands as it is. A table of class "stack" is folded into blocks on a
    phone, where every cell is preceded by the head of its column.
    """
    top = el("tr", [el("th", h, scope="col") for h in head])
    body = [el("tr", [_cell(i, head, c) for i, c in enumerate(row)]) for row in rows]
    whole = el("table", el("caption", caption), el("thead", top), el("tbody", body), **attributes)
    return el("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def disclosure(summary: Child, *children: Child, **attributes: object) -> Html:
    return el("details", el("summary", summary), *children, **attributes)


def _cell(i: int, head: Sequence[str], child: Child) -> Html:
    if isinstance(child, Html) and child.startswith("<td"):
        return child
    if i == 0:
        return el("th", child, scope="row")
    return el("td", child, data_head=head[i] if i < len(head) else None)


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    spelled = name.rstrip("_").replace("_", "-")
    return f" {spelled}" if value is True else f' {spelled}="{escape(str(value))}"'


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, list | tuple):
        return join(child)
    return escape(str(child))

"""Whose class is whose: labels as people write them, as numbers of the victim's columns.

Classes are compared as words and as numbers: 2, 2.0, "2" and "2.0" are one class, and so are True and "true". Where the
victim does not name its classes, whole numbers below their count are its columns; other labels are taken in their own
order (numbers by size, words by the alphabet), which is a guess, and `guess_of` says whether its answers bear it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from portcullis_ml.bench.rows import LabelledRows
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Labels

__all__ = ["doubt_of", "in_order", "numbered"]

SHOWN = 6  # classes in a sentence
SURPRISING = 0.2  # of the rows: by so much another order of the classes must agree better, to be worth a word


def in_order(have: Sequence[str], n_classes: int) -> tuple[str, ...]:
    """The classes of a victim of n_classes columns that does not name them, in the order of its columns.

    Raises InputError where there are too many.
    """
    if len(have) > n_classes:
        raise InputError(
            f"The victim answers {n_classes} classes; the tables hold {len(have)}: {_some(have)}. Name the right "
            "--target, or drop the rows of the others."
        )
    keys = [_key(word) for word in have]
    if all(isinstance(key, float) and key.is_integer() for key in keys):
        if all(0 <= key < n_classes for key in keys):  # type: ignore[operator]
            return tuple(map(str, range(n_classes)))
        return tuple(word for _, word in sorted(zip(keys, have, strict=True)))
    return tuple(have)


def numbered(rows: LabelledRows, known: Sequence[str], what: str, who: str = "The victim") -> LabelledRows:
    """The same rows, y being columns of the victim, whose classes are `known`.

    InputError where no class is the victim's, or one is not.
    """
    if rows.y is None:
        return rows
    held = np.unique(rows.y)
    words = rows.classes or ()
    have = {int(c): words[c] if words else str(int(c)) for c in held}
    place = _places(known)
    found = {c: place.get(word, place.get(_key(word), -1)) for c, word in have.items()}
    if not words and -1 in found.values() and held.min() >= 0 and held.max() < len(known):
        return replace(rows, classes=tuple(known))  # numbers in an array are columns, where they are not classes
    strange = [have[c] for c, column in found.items() if column < 0]
    if len(strange) == len(have):
        raise InputError(
            f"{what} and the victim have no class in common: {who.lower()} knows {_some(known)}, the rows are labelled "
            f"{_some(list(have.values()))}. Name the right --target, or say the rows' words for its columns, in order, "
            "with --classes."
        )
    if strange:
        raise InputError(
            f"{who} does not know the class {strange[0]!r}; it knows {_some(known)}. Drop those rows, or name the "
            "right --target."
        )
    table = np.full(int(held.max()) + 1, -1, np.int64)
    table[held] = [found[int(c)] for c in held]
    return replace(rows, y=table[rows.y], classes=tuple(known))


def doubt_of(y: Labels, scores: Array) -> str:
    """A sentence where another order of the classes agrees far better with the answers; "" where none does."""
    from scipy.optimize import linear_sum_assignment

    n = scores.shape[1]
    held = np.unique(y)
    if len(held) < 2:
        return ""
    counts = np.zeros((n, n))
    np.add.at(counts, (y, scores.argmax(axis=1)), 1)
    rows, columns = linear_sum_assignment(-counts)
    best, now = counts[rows, columns].sum() / len(y), np.trace(counts) / len(y)
    if best - now < SURPRISING:
        return ""
    return (
        f"{now:.0%} of the rows are answered as they are labelled; with the classes in another order it would be "
        f"{best:.0%}."
    )


def _places(known: Sequence[str]) -> dict[str | float, int]:
    """word, and what it means -> column. A meaning that two classes share is left out."""
    keys = [_key(word) for word in known]
    places: dict[str | float, int] = {key: j for j, key in enumerate(keys) if keys.count(key) == 1}
    if set(keys) == {"true", "false"}:
        places |= {1.0: keys.index("true"), 0.0: keys.index("false")}
    elif set(keys) == {0.0, 1.0}:
        places |= {"true": keys.index(1.0), "false": keys.index(0.0)}
    return places | {word: j for j, word in enumerate(known)}


def _key(word: str) -> str | float:
    """What a label means: a number where it is one."""
    text = word.strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return number if np.isfinite(number) else text


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more

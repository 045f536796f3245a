"""What a model takes of a table, as far as it is known before the table is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["NOTHING_KNOWN", "Taken", "Takes"]


@dataclass(frozen=True)
class Taken:
    """What is taken in one column.

    text     True: its values are text, whatever they look like; False: numbers, where they can be read as such;
             None: nobody knows
    words    values that the model knows, so "None" or "NA" may be one of them; None: any word is one
    missing  what the model knows a missing value as, or None where a row without a value cannot be asked
    """

    text: bool | None = None
    words: frozenset[str] | None = frozenset()
    missing: str | None = None

    def knows(self, value: str) -> bool:
        """Whether this cell holds one of the words that the model knows."""
        return bool(value.strip()) if self.words is None else value in self.words or value.strip() in self.words


@dataclass(frozen=True)
class Takes:
    """The columns that a model takes.

    named     by name, where the model knows names: then others are not taken
    placed    in order, where it does not; empty where nothing is known
    classes   the words of its labels; empty where they are not known
    said      what the user's schema says of columns, by name
    left_out  columns that the schema drops
    """

    named: Mapping[str, Taken] | None = None
    placed: Sequence[Taken] = ()
    classes: frozenset[str] = frozenset()
    said: Mapping[str, Taken] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()

    def of(self, names: Sequence[str]) -> dict[str, Taken]:
        """What is known of each column that counts, in the order of the table's columns `names`."""
        kept = [name for name in names if name not in self.left_out]
        if self.named is not None:
            if not set(self.named) - set(names):  # else somebody will say which column is missing
                kept = [name for name in kept if name in self.named]
            known = dict(self.named)
        else:
            known = dict(zip(kept, self.placed, strict=False)) if len(kept) == len(self.placed) else {}
        return {name: self._together(known.get(name, Taken()), self.said.get(name)) for name in kept}

    def takes(self, name: str, width: int) -> bool:
        """Whether a column is known as an input of the model, of a table of so many columns."""
        if self.named is not None:
            return name in self.named
        return bool(self.placed) and len(self.placed) == width - len(self.left_out)

    @staticmethod
    def _together(known: Taken, said: Taken | None) -> Taken:
        if said is None:
            return known
        words = None if known.words is None or said.words is None else known.words | said.words
        return replace(known, text=known.text if said.text is None else said.text, words=words)


NOTHING_KNOWN = Takes()

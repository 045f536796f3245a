"""Some rows of every account, and for each of them the nearest row that another account asked.

Memory is bounded: `cap` rows an account and `total` altogether; the oldest go first. What a row was found to be near to
is kept for as long as the row itself is.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Floats

__all__ = ["Account", "Sketches", "flatness"]

Singles = NDArray[np.float32]
Indices = NDArray[np.int64]
MOST = 1e15  # in absolute value, of a number that is compared; omitted ones count as 0
CHUNK = 256  # new rows that are compared with all others in one product


@dataclass
class Account:
    """What is kept of one account: how much it asked, when, and where its rows lie."""

    name: str
    rows: int = 0  # asked ever, repeated ones too
    slots: deque[int] = field(default_factory=deque)  # where its rows lie, the oldest first
    times: deque[float] = field(default_factory=deque)


@dataclass
class _Question:
    """A question that is held, and which accounts hold it. One that is asked again by its account is held once."""

    number: int
    owners: set[int] = field(default_factory=set)


class Sketches:
    """The rows that are held. `distance`, `flat` and `partner` (total,) describe each row's nearest row of another
    account: how far it is, `flatness` of the difference, and the account's number (-1 where there is none yet)."""

    def __init__(self, cap: int, total: int, distances: bool = True) -> None:
        self.cap, self.total, self.distances = cap, total, distances
        self.accounts: list[Account] = []
        self.numbers: dict[str, int] = {}
        self.questions: dict[bytes, _Question] = {}
        self.asked: list[bytes] = [b""] * total  # the question that lies in each slot
        self.x: Singles = np.empty((0, 0), np.float32)
        self.owner: Indices = np.full(total, -1)
        self.question: Indices = np.full(total, -1)
        self.at: Array = np.zeros(total)
        self.distance: Array = np.full(total, np.inf)
        self.flat: Array = np.full(total, np.inf)
        self.partner: Indices = np.full(total, -1)
        self._norms: Singles = np.zeros(total, np.float32)
        self._order: deque[int] = deque()  # slots in use, the oldest first
        self._free = list(range(total - 1, -1, -1))
        self._top = 0  # no slot from here on was ever used
        self._asked_ever = 0

    def add(self, name: str, x: Floats, at: float) -> None:
        """Take in what one account asked at a time: x (n, ...)."""
        if name not in self.numbers and len(self.accounts) >= 2 * self.total:
            self._forget_idle()
        rows = np.ascontiguousarray(x, np.float64).reshape(len(x), -1)
        if self.x.shape[1] != rows.shape[1]:
            self.x = np.zeros((self.total, rows.shape[1]), np.float32)
        number = self._number(name)
        account, new = self.accounts[number], list[int]()
        account.rows += len(rows)
        account.times.append(at)
        while len(account.times) > self.cap:
            account.times.popleft()
        for row in rows:
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if digest in self.questions and number in self.questions[digest].owners:
                continue  # asked again
            if len(account.slots) == self.cap or not self._free or len(new) == CHUNK:
                self._compare(new)  # with all that is held now, before anything makes room
                new = []
            new.append(self._place(number, row, digest, at))
        self._compare(new)

    def _number(self, name: str) -> int:
        if name not in self.numbers:
            self.numbers[name] = len(self.accounts)
            self.accounts.append(Account(name))
        return self.numbers[name]

    def _forget_idle(self) -> None:
        """Let go of accounts none of whose rows are held, and number the others anew."""
        kept = [i for i, account in enumerate(self.accounts) if account.slots]
        new = np.full(len(self.accounts) + 1, -1)  # the last one stands for -1
        new[kept] = np.arange(len(kept))
        self.owner, self.partner = new[self.owner], new[self.partner]
        gone = self.partner < 0
        self.distance[gone] = self.flat[gone] = np.inf
        self.accounts = [self.accounts[i] for i in kept]
        self.numbers = {account.name: i for i, account in enumerate(self.accounts)}
        for question in self.questions.values():
            question.owners = {int(new[i]) for i in question.owners}

    def _place(self, number: int, row: Array, digest: bytes, at: float) -> int:
        account = self.accounts[number]
        if len(account.slots) == self.cap:
            self._remove(account.slots[0])
        elif not self._free:
            self._remove(self._order[0])
        slot = self._free.pop()
        self._top = max(self._top, slot + 1)
        if digest not in self.questions:
            self._asked_ever += 1
            self.questions[digest] = _Question(self._asked_ever)
        found = self.questions[digest]
        found.owners.add(number)
        self.x[slot] = np.clip(np.nan_to_num(row), -MOST, MOST)
        self.asked[slot], self.owner[slot], self.question[slot] = digest, number, found.number
        self.at[slot], self.distance[slot], self.flat[slot], self.partner[slot] = at, np.inf, np.inf, -1
        self._norms[slot] = self.x[slot] @ self.x[slot]
        account.slots.append(slot)
        self._order.append(slot)
        return slot

    def _remove(self, slot: int) -> None:
        number, digest = int(self.owner[slot]), self.asked[slot]
        self.accounts[number].slots.remove(slot)
        self._order.remove(slot)
        found = self.questions[digest]
        found.owners.discard(number)
        if not found.owners:
            del self.questions[digest]
        self.owner[slot], self.question[slot] = -1, -1
        self._free.append(slot)

    def _compare(self, new: list[int]) -> None:
        """Bring the nearest rows up to date after rows were placed in the slots `new`."""
        if not new or not self.distances:
            return
        i, top = np.array(new), self._top
        owner, question = self.owner[:top], self.question[:top]
        squares = self._norms[:top] + self._norms[i][:, None] - 2 * (self.x[i] @ self.x[:top].T)
        own = (owner[i][:, None] == owner) | (question[i][:, None] == question) | (owner < 0)
        squares[own] = np.inf
        nearest, back = squares.argmin(axis=1), squares.argmin(axis=0)
        here = np.isfinite(squares[np.arange(len(i)), nearest])
        closer = squares[back, np.arange(top)] < np.square(self.distance[:top])
        closer[i] = False  # the new rows are seen to already
        earlier = np.flatnonzero(closer)
        self._note(np.concatenate([i[here], earlier]), np.concatenate([nearest[here], i[back[earlier]]]))

    def _note(self, i: Indices, j: Indices) -> None:
        """The rows j were found nearest to the rows i. Measured here to the last digit."""
        for part in range(0, len(i), CHUNK):
            a, b = i[part : part + CHUNK], j[part : part + CHUNK]
            difference = self.x[a].astype(np.float64) - self.x[b]
            distance = np.sqrt(np.square(difference).sum(axis=1))
            nearer = distance < self.distance[a]
            a, b = a[nearer], b[nearer]
            self.distance[a], self.partner[a] = distance[nearer], self.owner[b]
            self.flat[a] = flatness(difference[nearer])


def flatness(difference: Array) -> Array:
    """(n, d) differences of two rows -> (n,) mean fourth power over the squared mean square of the components.

    It is 1 where all components have one absolute value, 1 / p where a share p of them has and the others are 0,
    3 for Gaussian noise, and large where two pictures differ in a few places.
    """
    squared = np.square(difference)
    mean = squared.mean(axis=1)
    return np.asarray(np.square(squared).mean(axis=1) / np.maximum(np.square(mean), 1e-300))

"""The game of `dfme` and `maze`: a generator looks for inputs where copy and victim differ, the copy learns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface

if TYPE_CHECKING:
    from portcullis_ml.models.data_free import Players

__all__ = ["Asked", "Game", "check_game", "directions_of", "gradient_from", "network_for", "numbers_only"]

KEPT = 10  # copies that are noted on the way

Asked = tuple[Array, Array]  # rows (n, *input_shape) and what was answered (n, n_classes)


class Game:
    """Asks through the harvest for both players, and keeps the bill by what each row was for.

    latent   numbers of noise behind an input
    slower   share of the budget spent -> share of the first step sizes
    """

    def __init__(
        self,
        harvest: Harvest,
        interface: Interface,
        players: Players,
        rng: np.random.Generator,
        *,
        latent: int,
        slower: Callable[[float], float],
    ) -> None:
        self._harvest, self._interface, self.players, self._rng = harvest, interface, players, rng
        self._latent, self._slower = latent, slower
        self._before, self._budget = harvest.paid, harvest.left
        self.bill = {"copy": 0, "generator": 0, "directions": 0}
        harvest.notes["bill"] = self.bill

    @property
    def open(self) -> bool:
        return self._harvest.open

    def ask(self, n: int) -> Asked:
        """Fresh rows of the generator for the copy, n of them or as many as are left."""
        x = self.players.inputs(self._raw(n))
        return self._paid("copy", x)

    def move_generator(self, n: int, directions: int, step: float) -> Asked | None:
        """One step of the generator towards inputs where the copy is wrong; the rows it gave, and their answers.

        The victim's part in the slope is estimated from `directions` further questions a row. None, and nothing asked,
        where the budget does not reach that far; no step where the answers stop midway.
        """
        if self._harvest.left < n * (directions + 1):
            return None
        raw = self._raw(n)
        moves = directions_of(raw, directions, self._rng)
        base = self._paid("generator", self.players.inputs(raw))
        near = [self._paid("directions", self.players.inputs(raw + step * move)) for move in moves]
        if any(len(x) < n for x, _ in (base, *near)):
            return base
        at = self.players.losses(*base)
        gradient = gradient_from(at, np.stack([self.players.losses(*asked) for asked in near]), moves, step)
        self.players.move(gradient / n)
        return base

    def learn(self, asked: Asked) -> None:
        """One step of the copy towards these answers; rows that were withheld teach nothing."""
        x, targets = asked
        known = targets.sum(axis=1) > 0
        if known.any():
            self.players.learn(x[known], targets[known])

    def round_ended(self) -> None:
        """Slow the players down, and note the copy ten times on the way."""
        paid = self._harvest.paid - self._before
        self.players.slow_down(self._slower(paid / self._budget))
        if self._harvest.open and paid * KEPT // self._budget > len(self._harvest.history):
            self._harvest.keep(self.players.model())

    def _raw(self, n: int) -> Array:
        return self.players.raw(self._rng.standard_normal((n, self._latent)))

    def _paid(self, purpose: str, x: Array) -> Asked:
        before = self._harvest.paid
        answer = self._harvest.ask(x)
        self.bill[purpose] += self._harvest.paid - before
        return x[: len(answer)], answer.soft(self._interface.n_classes)


def directions_of(raw: Array, directions: int, rng: np.random.Generator) -> Array:
    """(directions, n, d) directions of length 1, drawn evenly."""
    moves = rng.standard_normal((directions, *raw.shape))
    return np.asarray(moves / np.linalg.norm(moves, axis=2, keepdims=True))


def gradient_from(at: Array, near: Array, moves: Array, step: float) -> Array:
    """(n, d) the estimated slope of a loss by forward differences: (n,) at the rows, (m, n) a step along each move
    (m, n, d) away. The mean over evenly drawn moves of length 1 shows one dth of the slope, so it is taken d times."""
    m, _, d = moves.shape
    return np.asarray(d / m * np.einsum("mn,mnd->nd", (near - at) / step, moves))


def network_for(network: str | None, interface: Interface) -> str:
    """The copy's network: the one asked for, or a small one; without batch normalisation pictures are learnt slowly."""
    return network or ("table_mlp" if len(interface.input_shape) == 1 else "picture_flat")


def numbers_only(name: str, interface: Interface) -> None:
    """Raise AttackFailed for tables with categories, along which nothing has a slope."""
    for feature in interface.features or ():
        if feature.categorical:
            raise AttackFailed(
                f"{name} moves its questions by small steps; column {feature.name!r} is a category. Offer the API's "
                "encoded columns, or try retraining."
            )


def check_game(unit: object) -> None:
    """Check the settings that both attacks have."""
    for name in ("copy_steps", "directions", "latent", "maps"):
        check(unit, name, "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
    check(unit, "batch", "an int, at least 2", lambda v: isinstance(v, int) and v >= 2)
    for name in ("step", "lr", "lr_generator"):
        check(unit, name, "a number above 0", lambda v: 0 < v < np.inf)

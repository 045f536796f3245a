"""MAZE: a generator makes the questions, as in `dfme`, and the copy learns from old answers again.

Kariyappa, Prakash, Qureshi. "MAZE: Data-Free Model Stealing Attack Using Zeroth-Order Gradient Estimation", CVPR 2021,
section 4 and Algorithm 1.

Threat model   answers: full probabilities.  data: none.
Query cost     the budget; a round of `batch` rows takes batch * (directions + copy_steps).

The generator moves towards inputs where the copy's distribution is far from the victim's, by the Kullback-Leibler
divergence, the copy towards the answers. The slope of the victim is estimated from `directions` questions a small step
away from every row, each paid for; the copy's first step of a round learns from the rows that they surround. The last
batch of every round is kept with its answers and learnt from again, which asks nothing and so costs nothing:
`notes["replayed"]` counts those rows. Differences of labels, or of rounded answers, are mostly zero, and then the
generator follows the copy alone.

Unlike the authors' code, the true gradient is never asked for. Their variant with pictures of the victim's domain is
not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface, Model, Reveals
from portcullis_ml.extraction._data_free import Asked, Game, check_game, network_for, numbers_only

__all__ = ["Maze"]


@dataclass(frozen=True, kw_only=True)
class Maze(ExtractionAttack):
    network: str | None = None  # the copy's: a name in NETWORKS or "my_package.module:factory"; None: a small one
    batch: int = 64  # rows of a step; the authors took 128, for hundreds of times as many questions
    copy_steps: int = 5  # of a round, the first on the generator's rows and each other on fresh ones
    replays: int = 10  # steps of a round on old rows
    directions: int = 10  # questions beside each row of the generator's
    step: float = 1e-3  # how far away they are, before the tanh
    latent: int = 100  # numbers of noise behind an input
    maps: int = 32  # feature maps of the generator
    lr: float = 0.1  # the copy's first step size
    lr_generator: float = 1e-3  # of stochastic gradient descent; the authors took 1e-4 on CIFAR-10
    device: str = "cpu"  # where copy and generator are trained

    name: ClassVar[str] = "maze"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def __post_init__(self) -> None:
        check_game(self)
        check(self, "replays", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        from portcullis_ml.models.data_free import Players

        numbers_only(self.name, interface)
        players = Players(
            interface,
            network=network_for(self.network, interface),
            latent=self.latent,
            maps=self.maps,
            loss="kl",
            optimizer="sgd",
            rates=(self.lr_generator, self.lr),
            device=self.device,
            rng=rng,
        )
        game = Game(harvest, interface, players, rng, latent=self.latent, slower=_slower)
        old: list[Asked] = []
        replayed = 0
        while game.open:
            rows = game.move_generator(self.batch, self.directions, self.step)
            fresh = [] if rows is None else [rows]
            while game.open and len(fresh) < self.copy_steps:
                fresh.append(game.ask(self.batch))
            old.append(fresh[-1])
            again = [old[i] for i in rng.integers(len(old), size=self.replays)]
            for asked in [*fresh, *again]:
                game.learn(asked)
            replayed += sum(len(x) for x, _ in again)
            game.round_ended()
        harvest.notes["replayed"] = replayed
        harvest.answer  # noqa: B018 (AttackFailed where not one row was answered)
        return players.model()


def _slower(share: float) -> float:
    """The share of the first step sizes that is left when this share of the budget is spent: half a cosine."""
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2

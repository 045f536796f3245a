"""Data-free model extraction: a generator makes the questions, and is led to where copy and victim differ.

Truong, Maini, Walls, Papernot. "Data-Free Model Extraction", CVPR 2021, section 3 and Algorithm 1.

Threat model   answers: full probabilities.  data: none.
Query cost     the budget; a round of `batch` rows takes batch * (generator_steps * (directions + 1) + copy_steps).

A network turns noise into inputs. It moves towards inputs where copy and victim differ, the copy towards the victim's
answers there. The loss is the distance between log-probabilities less their mean, which are logits up to a constant:
that one does not vanish as the copy gets better. Nobody can differentiate the victim, so the generator's slope is
estimated from how the loss changes a small step away in random directions. Each such question is paid for. Differences
of labels, or of rounded answers, are mostly zero, and then the generator follows the copy alone.

Unlike the authors' code, nothing is asked for a log, no row is left out of an estimate, and the budget is never passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface, Model, Reveals
from portcullis_ml.extraction._data_free import Game, check_game, network_for, numbers_only

__all__ = ["Dfme"]

DROPS = (0.1, 0.3, 0.5)  # shares of the budget after which step sizes are multiplied
DROP = 0.3


@dataclass(frozen=True, kw_only=True)
class Dfme(ExtractionAttack):
    network: str | None = None  # the copy's: a name in NETWORKS or "my_package.module:factory"; None: a small one
    batch: int = 64  # rows of a step; the authors took 256, for hundreds of times as many questions
    generator_steps: int = 1  # of a round; 0 leaves the generator as it was drawn, a control
    copy_steps: int = 5  # of a round, each on fresh rows
    directions: int = 1  # questions beside each row of the generator's
    step: float = 1e-3  # how far away they are, before the tanh
    latent: int = 256  # numbers of noise behind an input
    maps: int = 32  # feature maps of the generator; the authors took 128
    lr: float = 0.1  # the copy's first step size
    lr_generator: float = 1e-4  # of Adam
    device: str = "cpu"  # where copy and generator are trained

    name: ClassVar[str] = "dfme"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def __post_init__(self) -> None:
        check_game(self)
        check(self, "generator_steps", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        from portcullis_ml.models.data_free import Players

        numbers_only(self.name, interface)
        players = Players(
            interface,
            network=network_for(self.network, interface),
            latent=self.latent,
            maps=self.maps,
            loss="l1",
            optimizer="adam",
            rates=(self.lr_generator, self.lr),
            device=self.device,
            rng=rng,
        )
        game = Game(harvest, interface, players, rng, latent=self.latent, slower=_slower)
        while game.open:
            for _ in range(self.generator_steps):
                game.move_generator(self.batch, self.directions, self.step)
            for _ in range(self.copy_steps):
                if game.open:
                    game.learn(game.ask(self.batch))
            game.round_ended()
        harvest.answer  # noqa: B018 (AttackFailed where not one row was answered)
        return players.model()


def _slower(share: float) -> float:
    """The share of the first step sizes that is left when this share of the budget is spent."""
    return float(DROP ** sum(share >= drop for drop in DROPS))

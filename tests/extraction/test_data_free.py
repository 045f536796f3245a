"""Theft without data: the bill, the estimated slope beside a plain twin and the true one, and what is learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction._data_free import directions_of, gradient_from
from portcullis_ml.extraction.dfme import Dfme
from portcullis_ml.extraction.maze import Maze
from portcullis_ml.models.data_free import FLOOR, Players, generator_for
from portcullis_ml.models.torch import TorchLearner

from .toys import WatchedOracle, toy_victim

VICTIM = toy_victim()
DOOR = Interface(input_shape=(2, 3), n_classes=3)
SMALL: dict[str, Any] = {"network": "mlp", "batch": 8, "latent": 8, "maps": 8}


def thieve(attack: Dfme | Maze, budget: int, *, victim: Model = VICTIM, door: Interface = DOOR, seed: int = 0) -> Any:
    oracle = WatchedOracle(LocalOracle(victim, door, budget=budget))
    found: Extraction = attack(oracle, Knowledge(), rng=np.random.default_rng(seed))
    found.notes["batches"] = [len(batch) for batch in oracle.batches]
    return found


def test_dfme_pays_for_both_ends_of_every_difference_and_for_every_step_of_the_copy() -> None:
    found = thieve(Dfme(**SMALL, directions=2, copy_steps=3, generator_steps=2), 3 * 8 * (2 * 3 + 3))
    assert found.notes["batches"] == [8] * 27
    assert found.notes["bill"] == {"copy": 3 * 24, "generator": 3 * 16, "directions": 3 * 32}


def test_maze_learns_from_the_rows_of_the_generator_and_replays_for_nothing() -> None:
    found = thieve(Maze(**SMALL, directions=3, copy_steps=5, replays=4), 2 * 8 * (3 + 5))
    assert found.notes["bill"] == {"copy": 2 * 32, "generator": 2 * 8, "directions": 2 * 24}
    assert found.notes["replayed"] == 2 * 4 * 8


@pytest.mark.parametrize("attack", [Dfme(**SMALL), Maze(**SMALL)])
@pytest.mark.parametrize("budget", [1, 7, 100, 333])
def test_what_no_difference_can_be_paid_from_goes_to_the_copy(attack: Dfme | Maze, budget: int) -> None:
    found = thieve(attack, budget)
    assert sum(found.notes["bill"].values()) == found.queries == budget
    assert found.notes["bill"]["directions"] == getattr(attack, "directions", 1) * found.notes["bill"]["generator"]


def test_the_estimate_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    raw, step = rng.normal(size=(5, 4)), 1e-2
    moves = directions_of(raw, 3, rng)
    np.testing.assert_allclose(np.linalg.norm(moves, axis=2), 1)

    def loss(row: Array) -> float:
        return float(np.sin(row).sum() ** 2)

    near = np.array([[loss(raw[i] + step * moves[j, i]) for i in range(5)] for j in range(3)])
    found = gradient_from(np.array([loss(row) for row in raw]), near, moves, step)
    for i in range(5):
        plain = np.zeros(4)
        for j in range(3):
            plain += (loss(raw[i] + step * moves[j, i]) - loss(raw[i])) / step * moves[j, i]
        np.testing.assert_allclose(found[i], 4 / 3 * plain, rtol=1e-9)


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_estimate_nears_the_true_slope_as_directions_grow() -> None:
    rng = np.random.default_rng(1)
    slope, raw = rng.normal(size=100), rng.normal(size=(1, 100))
    found = []
    for m in (1, 10, 200, 2000):
        moves = directions_of(raw, m, rng)
        near = (raw + 1e-3 * moves) @ slope
        found.append(cosine(gradient_from(raw @ slope, near, moves, 1e-3)[0], slope))
    assert 0 < found[0] < found[1] < found[2] < found[3]
    assert found[2] > 0.75  # about sqrt(m / (m + d)) = 0.82
    assert found[3] > 0.95


def players(loss: Any, door: Interface = DOOR) -> Players:
    return Players(
        door, network="mlp", latent=8, maps=8, loss=loss, optimizer="adam", rates=(1e-3, 0.1), device="cpu",
        rng=np.random.default_rng(0),
    )  # fmt: skip


def l1(p: Array, q: Array) -> float:
    a, b = np.log(np.maximum(p, FLOOR)), np.log(q)
    return float(np.abs((a - a.mean()) - (b - b.mean())).mean())


def kl(p: Array, q: Array) -> float:
    return float(sum(a * (np.log(a) - np.log(b)) for a, b in zip(np.maximum(p, FLOOR), q, strict=True)))


@pytest.mark.parametrize(("loss", "plain"), [("l1", l1), ("kl", kl)])
def test_losses_equal_a_plain_loop(loss: str, plain: Callable[[Array, Array], float]) -> None:
    x = DOOR.uniform(6, np.random.default_rng(2))
    p, game = VICTIM.scores(x), players(loss)
    p[0] = [1, 0, 0]  # as behind an API that rounds
    q = game.model().scores(x)
    np.testing.assert_allclose(game.losses(x, p), [plain(p[i], q[i]) for i in range(6)], rtol=1e-5)


@pytest.mark.parametrize("loss", ["l1", "kl"])
def test_the_estimate_through_both_players_nears_the_true_slope(loss: Any) -> None:
    """Of a known victim: the estimate's questions are the attack's own, the true slope is worked out by autograd."""
    game, rng, m = players(loss), np.random.default_rng(4), 400
    raw = rng.normal(size=(8, 6))
    moves = directions_of(raw, m, rng)
    at, *near = (game.inputs(rows) for rows in (raw, *(raw + 1e-3 * move for move in moves)))
    losses = [game.losses(x, VICTIM.scores(x)) for x in (at, *near)]
    estimate = gradient_from(losses[0], np.stack(losses[1:]), moves, 1e-3)

    leaf = torch.tensor(raw, requires_grad=True)
    x = torch.tanh(leaf) / 2 + 0.5  # within [0, 1], as the door has it
    given = torch.log_softmax(x @ torch.tensor(VICTIM.w).T + torch.tensor(VICTIM.b), 1)
    own = torch.log_softmax(game.model().module.double()(x.reshape(8, 2, 3)), 1)
    if loss == "kl":
        compared = (given.exp() * (given - own)).sum(1)
    else:
        compared = ((given - given.mean(1, keepdim=True)) - (own - own.mean(1, keepdim=True))).abs().mean(1)
    (true,) = torch.autograd.grad(compared.sum(), leaf)
    assert min(cosine(a, b) for a, b in zip(estimate, true.numpy(), strict=True)) > 0.9
    assert np.linalg.norm(estimate) == pytest.approx(float(true.norm()), rel=0.2)  # the scale as well


def test_the_generator_moves_towards_disagreement() -> None:
    game, rng = players("l1"), np.random.default_rng(3)
    z = rng.normal(size=(64, 8))

    def disagreement() -> float:
        x = game.inputs(game.raw(z))
        return float(game.losses(x, VICTIM.scores(x)).mean())

    before = disagreement()
    for _ in range(60):
        raw = game.raw(z)
        moves = directions_of(raw, 4, rng)
        at, *near = (game.inputs(rows) for rows in (raw, *(raw + 1e-3 * move for move in moves)))
        losses = [game.losses(x, VICTIM.scores(x)) for x in (at, *near)]
        game.move(gradient_from(losses[0], np.stack(losses[1:]), moves, 1e-3) / 64)
    assert disagreement() > 1.1 * before


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3), (3, 32, 32), (7, 9, 1), (5,)])
def test_generated_inputs_have_the_api_s_shape_and_bounds(shape: tuple[int, ...]) -> None:
    door = Interface(input_shape=shape, n_classes=3, bounds=(-2.0, 1.0))
    game = players("l1", door)
    x = game.inputs(game.raw(np.random.default_rng(0).normal(size=(4, 8))))
    assert x.shape == (4, *shape)
    assert x.min() >= -2 and x.max() <= 1  # noqa: PT018
    assert x.std() > 0.5


def test_what_the_generator_makes_varies_with_the_noise() -> None:
    with torch.random.fork_rng():
        generator = generator_for((8, 8), 16, 8)
    rows = generator(torch.randn(32, 16, generator=torch.Generator().manual_seed(0))).detach().flatten(1)
    assert float(rows.std(dim=0).min()) > 0.1


def test_colour_pictures_of_32_by_32_are_asked() -> None:
    door = Interface(input_shape=(32, 32, 3), n_classes=4)
    victim = TorchLearner(network="mlp", epochs=1).fit(
        door.uniform(20, np.random.default_rng(0)), np.eye(4)[np.arange(20) % 4], rng=np.random.default_rng(0)
    )
    found = thieve(Dfme(batch=4, maps=4, latent=4), 4 * 7 + 3, victim=victim, door=door)
    assert found.queries == 31
    assert found.model.network == "picture_flat"


@pytest.mark.parametrize(
    ("attack", "least"),
    [(Dfme(**SMALL, lr=0.3, lr_generator=1e-2), 0.8), (Maze(**SMALL, directions=4), 0.8)],
)
def test_converges_on_a_tiny_victim(attack: Dfme | Maze, least: float) -> None:
    x = DOOR.uniform(2000, np.random.default_rng(9))
    truth = VICTIM.scores(x).argmax(axis=1)
    found = [thieve(attack, 3000, seed=seed) for seed in range(3)]
    agreement = [float((one.model.scores(x).argmax(axis=1) == truth).mean()) for one in found]
    assert np.mean(agreement) > least, agreement
    assert [q for q, _ in found[0].history][-1] == 3000
    assert len(found[0].history) == 10


@pytest.mark.parametrize("attack", [Dfme(**SMALL), Maze(**SMALL)])
@pytest.mark.parametrize("reveals", [Reveals.LABELS, Reveals.TOP_K])
def test_labels_or_some_scores_are_not_enough(attack: Dfme | Maze, reveals: Reveals) -> None:
    with pytest.raises(NotApplicable, match="needs probs; this API gives"):
        thieve(attack, 100, door=DOOR.revealing(reveals=reveals))


@pytest.mark.parametrize("attack", [Dfme(**SMALL), Maze(**SMALL)])
@pytest.mark.parametrize("guard", ["label_only", "rounding(decimals=1)", "top_k(k=1)"])
def test_a_guard_that_hides_scores_leaves_a_copy_all_the_same(attack: Dfme | Maze, guard: str) -> None:
    oracle = LocalOracle(VICTIM, DOOR, budget=200, guard=Guard(DEFENSES.build(guard), key=bytes(16)))
    found = attack(oracle, Knowledge(), rng=np.random.default_rng(0))
    assert found.queries == 200
    assert np.isfinite(found.model.scores(DOOR.uniform(5, np.random.default_rng(0)))).all()


def test_a_category_is_refused_before_anything_is_asked() -> None:
    features = (Feature("colour", values=("red", "green")), *(Feature(f"n{i}", -1, 1) for i in range(5)))
    door = Interface(input_shape=(6,), n_classes=3, features=features)
    with pytest.raises(AttackFailed, match="'colour' is a category"):
        thieve(Dfme(**SMALL), 100, victim=toy_victim((6,)), door=door)


@pytest.mark.parametrize(
    ("attack", "setting"),
    [
        (Dfme, {"batch": 1}), (Dfme, {"generator_steps": -1}), (Dfme, {"step": 0.0}), (Dfme, {"lr": float("inf")}),
        (Maze, {"replays": -1}), (Maze, {"directions": 0}), (Maze, {"copy_steps": 0}), (Maze, {"latent": 0}),
    ],
)  # fmt: skip
def test_bad_settings(attack: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        attack(**setting)

"""Misdirection models: for every question another model that answers nearly alike and whose gradients lead elsewhere.

Lee, Han, Lee. "Model Stealing Defense against Exploiting Information Leak through the Interpretation of Deep Neural
Nets", IJCAI 2022, after its author's talk: the sections on gradient misdirection, on learning the misdirection model
and on sparse layer selection. `deep_defense` says what it is for.

What is ours:
- At the victim's own weights the cosine is 1, its greatest value, where its gradient is 0. Descent could never leave,
  so it starts a little beside them, always at the same place.
- A step has a fixed length, a share of the length of the weights, so that nothing overflows.
- A map of zeros is in any order. So the hinges of the explanation's order ask for a share of each original fall, and
  their mean counts, so that a large map weighs no more than a small one.
- Of all that the descent passes, the least loss wins whose classes are in the original order: that order always holds.
  Where there is none, the victim's own answer stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.core.randomness import derive
from portcullis_ml.models.row_network import RowNetwork, Weights

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtra("deep_defense", "torch") from error

__all__ = ["Descent", "Misdirected", "chosen_layers", "misdirected", "sensitivities"]

TINY = 1e-12
AT_ONCE = 16  # rows whose gradients of all layers are in memory together
MOMENTUM = 0.9
START = 0.05  # how far beside the victim's weights the descent starts, as a share of a layer's length
ENOUGH = 0.1  # nothing better is sought for a row whose cosines are below this and whose orders are kept
LEAST = 0.01  # a loss that is less than the victim's own by less than this is not worth another answer
MARGIN = 0.1  # of the original fall from one place of the explanation to the next, which must remain
SETTLED = 0.005  # hinges of an explanation's order, as shares of its greatest value, that count as none


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How misdirection models are sought: the loss alpha |cos below| + (1 - alpha) |cos above| + class_weight * (hinges
    of the class order) + map_weight * (hinges of the explanation's order), by gradient descent with momentum."""

    k: int = 3
    alpha: float = 0.5
    class_weight: float = 1.0
    map_weight: float = 3.0
    steps: int = 20
    lr: float = 0.05


@dataclass(frozen=True)
class Misdirected:
    """What misdirection models say of n rows, and how far their gradients were turned."""

    victim: Tensor  # (n, c) the victim's own logits
    logits: Tensor  # (n, c) those of the misdirection models
    shown: Tensor  # (n, ...) the explanation; (n, 0) where none is given
    cosines: Tensor  # (n, 2) |cos| below and above the explained layer; 0 for a part without chosen layers
    disorder: Tensor  # (n,) the hinges of the explanation's order, as shares of its greatest value

    def replaced(self, rows: Tensor, by: Misdirected) -> Misdirected:
        """The same with other values in these rows (n,)."""
        pairs = ((a, b.detach()) for a, b in zip(vars(self).values(), vars(by).values(), strict=True))
        return Misdirected(*(torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


def sensitivities(network: RowNetwork, x: Tensor, classes: Tensor) -> dict[str, float]:
    """Mean L1 norm, over rows x (n, *input_shape), of the gradient of the logit of classes (n,) by every layer."""
    total = dict.fromkeys(network.layers, 0.0)
    for rows, wanted in zip(torch.split(x, AT_ONCE), torch.split(classes, AT_ONCE), strict=True):
        own = _copies(network, list(total), len(rows))
        for name, slopes in _gradients(_of(network.run(rows, own)[0], wanted), own).items():
            total[name] += sum(float(slope.abs().double().sum()) for slope in slopes)
    return {name: value / len(x) for name, value in total.items()}


def chosen_layers(sensitivity: Mapping[str, float], percent: float) -> list[str]:
    """The fewest layers, the most sensitive first, that have so many per cent of all sensitivity together."""
    ranked = sorted(sensitivity, key=lambda name: (-sensitivity[name], name))
    total, reached, chosen = sum(sensitivity.values()), 0.0, list[str]()
    for name in ranked:
        if chosen and 100 * reached >= percent * total:
            break
        chosen.append(name)
        reached += sensitivity[name]
    return chosen


def misdirected(network: RowNetwork, layers: Sequence[str], x: Tensor, how: Descent) -> Misdirected:
    """A misdirection model for each row x (n, *input_shape): every layer moves, the gradients of these are turned."""
    x = x.clone().requires_grad_(network.kind == "gradient_x_input")
    search = _Search(network, layers, x, how)
    own = _copies(network, list(network.layers), len(x), start=START)
    lengths = {name: _length(parameters) for name, parameters in own.items()}
    speed = {name: tuple(torch.zeros_like(p) for p in parameters) for name, parameters in own.items()}
    for step in range(how.steps + 1):
        loss = search.look(own)
        if step == how.steps or bool(search.found.all()):
            break
        slopes = _gradients(loss, own)
        slopes = {n: tuple(torch.nan_to_num(g, 0.0, 0.0, 0.0) for g in parts) for n, parts in slopes.items()}
        steep = torch.stack([lengths[name] * _length(slopes[name]) for name in own]).norm(dim=0)
        for name in own:
            factor = how.lr * lengths[name] ** 2 / steep
            pairs = zip(speed[name], slopes[name], strict=True)
            speed[name] = tuple(MOMENTUM * v - factor.reshape(-1, *[1] * (g.ndim - 1)) * g for v, g in pairs)
        own = {
            name: tuple((p.detach() + v).requires_grad_(True) for p, v in zip(own[name], speed[name], strict=True))
            for name in own
        }
    return search.best


class _Search:
    """What the victim says of the rows, and the best that the descent has passed so far."""

    def __init__(self, network: RowNetwork, layers: Sequence[str], x: Tensor, how: Descent) -> None:
        self._network, self._x, self._how = network, x, how
        self._parts = [[n for n in layers if (n in network.below) is below] for below in (True, False)]
        own = _copies(network, list(network.layers), len(x))
        ran = network.run(x, own)
        ranked = torch.argsort(-ran[0].detach(), dim=1, stable=True)
        self._top, self._rest = ranked[:, : how.k], ranked[:, how.k :]
        self._victim = [part.detach() for part in self._directions(ran[0], own)]
        shown = network.explanation(x, ranked[:, 0], ran, own).detach()
        self._order = torch.argsort(-shown.flatten(1), dim=1, stable=True)
        self._falls = -_steps_down(shown, self._order)
        self._least = torch.full((len(x),), 1 - LEAST)  # the victim's own loss is 1
        self.found = torch.zeros(len(x), dtype=torch.bool)
        same = torch.tensor([[float(bool(part)) for part in self._parts]]).repeat(len(x), 1)
        self.best = Misdirected(ran[0].detach(), ran[0].detach(), shown, same, torch.zeros(len(x)))

    def look(self, own: Weights) -> Tensor:
        """(n,) the loss at these weights. Keeps what they say of the rows for which it is the least so far."""
        how, ran = self._how, self._network.run(self._x, own)
        shown = self._network.explanation(self._x, self._top[:, 0], ran, own)
        turned = zip(self._victim, self._directions(ran[0], own), strict=True)
        cosines = torch.stack([_cosine(a, b).abs() for a, b in turned], 1)
        share = torch.tensor([how.alpha, 1 - how.alpha]) if all(self._parts) else torch.ones(2)
        disorder = torch.relu(_steps_down(shown, self._order) + MARGIN * self._falls).sum(1) / max(
            self._falls.shape[1], 1
        )
        loss = (share * cosines).sum(1) + how.class_weight * self._wrong(ran[0]) + how.map_weight * disorder
        self._keep(loss.detach(), Misdirected(self.best.victim, ran[0].detach(), shown, cosines, disorder))
        return loss

    def _wrong(self, logits: Tensor) -> Tensor:
        """(n,) by how much the top classes, and the best of the rest behind them, are out of order."""
        top = logits.gather(1, self._top)
        wrong = torch.relu(torch.diff(top, dim=1)).sum(1)
        if not self._rest.shape[1]:
            return wrong
        return wrong + torch.relu(logits.gather(1, self._rest).amax(1) - top[:, -1])

    def _keep(self, loss: Tensor, new: Misdirected) -> None:
        others = new.logits.scatter(1, self._top[:, :1], -torch.inf).amax(1)
        ordered = (self._wrong(new.logits) == 0) & (_of(new.logits, self._top[:, 0]) > others)
        size = _greatest(new.shown)
        sound = torch.isfinite(size) & ((size > TINY) | (self._falls.sum(1) == 0))
        better = ordered & sound & (loss < self._least) & ~self.found
        self._least = torch.where(better, loss, self._least)
        self.best = self.best.replaced(better, new)
        self.found |= (self.best.cosines < ENOUGH).all(1) & (self.best.disorder <= SETTLED)

    def _directions(self, logits: Tensor, own: Weights) -> list[Tensor]:
        """[below, above]: (n, ...) each row's gradient of its class's logit by the chosen layers of that part."""
        chosen = {name: own[name] for part in self._parts for name in part}
        slopes = _gradients(_of(logits, self._top[:, 0]), chosen, graph=True)
        nothing = [torch.zeros(len(logits), 1)]
        flat = [[s.flatten(1) for name in part for s in slopes[name]] or nothing for part in self._parts]
        return [torch.cat(part, 1) for part in flat]


def _gradients(scores: Tensor, own: Weights, *, graph: bool = False) -> dict[str, tuple[Tensor, ...]]:
    """{layer: (n, ...) each}: every row's gradient of its score (n,) by its own weights."""
    flat = [p for parameters in own.values() for p in parameters]
    slopes = iter(torch.autograd.grad(scores.sum(), flat, create_graph=graph))
    return {name: tuple(next(slopes) for _ in parameters) for name, parameters in own.items()}


def _copies(network: RowNetwork, layers: Sequence[str], n: int, start: float = 0.0) -> dict[str, tuple[Tensor, ...]]:
    """The victim's weights in these layers, once for every row; or, where `start` is given, weights so far beside them
    as a share of a layer's length, in a direction that belongs to the layer's name and is the same for every row."""
    found = {}
    for name in layers:
        parameters = network.parameters(name)
        if start:
            rng = derive(0, "misdirection", name)
            drawn = [torch.tensor(rng.normal(size=p.shape), dtype=torch.float32) for p in parameters]
            ratio = start * _length([p[None] for p in parameters]) / _length([d[None] for d in drawn])
            parameters = tuple(p + ratio * d for p, d in zip(parameters, drawn, strict=True))
        found[name] = tuple(p.expand(n, *p.shape).clone().requires_grad_(True) for p in parameters)
    return found


def _length(parameters: Sequence[Tensor]) -> Tensor:
    """(n,) the Euclidean length of all of a row's parameters together; never 0."""
    each: list[Tensor] = [p.detach().flatten(1).norm(dim=1) for p in parameters]
    whole: Tensor = torch.stack(each).norm(dim=0)
    return whole.clamp(min=TINY)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(n,) cosines of the rows of a and b; 0 where one of them is 0."""
    size = torch.sqrt((a.square().sum(1) * b.square().sum(1)).clamp(min=TINY**2))
    return torch.sum(a * b, 1) / size


def _steps_down(shown: Tensor, order: Tensor) -> Tensor:
    """(n, m - 1) from each of m values, taken in this order, to the next, as shares of the greatest; above 0 is up."""
    values = shown.flatten(1).gather(1, order)
    if not values.shape[1]:
        return values
    return torch.diff(values, dim=1) / _greatest(shown).clamp(min=TINY)[:, None]


def _greatest(shown: Tensor) -> Tensor:
    """(n,) the greatest absolute value of each row's explanation, 0 where there is none."""
    values = shown.detach().flatten(1).abs()
    return values.amax(1) if values.shape[1] else torch.zeros(len(values))


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]

"""The plain stranger: what anybody would do in a few lines. A check of the attacks, with which it shares no code.

It asks about the pool's rows, where there is a pool, then about uniform points. Rows of a table: scikit-learn's boosted
trees and its network are fitted to four fifths of the answers, and what does better on the last fifth is fitted to all.
Texts: TF-IDF and logistic regression. Pictures: two convolutions with batch normalisation, AdamW, one cycle of 25
epochs; without PyTorch, that same network of scikit-learn's.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import softmax

from portcullis_ml.bench.text_stranger import StockText
from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.models.texts import TextInterface

__all__ = ["PlainStranger"]

SIDE = 32  # pixels: larger pictures are averaged down to this


@dataclass(frozen=True, kw_only=True)
class PlainStranger(ExtractionAttack):
    """Ask about what there is, fit a stock model."""

    pool: bool = True  # ask about the pool's rows first, where there is a pool
    epochs: int = 25  # of a network for pictures

    name: ClassVar[str] = "portcullis_ml.bench.stranger:PlainStranger"
    needs: ClassVar[Needs] = Needs(task="any", numeric=False)

    def __post_init__(self) -> None:
        check(self, "epochs", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        if self.pool and knowledge.pool is not None:
            harvest.ask(knowledge.pool[rng.permutation(len(knowledge.pool))])
        if harvest.open:
            harvest.ask(interface.uniform(harvest.left, rng))
        x, p = harvest.x, harvest.targets()
        if interface.task == "regression":
            return _stock_numbers(x, p, harvest, interface, int(rng.integers(2**31)))
        x, p = x[p.sum(axis=1) > 0], p[p.sum(axis=1) > 0]
        if isinstance(interface, TextInterface):
            harvest.notes["chosen"] = {"fitted": {"tf-idf and logistic regression": 1.0}}
            return StockText(x, p, interface)
        if len(interface.input_shape) in (2, 3) and importlib.util.find_spec("torch"):
            harvest.notes["chosen"] = {"fitted": {"convolutions": 1.0}}
            return _network(x, p, interface, self.epochs, rng)
        return self._stock(x, p, harvest, interface, int(rng.integers(2**31)))

    def _stock(self, x: Array, p: Array, harvest: Harvest, interface: Interface, seed: int) -> Model:
        kinds = ("boosted", "network") if len(interface.input_shape) == 1 else ("network",)
        train = max(1, len(x) * 4 // 5)
        right = {}
        for kind in kinds if len(kinds) > 1 else ():
            labels = _Stock(kind, interface, seed).fit(x[:train], p[:train]).scores(x[train:]).argmax(axis=1)
            right[kind] = int((labels == p[train:].argmax(axis=1)).sum())
        kind = max(kinds, key=lambda k: right.get(k, 0))
        copy = _Stock(kind, interface, seed).fit(x, p)
        harvest.notes["chosen"] = {"fitted": {kind if copy.varies else "constant": 1.0}}
        return copy


def _stock_numbers(x: Array, y: Array, harvest: Harvest, interface: Interface, seed: int) -> Model:
    """Of scikit-learn's boosted trees and its network the one whose numbers are nearer on the last fifth."""
    known = ~np.isnan(y[:, 0])
    x, y = x[known], y[known]
    train, errors = max(2, len(x) * 4 // 5), {}
    for kind in ("boosted", "network") if len(x) > train else ():
        found = _StockNumbers(kind, interface, seed).fit(x[:train], y[:train]).scores(x[train:])
        errors[kind] = float(np.abs(found - y[train:]).mean())
    kind = min(errors, key=lambda k: errors[k], default="boosted")
    harvest.notes["chosen"] = {"fitted": {kind: 1.0}}
    return _StockNumbers(kind, interface, seed).fit(x, y)


def _network(x: Array, p: Array, interface: Interface, epochs: int, rng: np.random.Generator) -> Model:
    """The plain loop that every course on deep learning begins with."""
    import torch
    from torch import nn

    from portcullis_ml.models.torch import TorchModel
    from portcullis_ml.models.training import seeded

    with seeded(rng, "cpu"):
        net = _convolutions(interface)
        rows, targets = (torch.tensor(a, dtype=torch.float32) for a in (x, p))
        steps = max(1, len(rows) // 64)
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * steps + 1)
        for _ in range(epochs):
            for batch in torch.randperm(len(rows)).tensor_split(steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(rows[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                cycle.step()
    return TorchModel(net, interface.input_shape, interface.n_classes)


def _convolutions(interface: Interface) -> Any:
    from torch import nn

    from portcullis_ml.models.layers import Channels
    from portcullis_ml.models.networks import channels_first, image_shape

    height, width, channels = image_shape(interface.input_shape)
    smaller = [nn.AdaptiveAvgPool2d((min(height, SIDE), min(width, SIDE)))] if max(height, width) > SIDE else []
    flat = 64 * -(-min(height, SIDE) // 4) * -(-min(width, SIDE) // 4)
    layers: list[nn.Module] = [Channels(first=channels_first(interface.input_shape)), *smaller]
    for before, after in ((channels, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, interface.n_classes))


class _Stock:
    """A stock regression on clipped log-ratios where scores are shown, a stock classifier where only labels are."""

    def __init__(self, kind: str, interface: Interface, seed: int) -> None:
        self.kind, self.interface, self.seed = kind, interface, seed
        self.input_shape, self.n_classes = interface.input_shape, interface.n_classes

    def fit(self, x: Array, p: Array) -> _Stock:
        hard = bool((p.max(axis=1) == 1).all())
        x, labels = x.reshape(len(x), -1), p.argmax(axis=1)
        self._models: list[Any] = []
        self._constant = p.mean(axis=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if hard and len(np.unique(labels)) > 1:
                self._models = [self._stock(classifier=True).fit(x, labels)]
            elif not hard:
                logs = np.log(np.clip(p, 1e-6, 1))
                ratios = np.clip(logs - logs[:, :1], -8, 8)[:, 1:]
                self._models = [self._stock(classifier=False).fit(x, column) for column in ratios.T]
        return self

    @property
    def varies(self) -> bool:
        """Whether there was more than one answer, so that anything was fitted."""
        return bool(self._models)

    def scores(self, x: Array) -> Array:
        if not self._models or len(x) == 0:
            return np.tile(self._constant, (len(x), 1))
        x = x.reshape(len(x), -1)
        if hasattr(self._models[0], "classes_"):
            return np.asarray(np.eye(self.n_classes)[self._models[0].predict(x)])
        ratios = np.column_stack([np.zeros(len(x)), *(m.predict(x) for m in self._models)])
        return np.asarray(softmax(ratios, axis=1))

    def _stock(self, *, classifier: bool) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        if self.kind == "boosted":
            stock: Any = HistGradientBoostingClassifier if classifier else HistGradientBoostingRegressor
            model = stock(max_iter=300, learning_rate=0.08, max_leaf_nodes=8, random_state=self.seed)
        else:
            stock = MLPClassifier if classifier else MLPRegressor
            model = stock(hidden_layer_sizes=(64,), alpha=1e-3, max_iter=300, random_state=self.seed)
        codes = [j for j, f in enumerate(self.interface.features or ()) if f.categorical]
        words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return make_pipeline(ColumnTransformer([("words", words, codes)], remainder=StandardScaler()), model)


class _StockNumbers(_Stock):
    """A stock regression on numbers (n, 1), scaled to -1 to 1."""

    def fit(self, x: Array, p: Array) -> _StockNumbers:
        low, high = float(p.min()), float(p.max())
        self._middle, self._half = low / 2 + high / 2, (high / 2 - low / 2) or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self._stock(classifier=False)
            self._models = [model.fit(x.reshape(len(x), -1), ((p - self._middle) / self._half)[:, 0])]
        return self

    def scores(self, x: Array) -> Array:
        if len(x) == 0:
            return np.empty((0, 1))
        found = self._models[0].predict(x.reshape(len(x), -1))
        return np.asarray(self._middle + self._half * found)[:, None]

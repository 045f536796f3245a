"""A learner that starts from a pretrained backbone: its features alone, its last blocks, or all of it.

`frozen` computes the backbone's features once for every picture, keeps them by content (`features.py`), and trains a
head on them: the cheap stand-in for fine-tuning, seconds where that takes minutes. `last` trains the last blocks and
a linear head, `all` everything; what does not learn keeps its statistics. With `weights="random"` the same network is
trained from the same settings without what ImageNet taught it: the control beside every claim about pretraining.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.models.backbones import LITE0, Backbone, load_body, needed_for
from portcullis_ml.models.features import FeatureStore, features_folder
from portcullis_ml.models.networks import stack
from portcullis_ml.models.schedules import SCHEDULES
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.models.torch_model import keep_memory
from portcullis_ml.models.training import measure, seeded

__all__ = ["PretrainedLearner", "PretrainedModel", "pretrained_network"]

NAMED = "pretrained "  # how the name of a network begins that has a backbone
EPOCHS = {"frozen": 40, "last": 5, "all": 5}
TOGETHER = 32  # pictures whose features are computed at once: always so many, so that company changes nothing
PART = 4096  # rows whose features are held at once
DECAY = 0.01  # of AdamW
STEPS = ("batch", "schedule", "weight_decay", "shift", "mirror", "targets", "device", "mixed")  # as TorchLearner's


class PretrainedModel(TorchModel):
    """A backbone and a head. With `features`, a store of the frozen backbone's, only the head is computed anew."""

    def __init__(self, *given: Any, features: FeatureStore | None = None, **how: Any) -> None:
        super().__init__(*given, **how)
        self.features = features

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) softmax probabilities."""
        if self.features is None or len(x) == 0:
            return super().scores(x)
        head: Any = self.module[1]  # type: ignore[index]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(x), PART):
                rows = torch.from_numpy(self.features(x[start : start + PART])).to(self.device)
                parts.append(torch.softmax(head(rows).double(), 1).cpu().numpy())
        return np.concatenate(parts)

    @property
    def learning(self) -> nn.Module:
        """The head where the backbone is frozen, else everything."""
        return self.module if self.features is None else self.module[1]  # type: ignore[index]

    def entered(self, x: Array) -> Tensor:
        """The features of pictures where the backbone is frozen, else the pictures."""
        if self.features is None or len(x) == 0:
            return super().entered(x)
        return torch.tensor(self.features(x), dtype=torch.float32, device=self.device)

    def duplicate(self) -> PretrainedModel:
        """The same model with weights of its own; a frozen backbone is shared."""
        twin = copy.copy(self)
        parts = self.module if self.features is None else self.module[1]  # type: ignore[index]
        own = copy.deepcopy(parts)
        twin.module = own if self.features is None else nn.Sequential(self.module[0], own)  # type: ignore[index]
        return twin


class _WithoutGradients:
    """The same model for an ONNX backbone, which gives no gradients."""

    def __init__(self, model: PretrainedModel) -> None:
        self._model = model
        self.input_shape, self.n_classes = model.input_shape, model.n_classes

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) softmax probabilities."""
        return self._model.scores(x)

    def duplicate(self) -> PretrainedModel:
        """The model itself, with weights of its own in the head."""
        return self._model.duplicate()


@dataclass(frozen=True, kw_only=True)
class PretrainedLearner:
    """Trains a head on a backbone, or both; always a new model, a function of (x, targets, rng)."""

    suffix: ClassVar[str] = ".safetensors"  # what `save_model` writes for its models

    backbone: str = LITE0  # see `backbones.py`: timm:MODEL, torchvision:MODEL, module:factory, FILE.onnx
    train: Literal["frozen", "last", "all"] = "frozen"  # what learns: the head alone, the last blocks too, everything
    weights: Literal["pretrained", "random"] = "pretrained"  # that the backbone starts from
    last: int = 4  # blocks that learn where train is "last"
    size: int = 64  # pixels of a side that the backbone sees; time grows with its square
    hidden: int = 128  # units of the head on frozen features; 0 makes it linear, as it is on others
    epochs: int | None = None  # passes over the rows; None: 40 of the head alone, else 5
    batch: int = 64  # rows in a step
    lr: float = 1e-3  # the greatest step of AdamW
    schedule: Literal["constant", "cosine", "one_cycle"] = "one_cycle"  # of the step: see `schedules.py`
    weight_decay: float = DECAY  # of AdamW
    shift: int = 0  # pixels by which pictures are moved at most while training; not where features are frozen
    mirror: bool = False  # whether half of the pictures are turned left to right while training; not where frozen
    dropout: float = 0.0  # in front of the head's layers while training
    targets: Literal["soft", "labels"] = "soft"  # KL to the distributions given, or NLL of their argmax
    bounds: tuple[float, float] | None = None  # least and greatest value of an input; None: the API's own, or 0 and 1
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and deviation; None: the backbone's
    device: str = "cpu"  # or "cuda"
    mixed: bool = False  # train in bfloat16 where that is exact enough; on a GPU only

    interface: Interface | None = field(default=None, init=False, compare=False)  # tells the range of inputs

    def __post_init__(self) -> None:
        check(self, "backbone", "a word, see the page on pictures", lambda v: isinstance(v, str) and bool(v))
        check(self, "train", "'frozen', 'last' or 'all'", lambda v: v in EPOCHS)
        check(self, "weights", "'pretrained' or 'random'", lambda v: v in ("pretrained", "random"))
        check(self, "last", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "size", "an int of at least 32", lambda v: isinstance(v, int) and v >= 32)
        check(self, "hidden", "an int of at least 0", lambda v: isinstance(v, int) and v >= 0)
        check(self, "epochs", "an int of at least 1, or None", lambda v: v is None or v >= 1)
        check(self, "schedule", f"one of {', '.join(SCHEDULES)}", lambda v: v in SCHEDULES)
        check(self, "bounds", "(low, high) with low < high, or None", lambda v: v is None or v[0] < v[1])
        check(self, "normalisation", "((mean, ...), (deviation above 0, ...)), or None", _normalises)
        if self.train == "frozen":
            check(self, "shift", "0 where features are frozen: they are computed once", lambda v: v == 0)
            check(self, "mirror", "False where features are frozen: they are computed once", lambda v: v is False)
        elif self.backbone.endswith(".onnx"):
            check(self, "train", "'frozen' with an ONNX backbone, which has no gradients", lambda v: v == "frozen")
        self.steps()  # checks what it has in common with TorchLearner

    def knowing(self, interface: Interface) -> PretrainedLearner:
        """The same learner, told the range of inputs."""
        return bound(self, interface=interface)

    def online(self) -> PretrainedLearner:
        """The same learner as it goes once over rows that have just been answered."""
        return self._changed(epochs=1, schedule="constant")

    def rough(self) -> PretrainedLearner:
        """The head alone: for copies that only say what to ask next."""
        return self._changed(train="frozen", shift=0, mirror=False, epochs=None)

    def ready(self) -> None:
        """Raise MissingExtra or InputError where something is not installed that the backbone needs."""
        needed_for(self.backbone)

    def steps(self) -> TorchLearner:
        """How weights are trained, whatever they are."""
        shared = {name: getattr(self, name) for name in STEPS}
        epochs = self.epochs or EPOCHS[self.train]
        return TorchLearner(optimizer="adamw", lr=self.lr, epochs=epochs, dropout=self.dropout, **shared)

    def fit(
        self,
        x: Array,
        targets: Array,
        *,
        rng: np.random.Generator,
        start: Model | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Model:
        """x (n, *input_shape) pictures, targets (n, n_classes) distributions; rows whose target is all zero are left
        out. `start` is a model of the same settings, whose head, and where it learns backbone, is gone on from."""
        keep_memory()
        self.ready()
        x, steps = np.asarray(x), self.steps()
        with seeded(rng, self.device):
            backbone, store = self._backbone(tuple(x.shape[1:]))
            if store is None:
                rows, goals = steps.tensors(x, targets)
            else:
                known = np.asarray(targets).sum(axis=-1) > 0
                steps.tensors(x[:, :0], targets)  # says what is wrong with targets before features are computed
                rows, goals = steps.tensors(store(x[known]).astype(np.float64), np.asarray(targets)[known])
            with torch.inference_mode():
                width = rows.shape[1] if store else backbone.eval()(rows[:1]).shape[1]
            module = nn.Sequential(backbone, self._head(width, np.shape(targets)[1])).to(self.device)
            self._begin(module, rows, start, frozen=store is not None)
            learning: nn.Module = module if store is None else module[1]
            steps.train(learning.train(), rows, goals, rng, progress)
        return self._model(module, tuple(x.shape[1:]), store)

    def _backbone(self, shape: tuple[int, ...]) -> tuple[Backbone, FeatureStore | None]:
        """The backbone, and where it is frozen the store of its features."""
        about = self._about(shape)
        if self.train != "frozen":
            backbone = _built(**about, pretrained=self.weights == "pretrained")
            backbone.thaw(None if self.train == "all" else self.last)
            return backbone, None
        if self.weights == "random":
            backbone = _built(**about, pretrained=False)
            return backbone, FeatureStore(partial(_features, backbone.to(self.device), self.device), None)
        return _shared(**about, device=self.device, folder=features_folder())

    def _about(self, shape: tuple[int, ...]) -> dict[str, Any]:
        known = (0.0, 1.0) if self.interface is None or self.interface.features else self.interface.bounds
        return {
            "name": self.backbone, "shape": shape, "size": self.size, "bounds": tuple(self.bounds or known),
            "normalisation": _tuples(self.normalisation),
        }  # fmt: skip

    def _head(self, width: int, n_classes: int) -> nn.Module:
        if self.train != "frozen":
            return stack((width,), n_classes, dropout=self.dropout)
        hidden = (self.hidden,) if self.hidden else ()
        return stack((width,), n_classes, hidden=hidden, standardize=True, dropout=self.dropout)

    def _begin(self, module: nn.Sequential, rows: Tensor, start: Any, *, frozen: bool) -> None:
        """Give the module the weights that it starts from."""
        if start is None:
            if frozen:
                measure(module[1], rows)
            return
        start = getattr(start, "_model", start)
        if not isinstance(start, PretrainedModel):
            raise InputError(f"start must be a model on the same backbone; got {type(start).__name__}.")
        part = 1 if frozen else slice(None)
        try:
            module[part].load_state_dict(start.module[part].state_dict())  # type: ignore[index]
        except RuntimeError as error:
            raise InputError("start must be a model on the same backbone; its weights do not fit.") from error

    def _model(self, module: nn.Sequential, shape: tuple[int, ...], store: FeatureStore | None) -> Model:
        about = self._about(shape)
        del about["shape"]
        hidden = self.hidden if self.train == "frozen" else 0
        kept = about | {"hidden": hidden, "frozen": self.train == "frozen"}
        n_classes = next(m for m in reversed(list(module.modules())) if isinstance(m, nn.Linear)).out_features
        model = PretrainedModel(
            module, shape, n_classes, device=self.device, network=NAMED + json.dumps(kept), features=store
        )
        return _WithoutGradients(model) if self.backbone.endswith(".onnx") else model

    def _changed(self, **settings: Any) -> PretrainedLearner:
        changed = replace(self, **settings)
        return changed if self.interface is None else changed.knowing(self.interface)


def pretrained_network(name: str, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The network of a saved model, its weights yet to be loaded. `name` is "pretrained " and JSON."""
    about: Mapping[str, Any] = json.loads(name.removeprefix(NAMED))
    known = about["name"] == LITE0 or about["name"].partition(":")[0] in ("timm", "torchvision")
    if not known:
        raise InputError(
            f"The file's network stands on {about['name']}, which is code or a file that Portcullis does not run "
            "because a file says so. Load it yourself and name it as module:object."
        )
    needed_for(about["name"])
    backbone = _built(
        name=about["name"], shape=input_shape, size=int(about["size"]), bounds=tuple(about["bounds"]),
        normalisation=_tuples(about["normalisation"]), pretrained=False,
    )  # fmt: skip
    with torch.inference_mode():
        width = backbone.eval()(torch.zeros(1, *input_shape)).shape[1]
    hidden = (int(about["hidden"]),) if about["hidden"] else ()
    head = stack((width,), n_classes, hidden=hidden, standardize=bool(about["frozen"]))
    return nn.Sequential(backbone, head)


def _built(
    *, name: str, shape: tuple[int, ...], size: int, bounds: tuple[float, float], normalisation: Any, pretrained: bool
) -> Backbone:
    with nullcontext() if not pretrained else torch.random.fork_rng(devices=[]):  # the head's weights must not depend
        body, usual = load_body(name, size, pretrained=pretrained)  # on whether the backbone was at hand already
    return Backbone(body, shape, size=size, bounds=bounds, normalisation=normalisation or usual)


@lru_cache(maxsize=4)
def _shared(*, device: str, folder: Path, **about: Any) -> tuple[Backbone, FeatureStore]:
    """A pretrained backbone that never learns, with the store of its features; one for all models in the process."""
    backbone = _built(**about, pretrained=True).to(device).eval().requires_grad_(False)
    return backbone, FeatureStore(partial(_features, backbone, device), folder / backbone.checksum[:32])


def _features(backbone: Backbone, device: str, rows: Array) -> np.ndarray:
    """(n, width) features of rows, always so many at once that a row's do not depend on its company."""
    backbone.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), TOGETHER):
            part = rows[start : start + TOGETHER]
            filled = np.resize(part, (TOGETHER, *part.shape[1:]))
            x = torch.tensor(filled, dtype=torch.float32, device=device)
            found.append(backbone(x)[: len(part)].float().cpu().numpy())
    return np.concatenate(found)


def _normalises(value: Any) -> bool:
    if value is None:
        return True
    mean, deviation = value
    return len(mean) in (1, 3) and len(mean) == len(deviation) and min(deviation) > 0


def _tuples(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again, so that they can be keys."""
    return None if value is None else tuple(tuple(float(v) for v in part) for part in value)

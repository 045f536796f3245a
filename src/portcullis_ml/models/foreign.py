"""How foreign a row is to a network, from its own gradients (ODIN) or its last features (Mahalanobis distance).

Both need the network itself, so an artifact holds it: `victim.safetensors`, as `TorchModel.save` writes it, beside the
arrays of the score. A score is turned into a number from 0 to 1 by the owner's own rows: one half is where a share of
them lies above, 0.05 is their median, and what lies further out goes to 1 (`Scale`).
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import expit, softmax

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import prepared
from portcullis_ml.core.types import Array, Interface, Labels
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.blocks import Blocks

__all__ = ["FILES", "MahalanobisScore", "OdinScore", "Scale", "foreign_score", "network_bytes"]

VICTIM = "victim.safetensors"
FILES = {"odin": ("odin.safetensors", "odin_step"), "mahalanobis": ("mahalanobis.safetensors", "class_means")}
MEDIAN = np.log(19.0)  # expit(-MEDIAN) is 0.05
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Scale:
    """Turns scores of any size, greater being more foreign, into numbers from 0 to 1: see the head of this file."""

    half: float  # the score that becomes one half
    spread: float  # from the owner's median to `half`

    @classmethod
    def of(cls, scores: Array, share: float) -> Scale:
        """The scale on which this share of the owner's rows, whose scores (n,) these are, lies above one half."""
        half = float(np.quantile(scores, 1 - share))
        return cls(half, max(half - float(np.median(scores)), 1e-12 * max(1.0, abs(half))))

    def __call__(self, scores: Array) -> Array:
        return np.asarray(expit(MEDIAN * (scores - self.half) / self.spread))


class OdinScore:
    """The greatest probability at a temperature, after a small step that raises it; less of it is more foreign.

    `model` gives scores and input_gradient; `width` (*input_shape) is what a step of 1 moves each input by.
    """

    def __init__(self, model: Any, width: Array, temperature: float, step: float) -> None:
        self.model, self.width, self.temperature, self.step = model, np.asarray(width, np.float64), temperature, step

    def __call__(self, x: Array) -> Array:
        """(n, *input_shape) -> (n,): minus the greatest softened probability."""
        p = self._softened(x)
        if self.step:
            raised = np.eye(p.shape[1])[p.argmax(axis=1)] - p  # of log p at its greatest, but for a factor above 0
            x = x + self.step * self.width * np.sign(self.model.input_gradient(x, raised, of="log_probs"))
            p = self._softened(x)
        return np.asarray(-p.max(axis=1))

    def _softened(self, x: Array) -> Array:
        logits = np.log(np.maximum(self.model.scores(x), TINY))  # up to a constant for each row, which softmax drops
        return np.asarray(softmax(logits / self.temperature, axis=1))


class MahalanobisScore:
    """The squared distance to the nearest class mean, in the network's last features and their shared covariance.

    whiten (features, r) with whiten @ whiten.T the inverse of the covariance; means (classes, r), whitened.
    """

    def __init__(self, model: Any, means: Array, whiten: Array) -> None:
        self.features, self.means, self.whiten = last_features(model), means, whiten

    @classmethod
    def fit(cls, model: Any, x: Array, classes: Labels) -> MahalanobisScore:
        """From rows x (n, *input_shape) and their classes (n,). Directions in which nothing varies are left out."""
        h = last_features(model)(x)
        found, at = np.unique(classes, return_inverse=True)
        means = np.stack([h[at == i].mean(axis=0) for i in range(len(found))])
        rest = h - means[at]
        values, vectors = np.linalg.eigh(rest.T @ rest / len(h))
        kept = values > 1e-10 * max(values.max(), TINY)
        whiten = vectors[:, kept] / np.sqrt(values[kept])
        return cls(model, means @ whiten, whiten)

    def __call__(self, x: Array) -> Array:
        """(n, *input_shape) -> (n,)."""
        h = self.features(x) @ self.whiten
        return np.asarray(cdist(h, self.means, "sqeuclidean").min(axis=1))


def last_features(model: Any) -> Callable[[Array], Array]:
    """The function x (n, *input_shape) -> (n, features): what the network's last layer is given. NotApplicable."""
    import torch
    from torch import nn

    module = copy.deepcopy(model.module)
    layers = [
        name for name, m in module.named_modules() if isinstance(m, nn.Linear) and m.out_features == model.n_classes
    ]
    if len(layers) != 1:
        raise NotApplicable(
            f"class_means needs a network with one last layer of {model.n_classes} units; this one has {len(layers)}."
        )
    holder, _, name = layers[0].rpartition(".")
    setattr(module.get_submodule(holder), name, nn.Identity())

    def features(x: Array) -> Array:
        with torch.inference_mode():
            parts = [
                module(torch.tensor(x[i : i + model.batch], dtype=torch.float32, device=model.device)).flatten(1)
                for i in range(0, max(len(x), 1), model.batch)
            ]
            return np.asarray(torch.cat(parts).double().cpu().numpy())

    return features


def network_bytes(model: Any, recipe: str) -> bytes:
    """A victim as `victim.safetensors`. NotApplicable where it is no network that can be built again by name."""
    if not hasattr(model, "module") or not model.network or model.reading != "logits":
        raise NotApplicable(
            f"{recipe} needs the gradients and features of a PyTorch victim that gives logits and has a name: one of "
            "`portcullis list networks`, or FILE.safetensors@module:factory. This victim is another "
            f"{type(model).__name__}."
        )
    with tempfile.TemporaryDirectory() as folder:
        return bytes(model.save(Path(folder) / VICTIM).read_bytes())


def foreign_score(unit: Any, setting: str, kind: str, interface: Interface) -> Blocks:
    """The score of that kind ("odin", "mahalanobis") from the artifact in a unit's setting, on its scale from 0 to 1.

    (n, *input_shape) -> (n,), the same bits for a row in whatever request it comes. NotApplicable or InputError.
    """
    if interface.task != "classification":
        raise NotApplicable(f"{unit.name} needs an API that predicts classes; this one does regression.")
    if interface.missing:
        raise NotApplicable(f"{unit.name} needs whole rows; this API takes rows with inputs left out.")
    files, where, (file, recipe) = prepared(unit, setting).files, f"{unit.name}.{setting}", FILES[kind]
    for name in (file, VICTIM):
        if name not in files:
            raise InputError(f"{where} must hold {name}, as {recipe} writes it; it does not.")
    arrays = unpack_arrays(files[file], f"{where}: {file}")
    model = _network(files[VICTIM], f"{where}: {VICTIM}")
    wanted, given = (interface.input_shape, interface.n_classes), (model.input_shape, model.n_classes)
    if wanted != given:
        raise InputError(
            f"{where} must be of a victim that takes rows of {wanted[0]} and knows {wanted[1]} classes; this one takes "
            f"{given[0]} and knows {given[1]}. Prepare one for this model."
        )
    try:
        scale, score = Scale(*arrays["scale"].tolist()), _of_arrays(kind, model, arrays)
        return Blocks(lambda x: scale(score(x)), model.input_shape)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{where} lacks an array or holds one of another size ({error}). Prepare it again.") from error


def _of_arrays(kind: str, model: Any, arrays: Mapping[str, Array]) -> Callable[[Array], Array]:
    if kind == "odin":
        temperature, step = arrays["settings"].tolist()
        return OdinScore(model, arrays["width"].reshape(model.input_shape), temperature, step)
    return MahalanobisScore(model, arrays["means"], arrays["whiten"])


def _network(data: bytes, where: str) -> Any:
    from portcullis_ml.models.load import load_model
    from portcullis_ml.models.training import seeded

    with tempfile.TemporaryDirectory() as folder, seeded(np.random.default_rng(0), "cpu"):  # fresh weights are drawn
        path = Path(folder) / VICTIM
        path.write_bytes(data)
        try:
            return load_model(str(path))
        except InputError as error:
            raise InputError(str(error).replace(str(path), where)) from error

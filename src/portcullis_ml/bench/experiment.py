"""What an audit attacks: which victim, whose rows, and how they are kept apart.

An `ExperimentSpec` is what a person asked for (names, paths); its `load()` makes an `Experiment` of it, once in every
process. Without a victim, one is trained on the victim's share of the data and kept in a cache. Where Portcullis draws
the rows, those that train the victim, those that the thief holds and those that test the copy have none in common; rows
that a person brings are compared instead, and common ones are counted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.brought import bring
from portcullis_ml.bench.cell import fingerprint
from portcullis_ml.bench.endpoint import Endpoint, asked_of
from portcullis_ml.bench.fits import interface_of
from portcullis_ml.bench.outside import Outside, read_outside
from portcullis_ml.bench.raised import victims_own
from portcullis_ml.bench.rows import drawn_of
from portcullis_ml.bench.sources import Sources
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.oracle import checked_answer
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Interface, Labels, Learner, Model
from portcullis_ml.data.splits import overlap
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.models.learners import learner_named
from portcullis_ml.models.load import load_model, model_folder
from portcullis_ml.models.networks import plain_network

__all__ = [
    "Experiment",
    "ExperimentSpec",
    "explaining",
    "has_torch",
    "learner_for",
    "learner_said",
    "network_for",
    "victims_learner",
]

PROBED = 256  # test rows with which explanations are tried
EPOCHS = 50  # of a network, unless said otherwise


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The victim, the rows and what is known of them, loaded.

    test_y       (n,) the true classes of the test rows, or their targets where the victim answers numbers, or None
    pool_labels  (n,) the pool's own labels in the victim's classes, or its targets, or None
    pool_groups  (n,) what the pool's own source sorts its rows by, or None; never the victim's classes
    overlap      rows of the pool that the victim was trained on; None when nobody could check
    train        rows that the victim was trained on, where they are known; no thief and no learner of theirs sees them
    train_y      (n,) the true classes of those rows, where they are known
    together     (n,) which rows of the pool show one object and belong together, or None
    outside      regime -> rows unlike the victim's that its owner has: see `outside.py`
    names        {"victim": {...}, "data": {...}} with fingerprints, as a cell wants them
    splits       a sentence: whose rows are whose
    notes        sentences: what was understood of a victim that somebody brought, and what was left out
    """

    model: Model
    interface: Interface
    test_x: Array
    test_y: Any
    pool: Array | None
    pool_labels: Any
    overlap: int | None
    names: dict[str, dict[str, Any]]
    splits: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    pool_groups: np.ndarray | None = None
    train: Array | None = None
    train_y: Labels | None = None
    together: Labels | None = None
    source: str = ""  # the name of where the rows come from that the victim was trained on
    outside: Mapping[str, Outside] = field(default_factory=dict)

    @property
    def numbers(self) -> bool:
        """Whether the victim answers numbers and no classes."""
        return self.interface.task == "regression"

    def draw_seeds(self, n: int, rng: np.random.Generator) -> Array | None:
        """(<= n, *input_shape) pool rows, shared out evenly among its classes where it has labels."""
        if self.pool is None:
            return None
        if self.pool_labels is None or self.numbers:
            return self.pool[np.sort(rng.permutation(len(self.pool))[:n])]
        order = rng.permutation(len(self.pool))
        rank = np.empty(len(order), np.int64)  # a row's place among the rows of its class
        for c in np.unique(self.pool_labels):
            own = order[self.pool_labels[order] == c]
            rank[own] = np.arange(len(own))
        chosen = order[np.argsort(rank[order], kind="stable")][:n]
        return self.pool[np.sort(chosen)]


@dataclass(frozen=True, kw_only=True)
class ExperimentSpec:
    """What to load, as a person names it. Hashable, small, and sent to every worker."""

    victim: str | None = None  # FILE or module:object; None trains one on `data`
    trained: str | None = None  # without a victim: the learner that trains one, as people write it; chosen if None
    data: str | None = None  # a data set's name or file; None with a victim: test and pool are given
    folder: str | None = None  # where named data sets lie
    test: str | None = None  # FILE: rows (and labels) that judge
    pool: str | None = None  # FILE: the thief's natural inputs
    train: str | None = None  # FILE: the victim's training set: compared with the pool, and trains what a recipe trains
    outside: str | None = None  # FILE or a data set's name: rows unlike the victim's, for recipes and hardenings
    divided: bool = False  # whether the owner holds one half of the pool as outside rows, and the thief the other
    target: str | None = None  # the label column of tables
    classes: str | None = None  # the words of the victim's classes in the order of its columns, separated by commas
    output: str | None = None  # which of the victim's outputs to read
    schema: str | None = None  # FILE.toml that corrects what tables say of their columns
    incomplete: bool = False  # the API answers rows of a table with inputs left out
    leaves: bool = False  # a tree shows the confidence of its leaf, as BigML's did
    explain: str | None = None  # the API explains its answers so: an explainer as people write it
    rows: int | None = None  # cap on the pool's rows
    strict_pool: bool = False  # a picture of the pool that cannot be read is refused, not counted
    endpoint: Endpoint | None = None  # how the API is asked whose address is the victim
    text: str | None = None  # the column of texts, where rows are texts
    softmax: bool = False  # an ONNX victim gives logits
    regression: bool = False  # the victim answers numbers, where nobody could tell
    plain: bool = False  # only a victim will do that takes numbers and answers classes
    label: str | None = None  # of several labels the one that is read: a column's number, or a word of `classes`
    device: str = "cpu"
    cache: str | None = None  # where victims trained on the spot are kept

    def __post_init__(self) -> None:
        if self.device != "cpu" and not _on(self.device):
            raise ParameterError("--device", "cpu, or cuda where PyTorch finds a GPU", self.device)

    def said(self) -> dict[str, Any]:
        """What was asked for, as JSON: all but defaults, this machine's folders and device, and how an API is asked."""
        own = ("folder", "cache", "device", "endpoint")
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in own and f.default != getattr(self, f.name)
        }

    def load(self, hardened: str | None = None) -> Experiment:
        """The experiment; `hardened` names the folder of a model that is served instead of the victim."""
        return _load(self) if hardened is None else _hardened(self, hardened)


def _on(device: str) -> bool:
    """Whether that GPU is there."""
    if not (has_torch() and device.startswith("cuda")):
        return False
    import torch

    number = device.partition(":")[2] or "0"
    return number.isdecimal() and int(number) < torch.cuda.device_count()


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def learner_for(
    input_shape: tuple[int, ...],
    *,
    epochs: int | None = None,
    device: str = "cpu",
    gradients: bool = False,
    numbers: bool = False,
    text: bool = False,
) -> Any:
    """A thief's training procedure that suits the inputs: it chooses what to train by answers set aside.

    With `gradients`, one small network, as published: attacks that follow their copy's gradients train one a round.
    With `numbers`, regressions.
    """
    if numbers:
        from portcullis_ml.models.auto_numbers import NumbersLearner

        return NumbersLearner()
    if text:
        from portcullis_ml.models.tfidf import TfidfLearner

        return TfidfLearner()
    if not gradients and len(input_shape) == 1:
        from portcullis_ml.models.auto import AutoLearner

        return AutoLearner()
    if not gradients and has_torch():
        from portcullis_ml.models.auto_pictures import AutoPictures

        return AutoPictures(epochs=epochs, device=device)
    return network_for(input_shape, epochs=epochs or EPOCHS, device=device)


def learner_said(word: str, epochs: int | None, device: str) -> dict[str, Any]:
    """The learner that somebody named, as a description."""
    if epochs is not None:
        raise ParameterError(
            "--epochs", "left out beside --learner", epochs, "Write epochs=N in the learner's brackets."
        )
    return describe(learner_named(word, device))


def network_for(input_shape: tuple[int, ...], *, epochs: int = EPOCHS, device: str = "cpu") -> Any:
    """A small network that suits the inputs, or logistic regression where there is no torch."""
    if not has_torch():
        from portcullis_ml.models.sklearn import SklearnLearner

        return SklearnLearner()
    from portcullis_ml.models.torch import TorchLearner

    # A table's columns differ in range, and no API tells a thief how to scale them: `table_mlp` does.
    network = "table_mlp" if len(input_shape) == 1 else plain_network(input_shape)
    return TorchLearner(network=network, epochs=epochs, device=device)


def victims_learner(experiment: Experiment, device: str = "cpu") -> Learner:
    """The victim's own training procedure where it is known, else one that suits its rows."""
    known = experiment.names["victim"].get("learner")
    shape = experiment.interface.input_shape
    found: Learner = ATTACKS.build(known) if known else learner_for(shape, epochs=60, device=device, gradients=True)
    return found


@lru_cache(maxsize=2)
def _load(spec: ExperimentSpec) -> Experiment:
    with victims_own(spec.victim):
        return _loaded(spec)


def _loaded(spec: ExperimentSpec) -> Experiment:
    if spec.explain is not None:
        explainer_named(spec.explain)  # a wrong name is found out before a victim is trained
    experiment = _with_outside(spec, _own(spec) if spec.victim is None else _given(spec, spec.victim))
    if spec.explain is not None:
        model = explaining(experiment.model, spec, experiment.test_x)
        experiment = replace(experiment, model=model, interface=experiment.interface.revealing(explains=True))
    # A victim that cannot answer is an error now, before anything is asked or paid.
    checked_answer(experiment.model, experiment.test_x[:256], experiment.interface)
    if spec.victim is not None:
        _must_vary(experiment, spec.victim)
    return experiment


def explaining(model: Model, spec: ExperimentSpec, rows: Array) -> Model:
    """The model as its API serves it: with explanations where the spec wants them, tried on these rows.

    InputError where it cannot be explained.
    """
    if spec.explain is None:
        return model
    if spec.incomplete or spec.leaves:
        raise InputError("--explain explains answers to whole rows; leave out --incomplete and --answers leaves.")
    return explainer_named(spec.explain)(model, like=rows[:PROBED])


@lru_cache(maxsize=4)
def _hardened(spec: ExperimentSpec, folder: str) -> Experiment:
    experiment = spec.load()
    interface = experiment.interface
    features = interface.features if experiment.classes is not None else None
    model = load_model(folder, input_shape=interface.input_shape, n_classes=interface.n_classes, features=features)
    model = _placed(replace(spec, incomplete=False, leaves=False), folder, model)
    model = explaining(model, spec, experiment.test_x)
    checked_answer(model, experiment.test_x[:256], experiment.interface)
    return replace(experiment, model=model)


def _with_outside(spec: ExperimentSpec, experiment: Experiment) -> Experiment:
    """The experiment with outside rows from elsewhere, and with its pool divided where the spec says so."""
    outside: dict[str, Outside] = {}
    if spec.outside is not None:
        interface = experiment.interface
        found = read_outside(spec.outside, spec.folder, spec.target, interface.features, interface.input_shape)
        outside["held_out"] = Outside(found.name, found.x[drawn_of(len(found.x), spec.rows)])
    pool, labels = experiment.pool, experiment.pool_labels
    if not spec.divided or pool is None:
        return replace(experiment, outside=outside)
    from portcullis_ml.data.splits import halves

    own, left = halves(len(pool), experiment.together, rng=derive(0, "outside rows"))
    data = experiment.names["data"]
    outside["matched"] = Outside(f"half of the pool of {data['name']}", pool[own])
    return replace(
        experiment,
        pool=pool[left],
        pool_labels=None if labels is None else labels[left],
        pool_groups=None if experiment.pool_groups is None else experiment.pool_groups[left],
        together=None if experiment.together is None else experiment.together[left],
        overlap=experiment.overlap and _overlap(experiment.train, pool[left]),
        names=experiment.names | {"data": data | {"sha256": fingerprint(data["sha256"], pool[left])}},
        splits=f"{experiment.splits} Of the pool the owner holds {len(own):,} rows as outside rows, the thief the "
        f"other {len(left):,}.",
        outside=outside,
    )


def _own(spec: ExperimentSpec) -> Experiment:
    """A victim trained here, on a share of a data set."""
    from portcullis_ml.data.datasets import load_dataset
    from portcullis_ml.data.splits import split
    from portcullis_ml.models.victims import train_victim

    dataset = load_dataset(spec.data or "digits", spec.folder, target=spec.target)
    if not dataset.classes:
        raise InputError(f"An audit compares labels; {dataset.name} has none (regression). Choose another data set.")
    parts = split(dataset, rng=derive(0, "split"))
    learner: Any = learner_named(spec.trained, spec.device) if spec.trained else None
    learner = learner or network_for(dataset.input_shape, epochs=60, device=spec.device)
    writable = learner.suffix != ".skops" or importlib.util.find_spec("skops")  # else it is trained anew every time
    model = train_victim(
        parts.victim.x,
        parts.victim.y.astype(np.int64),
        dataset.n_classes,
        learner,
        rng=derive(0, "victim"),
        cache=spec.cache if writable else None,
    )
    keep = slice(spec.rows)  # they are in random order already
    held = len(parts.attacker.x)
    taken = f" Of the thief's {held:,} rows {spec.rows:,} are used." if spec.rows and held > spec.rows else ""
    pool, labels = parts.attacker.x[keep], parts.attacker.y[keep].astype(np.int64)
    mark = fingerprint(model.scores(parts.test.x[:200]).round(6))
    name = getattr(learner, "network", None) or getattr(learner, "estimator", "?")
    return Experiment(
        model=model,
        interface=dataset.interface,
        test_x=parts.test.x,
        test_y=parts.test.y.astype(np.int64),
        pool=pool,
        pool_labels=labels,
        overlap=0,
        names={
            "victim": {"name": f"{name} on {dataset.name}", "sha256": mark, "learner": describe(learner)},
            "data": {"name": dataset.name, "sha256": fingerprint(pool, labels, parts.test.x, parts.test.y)},
        },
        splits=parts.describe() + taken,
        classes=dataset.classes,
        train=parts.victim.x,
        train_y=parts.victim.y.astype(np.int64),
        source=dataset.name,
        together=None if dataset.groups is None else dataset.groups[parts.attacker.rows][keep],
    )


def _given(spec: ExperimentSpec, victim: str) -> Experiment:
    """A victim that somebody brought, with rows from a data set or from files."""
    brought = bring(
        Sources(
            victim=victim, data=spec.data, folder=spec.folder, test=spec.test, pool=spec.pool, train=spec.train,
            target=spec.target, schema=spec.schema, classes=spec.classes, output=spec.output, softmax=spec.softmax,
            endpoint=spec.endpoint, regression=spec.regression, text=spec.text, label=spec.label, rows=spec.rows,
            strict_pool=spec.strict_pool,
        )
    )  # fmt: skip
    model, test, pool, train = _placed(spec, victim, brought.model), brought.test, brought.pool, brought.train
    interface = interface_of(brought, victim, model, missing=spec.incomplete, plain=spec.plain)
    pool_x = None if pool is None else pool.x
    return Experiment(
        model=model,
        interface=interface,
        test_x=test.x,
        test_y=test.y,
        pool=pool_x,
        pool_labels=None if pool is None else pool.y,
        pool_groups=None if pool is None else pool.groups,
        overlap=None if train is None or pool_x is None else _overlap(train.x, pool_x),
        names={
            "victim": _identified(victim, model, test.x),
            "data": {"name": _name(spec), "sha256": fingerprint(test.x, test.y, pool_x)},
        },
        splits=brought.splits,
        notes=brought.notes
        if spec.endpoint is None
        else (*brought.notes, spec.endpoint.sentence(victim, asked_of(model))),
        classes=test.classes,
        train=None if train is None else train.x,
        train_y=None if train is None else train.y,
        source=Path(spec.train).name if spec.train else "",
    )


def _identified(victim: str, model: Model, x: Array) -> dict[str, Any]:
    """A victim's name, and a fingerprint: of a folder the hash of its content, else that of the answers to x."""
    if (folder := model_folder(victim)) is not None:
        return {"name": Path(folder.path).name, "sha256": folder.sha256}
    return {"name": Path(victim).name, "sha256": fingerprint(model.scores(x[:200]).round(6))}


def _must_vary(experiment: Experiment, victim: str) -> None:
    """Raise InputError if the victim gives every row the same answer, mostly because it was given the wrong columns."""
    everywhere = np.concatenate(
        [experiment.test_x[:1000], experiment.interface.uniform(100, derive(0, "does it vary"))]
    )
    scores = experiment.model.scores(everywhere)
    if (scores == scores[0]).all():
        raise InputError(
            f"{victim} gives the same answer to every one of {len(everywhere)} rows, so any constant is a perfect "
            "copy and there is nothing to measure. Check that its inputs are scaled and ordered as in training."
        )


def _placed(spec: ExperimentSpec, victim: str, model: Model) -> Model:
    """The model on the device and with the answers that the spec asks for."""
    if spec.device != "cpu" and hasattr(model, "module") and model.n_classes:
        from portcullis_ml.models.torch import TorchModel

        assert isinstance(model, TorchModel)
        return TorchModel(
            model.module, model.input_shape, model.n_classes, device=spec.device,
            reading=model.reading, output=model.output, dtype=model.dtype,
        )  # fmt: skip
    if spec.incomplete or spec.leaves:
        from portcullis_ml.models.incomplete import answering_nodes

        return answering_nodes(model, victim, leaves=spec.leaves)
    return model


def _overlap(train: Array | None, pool: Array) -> int:
    return 0 if train is None else overlap(train, pool)


def _name(spec: ExperimentSpec) -> str:
    return " and ".join(filter(None, [spec.data, *(Path(p).name for p in (spec.test, spec.pool) if p)])) or "?"

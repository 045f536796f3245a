"""The leaves of a tree as an owner holds them against what clients ask: which leaf a row is in, and how wide it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.tree import LEAF, TreeModel

__all__ = ["FILE", "Leaf", "leaves_of", "read_tree", "tree_arrays", "tree_of"]

FILE = "tree.safetensors"


@dataclass(frozen=True)
class Leaf:
    """One leaf: the share of the owner's rows in it, and the columns that its path tests.

    columns, low, high (k,) the columns of numbers and the leaf's edges, within what the API takes
    codes {column of categories: the codes that lead to this leaf}
    """

    mass: float
    columns: NDArray[np.int64]
    low: Array
    high: Array
    codes: Mapping[int, frozenset[int]]


def tree_of(victim: Model, x: Array, labels: Labels) -> TreeModel:
    """The victim itself where it is one decision tree over numbers; else a tree fitted to rows and its labels."""
    from sklearn.tree import DecisionTreeClassifier

    if isinstance(victim, TreeModel):
        return victim
    estimator = getattr(victim, "estimator", None)
    if isinstance(estimator, DecisionTreeClassifier) and not hasattr(victim, "features"):
        return TreeModel.of(estimator, input_shape=victim.input_shape)
    flat = np.asarray(x, np.float32).reshape(len(x), -1)
    return TreeModel.of(DecisionTreeClassifier(random_state=0).fit(flat, labels), input_shape=victim.input_shape)


def tree_arrays(tree: TreeModel) -> dict[str, NDArray[Any]]:
    """The tree without what it answers."""
    pairs = [(node, code) for node, codes in tree.goes_left.items() for code in codes]
    arrays: dict[str, NDArray[Any]] = {name: getattr(tree, name) for name in ("feature", "threshold", "left", "right")}
    return {**arrays, "goes_left": np.array(pairs, np.int64).reshape(-1, 2)}


def read_tree(files: Mapping[str, bytes], interface: Interface, where: str) -> TreeModel:
    """The tree in an artifact's files. InputError where it is absent, or no tree of the API's rows."""
    if FILE not in files:
        raise InputError(f"{where} must hold {FILE}, as evaluation_set writes it; it does not. Prepare it again.")
    arrays = unpack_arrays(files[FILE], f"{where}: {FILE}")
    try:
        goes_left: dict[int, tuple[int, ...]] = {}
        for node, code in arrays["goes_left"].tolist():
            goes_left[node] = (*goes_left.get(node, ()), code)
        feature, threshold, left, right = (arrays[name] for name in ("feature", "threshold", "left", "right"))
        n, inner = len(feature), feature != LEAF
        after = np.concatenate([left[inner], right[inner]]).tolist()
        if not (feature < interface.n_inputs).all() or sorted(after) != list(range(1, n)):
            raise ValueError("its nodes are not those of one tree")
        shape, blank = interface.input_shape, np.zeros((n, 1))
        return TreeModel(feature, threshold, left, right, blank, input_shape=shape, n_classes=0, goes_left=goes_left)
    except (KeyError, ValueError, IndexError, InputError) as error:
        raise InputError(f"{where}: {FILE} must hold a tree of this API's rows ({error}). Prepare it again.") from error


def leaves_of(tree: TreeModel, rows: NDArray[Any], interface: Interface) -> dict[int, Leaf]:
    """{node: its leaf} for those leaves that some of the owner's rows (n, d) are in."""
    nodes, counts = np.unique(tree.apply(rows), return_counts=True)
    mass = dict(zip(nodes.tolist(), (counts / len(rows)).tolist(), strict=True))
    return {node: _leaf(mass[node], edges, allowed) for node, edges, allowed in _walk(tree, interface) if node in mass}


Edges = dict[int, tuple[float, float]]
Allowed = dict[int, frozenset[int]]


def _walk(tree: TreeModel, interface: Interface) -> Iterator[tuple[int, Edges, Allowed]]:
    """Every leaf with the edges of the columns of numbers that its path tests, and the codes of those of categories."""
    stack: list[tuple[int, Edges, Allowed]] = [(0, {}, {})]
    while stack:
        node, edges, allowed = stack.pop()
        column = int(tree.feature[node])
        if column == LEAF:
            yield node, edges, allowed
            continue
        feature = interface.features[column] if interface.features else None
        children = int(tree.left[node]), int(tree.right[node])
        if feature is not None and feature.categorical:
            known = allowed.get(column, frozenset(range(feature.categories)))
            left = frozenset(tree.goes_left.get(node, (c for c in known if c <= tree.threshold[node]))) & known
            for child, codes in zip(children, (left, known - left), strict=True):
                stack.append((child, edges, {**allowed, column: codes}))
            continue
        low, high = edges.get(column, interface.bounds if feature is None else (feature.low, feature.high))
        at = min(max(float(tree.threshold[node]), low), high)
        for child, part in zip(children, ((low, at), (at, high)), strict=True):
            stack.append((child, {**edges, column: part}, allowed))


def _leaf(mass: float, edges: Edges, allowed: Allowed) -> Leaf:
    columns = np.array(sorted(edges), np.int64)
    low, high = (np.array([edges[j][side] for j in columns.tolist()], np.float64) for side in (0, 1))
    return Leaf(mass, columns, low, high, allowed)

"""Trees in files of XGBoost and LightGBM, inspected before anything is predicted.

Their readers trust what they read: a tree that points outside itself makes them read outside their arrays or go round
for ever, and a text of LightGBM that is cut short ends the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError

__all__ = ["inspect_lightgbm", "inspect_xgboost"]


def inspect_xgboost(trees: list[dict[str, Any]], width: int, name: str) -> None:
    """Raise InputError unless each tree, as XGBoost writes it in JSON, stays inside itself and its columns."""
    for tree in trees:
        left, right = (np.asarray(tree[side], np.int64) for side in ("left_children", "right_children"))
        _stay_inside(left, right, np.asarray(tree["split_indices"], np.int64)[left >= 0], width, left >= 0, name)


def inspect_lightgbm(text: str, width: int, name: str) -> None:
    """Raise InputError unless the text is whole and each tree stays inside itself and its columns."""
    head, _, rest = text.partition("\nTree=0\n")
    body, ended, _ = rest.partition("\nend of trees")
    trees = body.split("\nTree=") if body else []
    sizes = next((line.split("=")[1].split() for line in head.splitlines() if line.startswith("tree_sizes=")), [])
    if not ended or len(trees) != len(sizes):
        raise InputError(f"{name} ends before its trees do. Write it again with booster.save_model, or copy it again.")
    for tree in trees:
        found = {key: value for key, _, value in (line.partition("=") for line in tree.splitlines())}
        leaves = int(found["num_leaves"])
        if leaves < 2:
            continue
        values = {k: np.array(found[k].split(), np.int64) for k in ("left_child", "right_child", "split_feature")}
        counts = {len(v) for v in values.values()} | {len(found["leaf_value"].split()) - 1}
        if counts != {leaves - 1}:
            raise InputError(f"{name} holds a tree whose parts do not fit together. Write it again.")
        left, right = values["left_child"], values["right_child"]
        if min(left.min(), right.min()) < -leaves:  # a leaf is written as -1 - its number
            raise _outside(name)
        _stay_inside(left, right, values["split_feature"], width, np.ones(leaves - 1, bool), name)


def _stay_inside(left: Any, right: Any, feature: Any, width: int, split: Any, name: str) -> None:
    """Every child is a node, no node is a child twice and the root is none: so there is no way round."""
    children = np.concatenate([left[split], right[split]])
    nodes = children[children >= 0]
    fits = (nodes < len(left)).all() and (nodes > 0).all() and len(np.unique(nodes)) == len(nodes)
    if not fits or (feature < 0).any() or (feature >= width).any():
        raise _outside(name)


def _outside(name: str) -> InputError:
    return InputError(f"{name} holds a tree that points outside itself. Write the file again from the model.")

"""A model's metadata in the Open Inference Protocol, held against what the policy says of the model.

Servers are free in what they tell: some list no tensors, some leave the axis of rows out. Only what they do tell can
differ.
"""

from __future__ import annotations

from typing import Any

from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["differences"]


def differences(asked: ModelSpec, told: Any) -> list[str]:
    """One sentence for each."""
    tensors = told if isinstance(told, dict) else {}
    return [*_of_inputs(asked, _by_name(tensors.get("inputs"))), *_of_outputs(asked, _by_name(tensors.get("outputs")))]


def _of_inputs(asked: ModelSpec, inputs: dict[str, dict[str, Any]]) -> list[str]:
    if not inputs:
        return []
    if asked.several:
        return _of_parts(asked, inputs)
    names, found = ", ".join(map(repr, inputs)), inputs.get(asked.input)
    if found is None:
        return [f"The model takes {names}; the policy asks with {asked.input!r}: see upstream.input."]
    said = [f"The model takes {names}; the gate asks with one tensor: see [model] inputs."] if len(inputs) > 1 else []
    kind, shape = found.get("datatype"), found.get("shape")
    datatype, row = asked.tensor
    if kind not in (None, datatype):
        said.append(f"The input {asked.input!r} is {kind}; the policy says {datatype}: see [model] datatype and text.")
    if not _fits(shape, row):
        said.append(f"The input {asked.input!r} has shape {shape}; the policy says rows of {list(row)}: see [model] "
                    "input_shape and text.")  # fmt: skip
    return said


def _of_parts(asked: ModelSpec, inputs: dict[str, dict[str, Any]]) -> list[str]:
    """The same for a model that is asked with several tensors."""
    said, names = [], [p.name for p in asked.parts]
    if sorted(inputs) != sorted(names):
        said.append(f"The model takes {', '.join(map(repr, inputs))}; the policy asks with "
                    f"{', '.join(map(repr, names))}: see [model] features or inputs.")  # fmt: skip
    for part in asked.parts:
        found = inputs.get(part.name, {})
        kind, shape = found.get("datatype"), found.get("shape")
        if kind not in (None, part.datatype):
            said.append(f"The input {part.name!r} is {kind}; the policy says {part.datatype}: give it "
                        f'datatype = "{kind}".')  # fmt: skip
        if not _fits(shape, part.shape or (1,)) and not _fits(shape, part.shape):
            said.append(f"The input {part.name!r} has shape {shape}; the policy says rows of "
                        f"{list(part.shape)}: see [model] inputs.")  # fmt: skip
    return said


def _of_outputs(asked: ModelSpec, outputs: dict[str, dict[str, Any]]) -> list[str]:
    if not outputs:
        return []
    names, said = ", ".join(map(repr, outputs)), []
    for key, name in (("scores", asked.scores), ("label", asked.label), ("explanation", asked.explanation)):
        if name and name not in outputs:
            said.append(f"The model answers {names}; the policy asks for {name!r}: see upstream.{key}.")
    label, scores = outputs.get(asked.label or "", {}), outputs.get(asked.scores or "", {})
    if label.get("datatype") == "BYTES" and not asked.class_names:
        said.append(f"The output {asked.label!r} holds words; name the classes in the policy: [model] classes = [...].")
    columns = asked.interface.columns
    one = (
        columns == 1 or asked.interface.n_classes == 2
    )  # of two classes, one column may be the probability of the second
    fitting = [(columns,), (), (1,)] if one else [(columns,)]
    if not any(_fits(scores.get("shape"), row) for row in fitting):
        said.append(f"The output {asked.scores!r} has shape {scores['shape']}; the policy says {columns} scores a row: "
                    f"see [model] {'classes' if asked.interface.n_classes else 'dimensions'}.")  # fmt: skip
    dropped = [repr(name) for name in outputs if name not in asked.outputs]
    if dropped and not said:
        said.append(f"The model also answers {', '.join(dropped)}, which the gate does not ask for and shows nobody.")
    return said


def _by_name(tensors: Any) -> dict[str, dict[str, Any]]:
    found = tensors if isinstance(tensors, list) else []
    return {str(t["name"]): t for t in found if isinstance(t, dict) and "name" in t}


def _fits(shape: Any, row: tuple[int, ...]) -> bool:
    """Whether a shape with open lengths (-1) may be that of rows like this one, with or without the axis of rows."""
    if not isinstance(shape, list):
        return True
    axes = shape[1:] if len(shape) == len(row) + 1 else shape
    return len(axes) == len(row) and all(s in (-1, None, w) for s, w in zip(axes, row, strict=True))

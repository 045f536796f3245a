"""Options that several verbs share, as one parameter of each verb.

A group is a dataclass whose fields are annotated as a verb's options are. A verb that is `grouped` shows the group's
options on the command line, one by one, and gets them as one object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import update_wrapper
from typing import Any, get_type_hints

__all__ = ["grouped"]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the options of its groups in place of the groups. Two options of one name are a ValueError."""
    hints = get_type_hints(verb, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], tuple[Field[Any], ...]]] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind, fields(kind)
            parameters += [_option(f, get_type_hints(kind, include_extras=True)) for f in fields(kind)]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind))

    def called(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in held}) for name, (kind, held) in groups.items()}
        verb(**made, **given)

    update_wrapper(called, verb)
    called.__annotations__ = {}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # which typer reads
    return called


def _option(field: Field[Any], hints: dict[str, Any]) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name])

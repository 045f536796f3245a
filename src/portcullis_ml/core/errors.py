"""Every error that Portcullis raises on purpose, named by what the user can do about it.

    PortcullisError
    |-- ParameterError (ValueError)   a setting is out of its range            fix the setting
    |-- InputError (ValueError)       a file, array or answer is malformed     fix the input
    |-- MissingExtra (ImportError)    an optional dependency is absent         install the extra
    |-- QueryError                    the oracle did not answer
    |   |-- BudgetExhausted           more rows asked than are left to pay for
    |   |-- Refused                   the guard turned the client away
    |   `-- Unreachable               the far side did not answer
    |-- NotApplicable                 this attack cannot run on this interface
    |-- AttackFailed                  it could run, and found no model
    `-- ProofError                    a link of an ownership proof does not hold

A sentence says what was expected, what was given, and what to do.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AttackFailed",
    "BudgetExhausted",
    "InputError",
    "MissingExtra",
    "NotApplicable",
    "ParameterError",
    "PortcullisError",
    "ProofError",
    "QueryError",
    "Refused",
    "Unreachable",
]


class PortcullisError(Exception):
    """The root: catch this to catch everything that Portcullis raises on purpose."""


class ParameterError(PortcullisError, ValueError):
    """A setting is outside its range."""

    def __init__(self, parameter: str, expected: str, value: object, remedy: str = "") -> None:
        super().__init__(f"{parameter} must be {expected}; got {value!r}.{' ' * bool(remedy)}{remedy}")
        self.parameter = parameter


class InputError(PortcullisError, ValueError):
    """A file, an array or a model's output is not what it has to be."""


class MissingExtra(PortcullisError, ImportError):
    """A feature needs a package that the base installation leaves out."""

    def __init__(self, feature: str, package: str, extra: str = "audit") -> None:
        super().__init__(
            f"{feature} needs {package}, which is not installed. "
            f"Install Portcullis with its extra {extra!r}: pip install '.[{extra}]' in a checkout, "
            f"or pip install 'FILE.whl[{extra}]' with its wheel."
        )


class QueryError(PortcullisError):
    """The oracle did not answer a query."""


class BudgetExhausted(QueryError):
    """More rows were asked than the budget still pays for; nothing was answered or charged."""

    def __init__(self, asked: int, left: int) -> None:
        super().__init__(f"{asked} rows were asked and {left} are left in the budget. Cut the batch to what is left.")


class Refused(QueryError):
    """The guard turned the client away.

    `answered` is a `core.types.Answer` to the rows at the head of the batch that were answered before this refusal, or
    None. `room` is how many rows a quota still has for the client, who can send fewer and is not charged for the rest,
    or None. `place` is the request's place in its client's journal, `stage` the stage that refused, where there is one.
    `work` is how many bits of a proof of work would have let the request in; 0 where none would.
    """

    place = work = 0
    stage = ""

    def __init__(
        self, reason: str, *, retry_after: float | None = None, answered: Any = None, room: int | None = None
    ) -> None:
        super().__init__(f"The guard refused this client: {reason}.")
        self.reason = reason
        self.retry_after = retry_after
        self.answered = answered
        self.room = room

    def untaken(self, asked: int) -> int:
        """Of so many rows asked, those that a quota never took; nobody is charged for them."""
        return 0 if self.room is None else asked - (0 if self.answered is None else len(self.answered))


class Unreachable(QueryError):
    """The far side did not answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NotApplicable(PortcullisError):
    """The attack needs something that this interface or this attacker does not have."""


class AttackFailed(PortcullisError):
    """The attack ran within its means and could not produce a model."""


class ProofError(PortcullisError):
    """A link of an ownership proof does not hold."""

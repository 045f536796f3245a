"""The accounts of one principal: who of them asked, and how much of what was answered went to each."""

from __future__ import annotations

from dataclasses import dataclass

from portcullis_ml.core.types import Request

__all__ = ["ACCOUNTS", "OTHERS", "Asked", "count"]

ACCOUNTS = 100  # of a principal that are told apart; of more, those with the fewest rows are counted together
OTHERS = "(others)"


@dataclass(frozen=True)
class Asked(Request):
    """A request of a principal, and the account that sent it."""

    account: str = ""  # empty where it has the principal's own name


def count(accounts: dict[str, list[float]], request: Asked) -> None:
    """Count the answered rows of the account. Of too many accounts, the one with the fewest joins the others."""
    asking = request.account or request.client
    held = accounts.setdefault(asking, [0, request.at, request.at])
    held[0] += len(request)
    held[2] = max(held[2], request.at)
    if len(accounts) > ACCOUNTS:
        least = min(
            (name for name in accounts if name not in (OTHERS, asking)), key=lambda name: (accounts[name][0], name)
        )
        rows, first, last = accounts.pop(least)
        others = accounts.setdefault(OTHERS, [0, first, last])
        others[:] = others[0] + rows, min(others[1], first), max(others[2], last)

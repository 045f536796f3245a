"""Limits that follow from a plan's pilots: rows a principal may ask, what a theft costs, and how accounts change it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from portcullis_ml.bench.pilots import Piloted
from portcullis_ml.core.errors import InputError, ParameterError

__all__ = ["MONTH", "WINDOWS", "Limit", "PerAccount", "Window", "limit_json", "limits_of", "quota_for", "sentences"]

Window = Literal["day", "month", "total"]
WINDOWS: tuple[Window, ...] = get_args(Window)
MONTH = 30  # days
DAY = 86_400  # seconds
SECONDS: dict[Window, int] = {"day": DAY, "month": MONTH * DAY, "total": 36_500 * DAY}  # TOML has no "never": a century


@dataclass(frozen=True)
class PerAccount:
    """The largest quota of one window that keeps so many accounts below the target for the days asked for.

    rows   of each account in a window; 0 where not even one row a window would do
    days   that a theft takes at this quota, by the value; infinite where the accounts never get there
    """

    window: Window
    rows: int
    days: float

    @property
    def seconds(self) -> int:
        """The quota's `per`; at all means a hundred years."""
        return SECONDS[self.window]


@dataclass(frozen=True)
class Limit:
    """What holds against one number of accounts."""

    accounts: int
    per: dict[Window, PerAccount]


def limits_of(piloted: Piloted, *, accounts: Sequence[int], days: int) -> list[Limit]:
    """For every number of accounts, the quotas under which no copy is expected within `days`.

    They go by the low end of the interval. Empty where no attack reaches the target, or where no limit helps.
    """
    if not accounts or min(accounts) < 1:
        raise ParameterError("--accounts", "whole numbers of at least 1, such as 1,10,100", list(accounts))
    if days < 1:
        raise ParameterError("--days", "at least 1", days)
    reach = piloted.worst.queries
    if reach is None or not math.isfinite(reach.value) or piloted.worst.exact:
        return []
    below = max(math.ceil(reach.low) - 1, 0)  # rows that all accounts may ask together
    return [Limit(k, {w: _per_account(w, below, reach.value, k, days) for w in WINDOWS}) for k in sorted(set(accounts))]


def _per_account(window: Window, below: int, needed: float, accounts: int, days: int) -> PerAccount:
    length = {"day": 1, "month": MONTH, "total": days}[window]
    rows = below // (accounts * math.ceil(days / length))
    if rows == 0 or window == "total":
        return PerAccount(window, rows, math.inf)
    return PerAccount(window, rows, (math.ceil(needed / (accounts * rows)) - 1) * length + 1.0)


def sentences(piloted: Piloted, limits: Sequence[Limit], *, days: int, price: float | None) -> list[str]:
    """Three sentences: what was found, what to allow and what a theft costs, and what this does not say."""
    worst, reach, goal = piloted.worst, piloted.worst.queries, f"{piloted.target:.0%} {_word(piloted)}"
    judged = f"{worst.runs} runs, {piloted.rows:,} test rows"
    if reach is None or not math.isfinite(reach.value):
        return [
            f"No limit is needed for {goal}: no attack here gets there within {piloted.most:,} queries, and "
            f"{worst.attack} comes nearest with {worst.best:.0%} after {worst.at:,} (n = {judged}).",
            "Ask for a lower --target, or allow more with --budget, to find out where a limit would begin to matter.",
            "Another attacker, or one who holds other rows, may get further than those that were run here.",
        ]
    if worst.exact:
        return [
            f"{worst.attack} has the whole model after {reach.value:,.0f} queries, d + 1 for its d inputs "
            f"(n = {judged}); with one fewer it has no equation to solve.",
            f"No limit helps: {reach.value:,.0f} rows are fewer than an ordinary client asks, and they cost "
            f"{_money(reach.value, price)}; round or hide the scores instead, and plan again with --decimals or "
            "--answers.",
            "A copy of lower fidelity may take fewer rows still; what was tried is the exact attack alone.",
        ]
    first = limits[0]
    whose = "one account" if first.accounts == 1 else f"each of {first.accounts:,} accounts"
    said = ", ".join(f"{first.per[w].rows:,} {_a(w)}" for w in reversed(WINDOWS))
    return [
        f"The worst attacker, {worst.attack}, is expected to hold a copy with {goal} after {reach.value:,.0f} queries, "
        f"95% interval {reach.low:,.0f} to {reach.high:,.0f} (n = {judged}){_beyond(piloted)}{_fewest(piloted)}.",
        f"No such copy is expected within {days:,} days while {whose} may ask at most {said}; the queries cost "
        f"{_money(reach.value, price)}, and more accounts divide the limit by their number.",
        "This holds for the attacks that were run, with the rows that they held, on answers as they are now: who holds "
        "better rows, or accounts that nobody links, needs another plan.",
    ]


def _beyond(piloted: Piloted) -> str:
    reach = piloted.worst.queries
    assert reach is not None
    sharp = "" if piloted.why == "sharp" else f"; this is not sharp yet ({piloted.why})"
    return f", beyond the {piloted.most:,} that were tried{sharp}" if reach.value > piloted.most else sharp


def _fewest(piloted: Piloted) -> str:
    least = piloted.worst.least
    return "" if least is None else f"; no run had it with fewer than {least:,}"


def _word(piloted: Piloted) -> str:
    return piloted.measure.replace("_", " ")


def _a(window: Window) -> str:
    return {"day": "a day", "month": "a month", "total": "rows at all"}[window]


def _money(queries: float, price: float | None) -> str:
    return "an unknown sum (say --price-per-query)" if price is None else f"{queries * price:,.2f}"


def quota_for(limits: Sequence[Limit], window: Window, accounts: int) -> PerAccount:
    """The quota to write into a policy. InputError where there is none."""
    if not limits:
        raise InputError("There is no limit to write: either no attack reaches the target, or no limit helps.")
    found = next(limit for limit in limits if limit.accounts == accounts).per[window]
    if found.rows == 0:
        raise InputError(
            f"No quota a {window} holds against {accounts:,} accounts: not even one row may be asked. Write one with "
            "--principal-rows-per total, fewer --accounts or fewer --days, or change what the API answers."
        )
    return found


def limit_json(limit: Limit) -> dict[str, Any]:
    """Plain data: infinite days are null."""
    per = {w: asdict(p) | {"days": p.days if math.isfinite(p.days) else None} for w, p in limit.per.items()}
    return {"accounts": limit.accounts, "per": per}

"""What an audit found: as tables for the terminal, as JSON for programs, as a yes or no for `--fail-over`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.report.results import NONE, Audit, Pair

__all__ = ["Outcome"]

CELL = len("100% [99, 100]")
NOT = {"not applicable": "n/a"}
REST = 32  # columns of the terminal for the defense and for what honest clients lose


class Outcome:
    """What an audit found, for the terminal, for programs and for the exit code."""

    def __init__(
        self, audit: Audit, meta: Mapping[str, Any], report: Path, fail_over: float | None, policy: Path | None = None
    ) -> None:
        self._audit = audit
        self._meta = meta
        self._report = report
        self._policy = policy
        self._limit = fail_over
        self._deployed = str(meta["deployed"])

    @property
    def worst(self) -> Pair | None:
        """The attacker who does best behind the deployed guard."""
        return self._audit.strongest if self._deployed == NONE else self._audit.worst(self._deployed)

    @property
    def fails(self) -> bool:
        return bool(self._limit is not None and self.worst and self.worst.measures["agreement"].value > self._limit)

    def check(self) -> None:
        """Raise AttackFailed if a limit was given and no attack made a copy: such a check must not pass."""
        if self._limit is not None and self.worst is None:
            raise AttackFailed(
                f"--fail-over needs an attack that made a copy behind {self._deployed}; none did. "
                "Choose other --attacks, or see the reasons in the report."
            )

    def to_json(self) -> dict[str, Any]:
        from portcullis_ml.report.verdict import verdict_of

        keys = ("command", "victim", "data", "seeds", "budgets", "deployed", "quick", "seconds", "flags", "notes")
        verdict = verdict_of(self._audit)
        return {
            "headline": verdict.headline,
            "lead": verdict.lead,
            "verdict": verdict.kind,
            "worst_behind_deployed": _copy(self.worst),
            "worst_undefended": _copy(self._audit.strongest),
            "fail_over": self._limit,
            "failed": self.fails,
            **{key: self._meta[key] for key in keys},
            "rows": [_row(pair) for pair in (*self._audit.pairs.values(), *self._audit.controls)],
            "privacy": [_row(pair) for pair in self._audit.privacy.values()],
            "marks": [_row(pair) for pair in self._audit.marked.values()],
            "report": str(self._report),
            "policy": None if self._policy is None else str(self._policy),
            "records": str(self._report.with_name("records.jsonl")),
        }

    def show(self) -> None:
        from rich.console import Console

        from portcullis_ml.report.aftermath import sentences
        from portcullis_ml.report.verdict import verdict_of

        console = Console(soft_wrap=False)
        verdict = verdict_of(self._audit)
        console.print()
        console.print(verdict.headline, style="bold", markup=False, highlight=False)
        for sentence in filter(None, (verdict.lead, *verdict.detail, *verdict.caveats)):
            console.print(sentence, markup=False, highlight=False)
        console.print()
        console.print(self._matrix(console.width))
        for sentence in sentences(self._audit):
            console.print(sentence, markup=False, highlight=False)
        flags = sorted({f["id"] for f in self._meta["flags"]})
        if flags:
            console.print(f"\nFlags: {', '.join(flags)}. The report says what each means.", highlight=False)
        if self._limit is not None and self.worst:
            sign = "above" if self.fails else "not above"
            found = self.worst.measures["agreement"]
            console.print(
                f"\nBehind {self._deployed} the worst attacker is {self.worst.attack} with {found.percent()}: "
                f"{sign} the limit of {self._limit:.1%}.",
                style="bold red" if self.fails else "green",
                markup=False,
                highlight=False,
            )
        console.print()
        if self._policy is not None:
            console.print(f"Policy: {self._policy.resolve()}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"Report: {self._report.resolve()}", markup=False, highlight=False, soft_wrap=True)

    def _matrix(self, width: int) -> Any:
        """Agreement of every attack behind every defense, what honest clients lose, and the controls below.

        Where names and intervals do not fit side by side, attacks stand as letters and intervals on a second line.
        """
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        audit = self._audit
        roomy = sum(max(len(a), CELL) + 2 for a in audit.attacks) + REST <= width
        heads = list(audit.attacks) if roomy else [_letter(i) for i in range(len(audit.attacks))]
        title = f"Agreement with the victim at {audit.budget:,} queries"
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        table.add_column("defense", style="cyan", overflow="fold", min_width=16)
        for head in heads:
            table.add_column(Text(head), justify="right", no_wrap=roomy)
        table.add_column("honest clients lose" if roomy else "cost", justify="right", no_wrap=not roomy)
        for defense in audit.defenses:
            cost = audit.cost(defense)
            lost = "?" if cost is None else f"{100 * cost.value:.1f}" + " points" * roomy
            mark = " (deployed)" if defense == self._deployed else ""
            cells = (_cell(audit, a, defense, one_line=roomy) for a in audit.attacks)
            table.add_row(Text(defense + mark), *cells, lost)
        legend = [] if roomy else [Text(f"{h} = {a}") for h, a in zip(heads, audit.attacks, strict=True)]
        controls = [Text(f"control {c.attack}: {_percent(c)}", style="dim") for c in audit.controls]
        missing = any(p.outcome in NOT for p in audit.pairs.values())
        notes = [] if roomy else [Text("cost: points of accuracy that honest clients lose")]
        notes += [Text("n/a: the attack needs more than is shown there; the report says what")] if missing else []
        return Group(*legend, table, *notes, *controls)


def _letter(i: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")


def _percent(pair: Pair) -> str:
    found = pair.measures.get("agreement")
    return found.percent(0) if found else "?"


def _cell(audit: Audit, attack: str, defense: str, *, one_line: bool) -> str:
    pair = audit.pairs.get((attack, defense))
    if pair is None:
        return ""
    found = pair.measures.get("agreement")
    return (
        (found.percent(0) if one_line else found.percent(0).replace(" [", "\n["))
        if found
        else NOT.get(pair.outcome, pair.outcome)
    )


def _copy(pair: Pair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    e = pair.measures["agreement"]
    return {"attack": pair.attack, "queries": pair.queries, "agreement": [e.value, e.low, e.high], "n": e.n}


def _row(pair: Pair) -> dict[str, Any]:
    from portcullis_ml.report.aftermath import then_of

    return {
        "attack": pair.attack,
        "defense": pair.defense,
        "budget": pair.budget,
        "outcome": pair.outcome,
        "reason": pair.reason,
        "queries": pair.queries,
        "measures": {name: [e.value, e.low, e.high] for name, e in pair.measures.items()},
        "alarms": pair.alarms,
        "then": then_of(pair),
    }

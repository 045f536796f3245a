"""What an audit found: as tables for the terminal, as JSON for programs, as a yes or no for `--fail-over`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.report.by_measure import Line, compared
from portcullis_ml.report.heard import heard
from portcullis_ml.report.letters import letters
from portcullis_ml.report.measured import loss_word, measure_word
from portcullis_ml.report.pairs import Pair
from portcullis_ml.report.raised import Limit
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.selected import how_selected, selection
from portcullis_ml.report.thieves import Thief
from portcullis_ml.report.verdict import verdict_of

__all__ = ["Outcome"]

CELL = len("100% [99, 100]")
NOT = {"not applicable": "n/a"}
REST = 39  # columns of the terminal for the defense, the worst attacker and what honest clients lose


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
    def worst(self) -> Thief | None:
        """The attacker who does best behind the deployed guard."""
        return self._audit.worst(self._deployed)

    @property
    def limit(self) -> Limit | None:
        """What --fail-over found; None where no limit was given."""
        return None if self._limit is None else Limit(self._deployed, self._limit, self.worst)

    @property
    def fails(self) -> bool:
        """Whether the worst attacker is above the limit."""
        return self.limit is not None and self.worst is not None and not self.limit.passed

    def check(self) -> None:
        """Raise AttackFailed if no attack made a copy at all, or none behind the guard that a limit is given for."""
        if self._audit.strongest is None:
            raise AttackFailed(
                "No attack made a copy, so the audit says nothing about your model. See the reasons in the report, or "
                "`portcullis inspect` with the same options."
            )
        if self._limit is not None and self.worst is None:
            raise AttackFailed(
                f"--fail-over needs an attack that made a copy behind {self._deployed}; none did. "
                "Choose other --attacks, or see the reasons in the report."
            )

    def to_json(self) -> dict[str, Any]:
        keys = ("command", "victim", "data", "seeds", "budgets", "deployed", "quick", "seconds", "flags", "notes")
        audit, verdict = self._audit, verdict_of(self._audit)
        return {
            "headline": verdict.headline,
            "lead": verdict.lead,
            "verdict": verdict.kind,
            "recommended": audit.recommended,
            "cap": audit.cap,
            "measure": {"name": audit.measure, "why": audit.chosen.get("why", "")},
            "compared": [_line(line) for line in compared(audit)],
            "worst_behind_deployed": _copy(self.worst, audit.measure),
            "worst_undefended": _copy(audit.strongest, audit.measure),
            "fail_over": self._limit,
            "fail_over_compares": "value",
            "failed": self.fails,
            **{key: self._meta[key] for key in keys},
            "rows": [_row(p, audit) for p in (*audit.pairs.values(), *audit.labels.values(), *audit.controls)],
            "worst_attackers": {d: _copy(audit.worst(d), audit.measure) for d in audit.defenses},
            "selected": {d: selection(audit, d) for d in audit.defenses},
            "privacy": [_row(pair, audit) for pair in audit.privacy.values()],
            "marks": [_row(pair, audit) for pair in audit.marked.values()],
            "report": str(self._report),
            "policy": None if self._policy is None else str(self._policy),
            "records": str(self._report.with_name("records.jsonl")),
        }

    def show(self) -> None:
        from rich.console import Console

        from portcullis_ml.report.aftermath import sentences, used

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
        rows, said = used(self._audit)
        if rows:
            console.print(_used(rows, max(p.queries for p in self._audit.pairs.values())))
        for sentence in said:
            console.print(sentence, style="dim", markup=False, highlight=False)
        flags = sorted({f["id"] for f in self._meta["flags"]})
        if flags:
            console.print(f"\nFlags: {', '.join(flags)}. The report says what each means.", highlight=False)
        if self.limit and self.worst:
            console.print(
                f"\n{self.limit.sentence}",
                style="bold red" if self.fails else "green",
                markup=False,
                highlight=False,
            )
        console.print()
        if self._policy is not None:
            console.print(f"Policy: {self._policy.resolve()}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"Report: {self._report.resolve()}", markup=False, highlight=False, soft_wrap=True)

    def _matrix(self, width: int) -> Any:
        """Agreement of every attack and of the plain stranger behind every defense, of the worst attacker, what honest
        clients lose, and the controls below.

        Where names and intervals do not fit side by side, attacks stand as letters and intervals on a second line.
        """
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        audit = self._audit
        roomy = sum(max(len(a) + 2, CELL) + 2 for a in audit.columns) + REST <= width
        marks = letters(audit)
        heads = {a: f"{mark} {a}" if roomy else mark for a, mark in marks.items()}
        shown = audit.columns if roomy else audit.attacks
        title = f"{_title(audit)} at {audit.budget:,} queries"
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        table.add_column("defense", style="cyan", overflow="fold", min_width=16)
        for attack in shown:
            table.add_column(Text(heads[attack]), justify="right", no_wrap=roomy)
        table.add_column("worst", justify="right", style="bold", no_wrap=True)
        table.add_column("honest clients lose" if roomy else "cost", justify="right", no_wrap=not roomy)
        for defense in audit.defenses:
            cost, worst = audit.cost(defense), audit.worst(defense)
            lost = "?" if cost is None else f"{100 * cost.value:.1f}" + " points" * roomy
            mark = " (deployed)" if defense == self._deployed else ""
            cells = [_cell(audit, a, defense, one_line=roomy) for a in shown]
            who = "" if worst is None or worst.failed else f" {marks[worst.attack]}"
            table.add_row(Text(defense + mark), *cells, f"{100 * worst.copy.value:.0f}%{who}" if worst else "", lost)
        legend = [] if roomy else [Text(f"{letter} = {a}") for a, letter in marks.items()]
        others = [c for c in audit.controls if c not in audit.asking]
        controls = [Text(f"control {c.attack}: {_percent(c, audit.measure)}", style="dim") for c in others]
        missing = any(p.outcome in NOT for p in audit.pairs.values())
        notes = [] if roomy else [Text(f"cost: points of {loss_word(audit)} that honest clients lose")]
        notes += [Text("n/a: the attack needs more than is shown there; the report says what")] if missing else []
        notes += [
            Text("worst: the copy of whoever gets furthest there; never less than what someone has who never asks")
        ]
        notes += [Text(sentence) for sentence in heard(audit)]
        notes += [Text(said)] if (said := how_selected(audit, NONE)) else []
        return Group(*legend, table, *notes, *controls)


def _used(rows: Sequence[Sequence[str]], bill: int) -> Any:
    """What the copies are good for, a row for each link."""
    from rich.table import Table
    from rich.text import Text

    title = f"What the copy is good for, beside the same attack on the API; at most {bill:,} queries"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("theft", "defense", "then", "on the copy", "on the API"):
        shown = name.startswith("on")
        table.add_column(name, justify="right" if shown else "left", overflow="fold", no_wrap=shown)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _title(audit: Audit) -> str:
    if audit.numbers:
        return "Variance of the victim's answers explained"
    return f"{measure_word(audit).capitalize()} with the victim"


def _percent(pair: Pair, measure: str) -> str:
    found = pair.measures.get(measure)
    return found.percent(0) if found else "?"


def _cell(audit: Audit, attack: str, defense: str, *, one_line: bool) -> str:
    pair = audit.cell(attack, defense)
    if pair is None:
        return ""
    found = pair.measures.get(audit.measure)
    return (
        (found.percent(0) if one_line else found.percent(0).replace(" [", "\n["))
        if found
        else NOT.get(pair.outcome, pair.outcome)
    )


def _copy(thief: Thief | None, measure: str) -> dict[str, Any] | None:
    """The attacker who fares best, for programs; `failed` where their copy is worth less than never asking."""
    if thief is None:
        return None
    e, own = thief.copy, thief.own
    said = {"attack": thief.attack, "how": thief.how, "queries": thief.queries, "failed": thief.failed}
    return said | {measure: [e.value, e.low, e.high], "n": e.n, "own": [own.value, own.low, own.high]}


def _line(line: Line) -> dict[str, Any]:
    """One measure of the strongest copy, beside labels by hand and whoever never asks, for programs."""
    found = {"copy": line.copy, "labels_by_hand": line.own, "never_asking": line.unasked, "ahead_by": line.gain}
    return {"measure": line.name} | {k: None if e is None else [e.value, e.low, e.high] for k, e in found.items()}


def _row(pair: Pair, audit: Audit) -> dict[str, Any]:
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
        "then": then_of(pair, audit),
    }

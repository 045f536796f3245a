"""`portcullis audit`: how cheaply a model can be stolen, by whom, and what each defense changes."""

from __future__ import annotations

import json

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.audit_options import Guards, Judgement, Runs, Theft, Written
from portcullis_ml.cli.grouped import grouped
from portcullis_ml.cli.victim_options import Api, Shown, Victim

__all__ = ["audit"]


@grouped
def audit(
    victim: Victim,
    api: Api,
    shown: Shown,
    theft: Theft,
    guards: Guards,
    judgement: Judgement,
    written: Written,
    runs: Runs,
) -> None:
    """How cheaply your model can be stolen, by whom, and what each defense changes.

    Without options it audits a softmax regression of scikit-learn's digits in a scene that shows what an audit says: an
    exact theft, a defense that helps, one that does not, and an alarm. Minutes, no download.

    \b
    portcullis audit
    portcullis audit --data digits
    portcullis audit --victim model.onnx --test test.npz --pool pool.npz --budget 3000
    portcullis audit --victim app:model --data mnist --defenses "rounding(decimals=2), top_k(k=1) + label_only"
    portcullis audit --victim model.skops --test adult.csv.gz --target income --fail-over 0.8
    portcullis audit --outside other.npz --defenses "out_of_domain(filter=domain_filter), outlier_exposure + rounding"

    It can be stopped at any time; the same command goes on from where it stood.
    """
    from portcullis_ml.bench.run_audit import AuditOptions, run_audit
    from portcullis_ml.bench.showcase import showcase
    from portcullis_ml.cli.formats import formats as named_formats
    from portcullis_ml.cli.formats import write_formats
    from portcullis_ml.cli.outcome import Outcome
    from portcullis_ml.cli.progress import waiting, watching
    from portcullis_ml.cli.schema import show_understood
    from portcullis_ml.report import write_policy, write_report
    from portcullis_ml.report.results import audit_of

    files, out = named_formats(written.formats), written.out
    options = AuditOptions(
        spec=victim.spec(api, shown, device=runs.device, outside=guards.outside),
        attacks=_words(theft.attacks),
        defenses=None if guards.defenses is None else _words(guards.defenses),
        deployed=guards.deployed,
        budgets=_numbers(theft.budget),
        answers=api.reveals,
        k=shown.k,
        decimals=shown.decimals,
        precision=shown.precision,
        seeds=runs.seeds,
        seed=runs.seed,
        epochs=theft.epochs,
        learner=theft.learner,
        privacy=_words(theft.privacy),
        then=_words(theft.then),
        marks=_words(guards.marks),
        cap=judgement.cap,
        price_per_query=judgement.price_per_query,
        price_per_label=judgement.price_per_label,
        measure=judgement.measure,
        transfer=written.transfer,
        quick=runs.quick,
        fail_over=judgement.fail_over,
        regimes=_words(guards.regimes),
        command=o.command_line(),
    )
    if victim.data is None:
        options = showcase(options)
    # Every process would ask an API at the rate that --per-second allows.
    machines = o.workers(runs.on, 1 if api.per_second else runs.jobs, api=options.spec.endpoint is not None)
    with waiting("Loading the victim; without one of yours, training one ..."):
        experiment = options.spec.load()
    if not written.as_json:
        show_understood(options.spec, experiment)
    with watching() as progress:
        records, meta = run_audit(options, out=out, jobs=machines, progress=progress, training=progress.training)
    policy = write_policy(records, meta, out / "portcullis.toml")
    audited = audit_of(records, meta)
    outcome = Outcome(audited, meta, out / "report.html", judgement.fail_over, policy)
    write_report(records, {**meta, "limit": outcome.limit}, out / "report.html")
    write_formats(files, audited, meta, outcome.limit, out)
    if written.as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        outcome.show()
    outcome.check()
    if outcome.fails:
        raise typer.Exit(3)


def _words(given: list[str] | None) -> tuple[str, ...]:
    """Every unit named, whether separated by commas or given one by one."""
    from portcullis_ml.catalog import split_outside

    return tuple(split_outside(",".join(given or ()), ","))


def _numbers(text: str | None) -> tuple[int, ...]:
    from portcullis_ml.core.errors import ParameterError

    try:
        return tuple(int(part.replace("_", "")) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise ParameterError("--budget", "whole numbers, separated by commas", text) from None

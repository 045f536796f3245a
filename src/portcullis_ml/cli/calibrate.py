"""`portcullis calibrate`: a detector's threshold from the operator's own benign traffic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from portcullis_ml.core.guard import Detector
    from portcullis_ml.core.types import Estimate
    from portcullis_ml.gateway.policy.policy import Policy
    from portcullis_ml.measures.calibration import Calibration, ClientStream

__all__ = ["calibrate"]


def calibrate(
    traffic: Annotated[
        Path, typer.Argument(help="The gate's query log (folder or file), or rows with client, time and label.")
    ],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The policy whose watches are calibrated.")
    ] = None,
    detectors: Annotated[
        str | None, typer.Option(metavar="WORDS", help='Without a policy: "prada(window=20), prada_normality".')
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Honest clients who may be called, as a share of all clients of a day.")
    ] = 0.01,
    write: Annotated[bool, typer.Option("--write", help="Write the thresholds into the policy.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What was used; beside the policy unless given, where `portcullis check` looks for it."
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A client who is not to be counted as honest; repeat for more.")
    ] = None,
    client_column: Annotated[str, typer.Option(help="Of a file: who asked.")] = "client",
    time_column: Annotated[str, typer.Option(help="Of a file: when.")] = "time",
    label_column: Annotated[str, typer.Option(help="Of a file: the class that the model answered.")] = "label",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw that halves the clients.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Set the thresholds of detectors at a stated rate of false alarms per client and day.

    \b
    portcullis calibrate log/ --policy portcullis.toml --rate 0.01 --write
    portcullis calibrate traffic.csv --detectors prada_normality --rate 0.05

    A half of the clients sets the threshold, the other half says how many of them it calls. All traffic is taken
    for honest.
    """
    from portcullis_ml.cli.traffic import Names, read_traffic
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.gateway.policy.calibrated import record_beside
    from portcullis_ml.gateway.policy.policy import read_policy
    from portcullis_ml.measures.calibration import clients_needed

    clients_needed(rate)  # a wrong rate is found out before anything is read
    if (policy is None) == (detectors is None) or (write and policy is None):
        raise InputError("Give either --policy FILE, which --write edits, or --detectors WORDS.")
    used = read_policy(policy) if policy else None
    names = Names(client_column, time_column, label_column)
    if used:
        model = used.asked
        names = replace(names, classes=model.class_names, features=model.interface.features or ())
    streams = [s for s in read_traffic(traffic, names) if s.client not in (leave_out or [])]
    stages = _of_policy(used, streams) if used else _of_words(str(detectors), streams)
    found = _calibrated(stages, streams, rate, seed)
    target = record or (record_beside(policy) if policy else Path("calibration.json"))
    told = _record(found, streams, traffic, rate, seed)
    if write and policy:
        _write(policy, found)
    target.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    typer.echo(json.dumps(told, indent=2)) if as_json else _show(found, streams, policy if write else None, target)


@dataclass(frozen=True)
class Stage:
    """A watch to calibrate: its place in the policy, its detector bound to the model, and its settings as written."""

    number: int
    detector: Detector[Any]
    settings: Mapping[str, Any]  # of the whole watch


def _of_policy(policy: Policy, streams: Sequence[ClientStream]) -> list[Stage]:
    """Every watch of the policy, bound to its model."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.core.settings import describe

    _fits(streams, policy.asked.interface.input_shape)
    found = []
    for number, (stage, bound) in enumerate(zip(policy.stages, policy.guard().stages, strict=True)):
        settings = describe(stage)
        if settings["unit"] == "watch":
            found.append(Stage(number, bound.detectors()[0], settings))
    if not found:
        raise InputError('No stage of this policy watches: a [[guard]] with unit = "watch" does. Nothing to calibrate.')
    return found


def _of_words(words: str, streams: Sequence[ClientStream]) -> list[Stage]:
    """Detectors by name, for a model whose shape and classes are those of the traffic."""
    from portcullis_ml.catalog import split_outside
    from portcullis_ml.core.errors import ParameterError
    from portcullis_ml.core.guard import Detector
    from portcullis_ml.core.settings import describe
    from portcullis_ml.core.types import Interface, Reveals
    from portcullis_ml.detectors import CATALOG

    _fits(streams)
    scores, shape = streams[0].answer.scores, streams[0].x.shape[1:]
    greatest = max(int(s.answer.labels.max()) for s in streams if s.answer.labels is not None)
    interface = Interface(
        input_shape=shape,
        n_classes=max(2, greatest + 1 if scores is None else scores.shape[1]),
        reveals=Reveals.LABELS if scores is None else Reveals.PROBS,
    )
    found = []
    for number, word in enumerate(split_outside(words, ",")):
        detector = CATALOG.build(word)
        if not isinstance(detector, Detector):
            raise ParameterError("--detectors", "names in `portcullis list detectors`", word)
        settings = {"unit": "watch", "detector": describe(detector), "then": {"unit": "log"}}
        found.append(Stage(number, detector.bind(interface), settings))
    return found


def _fits(streams: Sequence[ClientStream], shape: tuple[int, ...] | None = None) -> None:
    """InputError where nobody is left, or rows are not of this shape; without one, of the first client's."""
    from portcullis_ml.core.errors import InputError

    if not streams:
        raise InputError("No client is left to calibrate on.")
    wanted = shape or streams[0].x.shape[1:]
    strange = next((s.x.shape[1:] for s in streams if s.x.shape[1:] != wanted), None)
    if strange:
        raise InputError(f"Rows of shape {wanted} were expected; the traffic holds rows of {strange}.")


def _calibrated(
    stages: Sequence[Stage], streams: Sequence[ClientStream], rate: float, seed: int
) -> list[tuple[Stage, Calibration]]:
    import numpy as np

    from portcullis_ml.cli.progress import watching
    from portcullis_ml.measures.calibration import calibrate as run

    found = []
    with watching() as progress:
        for stage in stages:
            name = stage.detector.name or "the detector"

            def told(done: int, name: str = name) -> None:
                progress.training(f"{name}: clients", done, len(streams))

            rng = np.random.default_rng(seed)
            found.append((stage, run(stage.detector, streams, rate=rate, rng=rng, told=told)))
    return found


def _watch(stage: Stage, found: Calibration) -> dict[str, Any]:
    """The watch's settings with the new threshold."""
    return {**stage.settings, "detector": {**stage.settings["detector"], "threshold": found.threshold}}


def _write(policy: Path, found: Sequence[tuple[Stage, Calibration]]) -> None:
    """Every threshold into the policy's text, all or none."""
    from portcullis_ml.cli.policy_edit import with_threshold

    text = policy.read_text(encoding="utf-8")
    for stage, result in found:
        text = with_threshold(text, stage.number, result.threshold)
    part = policy.with_name(policy.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.chmod(policy.stat().st_mode)
    part.replace(policy)


def _record(
    found: Sequence[tuple[Stage, Calibration]], streams: Sequence[ClientStream], traffic: Path, rate: float, seed: int
) -> dict[str, Any]:
    """What was used and what came of it, without anybody's name or rows."""
    from portcullis_ml import __version__

    first, last = _span(streams)
    return {
        "calibrated": [
            {
                "detector": _watch(stage, result)["detector"],
                "threshold_before": result.before,
                "chosen_on_clients": result.chosen_on,
                "held_out_client_days": result.client_days,
                "held_out": asdict(result.held_out),
                "held_out_before": asdict(result.held_out_before),
            }
            for stage, result in found
        ],
        "rate": rate,
        "seed": seed,
        "traffic": str(traffic),
        "clients": len(streams),
        "rows": sum(len(s.x) for s in streams),
        "first": first,
        "last": last,
        "portcullis": __version__,
    }


def _span(streams: Sequence[ClientStream]) -> tuple[str, str]:
    """The first and the last day, in UTC."""
    ends = (min(float(s.at[0]) for s in streams), max(float(s.at[-1]) for s in streams))
    first, last = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d") for at in ends)
    return first, last


def _show(
    found: Sequence[tuple[Stage, Calibration]], streams: Sequence[ClientStream], written: Path | None, record: Path
) -> None:
    from rich.console import Console
    from rich.table import Table

    from portcullis_ml.report.recommend import toml

    first, last = _span(streams)
    rows = sum(len(s.x) for s in streams)
    typer.echo(f"{len(streams):,} clients, {rows:,} rows, {first} to {last} (UTC).")
    table = Table("detector", "threshold", "honest clients called a day", "held out", title=None)
    for stage, result in found:
        n = f"{result.held_out.n} clients, {result.client_days} days"
        table.add_row(stage.detector.name, f"{result.before:g} before", _percent(result.held_out_before), n)
        table.add_row("", f"{result.threshold:g} now", _percent(result.held_out), n)
    Console().print(table)
    if len(found) > 1:
        typer.echo("Each detector is held to the rate by itself; together they may call more.")
    typer.echo(f"Written into {written}:" if written else "For the policy:")
    for stage, result in found:
        typer.echo("\n" + toml(_watch(stage, result)))
    typer.echo(f"\nThe record is in {record}.")


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f}% [{100 * e.low:.1f}, {100 * e.high:.1f}]"

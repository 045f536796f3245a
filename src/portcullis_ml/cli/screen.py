"""`portcullis screen`: whether a model that somebody else trained looks as if data were hidden in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import options as o

if TYPE_CHECKING:
    from portcullis_ml.bench.run_screen import Screened

__all__ = ["screen"]

ENCODINGS = {"low bits": "low_bits", "values": "correlated_values", "signs": "signs", "answers": "label_capacity"}
ASSUMED = (
    "The training file holds the rows that the model was trained on.",
    "--learner says how it was trained. A model of another recipe is accused too: that says that it was not trained as "
    "stated, and not why.",
    "An encoding is named by the test that looks for it. Signs and values move one another, and both may move answers.",
)
UNSEEN = (
    "low bits that are encrypted, which look like honest ones; casting the weights to half precision destroys them",
    "weights that are shaped like those of clean models",
    "small payloads",
    "synthetic rows whose learning leaves no mark on noise and on single bright inputs",
)


def screen(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A PyTorch network: .safetensors, .safetensors@module:factory or module:object."
        ),
    ],
    train: Annotated[
        str, typer.Option(metavar="FILE", help="The rows that it was trained on, with their classes: .npz or .csv.")
    ],
    learner: Annotated[
        list[str] | None,
        typer.Option(
            help='How it was trained: "network(network=mlp, epochs=30)"; see `portcullis list learners`. Several times '
            "where you have to guess."
        ),
    ] = None,
    target: o.TargetOption = None,
    models: Annotated[int, typer.Option(help="Clean models to train and compare with.")] = 20,
    rate: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="The share of clean models that may be accused.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Where clean models are remembered; none is trained twice.")] = Path(
        "portcullis-screen"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: o.DeviceOption = "cpu",
) -> None:
    """Whether a model that somebody else trained looks as if training data were hidden in it.

    Clean models are trained as the model is said to be trained, and compared with it in four ways, one for each
    known encoding. Exit code 3: the model is accused.

    \b
    portcullis screen model.safetensors --train train.npz --learner "network(network=mlp, epochs=30)"
    portcullis screen weights.safetensors@app:make --train train.npz --learner "network(network=app:make)" --json

    It can be stopped at any time; the same command goes on from where it stood.
    """
    from portcullis_ml.bench.run_screen import run_screen
    from portcullis_ml.cli.progress import watching
    from portcullis_ml.core.errors import InputError

    if not learner:
        raise InputError(
            "A screen compares the model with clean ones; got no --learner to train them with. Say how the model was "
            'trained: --learner "network(network=mlp, epochs=30)", several times where you have to guess.'
        )
    with watching() as progress:
        found = run_screen(
            model, train, learner, target=target, models=models, rate=rate, seed=seed, device=device, out=out,
            progress=lambda done, steps: progress.training("clean models", done, steps),
        )  # fmt: skip
    said = _as_json(found, model, learner, rate)
    if as_json:
        typer.echo(json.dumps(said, indent=2))
    else:
        _show(said)
    if said["accused"]:
        raise typer.Exit(3)


def _as_json(found: Screened, model: str, learners: list[str], rate: float) -> dict[str, Any]:
    speak = {f.test for f in found.accusing}
    n = found.clean["any"].n
    notes = ["The weights were in half precision: their low bits are 0 and hold nothing."] if found.rounded else []
    return {
        "headline": _headline([ENCODINGS[f.test] for f in found.accusing]),
        "accused": bool(speak),
        "model": model,
        "encodings": {
            ENCODINGS[f.test]: {
                "test": f.test,
                "shown": f.test in speak,
                "p_value": f.p_value,
                "figure": f.figure,
                "value": f.value,
                "usual": f.usual,
                "clean_accused": _share(found, f.test),
            }
            for f in found.findings
        },
        "clean_models": n,
        "clean_accused": _share(found, "any"),
        "rate": rate,
        "learners": learners,
        "notes": notes,
        "assumed": list(ASSUMED),
        "cannot_see": list(UNSEEN),
    }


def _share(found: Screened, test: str) -> list[float]:
    e = found.clean[test]
    return [e.value, e.low, e.high]


def _headline(shown: list[str]) -> str:
    if not shown:
        return "Nothing in the model's weights and answers speaks against it."
    return f"The model was not trained as stated, or hides data: it shows signs of {', '.join(shown)}."


def _show(said: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False)
    console.print(said["headline"], style="bold red" if said["accused"] else "bold green", highlight=False)
    table = Table(box=None)
    for name in ("encoding", "shown", "p", "the farthest figure", "here", "in clean models", "clean models accused"):
        table.add_column(name)
    for name, e in said["encodings"].items():
        usual = "" if e["usual"] is None else f"{e['usual'][0]:.3g} ± {e['usual'][1]:.2g}"
        cells = [f"{e['p_value']:.2g}", e["figure"], f"{e['value']:.3g}", usual, _percent(e["clean_accused"])]
        table.add_row(name, "yes" if e["shown"] else "no", *cells)
    console.print(table)
    n, share = said["clean_models"], _percent(said["clean_accused"])
    console.print(f"Of {n} clean models, each beside the others, {share} are accused by any test.", highlight=False)
    for line in (*said["notes"], *(f"Assumed: {line}" for line in said["assumed"])):
        console.print(line, highlight=False)
    console.print(f"What no test here can see: {'; '.join(said['cannot_see'])}.", highlight=False)


def _percent(share: list[float]) -> str:
    value, low, high = (100 * v for v in share)
    return f"{value:.0f}% \\[{low:.0f}, {high:.0f}]"

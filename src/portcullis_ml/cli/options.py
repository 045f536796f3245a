"""Options that several verbs share, each defined once."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from portcullis_ml.bench.endpoint import Endpoint
    from portcullis_ml.bench.experiment import ExperimentSpec
    from portcullis_ml.bench.run import Jobs

__all__ = [
    "CORES",
    "THIEF",
    "AnswersOption",
    "ApiKeyOption",
    "AuthorizedOption",
    "DataOption",
    "DecimalsOption",
    "DeviceOption",
    "ExplainOption",
    "FolderOption",
    "IncompleteOption",
    "JobsOption",
    "KOption",
    "LearnerOption",
    "ModelNameOption",
    "OnOption",
    "OutsideOption",
    "PerSecondOption",
    "PoolOption",
    "PrecisionOption",
    "ProtocolOption",
    "SchemaOption",
    "SoftmaxOption",
    "TargetOption",
    "TestOption",
    "TextOption",
    "TrainOption",
    "VictimOption",
    "cache_folder",
    "command_line",
    "endpoint_of",
    "spec_of",
    "workers",
]

CORES = os.cpu_count() or 2
WHAT, ENDPOINT, THIEF, HOW = "What is attacked", "Where the victim is an API", "Who attacks", "How it runs"

VictimOption = Annotated[
    str | None,
    typer.Option(
        "--victim",
        metavar="FILE|MODULE:OBJECT",
        help="Your model: .onnx, .skops, .safetensors@module:factory, .pt, .pt2, .keras, .json, .ubj, .txt, .cbm, "
        "module:object, the folder of a hardened one, or the address of its API. None trains one on --data.",
        rich_help_panel=WHAT,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="A data set: digits (embedded), a name in the data folder, a file, or openml:NAME.",
        rich_help_panel=WHAT,
    ),
]
FolderOption = Annotated[
    str | None,
    typer.Option("--data-folder", envvar="PORTCULLIS_DATA", help="Where named data sets lie.", rich_help_panel=WHAT),
]
TestOption = Annotated[
    str | None,
    typer.Option(
        "--test", metavar="FILE", help="Rows that judge the copy: .npz with x and y, or a .csv.", rich_help_panel=WHAT
    ),
]
PoolOption = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="FILE",
        help="The thief's own inputs: .npz with x, .npy, a .csv, a folder or .zip of pictures, or module:object of a "
        "data set.",
        rich_help_panel=WHAT,
    ),
]
TrainOption = Annotated[
    str | None,
    typer.Option(
        "--train",
        metavar="FILE",
        help="The victim's training rows: no thief sees them; they train what a defense needs.",
        rich_help_panel=WHAT,
    ),
]
OutsideOption = Annotated[
    str | None,
    typer.Option(
        "--outside",
        metavar="FILE|NAME",
        help="Rows of yours that are unlike the victim's, for what is trained with such rows: a file or a data set.",
        rich_help_panel=WHAT,
    ),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="COLUMN", help="The label column of tables.", rich_help_panel=WHAT)
]
TextOption = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="COLUMN", help="Rows are texts, and stand in this column (or key).", rich_help_panel=WHAT
    ),
]
SoftmaxOption = Annotated[
    bool,
    typer.Option("--softmax", help="The victim gives logits: turn them into probabilities.", rich_help_panel=WHAT),
]
SchemaOption = Annotated[
    str | None,
    typer.Option(
        "--schema", metavar="FILE", help="A .toml that corrects ranges and categories of a table.", rich_help_panel=WHAT
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="A,B,...",
        help="The words of the victim's classes, in the order of its columns, where it does not name them.",
        rich_help_panel=WHAT,
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output-name", metavar="NAME", help="Which of the victim's outputs holds the scores.", rich_help_panel=WHAT
    ),
]
AnswersOption = Annotated[
    str,
    typer.Option(
        "--answers",
        metavar="probs|top_k|labels|leaves",
        help="What your API shows; leaves: a tree's class and the confidence of its leaf.",
        rich_help_panel=WHAT,
    ),
]
DecimalsOption = Annotated[
    int | None,
    typer.Option("--decimals", min=0, max=12, help="Decimals to which your API rounds.", rich_help_panel=WHAT),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision", metavar="float64|float32", help="Of your API's answers; the victim's own.", rich_help_panel=WHAT
    ),
]
IncompleteOption = Annotated[
    bool,
    typer.Option("--incomplete", help="Your API answers rows of a table with inputs left out.", rich_help_panel=WHAT),
]
ExplainOption = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="WORD",
        help="Your API explains its answers: grad_cam, gradient_x_input or tree_contributions; see `portcullis list "
        "explainers`.",
        rich_help_panel=WHAT,
    ),
]
KOption = Annotated[int, typer.Option("--k", min=1, help="Scores shown with --answers top_k.", rich_help_panel=WHAT)]
JobsOption = Annotated[
    int, typer.Option("--jobs", min=0, help="Processes at work; 0 works in this one.", rich_help_panel=HOW)
]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ray[://HOST:PORT]",
        help="Run cells on a Ray cluster, this machine's or the one at that address, as many at a time as it has CPUs "
        "(extra `ray`).",
        rich_help_panel=HOW,
    ),
]
LearnerOption = Annotated[
    str | None,
    typer.Option(
        "--learner",
        help='How copies are trained: "pretrained(train=last)"; see `portcullis list learners`. Chosen by the inputs '
        "unless given; attacks that follow their copy's gradients keep a small network.",
        rich_help_panel=THIEF,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.", rich_help_panel=HOW)]


ProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="v2|v1|invocations|FILE.toml",
        help="How an API is spoken to; a file says where rows and scores stand in a home-made one. One at "
        "grpc://HOST:PORT is called by gRPC.",
        rich_help_panel=ENDPOINT,
    ),
]
ModelNameOption = Annotated[
    str, typer.Option("--model-name", help="The model's name at its API.", rich_help_panel=ENDPOINT)
]
AuthorizedOption = Annotated[
    str | None,
    typer.Option(
        "--authorized-by",
        help="Who allowed the audit, in writing; needed beyond this machine, and kept with the results.",
        rich_help_panel=ENDPOINT,
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="FILE",
        help="The API key to send, in a file; else PORTCULLIS_API_KEY. It is never on the command line.",
        rich_help_panel=ENDPOINT,
    ),
]
PerSecondOption = Annotated[
    float | None,
    typer.Option("--per-second", min=0.001, help="Rows asked a second at most.", rich_help_panel=ENDPOINT),
]


def endpoint_of(
    victim: str | None,
    *,
    answers: str = "probs",
    protocol: str = "v2",
    model_name: str = "model",
    authorized_by: str | None = None,
    api_key: str | None = None,
    per_second: float | None = None,
) -> Endpoint | None:
    """How the API is asked that `victim` is the address of; None where it is no address."""
    from portcullis_ml.bench.endpoint import Endpoint, is_address
    from portcullis_ml.core.errors import InputError

    if is_address(victim):
        protocol = "grpc" if protocol == "v2" and str(victim).startswith("grpc") else protocol
        return Endpoint(
            protocol=protocol, model=model_name, answers=answers, authorized_by=authorized_by, key_file=api_key,
            per_second=per_second, store=str(Path(cache_folder()) / "endpoints"),
        )  # fmt: skip
    if authorized_by or api_key or per_second or model_name != "model" or protocol != "v2":
        raise InputError(
            "--protocol, --model-name, --authorized-by, --api-key and --per-second belong to an API. Give its address "
            "as --victim http://..."
        )
    return None


def workers(on: str | None, jobs: int, *, api: bool = False) -> Jobs:
    """The cluster of --on, which answers now, or this machine's processes. InputError for an API on a cluster."""
    if on is None:
        return jobs
    from portcullis_ml.bench.on_ray import RayCluster
    from portcullis_ml.core.errors import InputError

    if api:
        raise InputError(
            "An API at an address is asked from this machine, and --on would ask from others. Leave --on out."
        )

    return RayCluster(on)


def cache_folder() -> str:
    """Where victims trained on the spot are kept: $PORTCULLIS_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return os.environ.get("PORTCULLIS_CACHE") or str(Path(base) / "portcullis")


def command_line() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join(["portcullis", *sys.argv[1:]])


def spec_of(
    *,
    victim: str | None,
    data: str | None,
    folder: str | None,
    test: str | None,
    pool: str | None,
    train: str | None,
    target: str | None,
    softmax: bool,
    device: str,
    schema: str | None = None,
    incomplete: bool = False,
    leaves: bool = False,
    explain: str | None = None,
    outside: str | None = None,
    classes: str | None = None,
    output: str | None = None,
    regression: bool = False,
    label: str | None = None,
    endpoint: Endpoint | None = None,
    text: str | None = None,
    pool_rows: int = 20_000,
    strict_pool: bool = False,
    any_kind: bool = False,
) -> ExperimentSpec:
    """The spec that these options name. Raises InputError for files without a victim.

    any_kind   whether the verb also takes a victim that takes texts or answers numbers
    """
    from portcullis_ml.bench.endpoint import is_address
    from portcullis_ml.bench.experiment import ExperimentSpec
    from portcullis_ml.core.errors import InputError

    if is_address(victim) and endpoint is None:
        raise InputError(
            f"This command takes a model in your hands; {victim} is an API. `portcullis audit`, `inspect` and "
            "`extract` ask one."
        )
    own = schema or incomplete or leaves or classes or output or regression or label or text is not None
    if victim is None and own:
        raise InputError(
            "--schema, --classes, --output-name, --regression, --label, --text, --incomplete and --answers leaves "
            "belong to a victim of yours. Add --victim."
        )
    if victim is None and (test or pool or train):
        raise InputError("--test, --pool and --train belong to a victim of yours; got none. Add --victim.")
    if victim is None and data is None:
        data = "digits"
    return ExperimentSpec(
        victim=victim, data=data, folder=folder, test=test, pool=pool, train=train, target=target, schema=schema,
        classes=classes, output=output, regression=regression, text=text, label=label, incomplete=incomplete,
        leaves=leaves, explain=explain, outside=outside, endpoint=endpoint, rows=pool_rows, softmax=softmax,
        device=device, cache=cache_folder(), plain=not any_kind, strict_pool=strict_pool,
    )  # fmt: skip

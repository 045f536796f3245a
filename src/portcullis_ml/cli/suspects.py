"""A suspect as `verify` and `watermark trace` ask it: an API or a model in a file, whose answers are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli.options import AnswersOption

if TYPE_CHECKING:
    from portcullis_ml.bench.ledger import FileLedger
    from portcullis_ml.core.oracle import MeteredOracle
    from portcullis_ml.core.types import Interface, Model
    from portcullis_ml.court.innocents import Innocents

__all__ = [
    "UNFIT",
    "ApiKeyOption",
    "AuthorizedOption",
    "ClassOrderOption",
    "InnocentOption",
    "ModelOption",
    "PerSecondOption",
    "ProtocolOption",
    "Suspect",
    "SuspectOption",
    "in_hand",
    "innocents_of",
    "said_how_it_goes_on",
]

# Answers of another kind, and refusals of the question: not of the client or its rate.
UNFIT = (200, 400, 413, 415, 422)

SuspectOption = Annotated[
    str, typer.Option(metavar="URL|FILE|MODULE:OBJECT", help="The suspect: an API, or a model in your hands.")
]
AuthorizedOption = Annotated[
    str | None, typer.Option(help="Who allowed you to ask the suspect, in writing; kept with the verdict.")
]
InnocentOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|DIR|MODULE:OBJECT",
        help="A model that owes the owner nothing, or a folder of them (`portcullis watermark innocents`); any number "
        "of times.",
    ),
]
ClassOrderOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="The suspect's classes in its own order, if it has another.")
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        metavar="v2|v1|invocations|FILE.toml", help="How an API is spoken to; a file describes a home-made one."
    ),
]
ModelOption = Annotated[str, typer.Option(help="The suspect's name at its API.")]
ApiKeyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The API key to send, in a file; it is never on the command line.")
]
PerSecondOption = Annotated[float | None, typer.Option(min=0.001, help="Rows asked a second at most.")]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who is asked, in whose name and how, as a verb's options."""

    suspect: SuspectOption
    authorized_by: AuthorizedOption = None
    protocol: ProtocolOption = "v2"
    model: ModelOption = "model"
    answers: AnswersOption = "probs"
    key_file: ApiKeyOption = None
    per_second: PerSecondOption = None

    def keeping(self, out: Path) -> Suspect:
        """The suspect, whose answers are kept in a folder."""
        return Suspect(
            address=self.suspect, answers=self.answers, out=out, authorized_by=self.authorized_by,
            protocol=self.protocol, model=self.model, key_file=self.key_file, per_second=self.per_second,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Who is asked, in whose name, and how; `out` is the folder in which answers are kept."""

    address: str
    answers: str
    out: Path
    authorized_by: str | None = None
    protocol: str = "v2"
    model: str = "model"
    key_file: Path | None = None
    per_second: float | None = None

    def oracle(self, held: ExitStack, claim: str, interface: Interface, *, rows: int) -> MeteredOracle:
        """The suspect for so many rows; a connection and the answers on disk are closed with `held`.

        claim   what the questions follow from: what was answered once for a claim is never asked again
        """
        from portcullis_ml.bench.endpoint import is_address
        from portcullis_ml.core.oracle import LocalOracle
        from portcullis_ml.core.types import Reveals

        ledger = held.enter_context(self._ledger(claim, interface))
        interface = interface.revealing(reveals=Reveals.parse(self.answers))
        if not is_address(self.address):
            return LocalOracle(in_hand(self.address, interface), interface, budget=rows, ledger=ledger)
        from portcullis_ml.gateway.grpc_oracle import oracle_at

        headers = {} if self.key_file is None else {"authorization": f"Bearer {_api_key(self.key_file)}"}
        oracle = oracle_at(
            self.address,
            interface=interface,
            budget=rows,
            protocol="grpc" if self.address.startswith("grpc") else self.protocol,
            authorized_by=self.authorized_by,
            model=self.model,
            headers=headers,
            ledger=ledger,
            per_second=self.per_second,
        )
        held.callback(oracle.close)
        return oracle

    def _ledger(self, claim: str, interface: Interface) -> FileLedger:
        import hashlib

        from portcullis_ml.bench.ledger import FileLedger

        name = hashlib.sha256(f"{claim} {self.address} {self.answers}".encode()).hexdigest()[:16]
        return FileLedger(self.out / f"answers-{name}.ledger", columns=interface.n_classes)


@contextmanager
def said_how_it_goes_on() -> Iterator[None]:
    """A suspect that cannot be reached any more is said so with what to do."""
    from portcullis_ml.core.errors import Unreachable

    try:
        yield
    except Unreachable as error:
        rest = "Answers so far are kept and not asked for again. Run the same command, perhaps with --per-second."
        raise Unreachable(f"{error} {rest}", status=error.status) from error


def innocents_of(words: Sequence[str], interface: Interface) -> tuple[Innocents, list[Model]]:
    """(what the words of --innocent name, the models), for the key's interface."""
    from portcullis_ml.court.innocents import Innocents
    from portcullis_ml.models.load import load_model

    found = Innocents.of(words)
    known: dict[str, Any] = {"input_shape": interface.input_shape, "n_classes": interface.n_classes}
    return found, [load_model(name, **known, features=interface.features) for name in found.names]


def in_hand(suspect: str, interface: Interface) -> Model:
    """A suspect in a file. NotApplicable where it is a model, of another interface than the key's."""
    from portcullis_ml.core.errors import InputError, NotApplicable, PortcullisError
    from portcullis_ml.models.load import load_model

    try:
        return load_model(
            suspect, input_shape=interface.input_shape, n_classes=interface.n_classes, features=interface.features
        )
    except InputError as error:
        try:
            load_model(suspect)
        except PortcullisError:
            raise error from None
        what = f"inputs of {interface.input_shape} and {interface.n_classes} classes"
        raise NotApplicable(f"This key was minted for {what}; the suspect has others. {error}") from error


def _api_key(path: Path) -> str:
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.court.commitment import owners_alone, read_bytes

    data = read_bytes(path)
    owners_alone(path)
    found = data.decode("utf-8", "replace").strip()
    if not found or not found.isprintable():
        raise InputError(f"{path} was expected to hold one API key; it does not.")
    return found

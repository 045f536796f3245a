"""`portcullis verify`: what a bundle proves of a suspect, for a stranger who has nothing but the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import options as o

if TYPE_CHECKING:
    from portcullis_ml.bench.ledger import FileLedger
    from portcullis_ml.core.errors import PortcullisError
    from portcullis_ml.core.oracle import MeteredOracle
    from portcullis_ml.core.types import Interface, Model
    from portcullis_ml.court.bundle import Bundle
    from portcullis_ml.court.timestamp import Anchor
    from portcullis_ml.court.verdict import Verdict

__all__ = ["verify"]

UNFIT = (
    200,
    400,
    413,
    415,
    422,
)  # answers of another kind, and refusals of the question: not of the client or its rate


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="What `portcullis watermark bundle` wrote.")],
    suspect: Annotated[
        str, typer.Option(metavar="URL|FILE|MODULE:OBJECT", help="The suspect: an API, or a model in your hands.")
    ],
    authorized_by: Annotated[
        str | None, typer.Option(help="Who allowed you to ask the suspect, in writing; kept with the verdict.")
    ] = None,
    released: Annotated[
        str | None, typer.Option(metavar="DATE", help="When the suspect was released: the key must be older.")
    ] = None,
    roots: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Root certificates of time authorities that you trust.")
    ] = None,
    nonce: Annotated[str | None, typer.Option(help="The nonce that you sent to the owner, if you did.")] = None,
    head: Annotated[str | None, typer.Option(help="The head of the owner's log, as you have seen it before.")] = None,
    owner: Annotated[
        Path | None, typer.Option(metavar="FILE.pub", help="The owner's public key: the bundle must be signed by it.")
    ] = None,
    innocent: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|MODULE:OBJECT", help="A model that owes the owner nothing; any number of times."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="The suspect's classes in its own order, if it has another.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="How an API is spoken to: v2, v1, invocations or mapping.")] = "v2",
    model: Annotated[str, typer.Option(help="The suspect's name at its API.")] = "model",
    answers: o.AnswersOption = "probs",
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The API key to send, in a file; it is never on the command line."),
    ] = None,
    per_second: Annotated[float | None, typer.Option(min=0.001, help="Rows asked a second at most.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where answers, verdict and certificate are kept.")] = Path(
        "portcullis-verify"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every link of a claim and its date, then ask the suspect; say what it proves.

    \b
    portcullis verify bundle.zip --suspect http://127.0.0.1:9000 --released 2026-03-01 --roots tsa.pem
    portcullis verify bundle.zip --suspect copy.onnx --released 2026-03-01 --roots tsa.pem --json

    Exit codes: 0 it descends from the committed model, 1 nothing shows that, 3 inconclusive, 4 unanchored (no date, or
    none before the suspect), 5 a link of the claim does not hold, 2 anything else. Answers are kept: the same command
    goes on after an interruption, and asks nothing twice.
    """
    from portcullis_ml.core.errors import NotApplicable, ProofError, Unreachable
    from portcullis_ml.court.bundle import Bundle, summary
    from portcullis_ml.court.verdict import false

    about: dict[str, Any] = {}
    try:
        found = Bundle.read(bundle)
        about = summary(found)
        found.check(nonce=nonce, head=head)
        about["signature"] = _signature(found, owner)
        verdict, anchor = _dated(found, released, roots)
    except ProofError as error:
        verdict, anchor = false(error), None
    if verdict is None and anchor is not None:
        about |= {"suspect_asked": suspect, "authorized_by": authorized_by}
        for name in ("verdict.json", "certificate.html"):
            (out / name).unlink(missing_ok=True)  # if this run breaks off, nobody takes an older verdict for its own
        with ExitStack() as held, _said_how_it_goes_on():
            ledger = held.enter_context(_ledger(found, suspect, answers, out))
            try:
                oracle = _oracle(
                    held, found, suspect, ledger, authorized_by, protocol, model, answers, key_file, per_second
                )  # fmt: skip
                verdict = _judged(found, oracle, anchor, innocent or [], classes, nonce)
            except (NotApplicable, Unreachable) as error:
                verdict = _unfit(error, anchor)
    assert verdict is not None
    _tell({**verdict.to_json(), **about, **_program()}, out, as_json)
    raise typer.Exit(verdict.code)


def _signature(bundle: Bundle, owner: Path | None) -> dict[str, Any] | None:
    """Whose signature the bundle carries, and whether it is the key that the verifier named."""
    from portcullis_ml.court.signature import PublicKey

    signed_by = bundle.signed_by(None if owner is None else PublicKey.read(owner))
    return None if signed_by is None else {"key": signed_by.fingerprint, "named": owner is not None}


def _dated(bundle: Bundle, released: str | None, roots: Path | None) -> tuple[Verdict | None, Anchor | None]:
    """(None, when the key existed), or the verdict that the claim is unanchored."""
    from portcullis_ml.court.timestamp import read_date, roots_in
    from portcullis_ml.court.verdict import dated, unanchored

    trusted = [] if roots is None else roots_in(roots)
    anchor, why = dated(bundle, trusted, None if released is None else read_date(released))
    return (unanchored(why, anchor), anchor) if why else (None, anchor)


def _judged(
    bundle: Bundle, oracle: MeteredOracle, anchor: Anchor, innocent: list[str], classes: str | None, nonce: str | None
) -> Verdict:
    from portcullis_ml.court.verdict import judge, order_of
    from portcullis_ml.models.load import load_model

    published = bundle.published
    shape, n_classes = published.vk.input_shape, published.vk.n_classes
    features = published.interface.features
    models = [load_model(name, input_shape=shape, n_classes=n_classes, features=features) for name in innocent]
    named = None if classes is None else [word.strip() for word in classes.split(",")]
    verdict = judge(bundle, oracle, anchor, innocent=models, order=order_of(published.classes, named))
    if named is None and verdict.evidence is not None:
        order = "The suspect's classes stand in the key's order; --classes names another."
        evidence = replace(verdict.evidence, assumed=(*verdict.evidence.assumed, order))
        verdict = replace(verdict, evidence=evidence)
    if nonce is None and verdict.evidence is not None:
        chose = "The pairs follow from a nonce that the owner drew; give one of your own to exclude that it was chosen."
        evidence = replace(verdict.evidence, assumed=(*verdict.evidence.assumed, chose))
        verdict = replace(verdict, evidence=evidence)
    return verdict


def _unfit(error: PortcullisError, anchor: Anchor) -> Verdict:
    """The verdict on a suspect that answers, but not the key's questions; what is no answer is raised again."""
    from portcullis_ml.core.errors import Unreachable
    from portcullis_ml.court.verdict import unfit

    if not isinstance(error, Unreachable):
        return unfit(error, anchor)
    if error.status not in UNFIT:
        raise error
    return unfit(type(error)(f"The suspect does not answer as a model of the key's interface. {error}"), anchor)


@contextmanager
def _said_how_it_goes_on() -> Iterator[None]:
    """A suspect that cannot be reached any more is said so with what to do."""
    from portcullis_ml.core.errors import Unreachable

    try:
        yield
    except Unreachable as error:
        rest = "Answers so far are kept and not asked for again. Run the same command, perhaps with --per-second."
        raise Unreachable(f"{error} {rest}", status=error.status) from error


def _ledger(bundle: Bundle, suspect: str, answers: str, out: Path) -> FileLedger:
    """The suspect's answers on disk: what was answered once is never asked again."""
    import hashlib

    from portcullis_ml.bench.ledger import FileLedger

    name = hashlib.sha256(f"{bundle.sha256} {suspect} {answers}".encode()).hexdigest()[:16]
    return FileLedger(out / f"answers-{name}.ledger", columns=bundle.published.vk.n_classes)


def _oracle(
    held: ExitStack,
    bundle: Bundle,
    suspect: str,
    ledger: FileLedger,
    authorized_by: str | None,
    protocol: str,
    model: str,
    answers: str,
    key_file: Path | None,
    per_second: float | None,
) -> MeteredOracle:
    """The suspect: an API, whose connection is closed with `held`, or a model in a file."""
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.core.types import Reveals
    from portcullis_ml.court.verdict import AGAIN

    interface = bundle.published.interface.revealing(reveals=Reveals.parse(answers))
    budget = len(bundle.openings) + AGAIN
    if not suspect.startswith(("http://", "https://")):
        return LocalOracle(_in_hand(suspect, interface), interface, budget=budget, ledger=ledger)
    from portcullis_ml.gateway.oracle import HttpOracle

    headers = {} if key_file is None else {"authorization": f"Bearer {_api_key(key_file)}"}
    oracle = HttpOracle(
        suspect,
        interface=interface,
        budget=budget,
        protocol=protocol,
        authorized_by=authorized_by,
        model=model,
        headers=headers,
        ledger=ledger,
        per_second=per_second,
    )
    held.callback(oracle.close)
    return oracle


def _in_hand(suspect: str, interface: Interface) -> Model:
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


def _program() -> dict[str, str]:
    """When the claim was checked, and by what."""
    from datetime import UTC, datetime

    from portcullis_ml import __version__

    return {"checked_at": datetime.now(UTC).isoformat(timespec="seconds"), "program": f"portcullis {__version__}"}


def _tell(found: dict[str, Any], out: Path, as_json: bool) -> None:
    """Keep the verdict, for programs and as a page, and say it."""
    from portcullis_ml.report import write_certificate

    text = json.dumps(found, indent=2)
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_text(text + "\n")
    write_certificate(found, out / "certificate.html")
    if as_json:
        typer.echo(text)
        return
    typer.echo(f"{found['verdict'].upper()}. {found['sentence']}")
    if evidence := found["evidence"]:
        typer.echo(f"Null: {evidence['null']}.")
        tried = evidence["tried"]
        false_claims = (
            f"{evidence['accused']} of {tried} innocent models accused" if tried else "no innocent model tried"
        )
        typer.echo(f"Level: {evidence['level']:g}; {false_claims}; {evidence['queries']} queries.")
        for sentence in evidence["assumed"]:
            typer.echo(f"Assumed: {sentence}")
    if signature := found.get("signature"):
        known = "the key that you named" if signature["named"] else "a key that you did not name; see --owner"
        typer.echo(f"Signed by: {signature['key']}, {known}")
    if anchor := found["anchor"]:
        typer.echo(f"Committed to on or before: {anchor['at']}")
    typer.echo(f"Kept in {out / 'verdict.json'} and {out / 'certificate.html'}")

"""`portcullis verify`: what a bundle proves of a suspect, for a stranger who has nothing but the bundle."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import suspects as s
from portcullis_ml.cli.grouped import grouped

if TYPE_CHECKING:
    from portcullis_ml.core.errors import PortcullisError
    from portcullis_ml.core.oracle import MeteredOracle
    from portcullis_ml.court.bundle import Bundle
    from portcullis_ml.court.timestamp import Anchor
    from portcullis_ml.court.verdict import Verdict

__all__ = ["verify"]


@grouped
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="What `portcullis watermark bundle` wrote.")],
    asked: s.Asked,
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
    innocent: s.InnocentOption = None,
    classes: s.ClassOrderOption = None,
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
    from portcullis_ml.court.timestamp import read_date
    from portcullis_ml.court.verdict import AGAIN, false

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
        about |= {"suspect_asked": asked.suspect, "authorized_by": asked.authorized_by}
        for name in ("verdict.json", "certificate.html"):
            (out / name).unlink(missing_ok=True)  # if this run breaks off, nobody takes an older verdict for its own
        with ExitStack() as held, s.said_how_it_goes_on():
            try:
                oracle = asked.keeping(out).oracle(
                    held, found.sha256, found.published.interface, rows=len(found.openings) + AGAIN
                )
                verdict = _judged(found, oracle, anchor, innocent or [], classes, nonce)
            except (NotApplicable, Unreachable) as error:
                verdict = _unfit(error, anchor)
    assert verdict is not None
    if released is not None:
        about["released"] = read_date(released).isoformat(timespec="seconds")
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

    published = bundle.published
    innocents, models = s.innocents_of(innocent, published.interface)
    named = None if classes is None else [word.strip() for word in classes.split(",")]
    order = order_of(published.classes, named)
    verdict = judge(bundle, oracle, anchor, innocent=models, learnt=innocents.learnt, order=order)
    if models:
        verdict = replace(verdict, notes={**verdict.notes, "innocents": innocents.to_json()})
    if named is None and verdict.evidence is not None:
        same = "The suspect's classes stand in the key's order; --classes names another."
        evidence = replace(verdict.evidence, assumed=(*verdict.evidence.assumed, same))
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
    if error.status not in s.UNFIT:
        raise error
    return unfit(type(error)(f"The suspect does not answer as a model of the key's interface. {error}"), anchor)


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

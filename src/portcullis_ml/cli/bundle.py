"""`portcullis bundle` and `portcullis verify-results`: an audit's results as evidence, signed, and checked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from portcullis_ml.evidence.bundle import ResultBundle

__all__ = ["bundle", "verify_results"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def bundle(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder of an audit (its --out).")],
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The Ed25519 key that signs, readable by its owner alone.")
    ] = Path("signing.key"),
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.zip", help="The bundle.")] = Path("bundle.zip"),
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make the key first; the public key goes beside it as .pub.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put an audit's records, report and findings into one signed zip file.

    \b
    portcullis bundle portcullis-audit --new-key
    portcullis bundle portcullis-audit --key signing.key -o bundle.zip

    The report in it is made anew from the records, so that what is signed is what they say.
    """
    from portcullis_ml.cli.derived import derived
    from portcullis_ml.evidence.bundle import run_of, write_bundle
    from portcullis_ml.evidence.envelope import Verifier, signing_key
    from portcullis_ml.evidence.envelope import new_key as make_key

    run_of(folder)  # a wrong folder is found out before a key is made
    if new_key:
        make_key(key)
    about = write_bundle(folder, out, key, derived)
    signer = Verifier(signing_key(key).public_key()).fingerprint
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "signed_by": signer, **about}, indent=2))
        return
    typer.echo(f"{out}: {about['records']} records of {about['title']}, signed by {signer}")
    typer.echo(f"Give verifiers the public key ({key.with_suffix('.pub')}) by a way that they trust.")


def verify_results(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="What `portcullis bundle` wrote.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE.pub", help="The key that it must be signed by.")
    ] = None,
    rerun: Annotated[
        str | None,
        typer.Option(metavar="N|CELL", help="Run so many cells again, drawn at random, or the one of this id."),
    ] = None,
    victim: Annotated[str | None, typer.Option(help="Where the victim lies here, for --rerun.")] = None,
    test: Annotated[str | None, typer.Option(help="Where the test rows lie here, for --rerun.")] = None,
    pool: Annotated[str | None, typer.Option(help="Where the thief's pool lies here, for --rerun.")] = None,
    train: Annotated[str | None, typer.Option(help="Where the victim's training rows lie here, for --rerun.")] = None,
    data_folder: Annotated[
        str | None, typer.Option(envvar="PORTCULLIS_DATA", help="The folder that holds named data sets, for --rerun.")
    ] = None,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module of yours that --rerun may run, such as an attack's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle's signature and files, make every number of its report again, and run cells again.

    \b
    portcullis verify-results bundle.zip --public-key signing.pub
    portcullis verify-results bundle.zip --public-key signing.pub --rerun 2

    Files are named with --victim, --test, --pool and --train where they lie elsewhere than where the audit ran; their
    fingerprints must be those of the records. Exit codes: 0 everything holds, 2 something does not.
    """
    from portcullis_ml.cli.derived import derived
    from portcullis_ml.evidence.bundle import ResultBundle
    from portcullis_ml.evidence.envelope import Verifier

    found = ResultBundle.read(bundle, None if public_key is None else Verifier.read(public_key))
    numbers = found.derive_again(derived)
    cells = _again(found, rerun, modules or [], victim=victim, test=test, pool=pool, train=train, folder=data_folder)
    told: dict[str, Any] = {
        "bundle": found.sha256,
        "signed_by": found.signer.fingerprint,
        "key_named": public_key is not None,
        "files": len(found.files),
        "records": len(found.records),
        "numbers": numbers,
        "rerun": cells,
        "command": found.meta.get("command"),
        "victim": found.meta.get("victim"),
        "data": found.meta.get("data"),
    }
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    known = "the key that you named" if public_key else "a key that you did not name; see --public-key"
    typer.echo(f"VERIFIED. Signed by {told['signed_by']}, {known}.")
    typer.echo(f"{told['files']} files are as signed; {numbers:,} numbers follow from {told['records']} records.")
    if cells:
        typer.echo(f"Run again to the same values: {', '.join(cells)}.")


def _again(found: ResultBundle, word: str | None, modules: list[str], **given: str | None) -> list[str]:
    """The ids of the cells that were run again to the same values."""
    if word is None:
        return []
    import random
    import tempfile

    from portcullis_ml.evidence.rerun import again, chosen_cells, spec_of

    spec = spec_of(found.meta, modules, **given)
    cells = chosen_cells(found.records, word, random.SystemRandom())
    with tempfile.TemporaryDirectory() as folder:
        for number, record in enumerate(cells):
            again(record, spec, Path(folder) / str(number), modules)
    return [r["id"] for r in cells]

"""`portcullis watermark`: keys, marked models, commitments, and bundles for whoever is to check a claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.innocents import innocents
from portcullis_ml.cli.marking import (
    keep_token,
    next_key,
    next_step,
    now,
    registered_key,
    request_token,
    secret_in,
    served_marks,
    summary,
    too_few,
    train_marked,
    victim_spec,
    write_marked_rows,
)
from portcullis_ml.cli.trace import trace

__all__ = ["app"]

app = typer.Typer(
    help="Mark a model, commit to the mark, and show parts of it to whoever is to check a claim.", no_args_is_help=True
)

MarkArgument = Annotated[
    Path, typer.Argument(metavar="MARK", help="The folder that `portcullis watermark mint` wrote.")
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", help="The policy of a gate that has stopped: marks as it served them."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SignOption = Annotated[
    Path | None, typer.Option("--sign", metavar="FILE", help="Sign with this private key, as `keygen` writes it.")
]


@app.command("keygen")
def keygen(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A new file; the public key goes beside it as .pub.")
    ] = Path("owner.key"),
    as_json: JsonOption = False,
) -> None:
    """Make the key that signs commitments and bundles: an EC key (P-256), readable by its owner alone.

    \b
    portcullis watermark keygen --out owner.key
    """
    from portcullis_ml.court.signature import new_key

    public = new_key(out)
    found = {"key": str(out), "public_key": str(out.with_suffix(".pub")), "fingerprint": public.fingerprint}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{out}: keep it secret, best on a machine without a network. Give {found['public_key']} to verifiers.")
    typer.echo(f"fingerprint: {found['fingerprint']}")


@app.command("mint")
def mint(
    scheme: Annotated[str, typer.Argument(metavar="WORD", help="See `portcullis list ownership`: 'backdoor(n=200)'.")],
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    test: o.TestOption = None,
    train: o.TrainOption = None,
    target: o.TargetOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    secret: Annotated[
        Path | None, typer.Option(metavar="FILE", help="32 secret bytes in hexadecimal digits; drawn if not given.")
    ] = None,
    policy: PolicyOption = None,
    client: Annotated[str | None, typer.Option(help="Whose marks, where answers are marked; with --policy.")] = None,
    out: Annotated[Path, typer.Option(metavar="MARK", help="A new or empty folder for the key.")] = Path(
        "portcullis-mark"
    ),
    as_json: JsonOption = False,
) -> None:
    """Draw a key for the model's interface; the secret stays in a file that its owner alone may read.

    \b
    portcullis watermark mint 'backdoor(n=200)' --victim model.skops --test test.npz --out mark
    portcullis watermark mint dawn --policy gate.toml --client alice --out mark
    """
    import secrets

    from portcullis_ml.core.types import Rows
    from portcullis_ml.court.commitment import Mark
    from portcullis_ml.ownership import CATALOG

    made = CATALOG.build(scheme)
    drawn = secrets.token_bytes(32) if secret is None else secret_in(secret)
    if made.marks == "answers":
        key, interface, names = registered_key(made, drawn, policy, client)
    else:
        experiment = victim_spec(
            victim=victim, data=data, folder=data_folder, test=test, train=train, target=target, schema=schema,
            softmax=softmax, classes=classes, output=output_name, device="cpu",
        ).load()  # fmt: skip
        trained = None if experiment.train is None else Rows(experiment.train, experiment.train_y)
        rows = (trained, Rows(experiment.test_x, experiment.test_y))
        interface, names = experiment.interface, experiment.classes
        key = made.mint(drawn, interface, experiment.model, rows)
    mark = Mark.create(out, made, key, interface, names, at=now())
    found = {"mark": str(out), "commitment": mark.published().sha256, "pairs": len(key)}
    note = too_few(made, key, interface)
    if as_json:
        typer.echo(json.dumps(found | ({"note": note} if note else {}), indent=2))
        return
    typer.echo(f"{made.name}: a key of {len(key)} pairs in {out}. Keep {out / 'secret.key'} secret, and keep a copy.")
    if note:
        typer.echo(note)
    typer.echo(f"commitment: {found['commitment']}")
    typer.echo(f"Next, {next_step(made.marks, out, victim=victim, data=data, train=train, test=test)}")


@app.command("embed")
def embed(
    mark: MarkArgument,
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    test: o.TestOption = None,
    train: o.TrainOption = None,
    target: o.TargetOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Train the network on from where it stands, not from scratch.")
    ] = False,
    rows_out: Annotated[
        Path | None,
        typer.Option("--rows", metavar="FILE.npz", help="Write the rows to train on instead, for your own training."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a network; as the victim's if not said.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder for the marked model.")] = Path(
        "portcullis-marked"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of everything that the training draws.")] = 0,
    as_json: JsonOption = False,
    device: o.DeviceOption = "cpu",
) -> None:
    """Train the model with the marked rows among its own; networks, and classifiers of scikit-learn.

    \b
    portcullis watermark embed mark --victim model.skops --train train.npz --test test.npz --out marked
    portcullis watermark embed mark --data digits --train train.npz --rows marked-rows.npz
    """
    from portcullis_ml.court.commitment import Mark

    folder = Mark(mark)
    spec = victim_spec(
        victim=victim, data=data, folder=data_folder, test=test, train=train, target=target, schema=schema,
        softmax=softmax, classes=classes, output=output_name, device=device,
    )  # fmt: skip
    if rows_out is not None:
        found = write_marked_rows(folder, spec.load(), rows_out)
    else:
        found = train_marked(folder, spec, out, go_on=go_on, epochs=epochs, seed=seed)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")


@app.command("commit")
def commit(
    mark: MarkArgument,
    token: Annotated[
        Path | None, typer.Option(metavar="FILE.tsr", help="What a time authority answered to request.tsq.")
    ] = None,
    roots: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="The authority's root certificates, which you trust.")
    ] = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what to publish and write a request for a time token; with the token, check it and keep it.

    \b
    portcullis watermark commit mark --sign owner.key
    portcullis watermark commit mark --token token.tsr --roots authority.pem

    Nothing is sent: whom you ask for the time, and how, is up to you.
    """
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.court.bundle import sign
    from portcullis_ml.court.commitment import Mark
    from portcullis_ml.court.signature import Signer

    folder = Mark(mark)
    found = {"commitment": folder.published().sha256, "head": folder.log_file.read().head}
    if sign_with is not None:
        found["signed_by"] = sign(folder, Signer.read(sign_with)).public.fingerprint
    if token is not None:
        if roots is None:
            raise InputError("A token is checked against roots that you trust; none were given. Add --roots FILE.pem.")
        found |= keep_token(folder, token, roots)
    else:
        found |= request_token(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"publish: {mark / 'commitment.json'}\nits SHA-256: {found['commitment']}\nlog head: {found['head']}")
    if "signed_by" in found:
        typer.echo(f"signed by: {found['signed_by']} ({mark / 'signature.json'})")
    if "at" in found:
        typer.echo(f"dated: {found['at']}")
    else:
        if "first_run" in found:
            typer.echo(f"Write the request for a time token: {found['first_run']}")
        typer.echo(f"Send {found['request']} to a time authority (RFC 3161) and save its answer, for example:")
        typer.echo(
            f"  curl -H 'Content-Type: application/timestamp-query' --data-binary @{found['request']} URL -o token.tsr"
        )
        typer.echo(f"Then: portcullis watermark commit {mark} --token token.tsr --roots authority.pem")


@app.command("bundle")
def bundle(
    mark: MarkArgument,
    suspect: Annotated[str, typer.Option(help="Who is suspected: the address or name of the model.")],
    nonce: Annotated[
        str | None, typer.Option(help="What the verifier sent to choose the pairs; drawn here if not given.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to show; they are used up.")] = 30,
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="A new file.")] = Path("bundle.zip"),
    sign_with: SignOption = None,
    model_signing: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also sign the bundle, with --sign's key, as OpenSSF Model Signing does."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Open pairs that a challenge chooses, for `portcullis verify`. They are used up from now on.

    \b
    portcullis watermark bundle mark --suspect http://127.0.0.1:9000 --nonce 6f1d... --out bundle.zip
    """
    import secrets

    from portcullis_ml.court import model_signing as openssf
    from portcullis_ml.court.bundle import show
    from portcullis_ml.court.commitment import Mark
    from portcullis_ml.court.signature import Signer

    folder = Mark(mark)
    signer = None if sign_with is None else Signer.read(sign_with)
    key = None if model_signing is None else openssf.ready(sign_with, model_signing)
    places = show(folder, suspect, nonce or secrets.token_hex(16), pairs, out, at=now(), signer=signer)
    if key is not None and model_signing is not None:
        openssf.sign(out, key, model_signing)
    left = len(folder.published().vk) - len(folder.shown())
    found = {"bundle": str(out), "pairs_shown": len(places), "pairs_left": left, "head": folder.log_file.read().head}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{out} opens {len(places)} pairs, which are used up; {left} were never shown.")
    if not (mark / "token.tsr").is_file():
        typer.echo(
            "It has no time token: a verifier will call the claim unanchored. Run `portcullis watermark commit`."
        )


@app.command("rotate")
def rotate(
    mark: MarkArgument,
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    test: o.TestOption = None,
    train: o.TrainOption = None,
    target: o.TargetOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    secret: Annotated[
        Path | None, typer.Option(metavar="FILE", help="32 secret bytes in hexadecimal digits; drawn if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="MARK", help="A new or empty folder for the new key.")] = Path(
        "portcullis-mark-next"
    ),
    as_json: JsonOption = False,
) -> None:
    """Draw a new key of the same scheme and interface, when pairs run out or the secret was seen; both logs say so.

    \b
    portcullis watermark rotate mark --out mark-2
    portcullis watermark rotate mark --victim model.skops --test test.npz --out mark-2

    A scheme that is read off the model needs the victim again. Keep the old folder: it alone proves of copies that were
    taken while its key was in the model.
    """
    import secrets

    from portcullis_ml.court.commitment import Mark

    old = Mark(mark)
    drawn = secrets.token_bytes(32) if secret is None else secret_in(secret)
    spec = None
    if victim or data or test or train:
        spec = victim_spec(
            victim=victim, data=data, folder=data_folder, test=test, train=train, target=target, schema=schema,
            softmax=softmax, classes=classes, output=output_name, device="cpu",
        )  # fmt: skip
    key, names = next_key(old, drawn, None if spec is None else spec.load())
    published = old.published()
    new = Mark.create(out, published.scheme, key, published.interface, names, at=now(), follows=old)
    left = len(published.vk) - len(old.shown())
    found = {"mark": str(out), "commitment": new.published().sha256, "pairs": len(key),
             "follows": published.sha256, "pairs_left_of_the_old": left}  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{published.scheme.name}: a new key of {len(key)} pairs in {out}. Keep {out / 'secret.key'} secret.")
    typer.echo(f"commitment: {found['commitment']}, follows {published.sha256}")
    typer.echo(f"Keep {mark} as well: of copies that were taken before, it alone proves. {left} of its pairs are left.")
    typer.echo(f"Next, {next_step(published.scheme.marks, out, victim=victim, data=data, train=train, test=test)}")


@app.command("list")
def listing(
    folder: Annotated[Path, typer.Argument(help="A mark, or a folder of marks.")] = Path(),
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """The marks in a folder: their scheme, how many pairs are left, and whether they are dated; or each client's."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.court.commitment import Mark

    if policy is not None:
        clients = {name: len(log.entries) for name, log in served_marks(policy).items()}
        said = "\n".join(f"{c}: {n} marks" for c, n in clients.items()) or "Nobody has asked this gate yet."
        typer.echo(json.dumps(clients, indent=2) if as_json else said)
        return
    places = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())] if folder.is_dir() else []
    marks = [Mark(place) for place in places if (place / "commitment.json").is_file()]
    if not marks:
        raise InputError(f"A mark, or a folder of marks, was expected at {folder}; there is none. Mint one first.")
    rows = [summary(mark) for mark in marks]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(
            f"{row['mark']}: {row['scheme']}, {row['left']} of {row['pairs']} pairs never shown, "
            f"{'dated ' + row['at'] if row['at'] else 'unanchored'}, commitment {row['commitment'][:16]}..."
            f"{', rotated to ' + row['rotated_to'][-1][:16] + '...' if row['rotated_to'] else ''}"
        )


app.command("innocents")(innocents)
app.command("trace")(trace)

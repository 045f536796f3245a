"""The application: its verbs, and what becomes of an error (one sentence, exit code 2, no traceback)."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from portcullis_ml import __version__
from portcullis_ml.cli import (
    audit,
    bench,
    bundle,
    calibrate,
    check,
    demo,
    extract,
    inspect,
    keys,
    listing,
    plan,
    prepare,
    privacy,
    replay,
    screen,
    serve,
    verify,
    watermark,
)
from portcullis_ml.core.errors import PortcullisError

__all__ = ["Sentences", "app"]

ABOUT = """
How cheaply can your model be stolen through its prediction API?

[bold]portcullis audit[/bold] answers for the embedded default (digits, a small network): minutes, no download.
[bold]portcullis audit --victim model.onnx --test test.npz --pool pool.npz[/bold] answers for yours.
Attack your own models only.
"""


class Sentences(TyperGroup):
    """Errors that Portcullis raises on purpose become one sentence on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PortcullisError as error:
            typer.echo(f"portcullis: {error}", err=True)
        except BrokenPipeError:
            raise  # `portcullis list | head`: nobody reads the output any more
        except OSError as error:
            what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            typer.echo(f"portcullis: the system said no. {what}. Nothing that was finished is lost.", err=True)
        except KeyboardInterrupt:
            typer.echo("portcullis: stopped. Run the same command again: it goes on from where it stood.", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):  # typer's own, and a verb's exit code
                raise
            traceback.print_exc()  # a verdict's exit codes are small, and a mistake of ours must not be taken for one
            typer.echo(
                "portcullis: this is a mistake of Portcullis' own. Please report it with the lines above.", err=True
            )
            raise typer.Exit(70) from None
        raise typer.Exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"portcullis {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Sentences,
    help=ABOUT,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # what a terminal cannot print becomes "?", not an error


app.command("audit")(audit.audit)
app.command("bundle")(bundle.bundle)
app.command("calibrate")(calibrate.calibrate)
app.command("check")(check.check)
app.command("extract")(extract.extract)
app.command("inspect")(inspect.inspect)
app.command("list")(listing.listing)
app.command("plan")(plan.plan)
app.command("prepare")(prepare.prepare)
app.command("privacy")(privacy.privacy)
app.command("replay")(replay.replay)
app.command("screen")(screen.screen)
app.command("serve")(serve.serve)
app.command("verify")(verify.verify)
app.command("verify-results")(bundle.verify_results)
app.add_typer(bench.app, name="bench")
app.add_typer(demo.app, name="demo")
app.add_typer(keys.app, name="keys")
app.add_typer(watermark.app, name="watermark")

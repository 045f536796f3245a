"""The command line: one file per verb."""

__all__ = ["main"]


def main() -> None:
    """The console script; everything else is imported when a verb needs it."""
    from portcullis.cli.app import app

    app(prog_name="portcullis")

"""The command line: one file per verb."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """The console script; everything else is imported when a verb needs it."""
    from portcullis_ml.cli.app import app

    # `--victim app:model` means app.py right here. Last in line, so that no file here shadows an installed module.
    sys.path.append(os.getcwd())
    app(prog_name="portcullis")

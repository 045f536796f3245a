"""Options in groups: on the command line they stand one by one, and a verb gets them as one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from portcullis_ml.cli.grouped import grouped


@dataclass(frozen=True, kw_only=True)
class Where:
    """A group with an option that must be given and one that need not."""

    host: Annotated[str, typer.Option(help="Whose name.")]
    port: Annotated[int, typer.Option("--at-port", min=1, help="Which port.")] = 80


@grouped
def visit(
    page: Annotated[str, typer.Argument(help="What to see.")],
    where: Where,
    loud: Annotated[bool, typer.Option("--loud")] = False,
) -> None:
    """Go there."""
    typer.echo(f"{page} at {where.host}:{where.port}{'!' * loud}")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(visit)
    return app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "--host", "here"], "index at here:80"),
        (["index", "--host", "here", "--at-port", "8080", "--loud"], "index at here:8080!"),
    ],
)
def test_a_verb_gets_the_options_of_a_group_as_one_object(app: typer.Typer, words: list[str], said: str) -> None:
    assert CliRunner().invoke(app, words).output.strip() == said


@pytest.mark.parametrize(("words", "said"), [(["index"], "host"), (["index", "--host", "a", "--at-port", "0"], "port")])
def test_an_option_of_a_group_is_checked_as_any_other(app: typer.Typer, words: list[str], said: str) -> None:
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert said in told.output


def test_help_shows_every_option_of_a_group(app: typer.Typer) -> None:
    told = CliRunner().invoke(app, ["--help"]).output
    assert all(word in told for word in ("Go there.", "--host", "--at-port", "Which port.", "--loud", "What to see."))


def test_two_options_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="duplicate parameter name"):

        @grouped
        def twice(where: Where, host: str = "") -> None:
            """Two hosts."""

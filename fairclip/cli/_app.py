"""What the commands share."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from fairclip.cli._console import one_line

app = typer.Typer(
    help="Bound each demographic group's share of a training update, and report what changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Run the command line; warnings take one line each."""
    warnings.showwarning = lambda message, *_, **__: typer.echo(
        f"warning: {one_line(message)}", err=True
    )
    app()


@contextmanager
def input_errors() -> Iterator[None]:
    """Say what is wrong with the input, or which extra is missing, in one line; exit with 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(2) from None


def option(panel: str, text: str, *names: str, default: str | bool = False) -> Any:
    """Describe an option; ``default`` is what is taken where it is not given."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=default)

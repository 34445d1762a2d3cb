"""The `mixlab` command: the service and the library from a shell."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from cli import corpora, demo, remote, table, up
from cli.client import ServiceError
from mixlab import __version__
from mixlab.errors import MixlabError

app = typer.Typer(
    name="mixlab",
    help="In what proportions to train a language model on your domains, with the evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

corpora.app.command("add")(remote.corpora_add)
app.command(rich_help_panel="Run the service")(up.up)
app.command(rich_help_panel="Run the service")(demo.demo)
app.add_typer(corpora.app, name="corpora", rich_help_panel="Text")
app.command(rich_help_panel="Text")(remote.entropy)
app.command(rich_help_panel="Mixtures from a table, without the service")(table.fit)
app.command(rich_help_panel="Mixtures from a table, without the service")(table.solve)
app.add_typer(remote.jobs, name="jobs", rich_help_panel="Work under way")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command; mixlab's own errors end it with one line and status 1."""
    try:
        app()
    except (MixlabError, ServiceError) as problem:
        Console(stderr=True).print(f"[bold red]error:[/] {problem}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    run()

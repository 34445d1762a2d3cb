"""The `mixlab` command: the service and the library from a shell.

Commands that run the service need the `service` extra; the others work without it.
"""

import sys
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from cli import (
    batches,
    corpora,
    design,
    imports,
    jobs,
    laws,
    models,
    proxies,
    recipes,
    remote,
    table,
    tokenizers,
    training,
)
from cli.errors import CommandFailed
from mixlab import __version__
from mixlab.errors import MixlabError

SERVICE_NEEDS = ("celery", "fastapi", "pydantic_settings", "uvicorn")
SERVICE = "The service"
TEXT = "Text"
TRAINING = "Training"
TABLE = "A table of your own runs, without the service"

app = typer.Typer(
    name="mixlab",
    help="In what proportions to train a language model on your domains, with the evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add_service() -> None:
    """`up` and `demo`, or what to install for them."""
    if all(find_spec(name) for name in SERVICE_NEEDS):
        from cli import demo, keys, ledger, up

        app.command(rich_help_panel=SERVICE)(up.up)
        app.command(rich_help_panel=SERVICE)(demo.demo)
        app.add_typer(keys.app, name="keys", rich_help_panel=SERVICE)
        app.add_typer(ledger.app, name="ledger", rich_help_panel=SERVICE)
        return

    def missing() -> None:
        """Needs the extra packages of the service: pip install 'mixlab[service,embedded,train]'."""
        raise typer.BadParameter(str(missing.__doc__))

    for name in ("up", "demo", "keys", "ledger"):
        app.command(name, rich_help_panel=SERVICE)(missing)


_add_service()
app.add_typer(jobs.app, name="jobs", rich_help_panel=SERVICE)
corpora.app.command("add")(remote.corpora_add)
app.add_typer(corpora.app, name="corpora", rich_help_panel=TEXT)
app.add_typer(tokenizers.app, name="tokenizer", rich_help_panel=TEXT)
app.command(rich_help_panel=TEXT)(remote.entropy)
app.command(rich_help_panel=TABLE)(table.fit)
app.command(rich_help_panel=TABLE)(table.solve)
app.command(rich_help_panel=TABLE)(table.predict)
app.command(rich_help_panel=TABLE)(design.design)
app.command("import", rich_help_panel=TABLE)(imports.import_tables)
app.command(rich_help_panel=TRAINING)(training.train)
app.add_typer(models.app, name="model", rich_help_panel=TRAINING)
app.add_typer(recipes.app, name="recipe", rich_help_panel=TRAINING)
app.add_typer(proxies.app, name="proxies", rich_help_panel=TRAINING)
app.add_typer(batches.app, name="batches", rich_help_panel=TRAINING)
app.add_typer(laws.app, name="laws", rich_help_panel=TABLE)


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
    """Run the command; mixlab's own errors, and the system's, end it with one line and status 1."""
    try:
        app()
    except (MixlabError, CommandFailed) as problem:
        _fail(str(problem))
    except OSError as problem:
        _fail(f"{problem}. Check the path, its permissions and the free space.")


def _fail(reason: str) -> NoReturn:
    # As Text, since a path or a domain's name may hold what rich takes for markup.
    line = Text.assemble(("error:", "bold red"), " ", reason)
    Console(stderr=True).print(line, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    run()

"""Options that commands share: where the service is, what a mixture is, how to print."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Url = Annotated[str, typer.Option("--url", envvar="MIXLAB_URL", help="Where the service is.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="MIXLAB_API_KEY",
        show_default=False,
        help="A key of `mixlab keys create`; rather in the environment, where nobody else sees it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CorpusFolder = Annotated[Path, typer.Argument(help="Folder of a tokenised corpus.")]
MIXTURES = "FILE|JSON|DOMAIN=SHARE,..."  # what cli.mixtures.schedule reads
MIXTURE = typer.Option("--mixture", metavar=MIXTURES, help="Mixture or schedule.")


def checked_id(given: str) -> str:
    """An id as it is. Raises typer.BadParameter for what would be another path of the URL."""
    if not re.fullmatch(r"[0-9A-Za-z_-]+", given):
        raise typer.BadParameter(f"{given!r} is no id; ids look like job_0199f2c4.")
    return given


def print_json(answer: Mapping[str, Any]) -> None:
    """Print an answer for a program, or for a reader."""
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))

"""Options that all commands share which ask the service."""

import json
from collections.abc import Mapping
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
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]


def print_json(answer: Mapping[str, Any]) -> None:
    """Print an answer for a program, or for a reader."""
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))

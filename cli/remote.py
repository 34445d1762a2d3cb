"""Commands that ask the running service about text: `mixlab corpora add`, `mixlab entropy`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.client import DEFAULT_URL, Client
from cli.options import ApiKey, AsJson, Url, checked_id, print_json


def corpora_add(
    name: Annotated[str, typer.Argument(help="A name for the corpus.")],
    domains: Annotated[
        list[str],
        typer.Argument(
            metavar="DOMAIN=PATH...",
            help="A domain and a file, folder or URL of its text; repeat for more of either.",
        ),
    ],
    text_field: Annotated[str, typer.Option(help="The field of JSONL and Parquet texts.")] = "text",
    vocabulary: Annotated[int, typer.Option(help="Tokens of the tokenizer to train.")] = 2048,
    tokenizer_file: Annotated[
        Path | None, typer.Option(help="A tokenizer.json to use instead of training one.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Register your own domains of text with the service."""
    body: dict[str, Any] = {
        "name": name,
        "domains": {
            domain: {"paths": paths, "text_field": text_field}
            for domain, paths in parse_domains(domains).items()
        },
        "vocabulary": vocabulary,
    }
    if tokenizer_file is not None:
        body["tokenizer_file"] = _absolute(str(tokenizer_file))
    with Client(url, api_key=api_key) as client:
        corpus = client.post("/corpora", body)
    if as_json:
        print_json(corpus)
        return
    typer.echo(f"{corpus['id']}  {name}: {', '.join(corpus['spec']['domains'])}")


def parse_domains(given: Sequence[str]) -> dict[str, list[str]]:
    """`DOMAIN=PATH` arguments by domain, local paths made absolute."""
    found: dict[str, list[str]] = {}
    for argument in given:
        domain, equals, place = argument.partition("=")
        if not (domain and equals and place):
            raise typer.BadParameter(f"{argument!r} is not DOMAIN=PATH, such as code=/data/code.")
        local = "://" not in place
        found.setdefault(domain, []).append(_absolute(place) if local else place)
    return found


def _absolute(place: str) -> str:
    # abspath, since the service refuses `..`, which Path.absolute() keeps.
    return os.path.abspath(os.path.expanduser(place))


def entropy(
    corpus_id: Annotated[
        str, typer.Argument(callback=checked_id, help="As `mixlab corpora add` printed it.")
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Tokenise a registered corpus and measure each domain's entropies."""
    with Client(url, api_key=api_key) as client:
        job = client.post(f"/corpora/{corpus_id}/entropy")
        corpus = _follow(client, job)
    if as_json:
        print_json(corpus)
        return
    Console().print(_entropies(corpus))


def _follow(client: Client, job: Mapping[str, Any]) -> dict[str, Any]:
    """What a job made, with a progress bar on stderr while it runs."""
    with Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(str(job["kind"]), total=1.0)

        def show(now: Mapping[str, Any]) -> None:
            stage = now["stage"] or now["state"]
            progress.update(task, completed=now["fraction"], description=escape(str(stage)))

        return client.result(str(job["id"]), show)


def _entropies(corpus: Mapping[str, Any]) -> Table:
    table = Table(title="entropy, nats")
    for column in ("domain", "train tokens", "shannon", "joint", "conditional"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for domain, measured in corpus["entropy"].items():
        table.add_row(
            escape(domain),
            f"{corpus['tokens'][domain]['train_tokens']:,}",
            *(f"{measured[kind]:.4f}" for kind in ("shannon", "joint", "conditional")),
        )
    return table

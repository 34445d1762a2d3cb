"""`mixlab laws`: what laws there are, and how well one predicts."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.options import AsJson
from cli.showing import print_lines, table
from cli.table import Law, ShareFloor, Table
from mixlab.laws import AUTO, LAWS
from mixlab.laws import Law as AnyLaw
from mixlab.scoring import Score
from mixlab.shortcuts import observations_of, score
from mixlab.tables import TableReport

app = typer.Typer(name="laws", help="Laws of how a loss responds to the mixture, and their scores.")


@app.callback(invoke_without_command=True)
def laws(context: typer.Context, as_json: AsJson = False) -> None:
    """List the laws: name, formula, what each needs, and where it comes from."""
    if context.invoked_subcommand is not None:
        return
    if as_json:
        typer.echo(json.dumps([_described(law) for law in LAWS.values()], indent=2))
        return
    console = Console()
    for law in LAWS.values():
        console.print(law.name, style="bold", markup=False, highlight=False)
        for label, text in (
            ("", law.formula), ("needs", _needs(law)), ("valid", law.validity),
            ("source", law.source),
        ):  # fmt: skip
            line = f"    {label + ': ' if label else ''}{text}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command("score")
def score_command(
    train: Table,
    test: Annotated[Path, typer.Argument(help="Table to predict, with its losses.")],
    law: Law = AUTO,
    share_floor: ShareFloor = None,
    as_json: AsJson = False,
) -> None:
    """Fit on one table, predict another, and say how well."""
    seen, wanted = TableReport(), TableReport()
    found = score(
        observations_of(train, report=seen), observations_of(test, report=wanted),
        law=law, share_floor=share_floor,
    )  # fmt: skip
    notes = [f"{name}: {note}" for name, report in (("fitted", seen), ("predicted", wanted))
             for note in report.notes()]  # fmt: skip
    if as_json:
        shown = found.to_dict()
        typer.echo(json.dumps({**shown, "notes": [*notes, *shown["notes"]]}, indent=2))
        return
    console = Console()
    varied = found.law == AUTO
    shown_table = table(
        f"{found.law}, fitted in {found.seconds:.2f} s",
        "target", *(["law"] if varied else []), "MRE", "Spearman", "R²", "n", "in 95 %",
    )  # fmt: skip
    for name, one in found.targets.items():
        shown_table.add_row(escape(name), *([found.laws[name]] if varied else []), *_cells(one))
    shown_table.add_row("mean", *([""] if varied else []), *_cells(found.mean))
    console.print(shown_table)
    print_lines(console, [*notes, *found.notes])


def _described(law: AnyLaw) -> dict[str, object]:
    return {
        "name": law.name,
        "formula": law.formula,
        "needs": _needs(law),
        "minimum_mixtures": law.minimum_mixtures,
        "convex": law.convex,
        "zero_shares": law.zero_shares,
        "validity": law.validity,
        "source": law.source,
    }


def _needs(law: AnyLaw) -> str:
    """What a table must hold, in words."""
    needs = [f"{law.minimum_mixtures} mixtures" if law.needs_mixture
             else f"{law.minimum_mixtures} runs"]  # fmt: skip
    if law.needs_own_share:
        needs.append("targets named like domains")
    if law.needs_params:
        needs.append("model sizes (params) and tokens")
    if law.needs_unique_tokens:
        needs.append("unique tokens")
    if not law.zero_shares:
        needs.append("shares above 0")
    if law.residual == "trees":
        needs.append("the extra trees")
    return ", ".join(needs)


def _cells(one: Score) -> list[str]:
    return [
        "-" if one.mre_percent is None else f"{one.mre_percent:.3f} %",
        "-" if one.spearman is None else f"{one.spearman:.4f}",
        "-" if one.r2 is None else f"{one.r2:.4f}",
        f"{one.n:.0f}",
        "-" if one.coverage95 is None else f"{100 * one.coverage95:.1f} %",
    ]

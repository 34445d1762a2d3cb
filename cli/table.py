"""`mixlab fit`, `solve` and `predict`: from a table of observations to a mixture, no service."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.options import AsJson
from cli.questions import (
    AtStep,
    Budget,
    Given,
    Params,
    TokensPerStep,
    asking,
    mixture,
)
from cli.showing import fit_notes, print_fit, print_lines, print_predictions, print_solution
from mixlab.answers import answered, heldout_errors
from mixlab.diagnostics import seed_noise
from mixlab.errors import InvalidTable, MissingFile
from mixlab.fitting import Fit
from mixlab.laws import AUTO
from mixlab.mixture import Mixture
from mixlab.predictions import notes_on, predictions
from mixlab.shortcuts import fit as fit_table
from mixlab.shortcuts import observations_of, step_of
from mixlab.tables import TableReport

REPLICATES = 100

Table = Annotated[
    Path,
    typer.Argument(
        help="CSV or Parquet with run, step or tokens, mixture.<domain> and loss.<target> columns."
    ),
]
Saved = Annotated[Path, typer.Argument(help="A fit saved by `mixlab fit --output`.")]
Law = Annotated[
    str, typer.Option(help="One that `mixlab laws` lists, or auto: the best one per target.")
]
ShareFloor = Annotated[
    float | None, typer.Option(help="Read shares below as this instead of leaving 0 out.")
]


@asking
def fit(
    table: Table,
    given: Given,
    law: Law = AUTO,
    replicates: Annotated[
        int, typer.Option(min=0, max=2000, help="Bootstrap refits, for regret and risk.")
    ] = REPLICATES,
    next_runs: Annotated[
        int, typer.Option(min=0, max=100, help="How many further runs to propose.")
    ] = 0,
    share_floor: ShareFloor = None,
    output: Annotated[
        Path | None, typer.Option(help="Save the fit as JSON for solve, predict and design.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit laws to a table of observations and solve for the best mixture."""
    report = TableReport()
    seen = observations_of(table, report=report)
    found = fit_table(seen, law, share_floor=share_floor, replicates=replicates)
    if output is not None:  # before the question, which may be refused: the fit serves others
        save(found, output)
    answer = answered(found, given.question(found), observations=seen, next_count=next_runs)
    if as_json:
        shown = {
            "fit": found.to_dict(),
            "heldout_mre_percent": heldout_errors(found),
            "seed_noise_nats": seed_noise(seen),
            **answer.to_dict(),
            "notes": [*report.notes(), *found.notes, *answer.notes],
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    console = Console()
    print_fit(console, found)
    print_lines(console, [*report.notes(), *fit_notes(found)])
    print_solution(console, answer, found)


@asking
def solve(saved: Saved, given: Given, as_json: AsJson = False) -> None:
    """Solve a saved fit again under another budget, objective or constraints."""
    found = load(saved)
    answer = answered(found, given.question(found))
    if as_json:
        # The solution's own keys stand at the top, as they always did.
        shown = answer.to_dict()
        typer.echo(json.dumps({**shown.pop("solution"), **shown}, indent=2))
        return
    print_solution(Console(), answer, found)


def predict(
    saved: Saved,
    mixture_: Annotated[
        str,
        typer.Option("--mixture", metavar="DOMAIN=SHARE,...", help="The run's mixture; sums to 1."),
    ],
    at_step: AtStep = None,
    budget_tokens: Budget = None,
    tokens_per_step: TokensPerStep = None,
    params: Params = None,
    as_json: AsJson = False,
) -> None:
    """Predict a run's losses under a mixture, with 95% intervals."""
    found = load(saved)
    given = Mixture(mixture(mixture_, "--mixture"))
    step = step_of(
        found, budget_tokens=budget_tokens, step=at_step, tokens_per_step=tokens_per_step
    )
    predicted = predictions(found, given, step, params=params)
    notes = notes_on(found, given, step, predicted, params=params)
    if as_json:
        losses = {name: one.to_dict() for name, one in predicted.items()}
        shown = {"mixture": dict(given.proportions), "step": step, "predictions": losses}
        typer.echo(json.dumps({**shown, "notes": notes}, indent=2))
        return
    console = Console()
    print_predictions(console, predicted)
    print_lines(console, notes)


def save(found: Fit, path: Path) -> None:
    """Write a fit as JSON; the file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load(path: Path) -> Fit:
    """A saved fit. Raises MissingFile, and InvalidTable for what is none."""
    if not path.is_file():
        raise MissingFile(f"There is no saved fit {path}; `mixlab fit TABLE --output` writes one.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidTable(f"{path.name} is no JSON: {error}.") from error
    # The whole answer of `mixlab fit --json` serves as well.
    return Fit.from_dict(data["fit"] if isinstance(data, dict) and "fit" in data else data)

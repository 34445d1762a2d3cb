"""`mixlab fit` and `mixlab solve`: from a table of observations to a mixture, without a service."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixlab.diagnostics import heldout_mre_percent, seed_noise
from mixlab.errors import InvalidTable, MissingFile
from mixlab.fitting import Fit, TargetFit
from mixlab.fitting import fit as fit_law
from mixlab.laws import law as law_named
from mixlab.solvers import DEFAULT_MAX_EPOCHS, Constraints, Objective, Solution
from mixlab.solvers import solve as solve_fit
from mixlab.tables import TableReport, read_table

Assignments = list[str] | None

AtStep = Annotated[
    float | None, typer.Option(help="Step of the loss to minimise; the last observed by default.")
]
Budget = Annotated[
    float | None, typer.Option(help="Token budget: the step where it is spent, and epoch caps.")
]
TokensPerStep = Annotated[
    float | None, typer.Option(help="Where the table has steps but no tokens.")
]
Lower = Annotated[Assignments, typer.Option(metavar="DOMAIN=SHARE", help="Least share.")]
Upper = Annotated[Assignments, typer.Option(metavar="DOMAIN=SHARE", help="Greatest share.")]
Weight = Annotated[
    Assignments, typer.Option(metavar="TARGET=WEIGHT", help="In the mean loss; equal by default.")
]
MaxEpochs = Annotated[
    float, typer.Option(help="Greatest number of passes over a domain's available tokens.")
]
Available = Annotated[
    Assignments, typer.Option(metavar="DOMAIN=TOKENS", help="Tokens that a domain has.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Question:
    """What to solve for, as given on the command line."""

    at_step: float | None
    budget_tokens: float | None
    tokens_per_step: float | None
    weights: dict[str, float]
    constraints: Constraints

    def solved(self, found: Fit) -> Solution:
        """The solution for a fit; without step and budget, at the last step observed."""
        step = found.steps_seen[1]
        if self.at_step is not None:
            step = self.at_step
        elif self.budget_tokens is not None:
            step = found.step_at(self.budget_tokens, self.tokens_per_step)
        return solve_fit(
            found, Objective(step=step, weights=self.weights or None), self.constraints
        )


def fit(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet with run, step or tokens, "
                                               "mixture.<domain> and loss.<target> columns.")],
    law: Annotated[str, typer.Option(help="The law to fit.")] = "bimix",
    at_step: AtStep = None,
    budget_tokens: Budget = None,
    tokens_per_step: TokensPerStep = None,
    lower: Lower = None,
    upper: Upper = None,
    weight: Weight = None,
    max_epochs: MaxEpochs = DEFAULT_MAX_EPOCHS,
    tokens_available: Available = None,
    share_floor: Annotated[
        float | None, typer.Option(help="Read shares below as this instead of leaving 0 out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Save the fit as JSON for `mixlab solve`.")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fit a law to a table of observations and solve for the best mixture."""
    question = _question(
        at_step, budget_tokens, tokens_per_step, lower, upper, weight, max_epochs,
        tokens_available,
    )  # fmt: skip
    report = TableReport()
    chosen, seen = law_named(law), read_table(table, report=report)
    found = fit_law(chosen, seen, share_floor=share_floor)
    heldout = heldout_mre_percent(chosen, seen, share_floor=share_floor)
    solution = question.solved(found)
    if output is not None:
        _save(found, output)
    answer = {
        "fit": found.to_dict(),
        "heldout_mre_percent": heldout,
        "seed_noise_nats": seed_noise(seen),
        "solution": solution.to_dict(),
        "notes": report.notes(),
    }
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    console = Console()
    _print_fit(console, found, heldout)
    _print_notes(console, [*report.notes(), *_fit_notes(found)])
    _print_solution(console, solution, found)


def solve(
    saved: Annotated[Path, typer.Argument(help="A fit saved by `mixlab fit --output`.")],
    at_step: AtStep = None,
    budget_tokens: Budget = None,
    tokens_per_step: TokensPerStep = None,
    lower: Lower = None,
    upper: Upper = None,
    weight: Weight = None,
    max_epochs: MaxEpochs = DEFAULT_MAX_EPOCHS,
    tokens_available: Available = None,
    as_json: AsJson = False,
) -> None:
    """Solve a saved fit again under another budget, objective or constraints."""
    question = _question(
        at_step, budget_tokens, tokens_per_step, lower, upper, weight, max_epochs,
        tokens_available,
    )  # fmt: skip
    found = _load(saved)
    solution = question.solved(found)
    if as_json:
        typer.echo(json.dumps(solution.to_dict(), indent=2))
        return
    _print_solution(Console(), solution, found)


def _question(
    at_step: float | None, budget_tokens: float | None, tokens_per_step: float | None,
    lower: Assignments, upper: Assignments, weight: Assignments, max_epochs: float,
    tokens_available: Assignments,
) -> Question:  # fmt: skip
    constraints = Constraints(
        lower=_assigned(lower, "--lower"),
        upper=_assigned(upper, "--upper"),
        max_epochs=max_epochs,
        budget_tokens=budget_tokens,
        tokens_available=_assigned(tokens_available, "--tokens-available") or None,
    )
    weights = _assigned(weight, "--weight")
    return Question(at_step, budget_tokens, tokens_per_step, weights, constraints)


def _assigned(given: Assignments, option: str) -> dict[str, float]:
    """`["code=0.2"]` as `{"code": 0.2}`."""
    values: dict[str, float] = {}
    for text in given or []:
        # The last = splits, since a domain's name may hold one.
        name, _, number = text.rpartition("=")
        try:
            values[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"{text!r} must read NAME=NUMBER", param_hint=option)
    return values


def _save(found: Fit, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _load(path: Path) -> Fit:
    if not path.is_file():
        raise MissingFile(f"There is no saved fit {path}; `mixlab fit TABLE --output` writes one.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidTable(f"{path.name} is no JSON: {error}.") from error
    # The whole answer of `mixlab fit --json` serves as well.
    return Fit.from_dict(data["fit"] if isinstance(data, dict) and "fit" in data else data)


def _print_fit(console: Console, found: Fit, heldout: dict[str, float]) -> None:
    """Two narrow tables, so that a terminal of 80 columns holds both."""
    names = list(next(iter(found.targets.values())).parameters)
    title = escape(f"{found.law.name}: {found.law.formula}, s in {found.step_unit}")
    parameters = _table(title, "target", *names)
    quality = _table("", "target", "R² of log loss", "held-out error", "mixtures", "rows", "status")
    for target, one in found.targets.items():
        parameters.add_row(escape(target), *[_with_error(one, name) for name in names])
        quality.add_row(
            escape(target),
            "-" if one.r2_log_loss is None else f"{one.r2_log_loss:.4f}",
            f"{heldout[target]:.2f} %" if target in heldout else "-",
            str(one.mixtures),
            str(one.rows),
            one.status.value,
        )
    console.print(parameters)
    console.print(quality)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _with_error(one: TargetFit, name: str) -> str:
    value, error = one.parameters[name], one.standard_errors[name]
    if error is None:
        return f"{value:.3g}"
    return f"{value:.3g} ± {error:.1g}"


def _fit_notes(found: Fit) -> list[str]:
    notes = [f"{target}: {one.reason}" for target, one in found.targets.items() if one.reason]
    notes += [f"{target} was not fitted: {why}" for target, why in found.left_out_targets.items()]
    for target, one in found.targets.items():
        if one.excluded_rows:
            notes.append(f"{target}: {one.excluded_rows} rows with a share of 0 were left out")
        if one.floored_rows:
            notes.append(f"{target}: {one.floored_rows} shares were read as {found.share_floor:g}")
    return notes


def _print_solution(console: Console, solution: Solution, found: Fit) -> None:
    bounds = {active.domain: active.bound for active in solution.active}
    table = _table(
        f"Mixture for {solution.step:,.0f} {found.step_unit}: "
        f"mean loss {solution.objective_nats:.4f} nats",
        "domain",
        "share",
        "predicted loss",
        "epochs",
        "at bound",
    )
    for domain, share in solution.mixture:
        loss, epochs = solution.predicted_nats.get(domain), (solution.epochs or {}).get(domain)
        table.add_row(
            escape(domain),
            f"{share:.4f}",
            "-" if loss is None else f"{loss:.4f}",
            "-" if epochs is None else f"{epochs:.2f}",
            bounds.get(domain, ""),
        )
    console.print(table)
    _print_notes(console, solution.notes)


def _print_notes(console: Console, notes: Any) -> None:
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)

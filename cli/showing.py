"""Fits, solutions and predictions as tables for a terminal of 80 columns."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from mixlab.answers import Answer
from mixlab.design import NextRuns
from mixlab.fitting import Fit, TargetFit
from mixlab.predictions import Prediction
from mixlab.solvers import Promise, Regret

MOST_PARAMETERS = 4  # that a table of 80 columns holds


def print_fit(console: Console, found: Fit) -> None:
    """How well each target is fitted, and its parameters where all have the same few."""
    laws = {one.law.name: one.law for one in found.targets.values()}
    names = list(next(iter(found.targets.values())).parameters)
    if len(laws) == 1 and len(names) <= MOST_PARAMETERS:
        title = escape(f"{found.law.name}: {found.law.formula}, s in {found.step_unit}")
        parameters = table(title, "target", *names)
        for target, one in found.targets.items():
            parameters.add_row(escape(target), *[_with_error(one, name) for name in names])
        console.print(parameters)
    else:
        for law in laws.values():
            console.print(f"{law.name}: {law.formula}", markup=False, highlight=False)
    quality = table("", "target", "law", "held-out error", "R²", "mixtures", "rows", "status")
    for target, one in found.targets.items():
        quality.add_row(
            escape(target),
            one.law.name,
            "-" if one.heldout is None else f"{one.heldout.mre_percent:.2f} %",
            "-" if one.r2_log_loss is None else f"{one.r2_log_loss:.4f}",
            str(one.mixtures),
            str(one.rows),
            one.status.value,
        )
    console.print(quality)


def fit_notes(found: Fit) -> list[str]:
    """What the reader of a fit should know."""
    notes = list(found.notes)
    notes += [f"{target}: {one.reason}" for target, one in found.targets.items() if one.reason]
    notes += [f"{target} was not fitted: {why}" for target, why in found.left_out_targets.items()]
    for target, one in found.targets.items():
        if one.excluded_rows:
            notes.append(f"{target}: {one.excluded_rows} rows with a share of 0 were left out")
        if one.floored_rows:
            notes.append(f"{target}: {one.floored_rows} shares were read as {found.share_floor:g}")
    return notes


def print_solution(console: Console, answer: Answer, found: Fit) -> None:
    """The mixture, what is predicted for it with intervals, and what holds it."""
    solution = answer.solution
    bounds = {active.domain: active.bound for active in solution.active}
    mixture = table(
        f"Mixture for {solution.step:,.0f} {found.step_unit}: "
        f"{solution.objective_nats:.4f} nats, {solution.status.value}",
        "domain", "share", "epochs", "at bound",
    )  # fmt: skip
    for domain, share in solution.mixture:
        epochs = (solution.epochs or {}).get(domain)
        mixture.add_row(
            escape(domain),
            f"{share:.4f}",
            "-" if epochs is None else f"{epochs:.2f}",
            bounds.get(domain, ""),
        )
    console.print(mixture)
    print_predictions(console, answer.predictions)
    print_promise(console, answer.promise)
    print_lines(console, solution.statements, "worth")
    if answer.regret is not None:
        print_regret(console, answer.regret)
    if answer.next_runs is not None:
        print_next(console, answer.next_runs)
    print_lines(console, [*solution.notes, *answer.notes])


def print_promise(console: Console, found: Promise) -> None:
    """The objective and what is gained over reference mixtures, with 95% intervals."""
    lines = [f"the objective of a new run: {found.low95:.4f} to {found.high95:.4f} nats"]
    for name, one in found.gains.items():
        corrected = one.nats if one.corrected_nats is None else one.corrected_nats
        lines.append(
            f"gain over the {name.replace('_', ' ')} mixture: {one.nats:.4f} nats predicted, "
            f"{corrected:.4f} less what choosing flatters, {one.low95:.4f} to {one.high95:.4f} "
            "between two runs"
        )
    print_lines(console, lines, "95%")


def print_regret(console: Console, found: Regret) -> None:
    """What the bootstrap says of a solution."""
    region = table("Shares of mixtures that can't be told from it", "domain", "from", "to")
    for domain, (low, high) in found.region.items():
        region.add_row(escape(domain), f"{max(low, 0.0):.4f}", f"{high:.4f}")
    console.print(region)
    optimism = "refits to redrawn runs show no optimism in the optimum's prediction"
    if found.optimism_nats > 0:
        optimism = (
            f"the optimum's prediction is {found.optimism_nats:.4f} nats too low as a rule: "
            f"{found.corrected_nats:.4f} corrected"
        )
    print_lines(
        console,
        [
            optimism,
            f"chance in the runs alone costs {found.sampling_regret_nats:.2g} nats",
        ],
        "expected",
    )


def print_next(console: Console, found: NextRuns) -> None:
    """The runs that would tell the optimum best."""
    domains = found.solution.domains
    runs = table("Runs that would tell it best", "run", *map(escape, domains))
    for label, one in found.mixtures.items():
        runs.add_row(label, *[f"{share:.3f}" for share in one.shares(domains)])
    console.print(runs)
    print_lines(console, [regret_line(found.to_dict())], "expected")


def regret_line(proposed: Mapping[str, Any]) -> str:
    """What is lost by choosing now, and after the proposed runs."""
    before, after = proposed["expected_regret_nats"], proposed["expected_regret_after_nats"]
    return (
        f"for all that the runs have not told, the mixture of now loses {before:.2g} nats to the "
        f"best one, {after:.2g} after these runs"
    )


def print_predictions(console: Console, predicted: Mapping[str, Prediction]) -> None:
    """Losses with their 95% prediction intervals."""
    shown = table("", "target", "predicted loss", "95% interval of a new run")
    for target, one in predicted.items():
        shown.add_row(escape(target), f"{one.nats:.4f}", f"{one.low95:.4f} to {one.high95:.4f}")
    console.print(shown)


def print_lines(console: Console, lines: Iterable[Any], label: str = "note") -> None:
    """One line each, as they are."""
    for line in lines:
        console.print(f"{label}: {line}", markup=False, highlight=False, soft_wrap=True)


def progress_bar(console: Console) -> Progress:
    """What training shows on a terminal; each of its tasks has the field `told`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
        console=console,
    )


def table(title: str, first: str, *others: str) -> Table:
    """An empty table; all columns but the first are numbers."""
    made = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0),
        min_width=min(len(title), 78),
    )  # fmt: skip
    made.add_column(first, no_wrap=True)
    for name in others:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def _with_error(one: TargetFit, name: str) -> str:
    value, error = one.parameters[name], one.standard_errors[name]
    if error is None:
        return f"{value:.3g}"
    return f"{value:.3g} ± {error:.1g}"

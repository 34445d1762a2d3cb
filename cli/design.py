"""`mixlab design`: which runs to make, first or next, and at which model sizes."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cli.options import AsJson
from cli.questions import Given, asking
from cli.showing import print_lines, regret_line, table
from cli.table import load
from mixlab.design import NextRuns, Size, decide, filling_mixtures, next_runs, plan_runs
from mixlab.fitting import Fit
from mixlab.mixture import Mixture
from mixlab.questions import constraints_from
from mixlab.shortcuts import observations_of

SIZE = "PARAMS:TOKENS"


@asking
def design(
    given: Given,
    domain: Annotated[
        list[str] | None, typer.Option(help="First runs over these domains; repeat it.")
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Next runs of this fit, saved by `mixlab fit --output`.")
    ] = None,
    table_: Annotated[
        Path | None, typer.Option("--table", help="The observations that it was fitted to.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many runs.")] = 8,
    tolerance: Annotated[
        float | None, typer.Option(help="Stop where the expected regret is at most so many nats.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar=SIZE, help="A model size and its runs' tokens; repeat it for a plan."),
    ] = None,
    budget_flops: Annotated[
        float | None, typer.Option(help="What all runs of a plan with --size may cost.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the chance in it.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Propose runs: first ones that fill what is allowed, or the next ones that tell the most."""
    console, found = Console(), None
    shown: dict[str, Any] = {}
    if fit is not None and table_ is not None and not domain:
        found = load(fit)
        told = _next(found, table_, given, count, seed)
        mixtures, shown = told.mixtures, told.to_dict()
        if tolerance is not None:
            made = len(set(observations_of(table_).runs))
            shown["decision"] = decide(told, tolerance_nats=tolerance, runs_made=made).reason
    elif domain and fit is None and table_ is None:
        limits = constraints_from(given.limits(), given.budget_tokens, given.available())
        mixtures = filling_mixtures(domain, count=count, constraints=limits, seed=seed)
        shown = {"mixtures": {name: dict(one.proportions) for name, one in mixtures.items()}}
    else:
        raise typer.BadParameter("give --domain for first runs, else --fit and --table")
    if size or budget_flops is not None:
        shown["plan"] = _plan(mixtures, size or [], budget_flops, found)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    _print(console, mixtures, shown)


def _next(found: Fit, path: Path, given: Given, count: int, seed: int) -> NextRuns:
    question = given.question(found)
    return next_runs(
        found, observations_of(path), question.objective_for(found), question.limits(),
        count=count, seed=seed,
    )  # fmt: skip


def _plan(
    mixtures: dict[str, Mixture], given: list[str], budget_flops: float | None, found: Fit | None
) -> dict[str, Any]:
    if not given:
        raise typer.BadParameter(f"needs sizes, --size {SIZE}", param_hint="--budget-flops")
    sizes = [_size(text) for text in given]
    if budget_flops is None:
        raise typer.BadParameter(
            "a plan over sizes needs what it may cost", param_hint="--budget-flops"
        )
    return plan_runs(mixtures, sizes, budget_flops=budget_flops, fit=found).to_dict()


def _size(text: str) -> Size:
    params, _, tokens = text.partition(":")
    try:
        return Size(float(params), float(tokens))
    except ValueError:
        raise typer.BadParameter(f"{text!r} must read {SIZE}", param_hint="--size") from None


def _print(console: Console, mixtures: dict[str, Mixture], shown: dict[str, Any]) -> None:
    domains = next(iter(mixtures.values())).domains
    runs = table("Runs to make, shares by domain", "run", *map(escape, domains))
    for label, one in mixtures.items():
        runs.add_row(label, *[f"{share:.4f}" for share in one.shares(domains)])
    console.print(runs)
    if "expected_regret_nats" in shown:
        print_lines(console, [regret_line(shown)], "expected")
    if "decision" in shown:
        print_lines(console, [shown["decision"]], "advice")
    plan = shown.get("plan")
    if plan:
        at = table("", "run", "params", "tokens", "FLOPs")
        for run in plan["runs"]:
            numbers = [f"{run[name]:.3g}" for name in ("params", "tokens", "flops")]
            at.add_row(run["label"], *numbers)
        console.print(at)
        print_lines(console, [f"{plan['flops']:.3g} FLOPs in all"], "plan")
        print_lines(console, plan["notes"])

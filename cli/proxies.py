"""`mixlab proxies`: many proxy runs of one recipe on this machine, without the service.

`plan` measures how to train them here and says what they cost; `train` does it, stacked on a
GPU or one process per CPU core, and writes the table of observations that `mixlab fit` reads.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cli.named_mixtures import Named, named_mixtures
from cli.options import AsJson
from cli.showing import print_lines, progress_bar, table
from cli.training import stopping
from mixlab.corpora.files import write_json
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import MixlabError
from mixlab.recipes import Recipe
from mixlab.recipes import recipe as recipe_named
from mixlab.runs import Observation, Observations
from mixlab.tables import write_table

if TYPE_CHECKING:
    from mixlab.training.groups import GroupProgress, Outcome
    from mixlab.training.planning import Plan
    from mixlab.training.stacked import StackedRun

app = typer.Typer(
    name="proxies", help="Many proxy runs at once: what they cost here, and training them.",
    no_args_is_help=True,
)  # fmt: skip

PLAN, TABLE, RUNS = "plan.json", "observations.parquet", "runs"
AUTO = "auto"
SECONDS = 20.0

RecipeName = Annotated[str, typer.Option("--recipe", help="One that `mixlab recipe list` names.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Weight updates of each run, instead of the recipe's.")
]
Stack = Annotated[
    str, typer.Option(metavar="R|auto", help="Runs in one program; auto measures what is fastest.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; the first GPU where there is one.")]
Price = Annotated[
    float | None, typer.Option(min=0, help="Of an hour of this device, in any currency.")
]
Mixtures = Annotated[
    Path,
    typer.Option(
        help="CSV or Parquet with run and mixture.<domain> columns (seed, learning_rate), or JSON "
        "as `mixlab design --json` prints it."
    ),
]
CheckpointSeconds = Annotated[float, typer.Option(min=0, help="A kill loses at most that much.")]
Seconds = Annotated[float, typer.Option(min=0, help="For measuring, about.")]


@app.command()
def plan(
    recipe_name: RecipeName,
    runs: Annotated[int, typer.Option(min=1, help="How many proxy runs.")],
    steps: Steps = None,
    vocabulary: Annotated[
        int, typer.Option(min=1, help="Tokens of your tokenizer; the recipe is widened for them.")
    ] = 1,
    stack: Stack = AUTO,
    device: Device = None,
    price_per_hour: Price = None,
    seconds: Seconds = SECONDS,
    as_json: AsJson = False,
) -> None:
    """Measure for some seconds how to train so many runs here, and say what they cost."""
    recipe = _recipe(recipe_name, steps).for_vocabulary(vocabulary)
    with Console(stderr=True).status("measuring"):
        found = _plan(recipe, runs, device, stack, price_per_hour, seconds)
    if as_json:
        typer.echo(json.dumps({"recipe": recipe.to_dict(), **found.to_dict()}, indent=2))
        return
    print_plan(Console(), recipe, found)


@app.command()
def train(
    corpus: Annotated[
        Path, typer.Option(help="Folder of a tokenised corpus; HOME/corpora/ID of the service's.")
    ],
    recipe_name: RecipeName,
    mixtures: Mixtures,
    out: Annotated[Path, typer.Option(help="Folder of the runs, the plan and the table.")],
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, help="Of runs that name none.")] = 0,
    stack: Stack = AUTO,
    device: Device = None,
    seconds: Seconds = SECONDS,
    checkpoint_seconds: CheckpointSeconds = 30.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a program.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a proxy run on each mixture. The same command goes on where it was stopped."""
    from mixlab.training.groups import train_group, unfinished

    opened = TokenisedCorpus.open(corpus)
    recipe = _recipe(recipe_name, steps).for_vocabulary(opened.vocabulary)
    wanted = named_mixtures(mixtures, seed=seed)
    runs = _runs(wanted, out)
    console, chosen = Console(stderr=True), None
    if left := unfinished(recipe, opened, runs):
        with console.status("measuring"):
            chosen = _plan(recipe, len(left), device, stack, None, seconds)
        write_json(out / PLAN, {"recipe": recipe.to_dict(), **chosen.to_dict()})
        print_plan(console, recipe, chosen)
    with stopping(console) as stop, _Bar(console, len(runs)) as bar:
        found = train_group(
            recipe, opened, runs, plan=chosen, progress=bar, stop=stop, threads=threads,
            checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
    _finish(out, wanted, found, as_json)


def _runs(wanted: Sequence[Named], out: Path) -> "list[StackedRun]":
    from mixlab.training.stacked import StackedRun

    out.mkdir(parents=True, exist_ok=True)
    return [
        StackedRun(one.mixture, one.seed, one.learning_rate, out / RUNS / one.folder)
        for one in wanted
    ]


def print_plan(console: Console, recipe: Recipe, found: "Plan") -> None:
    """What was measured, what is taken, and what it costs."""
    ways = table(
        f"{found.runs} runs of {recipe.name}, {recipe.architecture.parameters:,} parameters, "
        f"{recipe.steps} steps, on {found.device}",
        "way", "at once", "threads", "tokens/s in all", "hours for all",
    )  # fmt: skip
    for one in found.measured:
        rounds = math.ceil(found.runs / one.at_once)
        hours = rounds * one.at_once * recipe.tokens / one.tokens_per_second / 3600
        each = f", {one.runs} each" if one.way == "processes" and one.runs > 1 else ""
        ways.add_row(
            one.way + each, str(one.at_once), str(one.threads),
            f"{one.tokens_per_second:,.0f}", f"{hours:,.3g}",
        )  # fmt: skip
    console.print(ways)
    print_lines(console, [_taken(found)], "taken")
    print_lines(console, found.reasons, "because")
    print_lines(console, dict.fromkeys(one.how for one in found.measured), "measured by")
    print_lines(console, _cost_lines(found), "cost")


def _taken(found: "Plan") -> str:
    if found.way == "stacked":
        return f"stacks of {found.stack} runs, {found.rounds} one after another"
    if found.way == "processes":
        each = "one run" if found.stack == 1 else f"stacks of {found.stack} runs"
        return f"{found.processes} processes of one thread with {each}, {found.rounds} rounds"
    return "one run after another"


def _cost_lines(found: "Plan") -> list[str]:
    cost = found.cost
    lines = [
        f"{cost.flops:.3g} FLOPs ({cost.formula}) for {cost.tokens:,} tokens",
        f"{_duration(cost.seconds)} by the measured rate, without evaluations and checkpoints",
        f"at least {cost.bytes / 1e6:,.0f} MB of memory "
        + ("a process" if found.way == "processes" else "a program"),
    ]
    if cost.price is None:
        return [*lines, "no price, since none per hour was given (--price-per-hour)"]
    return [*lines, f"{cost.price:,.2f} for {cost.device_hours:,.3g} hours of the device"]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _recipe(name: str, steps: int | None) -> Recipe:
    found = recipe_named(name)
    return found if steps is None else found.lasting(steps)


def _plan(
    recipe: Recipe,
    runs: int,
    device: str | None,
    stack: str,
    price_per_hour: float | None,
    seconds: float,
) -> "Plan":
    from mixlab.training.planning import choose

    return choose(
        recipe, runs,
        device=device,
        stack=None if stack == AUTO else _size(stack),
        price_per_hour=price_per_hour,
        seconds=seconds,
    )  # fmt: skip


def _size(stack: str) -> int:
    if not stack.isdecimal() or int(stack) < 1:
        raise typer.BadParameter(
            f"{stack!r} must be a number of runs or auto", param_hint="--stack"
        )
    return int(stack)


class _Bar:
    """All runs' progress on a terminal."""

    def __init__(self, console: Console, runs: int) -> None:
        self._progress = progress_bar(console)
        self._task = self._progress.add_task(f"{runs} proxy runs", total=1.0, told="starting")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, now: "GroupProgress") -> None:
        """Show how far they are."""
        pace = f"{now.tokens_per_second:,.0f} tokens/s"
        self._progress.update(self._task, completed=now.fraction, told=pace)


def _finish(out: Path, wanted: Sequence[Named], found: "Sequence[Outcome]", as_json: bool) -> None:
    """Write the table of what was measured, and say how each run ended."""
    rows: list[Observation] = []
    told: list[dict[str, Any]] = []
    for asked, outcome in zip(wanted, found, strict=True):
        if isinstance(outcome, MixlabError):
            told.append({"run": asked.name, "ended": outcome.slug(), "note": str(outcome)})
            continue
        rows += [replace(seen, run=asked.name) for seen in outcome.observations]
        told.append(
            {"run": asked.name, "ended": outcome.ended, "note": outcome.note,
             "step": outcome.step, "seconds": outcome.seconds,
             "tokens_per_second": outcome.tokens_per_second, "execution": outcome.execution}
        )  # fmt: skip
    if rows:
        write_table(Observations.of(rows), out / TABLE)
    written = str(out / TABLE) if rows else None
    if as_json:
        typer.echo(json.dumps({"table": written, "runs": told}, indent=2))
        return
    console = Console()
    kinds = [one["ended"] for one in told]
    ends = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print_lines(console, [ends], "runs")
    print_lines(console, [one["note"] for one in told if one["ended"] == "diverged"], "diverged")
    if "stopped" in kinds:
        print_lines(console, ["the same command goes on from the checkpoints"], "stopped")
    if written:
        print_lines(console, [f"{written}, {len(rows)} rows; `mixlab fit {written}`"], "table")

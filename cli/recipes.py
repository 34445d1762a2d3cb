"""`mixlab recipe`: what recipes there are, what one of them comes to, and shapes for new ones."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cli.options import AsJson
from cli.shapes import search
from cli.showing import table
from mixlab.recipes import RECIPES, Flops, Recipe, recipe
from mixlab.recipes.describing import described, schedule_in_words, short_rate, story

app = typer.Typer(
    name="recipe", help="Recipes of training runs: list, show, search.", no_args_is_help=True
)
app.command()(search)


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes, small ones first."""
    made = {name: recipe(name) for name in RECIPES}
    if as_json:
        typer.echo(json.dumps([described(one) for one in made.values()], indent=2))
        return
    shown = table("", "recipe", "blocks", "with head", "all", "tokens", "head's FLOPs")
    for name, one in made.items():
        shape = one.architecture
        shown.add_row(
            name, _short(shape.block_parameters), _short(shape.parameters_without_embedding),
            _short(shape.parameters), _short(one.tokens), f"{100 * shape.head_share:.0f} %",
        )  # fmt: skip
    Console().print(shown)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name.")],
    vocabulary: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of your tokenizer; the recipe is widened for them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe's shape, counts, FLOPs, tokens, schedule and memory."""
    made = recipe(name).for_vocabulary(vocabulary or 1)
    if as_json:
        typer.echo(json.dumps(described(made), indent=2))
        return
    first, rest = story(RECIPES[name])
    console = Console()
    console.print(name, style="bold", markup=False, highlight=False)
    console.print(first, markup=False, highlight=False)
    shown = Table(box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0))
    shown.add_column(no_wrap=True, style="dim")
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column()
    for section in (_shape, _counts, _training):
        for row in section(made, described(made)):
            shown.add_row(*row)
        shown.add_section()
    console.print(shown)
    if rest:
        console.print(rest, markup=False, highlight=False)


Row = tuple[str, str, str]


def _shape(made: Recipe, known: dict[str, Any]) -> Iterator[Row]:
    shape = made.architecture
    yield "layers x width", f"{shape.layers} x {shape.width}", f"FFN {shape.ffn_width:,}"
    shared = f"of width {shape.head_width}, {shape.kv_heads} for keys and values"
    yield "heads", f"{shape.heads}", shared
    yield "vocabulary", f"{shape.vocabulary:,}", "tied head" if shape.tied_head else "untied head"
    yield "context", f"{shape.context:,}", "tokens"


def _counts(made: Recipe, known: dict[str, Any]) -> Iterator[Row]:
    counts = known["parameters"]
    yield "parameters", f"{counts['all']:,}", "all"
    yield "", f"{counts['without_embedding']:,}", "without the input embedding"
    yield "", f"{counts['blocks']:,}", "in blocks"
    for number, formula in enumerate(Flops):
        flops = made.architecture.flops_per_token(formula)
        yield "" if number else "FLOPs per token", f"{_short(flops)}", formula.value
    yield "", f"{100 * known['head_share_of_flops']:.0f} %", "of them in the head, by the first"
    yield "FLOPs", f"{known['flops']:.2e}", "of the run, by the first"


def _training(made: Recipe, known: dict[str, Any]) -> Iterator[Row]:
    yield "tokens", _short(made.tokens), f"in {made.steps:,} steps"
    for first, tokens in known["tokens_per_step"].items():
        where = f"from step {int(first):,} on" if made.batch_stages else ""
        yield "" if where and first != "1" else "tokens per step", f"{tokens:,}", where
    rates = known["learning_rates"]
    yield "learning rate", short_rate(made.learning_rate), schedule_in_words(made)
    if made.base_width is not None:
        note = f"of matrices, by maximal update from width {made.base_width}"
        yield "", short_rate(rates["matrices"]), note
    yield (
        "AdamW", f"{made.weight_decay:g}",
        f"weight decay, betas {made.betas[0]:g} and {made.betas[1]:g}, clip {made.gradient_clip:g}",
    )  # fmt: skip
    yield (
        "evaluations",
        f"{len(made.evaluation_steps)}",
        f"{made.evaluation_tokens:,} tokens a domain",
    )
    yield (
        "memory", f"{known['state_bytes'] / 1e9:.2f} GB",
        f"of weights, gradients and {made.moments} moments, before activations",
    )  # fmt: skip


def _short(number: float) -> str:
    """Three digits and a letter."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"

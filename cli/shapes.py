"""`mixlab recipe search`: shapes of a given number of parameters, with what each costs."""

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from cli.options import AsJson
from cli.showing import print_lines, table
from mixlab.recipes import Flops
from mixlab.recipes.search import (
    DEPTHS,
    EXPANSION,
    EXPANSIONS,
    LAYERS,
    TOLERANCE,
    WIDTHS,
    Candidate,
    search_shapes,
)

Kind = TypeVar("Kind", int, float)

Params = Annotated[float, typer.Option("--params", help="Parameters, all counted; 1.0e9.")]
Vocab = Annotated[int, typer.Option("--vocab", min=1, help="Tokens of the tokenizer.")]
Depth = Annotated[str, typer.Option(metavar="N|LOW-HIGH", help="Layers.")]
Width = Annotated[str, typer.Option(metavar="N|LOW-HIGH", help="Width of the residual stream.")]
Expansion = Annotated[str, typer.Option(metavar="X|LOW-HIGH", help="FFN width, in widths.")]
HeadWidth = Annotated[
    int | None, typer.Option(min=2, help="128 from 500M parameters on, 64 from 10M, else 32.")
]
Queries = Annotated[
    str, typer.Option(metavar="N,...", help="Query heads that share a key/value head.")
]
Multiple = Annotated[int, typer.Option(min=1, help="The FFN's width is a multiple of it.")]
Context = Annotated[int, typer.Option(min=1, help="Tokens of a sequence.")]
Tied = Annotated[bool, typer.Option("--tied", help="One table for embedding and head.")]
Tolerance = Annotated[float, typer.Option(min=0, help="Share that parameters may be off by.")]
Top = Annotated[int, typer.Option(min=1, help="Show so many.")]
Measure = Annotated[
    bool, typer.Option("--measure", help="Time training of each that is shown, here.")
]


def search(
    params: Params,
    vocab: Vocab,
    depth: Depth = f"{DEPTHS[0]}-{DEPTHS[1]}",
    width: Width = f"{WIDTHS[0]}-{WIDTHS[1]}",
    expansion: Expansion = f"{EXPANSIONS[0]:g}-{EXPANSIONS[1]:g}",
    head_width: HeadWidth = None,
    queries_per_kv: Queries = "1",
    ffn_multiple: Multiple = 64,
    context: Context = 2048,
    tied: Tied = False,
    tolerance: Tolerance = TOLERANCE,
    top: Top = 8,
    measure: Measure = False,
    as_json: AsJson = False,
) -> None:
    """Find shapes of so many parameters; the first is the recommended one, about 20 layers."""
    found = search_shapes(
        params,
        vocab,
        depths=_span(depth, int, "--depth"),
        widths=_span(width, int, "--width"),
        expansions=_span(expansion, float, "--expansion"),
        tolerance=tolerance,
        head_width=head_width,
        queries_per_kv=_numbers(queries_per_kv, "--queries-per-kv"),
        ffn_multiple=ffn_multiple,
        context=context,
        tied_head=tied,
    )
    shown = [{**one.to_dict(), **_costs(one, measure)} for one in found[:top]]
    if as_json:
        typer.echo(json.dumps({"found": len(found), "shapes": shown}, indent=2))
        return
    _print(shown, len(found), measure)


def _costs(one: Candidate, measure: bool) -> dict[str, Any]:
    """Memory, and tokens per second where they are asked for."""
    try:
        from mixlab.training.costing import least_memory, measure_speed
        from mixlab.training.placement import chosen_device
    except ModuleNotFoundError:  # without torch shapes can be counted, but not trained
        return {"memory_bytes": None}
    device = chosen_device()
    costs: dict[str, Any] = {"memory_bytes": least_memory(one.architecture, device)}
    if measure:
        speed = measure_speed(one.architecture, device)
        costs |= {"tokens_per_second": speed.tokens_per_second, "measured": speed.how}
    return costs


def _print(shown: list[dict[str, Any]], count: int, measured: bool) -> None:
    columns = ["heads", "FFN", "params", "tables", "FLOPs", "memory"]
    made = table("", "layers x width", *columns, *(["tokens/s"] if measured else []))
    for one in shown:
        heads = f"{one['heads']}/{one['kv_heads']}"
        flops = one["flops_per_token"][Flops.WITHOUT_EMBEDDING.value]
        memory = one["memory_bytes"]
        made.add_row(
            f"{one['layers']} x {one['width']}",
            heads,
            f"{one['ffn_width']} ({one['expansion']:.2f})",
            f"{one['parameters'] / 1e6:,.1f}M",
            f"{100 * one['tables_share']:.1f} %",
            f"{flops:.1e}",
            "-" if memory is None else f"{memory / 1e9:.2f} GB",
            *([_speed(one)] if measured else []),
        )
    console = Console()
    console.print(made)
    lines = [
        f"{len(shown)} of {count} shapes, nearest to {LAYERS} layers and an FFN of {EXPANSION} "
        "widths first (arXiv 2402.02791)",
        f"tables: embedding and head; FLOPs: of a trained token, {Flops.WITHOUT_EMBEDDING.value}",
        "memory: the least that training takes, with one sequence at a time",
    ]
    if measured:
        lines += [f"tokens/s: {how}" for how in dict.fromkeys(one["measured"] for one in shown)]
    print_lines(console, lines)


def _speed(one: dict[str, Any]) -> str:
    rate = one["tokens_per_second"]
    return "-" if rate is None else f"{rate:,.{0 if rate >= 100 else 1}f}"


def _span(text: str, kind: Callable[[str], Kind], option: str) -> tuple[Kind, Kind]:
    """Both ends of "16-24"; of "20" both are 20."""
    low, dash, high = text.partition("-")
    return _number(low, kind, option), _number(high if dash else low, kind, option)


def _numbers(text: str, option: str) -> list[int]:
    """Those of "1,2,4"."""
    try:
        return [int(one) for one in text.split(",")]
    except ValueError as problem:
        raise typer.BadParameter(f"{option} takes numbers as N,N,..., not {text!r}.") from problem


def _number(text: str, kind: Callable[[str], Kind], option: str) -> Kind:
    try:
        return kind(text.strip())
    except ValueError as problem:
        raise typer.BadParameter(
            f"{option} takes a number, or two as LOW-HIGH, not {text!r}."
        ) from problem

"""What `mixlab train` shows: progress while it trains, then losses and consumed tokens."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from cli.showing import print_lines, progress_bar, table

Event = Mapping[str, Any]
Emit = Callable[[Event], None]


class Bar:
    """The run's progress on a terminal: step, loss, tokens per second, MFU, time left."""

    def __init__(self, console: Console, name: str) -> None:
        self._progress = progress_bar(console)
        self._task = self._progress.add_task(escape(name), total=None, told="starting")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show what an event says."""
        if event["event"] == "progress":
            self._progress.update(
                self._task, completed=event["step"], total=event["steps"], told=pace_of(event)
            )
        elif event["event"] == "stage":
            self._progress.console.print(event["stage"])
        elif event["event"] == "observation":
            losses = event["losses_nats"].items()
            shown = ", ".join(f"{escape(name)} {loss:.4f}" for name, loss in losses)
            self._progress.console.print(f"step {event['step']}: {shown} nats", soft_wrap=True)


def pace_of(event: Event) -> str:
    """Loss, tokens per second and MFU as one short text."""
    loss, mfu = event["train_loss_nats"], event.get("mfu")
    parts = [
        f"{event['step']}/{event['steps']}",
        "" if loss is None else f"loss {loss:.3f}",
        f"{event['tokens_per_second']:,.0f} tokens/s",
        "" if mfu is None else f"MFU {100 * mfu:.1f} %",
    ]
    return "  ".join(part for part in parts if part)


def show(folder: Path, ended: Event, as_json: bool) -> None:
    """The end of a run, as tables or as JSON."""
    if as_json:
        shown = {name: value for name, value in ended.items() if name != "event"}
        typer.echo(json.dumps({"folder": str(folder), **shown}, indent=2))
        return
    console = Console()
    if ended.get("observations"):
        print_losses(console, ended["observations"])
    if ended.get("consumed"):
        print_consumed(console, ended["consumed"])
    print_lines(console, list(_lines(ended)), "run")


def _lines(ended: Event) -> Iterator[str]:
    """How the run ended, in words."""
    if ended["event"] == "stopped":
        step = f" after step {ended['step']}" if "step" in ended else ""
        yield f"stopped{step}; a checkpoint is kept, and the same command goes on from it:"
        yield shlex.join(["mixlab", *sys.argv[1:]])
        return
    if ended["note"]:
        yield ended["note"]
    if "grown_at" in ended:
        step, tokens = ended["grown_at"]["step"], ended["grown_at"]["tokens"]
        yield f"grown after step {step}, {tokens:,} tokens; pace and MFU are the large model's"
    mfu = ended["mfu"]
    yield (
        f"{ended['step']} steps in {ended['seconds']:,.1f} s, "
        f"{ended['tokens_per_second']:,.0f} tokens/s, {ended['execution']}"
        + ("" if mfu is None else f", MFU {100 * mfu:.1f} % ({ended['mfu_formula']})")
    )
    yield f"weights {ended['weights']}, checkpoints and metrics beside them"


def print_losses(console: Console, observations: Sequence[Mapping[str, Any]]) -> None:
    """Validation losses by domain: the first and the last evaluation's."""
    first, last = observations[0], observations[-1]
    steps = [f"step {one['step']}" for one in (first, last)]
    shown = table("Validation loss, nats per token", "domain", *dict.fromkeys(steps))
    for domain in last["losses_nats"]:
        losses = [one["losses_nats"][domain] for one in (first, last)]
        shown.add_row(escape(domain), *[f"{loss:.4f}" for loss in losses[: len(set(steps))]])
    console.print(shown)


def print_consumed(console: Console, consumed: Sequence[Mapping[str, Any]]) -> None:
    """Tokens that the run has read, by domain and epoch; like epochs in one row."""
    found = epochs_of(consumed)
    total = sum(sum(epochs.values()) for epochs in found.values())
    shown = table("Tokens consumed", "domain", "epoch", "tokens each", "share of run")
    for domain, epochs in found.items():
        for tokens, alike in groupby(sorted(epochs), key=epochs.__getitem__):
            first, *more = alike
            last = [first, *more][-1]
            name = f"{first + 1}" if first == last else f"{first + 1} to {last + 1}"
            share = f"{100 * tokens * (1 + len(more)) / total:.1f} %"
            shown.add_row(escape(domain), name, f"{tokens:,}", share)
    console.print(shown)


def epochs_of(consumed: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, int]]:
    """Tokens by domain and by epoch, counted from 0, over all ranges of steps."""
    found: dict[str, dict[int, int]] = {}
    for part in consumed:
        for domain, epochs in part["epochs"].items():
            seen = found.setdefault(domain, {})
            for one in epochs:
                seen[one["epoch"]] = seen.get(one["epoch"], 0) + one["tokens"]
    return found

"""`mixlab batches`: which documents a step of a run reads, and what a run has read by then.

Computed from the mixture schedule, the corpus, the seed and the step, before, during or after
the run; nothing is trained and nothing was logged (mixlab/corpora/sampling.py). A run is named
by its mixture, recipe and seed, or by the folder in which it keeps its checkpoints.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cli.mixtures import schedule
from cli.options import MIXTURE, AsJson, CorpusFolder
from cli.showing import print_lines, table
from mixlab.corpora.drawn import DRAWN_FILE, DRAWN_FROM, DrawnCorpus, DrawnSet
from mixlab.corpora.placements import Piece, Placement
from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidCorpus, InvalidRecipe, MissingFile, TruncatedFile
from mixlab.recipes import Recipe, recipe
from mixlab.schedules import MixtureSchedule

# Up to here repeated tokens teach almost as new ones do (Muennighoff et al., arXiv 2305.16264).
MOST_EPOCHS = 4
MOST_STEPS = 10**10  # of some million tokens each: what 64 bits count

app = typer.Typer(
    name="batches",
    help="Which documents a training step reads, and what a run has read by then.",
    no_args_is_help=True,
)

RecipeOption = Annotated[str | None, typer.Option("--recipe", help="Recipe of the run, by name.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the run.")]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="A run's folder with checkpoints, instead of the three above."),
]


@dataclass(frozen=True)
class _Run:
    """What names a run's batches. `corpus` is a fingerprint, None where any may be read."""

    recipe: Recipe
    schedule: MixtureSchedule
    seed: int
    corpus: str | None
    first_token: int = 0  # of the stream, where the run began with another's weights
    drawn: Path | None = None  # the drawn set that alone it reads

    def sampler(self, folder: Path) -> Sampler:
        """Its batches. Raises InvalidCorpus where the run was trained on other text."""
        found: TokenisedCorpus | DrawnCorpus = TokenisedCorpus.open(folder)
        if isinstance(found, TokenisedCorpus) and self.drawn is not None:
            context = self.recipe.architecture.context
            found = DrawnCorpus(found, DrawnSet.read(self.drawn), context=context)
        if self.corpus not in (None, found.fingerprint):
            raise InvalidCorpus(
                f"The run was trained on the corpus {self.corpus}, and {folder} is "
                f"{found.fingerprint}; give the folder that it was trained on."
            )
        return Sampler(
            {name: found.stream(name, "train") for name in found.domains},
            self.schedule,
            context=self.recipe.architecture.context,
            batch_sequences=self.recipe.batch_sequences,
            batch_stages=self.recipe.batch_stages,
            seed=self.seed,
            first_token=self.first_token,
        )


@app.command()
def show(
    corpus: CorpusFolder,
    step: Annotated[
        int, typer.Option(min=1, max=MOST_STEPS, help="The weight update, counted from 1.")
    ],
    mixture: Annotated[str | None, MIXTURE] = None,
    recipe_name: RecipeOption = None,
    seed: SeedOption = 0,
    run: RunOption = None,
    as_json: AsJson = False,
) -> None:
    """Which documents' tokens fill each row of a step's batch."""
    sampler = _run(mixture, recipe_name, seed, run).sampler(corpus)
    slots = sampler.placements(step - 1)
    before = sampler.tokens_before(step - 1)
    if as_json:
        shown = {
            "step": step,
            "tokens_before": before,
            "slots": [slot.to_dict() for slot in slots],
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    title = f"step {step}, after {before:,} tokens"
    rows = table(title, "row", "domain", "epoch", "window", "tokens", "documents")
    for slot in slots:
        rows.add_row(*_row(slot))
    Console().print(rows)


@app.command()
def consumed(
    corpus: CorpusFolder,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_STEPS, help="So many updates from the first; the recipe's if none"
        ),
    ] = None,
    mixture: Annotated[str | None, MIXTURE] = None,
    recipe_name: RecipeOption = None,
    seed: SeedOption = 0,
    run: RunOption = None,
    as_json: AsJson = False,
) -> None:
    """Tokens that a run reads of each domain and epoch, beside those that its schedule plans."""
    named = _run(mixture, recipe_name, seed, run)
    sampler, count = named.sampler(corpus), steps or named.recipe.steps
    epochs, size = sampler.epochs(0, count), sampler.epoch_tokens
    end = sampler.first_token + sampler.tokens_before(count)
    before, planned = (named.schedule.planned(at) for at in (sampler.first_token, end))
    domains = {
        name: {
            "tokens": tokens,
            "planned_tokens": planned[name] - before[name],
            "times_read": tokens / size[name],
            "epochs": epochs[name],
        }
        for name, tokens in sampler.consumed(0, count).items()
    }
    shown = {"steps": count, "tokens": sampler.tokens_before(count), "domains": domains}
    notes = _notes(domains)
    if as_json:
        typer.echo(json.dumps({**shown, "notes": notes}, indent=2))
    else:
        _print_consumed(shown, notes)


def _run(mixture: str | None, name: str | None, seed: int, folder: Path | None) -> _Run:
    """The run that the options name."""
    if folder is not None:
        if mixture is not None or name is not None:
            raise typer.BadParameter("give --run, or --mixture and --recipe; not both")
        return _run_in(folder)
    if mixture is None or name is None:
        raise typer.BadParameter("give --mixture and --recipe, or --run")
    return _Run(recipe(name), schedule(mixture), seed, corpus=None)


def _run_in(folder: Path) -> _Run:
    """The run whose checkpoints lie in a folder. Raises MissingFile, TruncatedFile."""
    # Read here as JSON, since mixlab.training takes seconds to load.
    records = sorted(folder.glob("checkpoints/step-*/run.json"))
    if not records:
        raise MissingFile(f"{folder} has no checkpoints/step-*/run.json; give a run's folder.")
    try:
        identity = json.loads(records[-1].read_text(encoding="utf-8"))["identity"]
        return _Run(
            Recipe.from_dict(identity["recipe"]),
            MixtureSchedule.from_dict(identity["mixture"]),
            int(identity["seed"]),
            str(identity["corpus"]),
            int(identity.get("beginning", {}).get("tokens", 0)),
            folder / DRAWN_FILE if DRAWN_FROM in identity["corpus"] else None,
        )
    except (ValueError, KeyError, TypeError, InvalidRecipe) as problem:
        raise TruncatedFile(
            f"{records[-1]} names no run ({type(problem).__name__}: {problem}); "
            "name another folder."
        ) from problem


def _row(slot: Placement) -> list[str]:
    return [
        str(slot.row),
        escape(slot.domain),
        str(slot.epoch),
        f"{slot.window:,}",
        f"{slot.first_token:,} to {slot.end_token - 1:,}",
        escape(_documents(slot.pieces)),
    ]


def _documents(pieces: tuple[Piece, ...]) -> str:
    """Documents by shard: `d000/train-00000 12 to 19`."""
    numbers: dict[str, list[int]] = {}
    for piece in pieces:
        numbers.setdefault(piece.shard.removesuffix(".npy"), []).append(piece.document)
    return ", ".join(
        f"{shard} {own[0]}" if len(own) == 1 else f"{shard} {own[0]} to {own[-1]}"
        for shard, own in numbers.items()
    )


def _print_consumed(shown: dict[str, Any], notes: list[str]) -> None:
    title = f"{shown['steps']:,} steps, {shown['tokens']:,} tokens"
    rows = table(title, "domain", "tokens", "planned", "share", "times read", "by epoch")
    for name, found in shown["domains"].items():
        rows.add_row(
            escape(name),
            f"{found['tokens']:,}",
            f"{found['planned_tokens']:,.0f}",
            f"{found['tokens'] / max(1, shown['tokens']):.4f}",
            f"{found['times_read']:.2f}",
            _by_epoch(found["epochs"]),
        )
    console = Console()
    console.print(rows)
    print_lines(console, notes)


def _by_epoch(epochs: list[dict[str, int]]) -> str:
    """The last epoch, counted from 0; those before it are whole."""
    if not epochs:
        return "-"
    last = epochs[-1]["epoch"]
    whole = {0: "", 1: "0 whole, "}.get(last, f"0 to {last - 1} whole, ")
    return f"{whole}{epochs[-1]['tokens']:,} of {last}"


def _notes(domains: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{name} is read {found['times_read']:.1f} times; beyond {MOST_EPOCHS} times, tokens "
        "teach markedly less (arXiv 2305.16264)"
        for name, found in domains.items()
        if found["times_read"] > MOST_EPOCHS
    ]

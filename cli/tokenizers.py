"""`mixlab tokenizer`: what a smaller vocabulary would cover at a mixture, and making one."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from tokenizers import Tokenizer

from cli.mixtures import schedule
from cli.options import MIXTURE, AsJson, CorpusFolder
from cli.showing import print_lines, table
from mixlab.compressing import (
    Compressed,
    Model,
    Ranking,
    Suggestion,
    TextSize,
    check_model,
    check_own,
    check_vocabulary,
    compress,
    compress_model,
    open_model,
    rank,
    shares_in,
    suggested,
    tables_share,
    text_sizes,
)
from mixlab.corpora.files import check_free, write_atomically
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.errors import AlreadyExists
from mixlab.mixture import Mixture
from mixlab.recipes import Architecture, recipe

TOKENIZER = "tokenizer.json"
MEASURED_TOKENS = 1_000_000  # a domain, at most
DOUBLINGS = 10

app = typer.Typer(
    name="tokenizer",
    help="A corpus's tokenizer: what fewer tokens would cover, and with fewer tokens.",
    no_args_is_help=True,
)

Tokens = Annotated[
    int | None,
    typer.Option(min=1, help="Of a schedule: tokens of the run, whose mean mixture is taken."),
]


@app.command()
def coverage(
    corpus: CorpusFolder,
    mixture: Annotated[str, MIXTURE],
    tokens: Tokens = None,
    recipe_name: Annotated[
        str | None,
        typer.Option("--recipe", help="Suggest a size for this recipe's shape, by two rules."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the curve to this file (.png, .svg, .pdf).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how much of the corpus the most frequent tokens cover, by their number."""
    shape = None if recipe_name is None else recipe(recipe_name).architecture
    if plot is not None:
        _check_picture(plot)
    opened = TokenisedCorpus.open(corpus)
    wanted = _mean_mixture(mixture, tokens)
    tokenizer = load_tokenizer(corpus / TOKENIZER)
    check_own(opened, tokenizer)
    ranking = rank(tokenizer, shares_in(opened, wanted))
    found = None if shape is None else suggested(ranking, shape)
    rows = [_row(ranking, shape, size) for size in _sizes(ranking, found)]
    if plot is not None:
        _draw(plot, ranking, found)
    if as_json:
        shown = {"must_stay": ranking.fixed, "size": ranking.size, "sizes": rows}
        typer.echo(json.dumps({**shown, "suggestion": _described(found)}, indent=2))
        return
    _show_coverage(rows, found)


@app.command("compress")
def compress_tokenizer(
    corpus: CorpusFolder,
    mixture: Annotated[str, MIXTURE],
    vocabulary: Annotated[int, typer.Option(min=1, help="Tokens to keep, special ones included.")],
    out: Annotated[Path, typer.Option(help="The new tokenizer.json; must not be there yet.")],
    tokens: Tokens = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="A run's folder or weights, or a Hugging Face folder, to follow."),
    ] = None,
    weights_out: Annotated[
        Path | None, typer.Option(help="A new folder for the weights and the tokenizer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a tokenizer of the most frequent tokens, and the weights of a model that follow it."""
    opened = TokenisedCorpus.open(corpus)
    wanted = _mean_mixture(mixture, tokens)
    tokenizer = load_tokenizer(corpus / TOKENIZER)
    check_own(opened, tokenizer)
    if out.exists():
        raise AlreadyExists(f"{out} is there already; name another file, or delete it.")
    model = _model(weights, weights_out, opened, tokenizer)
    check_vocabulary(tokenizer, vocabulary)
    made = compress(tokenizer, shares_in(opened, wanted), vocabulary)
    before = text_sizes(opened, tokenizer, most_tokens=MEASURED_TOKENS)
    after = text_sizes(opened, tokenizer, encoded_by=made.tokenizer, most_tokens=MEASURED_TOKENS)
    if model is not None and weights_out is not None:
        compress_model(model, weights_out, made)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda path: made.tokenizer.save(str(path)))
    if as_json:
        typer.echo(json.dumps(_compressed_json(made, before, after), indent=2))
    else:
        _show_compressed(made, before, after, [path for path in (out, weights_out) if path])


def _model(
    weights: Path | None, out: Path | None, corpus: TokenisedCorpus, tokenizer: Tokenizer
) -> Model | None:
    """The model that shall follow, checked as far as it can be before any work."""
    if (weights is None) != (out is None):
        raise typer.BadParameter("give --weights and --weights-out, or none of them")
    if weights is None or out is None:
        return None
    check_free(out)
    model = open_model(weights)
    check_model(model, corpus, tokenizer)
    return model


def _mean_mixture(given: str, tokens: int | None) -> Mixture:
    """A mixture, or the mean one of a schedule's first so many tokens."""
    found = schedule(given)
    if len(found.stages) == 1:
        return found.stages[0].mixture
    if tokens is None:
        raise typer.BadParameter("a schedule has many mixtures: give --tokens, those of the run")
    return Mixture.normalised(found.planned(tokens))


def _sizes(ranking: Ranking, found: Suggestion | None) -> list[int]:
    """What must stay, halves of the whole, and what is suggested."""
    sizes = {ranking.fixed, *(ranking.size >> halving for halving in range(DOUBLINGS))}
    if found is not None:
        sizes |= {found.least, found.most}
    return sorted(size for size in sizes if size >= ranking.fixed)


def _row(ranking: Ranking, shape: Architecture | None, size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens": size, "coverage": ranking.coverage(size)}
    if shape is not None:
        row["tables_share"] = tables_share(shape, size)
    return row


def _described(found: Suggestion | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "least": found.least,
        "most": found.most,
        "vocabulary": found.vocabulary,
        "reason": found.reason,
    }


def _check_picture(file: Path) -> None:
    # Imported here, since matplotlib takes a second to load.
    from mixlab.plots import check_picture

    check_picture(file)


def _draw(file: Path, ranking: Ranking, found: Suggestion | None) -> None:
    from mixlab.plots import save, vocabulary_coverage

    marks = {} if found is None else {"least": found.least, "most": found.most}
    if found is not None and found.vocabulary is not None:
        marks["chosen"] = found.vocabulary
    drawing = vocabulary_coverage(ranking.covered, fixed=ranking.fixed, **marks)
    save(drawing, file)


def _show_coverage(rows: list[dict[str, Any]], found: Suggestion | None) -> None:
    tables = () if found is None else ("embedding and head",)
    shown = table("", "tokens", "coverage", *tables)
    for row in rows:
        more = [f"{100 * row['tables_share']:.1f} %"] if tables else []
        shown.add_row(f"{row['tokens']:,}", f"{100 * row['coverage']:.2f} %", *more)
    console = Console()
    console.print(shown)
    if found is not None:
        print_lines(console, [found.reason], "suggested" if found.vocabulary else "none suggested")


def _compressed_json(
    made: Compressed, before: dict[str, TextSize], after: dict[str, TextSize]
) -> dict[str, Any]:
    return {
        "vocabulary": len(made.kept_ids),
        "of": made.rows,
        "coverage": made.coverage,
        "tokens_per_byte": {
            name: {"before": size.tokens_per_byte, "after": after[name].tokens_per_byte}
            for name, size in before.items()
        },
    }


def _show_compressed(
    made: Compressed, before: dict[str, TextSize], after: dict[str, TextSize], files: list[Path]
) -> None:
    title = f"{len(made.kept_ids):,} of {made.rows:,} tokens, {100 * made.coverage:.2f} % covered"
    shown = table(title, "validation text", "tokens per byte", "now", "more tokens")
    for name, old in before.items():
        new = after[name]
        growth = 100 * (new.tokens / old.tokens - 1)
        shown.add_row(
            escape(name), f"{old.tokens_per_byte:.4f}", f"{new.tokens_per_byte:.4f}",
            f"{growth:.1f} %",
        )  # fmt: skip
    console = Console()
    console.print(shown)
    print_lines(console, files, "written")

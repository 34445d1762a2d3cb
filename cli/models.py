"""`mixlab model`: trained weights as Hugging Face folders, such folders as weights, and smaller
models that inherit from either."""

import json
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.mixtures import schedule
from cli.options import MIXTURES
from cli.showing import print_lines, progress_bar, table
from mixlab.corpora.drawn import DRAWN_FROM
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidCorpus, MissingExtra, MissingFile
from mixlab.recipes import recipe as recipe_named

if TYPE_CHECKING:
    from mixlab.inheriting import Inheritance
    from mixlab.training.huggingface import TrainedModel

app = typer.Typer(
    name="model",
    help="Trained models: to a folder that transformers loads, from one, and into smaller ones.",
    no_args_is_help=True,
)
TOKENIZER = "tokenizer.json"


class NumberFormat(StrEnum):
    """How weights are stored."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@app.command("export")
def export_model(
    run: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Of a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    corpus: Annotated[
        Path | None,
        typer.Option(help="The corpus's folder or tokenizer.json; else the one in the run's spec."),
    ] = None,
    number_format: Annotated[
        NumberFormat, typer.Option("--format", help="float32 keeps every bit.")
    ] = NumberFormat.float32,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Largest file of weights.")] = 5.0,
) -> None:
    """Write weights and tokenizer as a folder for AutoModelForCausalLM and AutoTokenizer."""
    _check_installed()
    from mixlab.training.huggingface import export_huggingface, read_trained

    model = read_trained(run)
    files = export_huggingface(
        out,
        model.weights,
        model.architecture,
        tokenizer=_tokenizer(corpus, model),
        number_format=number_format.value,
        shard_bytes=int(shard_gb * 1e9),
    )
    size = sum(file.stat().st_size for file in files)
    _told(out, model.architecture.parameters, [f"{len(files)} files, {size / 1e6:,.1f} MB"])


@app.command("import")
def import_model(
    folder: Annotated[Path, typer.Argument(metavar="HF_FOLDER", help="A Llama in safetensors.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
) -> None:
    """Read a Llama's folder, and write its weights as a finished run leaves them."""
    _check_installed()
    from mixlab.training.huggingface import import_huggingface, save_imported

    model = import_huggingface(folder)
    save_imported(model, out)
    shape = model.architecture
    sizes = f"{shape.layers} layers of {shape.width}, {shape.vocabulary:,} tokens"
    _told(out, shape.parameters, [sizes, "tied head" if shape.tied_head else "own head"])


class Criterion(StrEnum):
    """How the importance of neurons, heads and dimensions is measured."""

    l1 = "l1"
    l2 = "l2"
    taylor = "taylor"
    masks = "masks"


@app.command("inherit")
def inherit_model(
    donor: Annotated[
        Path, typer.Argument(metavar="DONOR", help="Folder of a finished run, or of a Llama.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    recipe: Annotated[str, typer.Option(help="The smaller model's; `mixlab recipe list`.")],
    corpus: Annotated[Path, typer.Option(help="Folder of a corpus in the donor's tokens.")],
    mixture: Annotated[str, typer.Option(metavar=MIXTURES, help="What to calibrate on.")],
    importance: Annotated[
        Criterion, typer.Option(help="Of neurons, heads and dimensions.")
    ] = Criterion.taylor,
    sequences: Annotated[int, typer.Option(min=1, help="Of the calibration.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the calibration's sequences.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report.")] = False,
) -> None:
    """Cut a smaller model out of a larger one: what the loss misses least goes.

    OUT gets weights.safetensors to begin a run with, and inheritance.json with what was kept.
    """
    _check_installed()
    from mixlab.inheriting import (
        calibration,
        check_heir,
        check_tokens_mean_the_same,
        inherit,
        read_donor,
    )

    shares, opened = schedule(mixture), TokenisedCorpus.open(corpus)
    given = read_donor(donor)
    rows = given.architecture.vocabulary
    shape = recipe_named(recipe).for_tables(rows, vocabulary=opened.vocabulary).architecture
    check_heir(given.architecture, shape)
    told = check_tokens_mean_the_same(given, opened)
    context = min(shape.context, given.architecture.context)
    tokens = calibration(opened, shares, context=context, sequences=sequences, seed=seed)
    with _Bar(Console(stderr=True)) as bar:
        found = inherit(given, shape, tokens, importance=importance.value, out=out, progress=bar)
    if as_json:
        typer.echo(json.dumps(found.report, indent=2))
        return
    _show_heir(found, out, checked=told)


class _Bar:
    """What an heir's choice is at, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = progress_bar(console)
        self._task = self._progress.add_task("inherit", total=None, told="starting")
        self._stage = ""

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, of: int) -> None:
        """Show how far it is; time left is of the stage."""
        if stage != self._stage:
            self._stage = stage
            self._progress.reset(self._task)
        self._progress.update(
            self._task, description=stage, completed=done, total=of, told=f"{done}/{of}"
        )


def _show_heir(found: "Inheritance", out: Path, *, checked: bool) -> None:
    """Each layer that stayed, and the losses on the calibration."""
    report, console = found.report, Console()
    sensitivity = report["layers"]["sensitivity_nats"]
    shown = table("", "donor's layer", "missed by", "heads", "key/value heads", "neurons")
    for block in report["blocks"]:
        missed = sensitivity[block["donor_layer"]]
        shown.add_row(
            str(block["donor_layer"]),
            "protected" if missed is None else f"{missed:.4f} nats",
            *(str(len(block[kind])) for kind in ("heads", "kv_heads", "ffn")),
        )
    console.print(shown)
    losses = report["loss_nats"]
    steps = (("donor", "the donor"), ("without_layers", "without layers"), ("heir", "the heir"))
    told = ", ".join(f"{words} {losses[key]:.4f}" for key, words in steps)
    lines = [f"nats per token on the calibration, before any training: {told}"]
    if not checked:
        lines.append("that the corpus has the donor's tokens could not be checked: no tokenizer")
    print_lines(console, lines)
    dropped = len(report["layers"]["dropped"])
    _told(out, found.architecture.parameters, [f"layers left out: {dropped}"])


def _tokenizer(given: Path | None, model: "TrainedModel") -> Path:
    """The tokenizer's file; of a corpus only if the run was trained on it."""
    if given is None and model.tokenizer is not None:
        return model.tokenizer
    corpus = given or model.corpus_folder
    if corpus is None:
        raise MissingFile(
            f"The run's folder has neither a {TOKENIZER} nor a spec that names its corpus; name "
            "the corpus that it was trained on with --corpus FOLDER."
        )
    if corpus.is_file():
        return corpus
    found = TokenisedCorpus.open(corpus).fingerprint
    if model.corpus is not None and found != model.corpus.partition(DRAWN_FROM)[0]:
        raise InvalidCorpus(
            f"The run was trained on another corpus than {corpus} has now (fingerprint "
            f"{model.corpus[:12]}, not {found[:12]}), whose tokens may mean something else; name "
            "its own with --corpus."
        )
    return corpus / TOKENIZER


def _check_installed() -> None:
    if not all(find_spec(name) for name in ("torch", "safetensors")):
        raise MissingExtra("Models need torch and safetensors: pip install 'mixlab[train]'.")


def _told(out: Path, parameters: int, more: list[str]) -> None:
    console = Console()
    print_lines(console, [f"{parameters:,} parameters", *more], str(out))

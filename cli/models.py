"""`mixlab model`: trained weights as Hugging Face folders, and such folders as weights."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.showing import print_lines
from mixlab.corpora.drawn import DRAWN_FROM
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidCorpus, MissingExtra, MissingFile

if TYPE_CHECKING:
    from mixlab.training.huggingface import TrainedModel

app = typer.Typer(
    name="model",
    help="Trained models: to a folder that transformers loads, and from one.",
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

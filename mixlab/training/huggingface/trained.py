"""A run's folder as a model: what export reads, and what import writes.

weights.safetensors   tensors by the decoder's names; metadata "run" is JSON, with the run's
                      identity (recipe and corpus), or the "architecture" of an import
tokenizer.json        of an import, or of a run that was given one
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mixlab.corpora.files import read_json, write_folder
from mixlab.errors import MissingFile, TruncatedFile
from mixlab.recipes import Architecture
from mixlab.recipes.noted import NOTE, noted_architecture, noted_corpus, noted_run
from mixlab.training.huggingface.exporting import TOKENIZER
from mixlab.training.huggingface.importing import HuggingFaceModel
from mixlab.training.spec import SPEC
from mixlab.training.weights import WEIGHTS


@dataclass(frozen=True)
class TrainedModel:
    """The final weights of a run."""

    architecture: Architecture
    weights: Mapping[str, Tensor]  # by the decoder's names
    corpus: str | None  # fingerprint of the corpus that it was trained on; None where not told
    corpus_folder: Path | None  # as the run's spec names it; it may have moved since
    tokenizer: Path | None  # the folder's own, where it has one


def read_trained(folder: Path) -> TrainedModel:
    """The model in a run's folder, or in one that `save_imported` wrote.

    Raises MissingFile before the run is done, and TruncatedFile for weights that can't be read.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise MissingFile(
            f"There is no {WEIGHTS} in {folder}; a run writes it when it is done. Name the folder "
            "of a finished run."
        )
    try:
        with safe_open(file, framework="pt") as handle:
            run = noted_run(handle.metadata(), file) or {}
            shape = Architecture(**noted_architecture(run, file))
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as problem:
        raise TruncatedFile(f"{file} can't be read ({problem!r}); train again.") from problem
    tokenizer = folder / TOKENIZER
    return TrainedModel(
        architecture=shape,
        weights=weights,
        corpus=noted_corpus(run),
        corpus_folder=_corpus_folder(folder / SPEC),
        tokenizer=tokenizer if tokenizer.is_file() else None,
    )


def save_imported(model: HuggingFaceModel, folder: Path) -> None:
    """Write an imported model to a new folder as a run leaves its own, with its tokenizer.

    Raises AlreadyExists where the folder holds something.
    """
    run = {"architecture": asdict(model.architecture), "imported_from": str(model.folder)}

    def write(aside: Path) -> None:
        save_file(dict(model.tensors()), aside / WEIGHTS, {NOTE: json.dumps(run)})
        if model.tokenizer is not None:
            (aside / TOKENIZER).write_bytes(model.tokenizer.read_bytes())

    write_folder(folder, write)


def _corpus_folder(spec: Path) -> Path | None:
    if not spec.is_file():
        return None
    corpus = read_json(spec).get("corpus")
    return spec.parent / corpus if isinstance(corpus, str) else None

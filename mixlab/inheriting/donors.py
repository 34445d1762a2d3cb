"""Donors: trained weights of a run's folder or of a Llama's Hugging Face folder, and what they
can give."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.errors import InvalidCorpus
from mixlab.recipes import Architecture
from mixlab.training.huggingface import import_huggingface, read_trained
from mixlab.training.weights import WEIGHTS, check_weights

TOKENIZER = "tokenizer.json"
CONFIG = "config.json"


@dataclass(frozen=True)
class Donor:
    """A trained decoder to inherit from."""

    folder: Path
    architecture: Architecture
    weights: Mapping[str, Tensor]  # by the decoder's names, in float32
    tokenizer: Path | None  # that its tokens are of, where it is known
    corpus: str | None = None  # fingerprint of the corpus that it was trained on, where known


def read_donor(path: Path) -> Donor:
    """The donor in a folder: of a finished run, of `mixlab model import`, or of Hugging Face.

    The run's weights.safetensors may be named instead of its folder. Raises MissingFile,
    TruncatedFile and InvalidRecipe for what is no such thing.
    """
    folder = path.parent if path.name == WEIGHTS else path
    if (folder / CONFIG).is_file() and not (folder / WEIGHTS).is_file():
        imported = import_huggingface(folder)
        return Donor(folder, imported.architecture, dict(imported.tensors()), imported.tokenizer)
    trained = read_trained(folder)
    check_weights(folder / WEIGHTS, trained.architecture)
    tokenizer = trained.tokenizer
    if tokenizer is None and trained.corpus_folder is not None:
        beside = trained.corpus_folder / TOKENIZER
        tokenizer = beside if beside.is_file() else None
    weights = {name: weight.float() for name, weight in trained.weights.items()}
    return Donor(folder, trained.architecture, weights, tokenizer, trained.corpus)


def check_tokens_mean_the_same(donor: Donor, corpus: TokenisedCorpus) -> bool:
    """Raise InvalidCorpus for a corpus of another tokenizer; whether that could be told at all.

    Known are a run's corpus and a folder's tokenizer.json; tokens of the same number would mean
    another thing to the donor, and its heir learn from noise.
    """
    if donor.corpus == corpus.fingerprint:
        return True
    if corpus.vocabulary > donor.architecture.vocabulary:
        raise InvalidCorpus(
            f"{corpus.folder} has {corpus.vocabulary} tokens, but the donor's vocabulary is "
            f"{donor.architecture.vocabulary}; tokenise the corpus with the donor's tokenizer."
        )
    own = corpus.folder / TOKENIZER
    if donor.tokenizer is None or not own.is_file():
        return False
    if own.read_bytes() != donor.tokenizer.read_bytes() and _words(own) != _words(donor.tokenizer):
        raise InvalidCorpus(
            f"{corpus.folder} was tokenised by another tokenizer than {donor.tokenizer}, whose "
            "tokens mean something else; tokenise it with the donor's."
        )
    return True


def _words(tokenizer: Path) -> dict[str, int]:
    words: dict[str, int] = load_tokenizer(tokenizer).get_vocab()
    return words

"""The drawn windows as a corpus: what is read, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixlab.corpora.drawn import DrawnCorpus, DrawnSet, DrawnWindows, write_drawn
from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import DomainTooSmall, InvalidRecipe, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from tests.training.conftest import write_small_corpus

CONTEXT = 32


# Every other window of the one domain, and two of the other.
WINDOWS = {"counting": np.arange(0, 200, 2), "noise": np.array([0, 7])}


@pytest.fixture
def corpus(tmp_path: Path) -> TokenisedCorpus:
    return write_small_corpus(tmp_path / "corpus")


@pytest.fixture
def drawn(corpus: TokenisedCorpus, tmp_path: Path) -> DrawnSet:
    file = tmp_path / "drawn.parquet"
    write_drawn(file, WINDOWS, context=CONTEXT, corpus=corpus.fingerprint, told={"seed": 1})
    return DrawnSet.read(file)


def test_a_run_on_it_reads_the_drawn_windows_and_no_other(
    corpus: TokenisedCorpus, drawn: DrawnSet
) -> None:
    narrow = DrawnCorpus(corpus, drawn, context=CONTEXT)
    mixture = Mixture({"counting": 0.9, "noise": 0.1})
    streams = {name: narrow.stream(name, "train") for name in narrow.domains}
    sampler = Sampler(streams, mixture, context=CONTEXT, batch_sequences=10, seed=4)
    whole = {name: corpus.stream(name, "train") for name in corpus.domains}
    expected = {
        name: {tuple(whole[name].window(w * CONTEXT, CONTEXT + 1)) for w in drawn.windows[name]}
        for name in drawn.windows
    }
    rows = [row for step in range(12) for row in sampler.batch(step)]
    read = {tuple(row) for row in rows}
    assert read == expected["counting"] | expected["noise"]
    assert sampler.epoch_tokens == {"counting": 100 * CONTEXT, "noise": 2 * CONTEXT}
    # What an audit shows are the documents of the whole corpus.
    for placement in sampler.placements(0):
        start = int(drawn.windows[placement.domain][placement.window]) * CONTEXT
        assert placement.pieces == whole[placement.domain].pieces(start, CONTEXT + 1)


def test_validation_is_the_whole_corpus(corpus: TokenisedCorpus, drawn: DrawnSet) -> None:
    narrow = DrawnCorpus(corpus, drawn, context=CONTEXT)
    for name in corpus.domains:
        assert len(narrow.stream(name, "validation")) == len(corpus.stream(name, "validation"))


def test_another_corpus_or_context_is_refused(corpus: TokenisedCorpus, drawn: DrawnSet) -> None:
    with pytest.raises(InvalidRecipe, match="another corpus"):
        DrawnCorpus(corpus, replace(drawn, corpus="other"), context=CONTEXT)
    with pytest.raises(InvalidRecipe, match="context of 32, but the recipe has 64"):
        DrawnCorpus(corpus, drawn, context=64)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        DrawnSet.read(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(TruncatedFile, match="draw again"):
        DrawnSet.read(tmp_path / "bad.parquet")


class Counting:
    """A stream of so many tokens."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return self._tokens

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        assert starts.max() + length <= self._tokens
        return starts[:, None] + np.arange(length)


def test_a_window_needs_a_token_after_it() -> None:
    last = np.array([0, 64])
    assert DrawnWindows(Counting(97), last, 32).windows(np.array([32]), 33)[0, -1] == 96
    with pytest.raises(DomainTooSmall, match="begins at token 64"):
        DrawnWindows(Counting(96), last, 32)

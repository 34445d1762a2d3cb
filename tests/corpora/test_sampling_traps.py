"""Traps that training systems fell into, each as a test on a real tokenised corpus.

Most are TinyLlama's (jzhang38/TinyLlama issues 36, 40, 67, 83, 171): remainders filled with
begin-of-text, nodes that shuffled differently, small corpora, replayed loaders.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus, TokenStream, write_corpus
from mixlab.corpora.sources import DomainSource
from mixlab.corpora.tokenising import tokenise
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage

CONTEXT = 8
END = 0
VOCABULARY = 5000
SHARES = Mixture({"code": 0.3, "law": 0.7})
STAGED = MixtureSchedule((Stage(SHARES, 900), Stage(Mixture({"code": 0.8, "law": 0.2}), None, 500)))


def corpus_of(folder: Path, tokens: dict[str, int]) -> TokenisedCorpus:
    """About so many tokens a domain, each of them different, documents of 1 to 30 tokens."""
    rng, documents = np.random.default_rng(0), {}
    for name, count in tokens.items():
        ends = np.cumsum(rng.integers(1, 30, count))
        ids = np.arange(1, count + 1)
        documents[name] = {"train": np.split(ids, ends[ends < count])}
    return write_corpus(
        folder, documents, vocabulary=VOCABULARY, end_of_text_id=END, shard_documents=7
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    return corpus_of(tmp_path_factory.mktemp("corpus"), {"code": 1500, "law": 2300})


class CountingStream:
    """A domain's real stream, that counts the windows asked of it."""

    def __init__(self, stream: TokenStream) -> None:
        self.stream, self.asked = stream, 0

    def __len__(self) -> int:
        return len(self.stream)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        self.asked += len(starts)
        return self.stream.windows(starts, length)


def sampler(
    corpus: TokenisedCorpus, mixture: Mixture | MixtureSchedule = STAGED, batch: int = 6
) -> Sampler:
    streams = {name: corpus.stream(name, "train") for name in corpus.domains}
    return Sampler(streams, mixture, context=CONTEXT, batch_sequences=batch, seed=3)


@pytest.mark.parametrize("name", ["code", "law"])
def test_filler_tokens_no_window_of_an_epoch_holds_any(corpus: TokenisedCorpus, name: str) -> None:
    """Each is consecutive tokens of the domain, and together they are all but its tail."""
    stream = corpus.stream(name, "train")
    everything = stream.window(0, len(stream))
    windows = (len(stream) - 1) // CONTEXT
    rows = sampler(corpus, Mixture({name: 1.0}), batch=windows).batch(0)
    places = np.array([np.flatnonzero(everything == row[row != END][0])[0] for row in rows])
    starts = np.sort(places // CONTEXT * CONTEXT)
    np.testing.assert_array_equal(starts, np.arange(windows) * CONTEXT)
    for row, start in zip(rows, places // CONTEXT * CONTEXT, strict=True):
        np.testing.assert_array_equal(row, everything[start : start + CONTEXT + 1])
    # The tail that is left out is shorter than a window and its target.
    assert len(stream) - windows * CONTEXT <= CONTEXT


def test_a_window_is_read_twice_or_never_no_epoch_does(corpus: TokenisedCorpus) -> None:
    made = sampler(corpus, batch=60)
    read: dict[str, list[tuple[int, int]]] = {"code": [], "law": []}
    for step in range(80):
        for slot in made.placements(step):
            read[slot.domain].append((slot.epoch, slot.window))
    for name, slots in read.items():
        windows = (corpus.train_tokens(name) - 1) // CONTEXT
        complete = len(slots) // windows
        assert complete >= 3
        assert len(set(slots)) == len(slots)
        for epoch in range(complete):
            assert {window for at, window in slots if at == epoch} == set(range(windows))


@pytest.mark.parametrize("tokens", [CONTEXT + 1, CONTEXT + 2, 2 * CONTEXT, 3 * CONTEXT])
@pytest.mark.parametrize("batch", [1, 4, 33])
def test_a_small_corpus_is_never_read_past_its_end(tmp_path: Path, tokens: int, batch: int) -> None:
    """One window, fewer windows than readers, fewer than the batch."""
    ids = np.arange(1, tokens)
    small = write_corpus(
        tmp_path, {"only": {"train": [ids[:3], ids[3:-1]]}}, vocabulary=99, end_of_text_id=END,
        shard_documents=1,
    )  # fmt: skip
    assert small.train_tokens("only") == tokens
    made = sampler(small, Mixture({"only": 1.0}), batch)
    everything = small.stream("only", "train").window(0, tokens).tolist()
    allowed = {tuple(everything[i : i + CONTEXT + 1]) for i in range(0, tokens - CONTEXT, CONTEXT)}
    for step in range(7):
        parts = [made.batch(step, slice(rank, None, 4)) for rank in range(4)]  # some are empty
        assert {tuple(row.tolist()) for part in parts for row in part} <= allowed
        assert sum(map(len, parts)) == batch


def test_begin_and_end_of_text_every_document_ends_in_one_end_and_begins_with_itself(
    tmp_path: Path,
) -> None:
    """From text through the tokenizer to what an epoch of batches holds."""
    texts = [f"Document number {i} says hello {i * 7} times." for i in range(80)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    source = DomainSource("a", (str(tmp_path / "a.jsonl"),))
    made = tokenise([source], tmp_path / "corpus", vocabulary=300, shard_tokens=500)
    windows = (made.train_tokens("a") - 1) // CONTEXT
    run = sampler(made, Mixture({"a": 1.0}), batch=windows)
    rows = run.batch(0)
    slots = sorted(run.placements(0), key=lambda slot: slot.window)
    epoch = np.concatenate([rows[slot.row][:-1] for slot in slots])
    documents = np.split(epoch, np.flatnonzero(epoch == made.end_of_text_id) + 1)[:-1]
    tokenizer = load_tokenizer(made.folder / "tokenizer.json")
    read = [tokenizer.decode(one[:-1].tolist(), skip_special_tokens=False) for one in documents]
    assert len(read) > 60
    assert len(set(read)) == len(read)
    assert set(read) <= set(texts)


@given(readers=st.integers(1, 7), step=st.integers(0, 300))
@settings(deadline=None, max_examples=12)
def test_ranks_that_shuffle_differently_any_number_of_readers_gives_one_batch(
    corpus: TokenisedCorpus, readers: int, step: int
) -> None:
    """Each reader opens the corpus for itself and reads its rows in its own thread."""
    whole = sampler(corpus).batch(step)
    rows = [np.arange(len(whole))[rank::readers] for rank in range(readers)]
    with ThreadPoolExecutor(readers) as threads:
        parts = list(threads.map(lambda own: sampler(corpus).batch(step, own), rows))
    found = np.empty_like(whole)
    for own, part in zip(rows, parts, strict=True):
        found[own] = part
    np.testing.assert_array_equal(found, whole)


def test_replaying_the_loader_on_resume_nothing_before_the_step_is_read(
    corpus: TokenisedCorpus,
) -> None:
    streams = {name: CountingStream(corpus.stream(name, "train")) for name in corpus.domains}
    resumed = Sampler(streams, STAGED, context=CONTEXT, batch_sequences=6, seed=3)
    far = 123_456_789
    rows = resumed.batch(far)
    assert sum(stream.asked for stream in streams.values()) == len(rows) == 6
    resumed.batch(far + 1, slice(0, 2))
    resumed.consumed(0, far)
    resumed.epochs(far, far + 10)
    resumed.placements(far)
    assert sum(stream.asked for stream in streams.values()) == 8


@pytest.mark.parametrize("micro", [1, 2, 3, 6])
def test_resume_counted_in_micro_batches_the_position_is_the_steps_alone(
    corpus: TokenisedCorpus, micro: int
) -> None:
    """However a step is cut while it runs, the next one begins at the same token."""
    made = sampler(corpus)
    read = [
        made.batch(step, slice(first, first + micro))
        for step in range(5)
        for first in range(0, 6, micro)
    ]
    np.testing.assert_array_equal(
        np.concatenate(read), np.concatenate([sampler(corpus).batch(step) for step in range(5)])
    )
    assert made.tokens_before(5) == 5 * 6 * CONTEXT == sum(made.consumed(0, 5).values())


# ---- the audit


@pytest.fixture(scope="module")
def documents(corpus: TokenisedCorpus) -> dict[str, list[np.ndarray]]:
    """Every training document by its shard's file and its number there."""
    return {
        shard.entry.file: np.split(shard.tokens(), shard.starts()[1:])
        for name in corpus.domains
        for shard in corpus.shards(name, "train")
    }


@given(step=st.integers(0, 2000))
@settings(deadline=None, max_examples=20)
def test_placements_name_the_documents_from_which_the_batch_can_be_put_together(
    corpus: TokenisedCorpus, documents: dict[str, list[np.ndarray]], step: int
) -> None:
    made, files = sampler(corpus), documents
    slots = made.placements(step)
    rebuilt = [
        np.concatenate(
            [
                files[piece.shard][piece.document][piece.first_token : piece.last_token + 1]
                for piece in slot.pieces
            ]
        )
        for slot in slots
    ]
    np.testing.assert_array_equal(rebuilt, made.batch(step))
    assert [slot.row for slot in slots] == list(range(6))
    assert all(slot.first_token == slot.window * CONTEXT for slot in slots)
    assert all(slot.end_token == slot.first_token + CONTEXT for slot in slots)


def test_placements_of_some_rows_are_those_of_the_whole(corpus: TokenisedCorpus) -> None:
    made = sampler(corpus)
    assert made.placements(9, slice(1, 4)) == made.placements(9)[1:4]


def test_pieces_outside_the_stream_are_refused(corpus: TokenisedCorpus) -> None:
    stream = corpus.stream("code", "train")
    with pytest.raises(IndexError):
        stream.pieces(len(stream) - 3, 4)
